"""Keeps the runs that the pages speak of, and writes their tables.

    python docs/index_of_runs.py add RUN [RUN ...] --machine "AMD EPYC, AVX-512 bfloat16, no AMX, one thread"
    python docs/index_of_runs.py tables [--check]

``add`` puts a finished run folder into ``docs/runs``: its configuration and numbers, the command that repeats it, the
revision and the machine. ``tables`` writes every table that ``docs/runs/tables.yaml`` describes between its two marks
``<!-- table NAME -->`` and ``<!-- end of table -->`` in the pages; a figure of a run is never typed. A row whose run is
missing stays, and says so. ``--check`` writes nothing and fails where a page differs, as the tests do.
"""

import argparse
import json
import re
import statistics
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
RUNS = ROOT / "docs" / "runs"
PAGES = ("docs/results.md", "README.md")
# What changes no number, or belongs to the machine.
_APART = ("run_dir", "resume", "logger", "plugins", "data.root", "data.download", "callbacks.progress_bar", "pictures")
_FORMS = {"test/acc": "{:.2%}", "test/density": "{:.1%}", "minutes": "{:.1f}"}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = options.add_subparsers(dest="command", required=True)
    adding = commands.add_parser("add")
    adding.add_argument("runs", type=Path, nargs="+", help="run folders, or folders with runs at any depth")
    adding.add_argument("--machine", required=True)
    adding.add_argument("--revision", help="that the run was made with (default: that of the working tree)")
    writing = commands.add_parser("tables")
    writing.add_argument("--check", action="store_true")
    given = options.parse_args()
    if given.command == "add":
        found = sorted(file.parent for run in given.runs for file in run.rglob("metrics.json"))
        if not found:
            raise SystemExit(f"no metrics.json under {', '.join(map(str, given.runs))}: has the run finished?")
        for run in found:
            print(f"{add(run, given.machine, given.revision or revision())}")
        return
    stale = [page for page in PAGES if (ROOT / page).read_text() != page_with_tables(page)]
    for page in stale if not given.check else ():
        (ROOT / page).write_text(page_with_tables(page))
        print(f"{page} written")
    if given.check and stale:
        raise SystemExit(
            f"{', '.join(stale)}: the tables are not those of docs/runs; python docs/index_of_runs.py tables"
        )


def add(run: Path, machine: str, revision: str) -> Path:
    """Writes the file of a run, named after what sets it apart."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    metrics = json.loads((run / "metrics.json").read_text())
    flat = without_machine(config)
    overrides = overrides_of(flat)
    record = {
        "command": command_of(config),
        "machine": machine,
        "revision": revision,
        "metrics": metrics,
        "config": flat,
    }
    parts = [part.removeprefix("experiment=").rpartition(".")[2] for part in overrides] or [str(flat["name"])]
    name = re.sub(
        r"[^\w.=-]+", "-", "_".join([*parts, *([] if "seed" in str(overrides) else [f"seed={flat['seed']}"])])
    )
    file = RUNS / f"{name.strip('-')}.json"
    RUNS.mkdir(exist_ok=True)
    file.write_text(json.dumps(record, indent=1) + "\n")
    return file


def without_machine(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a run, less folders and the like."""
    return {key: value for key, value in flattened(config) if not key.startswith(_APART)}


def command_of(config: Mapping[str, Any]) -> str:
    """What repeats a run, from its ``config.yaml``."""
    return " ".join(["python train.py", *overrides_of(without_machine(config))])


def flattened(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """``("model.lam", 0.1)`` and so on."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from flattened(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def overrides_of(flat: Mapping[str, Any]) -> list[str]:
    """The options of ``train.py`` that give this configuration."""
    from hydra import compose, initialize_config_dir

    from csc_nets.cli import plain

    def tree(*overrides: str) -> dict[str, Any]:
        with initialize_config_dir(str(ROOT / "configs")):
            return dict(flattened(plain(compose("train", overrides=list(overrides)))))

    base = []
    if (ROOT / "configs" / "experiment" / f"{flat['name']}.yaml").is_file():
        base.append(f"experiment={flat['name']}")
    for group in ("data", "model", "task"):
        if tree(*base).get(f"{group}.name") != (chosen := flat[f"{group}.name"]):
            base.append(f"{group}={chosen}")
            if "root: ???" in (ROOT / "configs" / group / f"{chosen}.yaml").read_text():
                base.append("data.root=FOLDER")  # one's own images
    usual = tree(*base)
    changed = {
        key: value for key, value in flat.items() if value != usual.get(key) and key not in ("name", "data.statistics")
    }
    return [*base, *(f"{key}={json.dumps(value).replace(' ', '').strip(chr(34))}" for key, value in changed.items())]


def revision() -> str:
    """The commit of the working tree, with a plus where it has changes."""
    return subprocess.run(
        ["git", "describe", "--always", "--dirty=+"], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.strip()


def records() -> list[dict[str, Any]]:
    """All runs of the index."""
    return [json.loads(file.read_text()) for file in sorted(RUNS.glob("*.json"))]


def page_with_tables(page: str) -> str:
    """The text of a page with its tables as the index has them.

    Raises:
        ValueError: a table that ``tables.yaml`` does not describe.
    """
    described = yaml.safe_load((RUNS / "tables.yaml").read_text())
    known = records()

    def table(found: re.Match[str]) -> str:
        name = found[1]
        if name not in described:
            raise ValueError(f"{page}: docs/runs/tables.yaml describes no table {name}")
        return f"<!-- table {name} -->\n{written(described[name], known)}\n<!-- end of table -->"

    pattern = r"<!-- table (\w+) -->\n.*?<!-- end of table -->"
    return re.sub(pattern, table, (ROOT / page).read_text(), flags=re.DOTALL)


def written(table: Mapping[str, Any], known: list[dict[str, Any]]) -> str:
    """A table in Markdown, and below it how its rows are repeated."""
    columns: dict[str, str] = table["columns"]
    published = any("published" in row for row in table["rows"])
    heads = [table["first"], *columns.values(), *(["published"] if published else []), "runs"]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    commands: list[str] = []
    used: list[dict[str, Any]] = []
    for row in table["rows"]:
        runs = [run for run in known if all(run["config"].get(k) == v for k, v in row["match"].items())]
        if len({json.dumps({**run["config"], "seed": 0}, sort_keys=True) for run in runs}) > 1:
            alike = "; ".join(run["command"] for run in runs)
            raise ValueError(f"runs of the row {row['label']!r} differ in more than the seed: {alike}")
        cells = [cell(key, runs) for key in columns]
        cells += [str(row.get("published", "-"))] if published else []
        lines.append(f"| {' | '.join([row['label'], *cells, str(len(runs)) if runs else 'missing'])} |")
        used += runs
        commands += [of_seeds(runs)] if runs else []
    if used:
        machines, revisions = (sorted({run[key] for run in used}) for key in ("machine", "revision"))
        lines += ["", f"{'; '.join(machines)}. Revision {', '.join(revisions)}. Means, and the range over seeds."]
        lines += ["", "```sh", *commands, "```"]
    return "\n".join(lines)


def of_seeds(runs: list[dict[str, Any]]) -> str:
    """The command that repeats the runs of a row."""
    seeds = sorted(run["config"]["seed"] for run in runs)
    command = " ".join(part for part in runs[0]["command"].split() if not part.startswith("seed="))
    if len(seeds) > 1:
        return f"{command} -m seed={','.join(map(str, seeds))}"
    return command if seeds == [0] else f"{command} seed={seeds[0]}"


def cell(key: str, runs: list[dict[str, Any]]) -> str:
    """Mean and range of a number over some runs."""
    numbers = [{**run["metrics"], "minutes": run["metrics"]["training_seconds"] / 60} for run in runs]
    values = [n[key] for n in numbers if n.get(key) is not None]
    form = _FORMS.get(key, "{:.4g}")
    if not values:
        return "-"
    mean, low, high = (form.format(f(values)).replace("%", " %") for f in (statistics.mean, min, max))
    return mean if len(values) < 2 else f"{mean} ({low} to {high})"


if __name__ == "__main__":
    main()
