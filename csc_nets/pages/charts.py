"""Charts as SVG text. Colours are those of the page's style sheet, so that a chart is readable in dark mode, too."""

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

__all__ = ["bars", "grid", "lines", "scatter"]

WIDTH, HEIGHT = 420, 250
LEFT, RIGHT, TOP, BOTTOM = 62, 12, 12, 46
COLOURS = 6
Points = Sequence[tuple[float, float]]


def lines(series: Mapping[str, Points], *, title: str, x: str, y: str, log_y: bool = False, log_x: bool = False) -> str:
    """Curves, one colour each.

    Args:
        series: points by name; numbers that are not finite are left out.
        title: the text alternative: what the chart shows.
        x, y: labels of the axes, with units.
        log_y, log_x: logarithmic axes; numbers of 0 and below are left out.
    """
    return _plot(series, title=title, x=x, y=y, log_y=log_y, log_x=log_x, joined=True)


def scatter(
    series: Mapping[str, Points], *, title: str, x: str, y: str, log_y: bool = False, log_x: bool = False
) -> str:
    """As :func:`lines`, with dots that are not joined."""
    return _plot(series, title=title, x=x, y=y, log_y=log_y, log_x=log_x, joined=False)


def bars(values: Mapping[str, float], *, title: str, unit: str, top: float | None = None) -> str:
    """Horizontal bars with their values written at the end.

    Args:
        values: by name.
        title: the text alternative.
        unit: written behind each value.
        top: value of the longest possible bar; None for the largest value.
    """
    finite = [value for value in values.values() if math.isfinite(value)]
    most = top or max(finite, default=1.0) or 1.0
    height, name_width = 26, min(170, 8 + 7 * max((len(name) for name in values), default=1))
    rows = []
    for i, (name, value) in enumerate(values.items()):
        length = (WIDTH - name_width - 90) * max(0.0, min(1.0, value / most)) if math.isfinite(value) else 0.0
        rows.append(
            f'<text x="{name_width - 8}" y="{i * height + 17}" text-anchor="end">{escape(name)}</text>'
            f'<rect class="c0" x="{name_width}" y="{i * height + 4}" width="{length:.1f}" height="18" rx="2"/>'
            f'<text x="{name_width + length + 6:.1f}" y="{i * height + 17}">{_number(value)} {escape(unit)}</text>'
        )
    return _svg(title, WIDTH, max(1, len(values)) * height + 4, "".join(rows))


def grid(values: Sequence[Sequence[float]], names: Sequence[str], *, title: str, rows: str, columns: str) -> str:
    """A square table of counts whose cells are the darker the more of their row they hold: a confusion matrix.

    Args:
        values: a row each.
        names: of rows and columns.
        title: the text alternative.
        rows, columns: what they are.
    """
    count = len(names)
    cell = max(12, min(36, 420 // max(1, count)))
    margin = 30 + min(110, 7 * max(map(len, names), default=1))
    parts = []
    for i, row in enumerate(values):
        whole = sum(row) or 1.0
        for j, value in enumerate(row):
            left, top = margin + j * cell, i * cell + 4
            share = value / whole
            kind = "right" if i == j else "wrong"
            hint = f"{names[i]} as {names[j]}: {value:g}"
            parts.append(
                f'<rect class="{kind}" x="{left}" y="{top}" width="{cell - 1}" height="{cell - 1}" '
                f'fill-opacity="{share:.3f}"><title>{escape(hint)}</title></rect>'
            )
            if value and cell >= 22:
                over = ' class="over"' if share > 0.5 else ""
                parts.append(
                    f'<text{over} x="{left + cell / 2}" y="{top + cell / 2 + 4}" text-anchor="middle">{value:g}</text>'
                )
        parts.append(
            f'<text x="{margin - 6}" y="{i * cell + cell / 2 + 8}" text-anchor="end">{escape(names[i])}</text>'
        )
    base = count * cell + 8
    for j, name in enumerate(names):
        middle = margin + j * cell + cell / 2
        turned = (
            f'transform="rotate(-60 {middle} {base + 10})" text-anchor="end"'
            if len(name) > 2
            else 'text-anchor="middle"'
        )
        parts.append(f'<text x="{middle}" y="{base + 10}" {turned}>{escape(name)}</text>')
    below = base + 12 + (6 * max(map(len, names)) if any(len(name) > 2 for name in names) else 6)
    parts.append(f'<text class="label" x="{margin}" y="{below + 14}">{escape(columns)}</text>')
    middle = count * cell / 2
    parts.append(
        f'<text class="label" x="12" y="{middle}" transform="rotate(-90 12 {middle})" text-anchor="middle">'
        f"{escape(rows)}</text>"
    )
    return _svg(title, margin + count * cell + 8, below + 22, "".join(parts))


def _plot(series: Mapping[str, Points], *, title: str, x: str, y: str, log_y: bool, log_x: bool, joined: bool) -> str:
    kept = {
        name: [
            (a, b)
            for a, b in points
            if math.isfinite(a) and math.isfinite(b) and (a > 0 or not log_x) and (b > 0 or not log_y)
        ]
        for name, points in series.items()
    }
    kept = {name: points for name, points in kept.items() if points}
    across = _axis([a for points in kept.values() for a, _ in points], log_x, LEFT, WIDTH - RIGHT)
    up = _axis([b for points in kept.values() for _, b in points], log_y, HEIGHT - BOTTOM, TOP)
    parts = []
    for tick, written in _written(up[1]):
        at = up[0](tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{written}</text>')
    for tick, written in _written(across[1]):
        at = across[0](tick)
        parts.append(f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{written}</text>')
    for i, (name, points) in enumerate(kept.items()):
        places = [(across[0](a), up[0](b)) for a, b in points]
        colour = f"c{i % COLOURS}"
        if joined and len(places) > 1:
            path = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
            parts.append(f'<polyline class="line {colour}" points="{path}"/>')
        if not joined or len(places) < 30:
            for (a, b), (u, v) in zip(places, points, strict=True):
                hint = escape(f"{name}: {_number(u)}, {_number(v)}")
                parts.append(
                    f'<circle class="{colour}" cx="{a:.1f}" cy="{b:.1f}" r="3.2"><title>{hint}</title></circle>'
                )
    centre, middle = (LEFT + WIDTH) / 2, (TOP + HEIGHT - BOTTOM) / 2
    label = '<text class="label" text-anchor="middle"'
    parts.append(f'{label} x="{centre}" y="{HEIGHT - 8}">{escape(x)}</text>')
    parts.append(f'{label} x="14" y="{middle}" transform="rotate(-90 14 {middle})">{escape(y)}</text>')
    legend, left, below = [], float(LEFT), HEIGHT + 4.0
    for i, name in enumerate(kept):
        width = 26 + 6.6 * len(name)
        if left + width > WIDTH and left > LEFT:
            left, below = float(LEFT), below + 18
        legend.append(
            f'<rect class="c{i % COLOURS}" x="{left:.0f}" y="{below:.0f}" width="12" height="12" rx="2"/>'
            f'<text x="{left + 17:.0f}" y="{below + 10:.0f}">{escape(name)}</text>'
        )
        left += width
    alone = len(kept) < 2
    height = HEIGHT if alone else below + 18
    return _svg(title, WIDTH, height, "".join(parts + ([] if alone else legend)))


def _axis(values: Sequence[float], log: bool, start: float, end: float) -> tuple[Callable[[float], float], list[float]]:
    """From a number to its place, and the numbers at which to write one."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if log:
        low, high = math.log10(low), math.log10(high)
    if low == high:
        low, high = low - 0.5, high + 0.5
    margin = 0.04 * (high - low)
    low, high = low - margin, high + margin

    def place(value: float) -> float:
        position = math.log10(value) if log else value
        return start + (position - low) / (high - low) * (end - start)

    if log and high - low > 1.2:
        step = max(1, math.ceil((high - low) / 6))
        return place, [10.0**power for power in range(math.ceil(low), math.floor(high) + 1, step)]
    if log:
        return place, [10 ** (low + (high - low) * (i + 0.5) / 4) for i in range(4)]
    rough = (high - low) / 5
    unit = 10 ** math.floor(math.log10(rough))
    step_size = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
    first = math.ceil(low / step_size)
    return place, [i * step_size for i in range(first, math.floor(high / step_size) + 1)]


def _written(ticks: Sequence[float]) -> list[tuple[float, str]]:
    """Each number of an axis as text, with as many digits as set them apart."""
    for digits in range(3, 17):
        texts = [_number(tick, digits) for tick in ticks]
        if len(set(texts)) == len(texts):
            break
    return list(zip(ticks, texts, strict=True))


def _number(value: float, digits: int = 3) -> str:
    if not math.isfinite(value):
        return "-"
    return f"{value:.{digits}g}".replace("e+0", "e").replace("e-0", "e-")


def _svg(title: str, width: float, height: float, inside: str) -> str:
    named = f'role="img" aria-label="{escape(title, quote=True)}"'
    size = f'viewBox="0 0 {width:.0f} {height:.0f}"'
    return f'<svg class="chart" {size} {named}><title>{escape(title)}</title>{inside}</svg>'
