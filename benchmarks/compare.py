"""Two revisions against each other: the same benchmark, run in turns in a checkout of each.

    python benchmarks/compare.py REV_A REV_B --benchmark layer [--rounds 3] [--quick] [--json FILE] [-- ITS OPTIONS]

Both revisions are checked out beside each other (temporary git worktrees); their own benchmark runs in turns with their
own package, in a fresh process each time, so that a drifting machine hits both. Per row: B over A, the median of the
rounds with its range, of the figure itself and of its ratio to the reference. The latter was taken within one
process and is the steadier one; the former alone sees a reference that changed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

Rows = list[dict[str, Any]]


def merge(runs_a: list[Rows], runs_b: list[Rows]) -> Rows:
    """Rows of B beside those of A, by name and round.

    Args:
        runs_a: the rows of every round in revision A.
        runs_b: the same of B.

    Returns:
        Of every row that all rounds of both have: the median figures ``ours`` (B) and ``reference`` (A), ``ratio`` of
        them and of the rows' own ratios (``relative``), both as medians over the rounds with their range.
    """
    first, *others = ({row["name"]: row for row in rows} for rows in [*runs_b, *runs_a])
    names = [name for name in first if all(name in rows for rows in others)]
    merged = []
    for name in names:
        a, b = ([next(r for r in rows if r["name"] == name) for rows in runs] for runs in (runs_a, runs_b))
        row = {"name": name, "unit": a[0]["unit"]}
        for key, short in (("ours", "ratio"), ("ratio", "relative")):
            quotients = [y[key] / x[key] if x[key] else 1.0 for x, y in zip(a, b, strict=True)]
            row[short] = statistics.median(quotients)
            row |= {f"{short}_min": min(quotients), f"{short}_max": max(quotients)}
        row["ours"], row["reference"] = (statistics.median(r["ours"] for r in rows) for rows in (b, a))
        merged.append(row)
    return merged


def git(repository: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(repository), *arguments], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"compare: git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.strip()


def run(checkout: Path, benchmark: str, options: list[str], file: Path) -> Rows:
    """The rows of a benchmark in a checkout."""
    program = checkout / "benchmarks" / f"{benchmark}.py"
    if not program.is_file():
        raise SystemExit(f"compare: {checkout.name} has no benchmarks/{benchmark}.py")
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    command = [sys.executable, str(program), "--json", str(file), *options]
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"compare: {benchmark} failed in {checkout.name}:\n{done.stderr.strip()}")
    return json.loads(file.read_text())


def compare(repository: Path, revisions: list[str], benchmark: str, rounds: int, options: list[str]) -> Rows:
    """Runs the benchmark in turns in two revisions of a repository; see :func:`merge`."""
    runs: list[list[Rows]] = [[], []]
    hashes = [git(repository, "rev-parse", "--verify", f"{revision}^{{commit}}") for revision in revisions]
    with tempfile.TemporaryDirectory() as folder:
        checkouts = [Path(folder) / label / revision[:12] for label, revision in zip("AB", hashes, strict=True)]
        try:
            for checkout, revision in zip(checkouts, hashes, strict=True):
                git(repository, "worktree", "add", "--detach", str(checkout), revision)
            for i in range(rounds):
                for which in (0, 1) if i % 2 == 0 else (1, 0):
                    runs[which].append(run(checkouts[which], benchmark, options, Path(folder) / "rows.json"))
                    print(f"round {i + 1} of {rounds}: {'AB'[which]} done", file=sys.stderr)
        finally:
            for checkout in checkouts:
                if checkout.exists():
                    git(repository, "worktree", "remove", "--force", str(checkout))
    return [row | dict(zip(("revision_a", "revision_b"), hashes, strict=True)) for row in merge(*runs)]


def main(argv: list[str] | None = None) -> Rows:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("revisions", nargs=2, metavar=("REV_A", "REV_B"), help="anything that git takes for a commit")
    parser.add_argument("--benchmark", default="layer", help="a program of benchmarks/, without .py (default layer)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round of the benchmark's own --quick")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--repository", type=Path, default=Path(__file__).resolve().parents[1])
    arguments = sys.argv[1:] if argv is None else argv
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    options = parser.parse_args(arguments[:cut])
    if options.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {options.rounds}")
    rounds, passed = (1, ["--quick"]) if options.quick else (options.rounds, [])
    passed += arguments[cut + 1 :]
    rows = compare(options.repository, options.revisions, options.benchmark, rounds, passed)
    width = max((len(row["name"]) for row in rows), default=0)
    print(f"{'':{width}}  {'A':>10}  {'B':>10}  {'B / A':<22}  of the ratios")
    for row in rows:
        both = [f"{row[k]:.3f} ({row[k + '_min']:.2f} to {row[k + '_max']:.2f})" for k in ("ratio", "relative")]
        print(f"{row['name']:{width}}  {row['reference']:10.3f}  {row['ours']:10.3f}  {both[0]:<22}  {both[1]}")
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")
    return rows


if __name__ == "__main__":
    main()
