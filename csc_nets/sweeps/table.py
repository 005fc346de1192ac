"""The table of a sweep: one row for jobs that differ in the seed alone, the best first."""

import csv
import io
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from csc_nets.sweeps.jobs import Job
from csc_nets.tasks.registry import TASKS

__all__ = ["Row", "Score", "SweepTable", "make_table", "options_of"]

_SEED = "seed"
_NO_OPTIONS = ("run_dir", "resume", "name", "plugins", "logger", "objective")
_DENSITY, _SECONDS = "test/density", "training_seconds"
_MARK = "*"


@dataclass(frozen=True)
class Score:
    """What a table is sorted by.

    Args:
        key: a number of ``metrics.json``.
        higher: whether more is better.
    """

    key: str
    higher: bool


@dataclass(frozen=True)
class Row:
    """Jobs that differ in the seed alone.

    Args:
        options: what the sweep varies, without the seed.
        jobs: all of them.
        values: of the jobs that are finished and did not collapse, the numbers of each column.
        front: whether no other row is at least as good in score, density and time, and better in one of them.
    """

    options: dict[str, str]
    jobs: list[Job]
    values: dict[str, list[float]]
    front: bool = False

    def mean(self, key: str) -> float | None:
        """Mean over seeds; None where no job has the number."""
        return statistics.fmean(self.values[key]) if self.values.get(key) else None

    def spread(self, key: str) -> float | None:
        """Standard deviation of one job, from at least two (with n - 1)."""
        return statistics.stdev(self.values[key]) if len(self.values.get(key, ())) > 1 else None


@dataclass(frozen=True)
class SweepTable:
    """The rows of a sweep, the best first; rows without a number come last.

    Args:
        names: options that differ, without the seed.
        columns: numbers of ``metrics.json``: the score, and density and time where the jobs have them.
        score: what the rows are sorted by.
        rows: of the table.
        expected: how many jobs were asked for; None where nobody knows.
    """

    names: list[str]
    columns: list[str]
    score: Score
    rows: list[Row]
    expected: int | None

    def text(self) -> str:
        """The table for a terminal, and below it what is not finished."""
        head = [*self.names, "runs", *(_heading(key) for key in self.columns), "front"]
        body = [
            [row.options.get(name, "") for name in self.names]
            + [_count(row.jobs), *(_cell(row, key) for key in self.columns), _MARK if row.front else ""]
            for row in self.rows
        ]
        widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in (head, *body)
        ]
        return "\n".join(line.rstrip() for line in [*lines, *self._rest()])

    def csv(self) -> str:
        """The table for other programs, with means and spreads unrounded."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        numbers = [name for key in self.columns for name in (f"{key} mean", f"{key} spread")]
        writer.writerow([*self.names, "jobs", "finished", "collapsed", *numbers, "front"])
        for row in self.rows:
            states = Counter(job.state for job in row.jobs)
            cells = [value for key in self.columns for value in (row.mean(key), row.spread(key))]
            options = [row.options.get(name, "") for name in self.names]
            counts = [len(row.jobs), states["finished"], states["collapsed"]]
            writer.writerow([*options, *counts, *("" if c is None else repr(c) for c in cells), int(row.front)])
        return stream.getvalue()

    def _rest(self) -> Iterable[str]:
        jobs = [job for row in self.rows for job in row.jobs]
        states = Counter(job.state for job in jobs)
        total = max(self.expected or 0, len(jobs))
        done = states["finished"] + states["collapsed"]
        if done < total:
            states_left = {s: n for s, n in states.items() if s not in ("finished", "collapsed")}
            left = [f"{n} {state}" for state, n in sorted(states_left.items())]
            left += [f"{total - len(jobs)} not begun"] if total > len(jobs) else []
            yield f"{done} of {total} jobs are finished, {', '.join(left)}"
        for job in jobs:
            if job.state == "failed":
                yield f"failed: {job.folder.name}: {job.error}"


def make_table(jobs: Sequence[Job], score: Score | None = None, expected: int | None = None) -> SweepTable:
    """Sorts and averages the jobs of a sweep.

    Args:
        jobs: of one sweep.
        score: None for the number that chooses checkpoints, on test images where there are any.
        expected: how many jobs were asked for.

    Raises:
        ValueError: ``score`` names a number that no finished job has.
    """
    score = score or _score_of(jobs)
    finished = [job for job in jobs if job.state == "finished"]
    known = sorted({key for job in finished for key, value in job.numbers.items() if _is_number(value)})
    if finished and score.key not in known:
        raise ValueError(f"no job has {score.key} (known: {', '.join(known)})")
    options = options_of(jobs)
    names = [name for name in dict.fromkeys(key for given in options.values() for key in given) if name != _SEED]
    columns = [key for key in dict.fromkeys((score.key, _DENSITY, _SECONDS)) if key in (*known, score.key)]
    groups: dict[tuple[str, ...], list[Job]] = {}
    for job in jobs:
        groups.setdefault(tuple(options[job.folder].get(name, "") for name in names), []).append(job)
    rows = [_row(dict(zip(names, group, strict=True)), members, columns) for group, members in groups.items()]
    rows = [Row(r.options, r.jobs, r.values, _on_front(r, rows, columns, score)) for r in rows]
    return SweepTable(names, columns, score, sorted(rows, key=lambda row: _order(row, score)), expected)


def options_of(jobs: Sequence[Job]) -> dict[Path, dict[str, str]]:
    """What the jobs of a sweep differ in; read off their configurations where an older version wrote nothing else."""
    configs = {job.folder: _flat(job.config) for job in jobs}
    if all(job.options for job in jobs):
        names = list(dict.fromkeys(name for job in jobs for name in job.options))
        given = {job.folder: {**configs[job.folder], **job.options} for job in jobs}
    else:
        given = configs
        names = list(dict.fromkeys(key for flat in configs.values() for key in flat))
        names = [key for key in names if key.split(".")[0] not in _NO_OPTIONS]
    names = [name for name in names if len({flat.get(name) for flat in given.values()}) > 1]
    return {folder: {name: flat[name] for name in names if name in flat} for folder, flat in given.items()}


def _row(options: dict[str, str], jobs: list[Job], columns: Sequence[str]) -> Row:
    finished = [job.numbers for job in jobs if job.state == "finished"]
    values = {key: [float(n[key]) for n in finished if _is_number(n.get(key))] for key in columns}
    return Row(options, jobs, values)


def _on_front(row: Row, rows: Sequence[Row], columns: Sequence[str], score: Score) -> bool:
    """Whether no other row dominates this one; smaller is better in every column but a score of which more is."""

    def costs(of: Row) -> list[float] | None:
        means = [of.mean(key) for key in columns]
        signs = [-1 if key == score.key and score.higher else 1 for key in columns]
        if any(mean is None for mean in means):
            return None
        return [sign * mean for sign, mean in zip(signs, means, strict=True) if mean is not None]

    own = costs(row)
    if own is None:
        return False
    others = [other for other in map(costs, rows) if other is not None]
    return not any(all(a <= b for a, b in zip(o, own, strict=True)) and o != own for o in others)


def _order(row: Row, score: Score) -> tuple[bool, float, list[tuple[int, float, str]]]:
    mean = row.mean(score.key)
    best_first = 0.0 if mean is None else (-mean if score.higher else mean)
    return mean is None, best_first, [_natural(value) for value in row.options.values()]


def _natural(text: str) -> tuple[int, float, str]:
    try:
        return 0, float(text), ""
    except ValueError:
        return 1, 0.0, text


def _score_of(jobs: Sequence[Job]) -> Score:
    """The number by which the task chooses checkpoints: on test images, else on those of validation."""
    for job in jobs:
        name = (job.config.get("task") or {}).get("name")
        if name in TASKS.names():
            higher = getattr(TASKS[name], "monitor_mode", "max") == "max"
            key = str(getattr(TASKS[name], "monitor", "val/best")).replace("val/", "test/")
            shared = any(key in job.numbers for job in jobs) or not any(job.numbers for job in jobs)
            return Score(key if shared else "val/best", higher)
    return Score("val/best", True)


def _flat(config: Mapping[str, Any], above: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in config.items():
        flat |= _flat(value, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": _plain(value)}
    return flat


def _plain(value: Any) -> str:
    """A value as it stands on a command line."""
    if isinstance(value, list):
        return f"[{','.join(map(_plain, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _heading(key: str) -> str:
    return {_DENSITY: "density", _SECONDS: "seconds"}.get(key, key)


def _cell(row: Row, key: str) -> str:
    mean, spread = row.mean(key), row.spread(key)
    if mean is None:
        return "-"
    digits = 1 if key == _SECONDS else 4
    return f"{mean:.{digits}f}" + ("" if spread is None else f" ± {spread:.{digits}f}")


def _count(jobs: Sequence[Job]) -> str:
    states = Counter(job.state for job in jobs)
    rest = [f"{n} {state}" for state, n in sorted(states.items()) if state != "finished"]
    return str(states["finished"]) + (f" ({', '.join(rest)})" if rest else "")
