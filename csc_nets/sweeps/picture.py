"""The picture of a sweep: the score over each option, and what a better score costs."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from csc_nets.sweeps.table import SweepTable

__all__ = ["draw_sweep"]

_WIDTH, _HEIGHT, _IN_A_ROW = 4.2, 3.4, 4
_TICKS = 8
_DOT, _FRONT, _MEAN = "#56B4E9", "#D55E00", "#0072B2"
_DENSITY, _SECONDS = "test/density", "training_seconds"


def draw_sweep(table: SweepTable, file: Path) -> None:
    """Draws a sweep; matplotlib is needed.

    One axis an option: a dot for each job, and the mean of each value as a line. Then the score against the
    density, and against the time of training where the jobs have no density: the larger the dot, the longer the
    training. Rows on the Pareto front of score, density and time are orange.

    Args:
        table: of the sweep, with a finished job at least.
        file: the picture to write.
    """
    from matplotlib.figure import Figure

    varied = [
        name for name in table.names if len({row.options.get(name) for row in table.rows if _score(table, row)}) > 1
    ]
    across = min(_IN_A_ROW, len(varied) + 1)
    down = math.ceil((len(varied) + 1) / across)
    figure = Figure(figsize=(_WIDTH * across, _HEIGHT * down), layout="constrained")
    axes: list[Any] = list(figure.subplots(down, across, squeeze=False).flat)
    for axis, name in zip(axes, varied, strict=False):
        _draw_option(axis, table, name)
    _draw_front(axes[len(varied)], table)
    for axis in axes[len(varied) + 1 :]:
        axis.set_axis_off()
    figure.savefig(file, dpi=110)


def _draw_option(axis: Any, table: SweepTable, name: str) -> None:
    points = [(row.options.get(name, ""), value) for row in table.rows for value in _score(table, row)]
    from matplotlib.ticker import NullLocator

    values = sorted({text for text, _ in points}, key=lambda text: (_as_number(text), text))
    numbers = [_as_number(text) for text in values]
    if numeric := all(map(math.isfinite, numbers)):
        places = dict(zip(values, numbers, strict=True))
        positive = [number for number in numbers if number > 0]
        if len(positive) > 2 and max(positive) >= 10 * min(positive):
            axis.set_xscale("log" if len(positive) == len(numbers) else "symlog", **_linear_below(positive, numbers))
            axis.xaxis.set_minor_locator(NullLocator())
    else:
        places = dict(zip(values, map(float, range(len(values))), strict=True))
        axis.margins(x=0.1)
    named = values[:: math.ceil(len(values) / _TICKS)]
    slant = {} if numeric else {"rotation": 20, "ha": "right"}
    axis.set_xticks([places[text] for text in named], [_short(text) for text in named], **slant)
    axis.plot([places[text] for text, _ in points], [score for _, score in points], "o", color=_DOT, markersize=4)
    means = [_mean([score for other, score in points if other == text]) for text in values]
    style: dict[str, Any] = {"linewidth": 1} if numeric else {"linestyle": "", "marker": "_", "markersize": 24}
    axis.plot([places[text] for text in values], means, color=_MEAN, **style)
    axis.set(xlabel=name, ylabel=table.score.key)
    axis.grid(alpha=0.3)


def _draw_front(axis: Any, table: SweepTable) -> None:
    key = _DENSITY if _DENSITY in table.columns else _SECONDS
    rows = [row for row in table.rows if row.mean(key) is not None and row.mean(table.score.key) is not None]
    longest = max((row.mean(_SECONDS) or 0 for row in rows), default=0) or 1
    for row in rows:
        x, y = row.mean(key), row.mean(table.score.key)
        size = 20 + 120 * (row.mean(_SECONDS) or 0) / longest
        colour = _FRONT if row.front else _DOT
        axis.errorbar(x, y, row.spread(table.score.key), row.spread(key), color=colour, alpha=0.5, linewidth=1)
        axis.scatter([x], [y], s=size, color=colour, edgecolors="white", zorder=3)
    label = "density of the codes" if key == _DENSITY else "seconds of training"
    axis.set(xlabel=label, ylabel=table.score.key, title="orange: Pareto front; size: time")
    axis.title.set_fontsize("medium")
    axis.grid(alpha=0.3)


def _score(table: SweepTable, row: Any) -> list[float]:
    return [value for value in row.values.get(table.score.key, []) if math.isfinite(value)]


def _as_number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.inf


def _linear_below(positive: Sequence[float], numbers: Sequence[float]) -> dict[str, float]:
    return {} if len(positive) == len(numbers) else {"linthresh": min(positive)}


def _short(text: str) -> str:
    return text if len(text) <= 20 else f"{text[:19]}…"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
