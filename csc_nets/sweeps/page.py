"""The page of a sweep: its table, and the score over each option, over density and over time."""

import math
from pathlib import Path

from csc_nets.pages import Block, Page, render, scatter, table
from csc_nets.sweeps.table import Row, SweepTable

__all__ = ["write_sweep_page"]

DENSITY, SECONDS = "test/density", "training_seconds"


def write_sweep_page(found: SweepTable, file: Path) -> None:
    """Writes the sweep as one HTML file that needs nothing else.

    Args:
        found: the table of the sweep.
        file: to write.

    Raises:
        ValueError: jinja2 is not installed.
    """
    key, better = found.score.key, "more" if found.score.higher else "less"
    jobs = sum(len(row.jobs) for row in found.rows)
    rows = [
        {name: row.options.get(name, "") for name in found.names}
        | {"runs": len(row.jobs), "front": "yes" if row.front else ""}
        | {column: _spread(row, column) for column in found.columns}
        for row in found.rows
    ]
    heads = {name: name for name in (*found.names, "runs", *found.columns, "front")}
    blocks = [
        Block(
            "Table",
            table(rows, heads),
            "The best row comes first: mean over seeds, and the standard deviation. A row on the front is not beaten "
            "in score, density and time at once.",
        )
    ]
    for name in found.names:
        points = _points(found, name)
        if len({x for x, _ in points}) > 1:
            title = f"{key} over {name}"
            blocks.append(Block(title, scatter({key: points}, title=title, x=name, y=key), "A dot for each row."))
    for column, label in ((DENSITY, "density of the codes"), (SECONDS, "training time (s)")):
        if column in found.columns and column != key:
            kinds = {"on the front": True, "others": False}
            series = {
                kind: [
                    (row.mean(column) or 0.0, row.mean(key) or 0.0)
                    for row in found.rows
                    if row.front == front and row.mean(column) is not None and row.mean(key) is not None
                ]
                for kind, front in kinds.items()
            }
            title = f"{key} against {label}"
            body = scatter(series, title=title, x=label, y=key)
            blocks.append(Block(title, body, "What a better score costs."))
    best = found.rows[0] if found.rows else None
    numbers = {"jobs": str(jobs)}
    if best is not None and best.mean(key) is not None:
        numbers |= {f"best {key}": _spread(best, key), **{name: best.options.get(name, "") for name in found.names}}
    page = Page(file.parent.name, f"{jobs} jobs, sorted by {key}; {better} is better.", numbers, blocks)
    render([page], file, title=f"Sweep {file.parent.name}")


def _spread(row: Row, key: str) -> str:
    mean, spread = row.mean(key), row.spread(key)
    if mean is None:
        return "-"
    return f"{mean:.4g}" + ("" if spread is None else f" ± {spread:.2g}")


def _points(found: SweepTable, name: str) -> list[tuple[float, float]]:
    """Numbers of an option beside the score; words take the places 1, 2, ..."""
    values = list(dict.fromkeys(row.options.get(name, "") for row in found.rows))
    try:
        places = {value: float(value) for value in values}
    except ValueError:
        places = {value: float(i) for i, value in enumerate(sorted(values), 1)}
    points = [(places[row.options.get(name, "")], row.mean(found.score.key)) for row in found.rows]
    return [(x, y) for x, y in points if y is not None and math.isfinite(y)]
