"""Pictures of a benchmark's rows: curves where rows have an ``x``, bars of ratios otherwise.

    python benchmarks/plot.py FILE.json [--out FILE.png]

Curves, of rows as ``scale.py`` writes them: a column for each axis, time above (the reference dashed), bytes below, all
axes logarithmic; the slope is the exponent that the file tells. Bars: the ratio of every row, with the range of its
rounds, and a line at 1. matplotlib is needed.
"""

import argparse
import json
from pathlib import Path
from typing import Any

COLOURS = {"eval": "#0072B2", "train": "#D55E00"}  # Okabe and Ito's, which colour-blind people tell apart
BYTES = {"peak": ("peak", "-", "o"), "saved": ("saved", ":", "s")}

Row = dict[str, Any]


def machine_line(rows: list[Row]) -> str:
    """Where the rows come from, as far as they say."""
    where = rows[0].get("machine", {})
    parts = [where.get("accelerator") or where.get("cpu"), where.get("threads") and f"{where['threads']} thread(s)"]
    parts += [where.get("torch") and f"torch {where['torch']}", where.get("revision"), where.get("date", "")[:10]]
    return ", ".join(str(part) for part in parts if part)


def curves(rows: list[Row]) -> Any:
    """A figure of all rows that have an ``x``."""
    import matplotlib.pyplot as plt

    slopes = {row["name"]: row["ours"] for row in rows if row["unit"] == "exponent"}
    points = [row for row in rows if "x" in row]
    axes = list(dict.fromkeys(row["axis"] for row in points))
    figure, panels = plt.subplots(2, len(axes), figsize=(3.4 * len(axes), 6), sharey="row", squeeze=False)
    for (above, below), axis in zip(panels.T, axes, strict=True):
        for mode in dict.fromkeys(row["mode"] for row in points):
            chosen = sorted((r for r in points if r["axis"] == axis and r["mode"] == mode), key=lambda r: r["x"])
            x, colour = [r["x"] for r in chosen], COLOURS.get(mode, "black")
            slope = slopes.get(f"exponent of time in {axis}, {mode}")
            label = mode if slope is None else f"{mode}, exponent {slope:.2f}"
            above.plot(x, [r["ours"] for r in chosen], "o-", color=colour, ms=4, label=label)
            above.plot(x, [r["reference"] for r in chosen], "--", color=colour, lw=1)
            for key, (word, line, marker) in BYTES.items():
                if key not in chosen[0]:
                    continue
                slope = slopes.get(f"exponent of {key} in {axis}, {mode}")
                label = f"{word}, {mode}" if slope is None else f"{word}, {mode}, {slope:.2f}"
                values = [r[key] / 1e6 for r in chosen]
                below.plot(x, values, line, color=colour, marker=marker, ms=4, label=label)
        for panel in (above, below):
            panel.set(xscale="log", yscale="log", xlabel=axis)
            ticks = x[:: -(-len(x) // 6)]
            panel.set_xticks(ticks, labels=ticks)
            panel.minorticks_off()
            panel.grid(alpha=0.3)
            panel.legend(fontsize=7)
    panels[0, 0].set_ylabel(f"{points[0]['unit']} (dashed: floor)")
    panels[1, 0].set_ylabel("MB")
    return figure


def bars(rows: list[Row]) -> Any:
    """A figure of the ratios of all rows."""
    import matplotlib.pyplot as plt

    figure, panel = plt.subplots(figsize=(8, 0.35 * len(rows) + 1.2))
    ratios = [row["ratio"] for row in rows]
    spread = [[r["ratio"] - r.get("ratio_min", r["ratio"]) for r in rows]]
    spread += [[r.get("ratio_max", r["ratio"]) - r["ratio"] for r in rows]]
    panel.barh(range(len(rows)), ratios, xerr=spread, color="#56B4E9", ecolor="#555555", capsize=2)
    panel.axvline(1, color="black", lw=1)
    panel.set_yticks(range(len(rows)), [row["name"] for row in rows], fontsize=8)
    panel.invert_yaxis()
    panel.set_xlabel("ratio: ours over the reference")
    return figure


def main(argv: list[str] | None = None) -> Path:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="rows that a benchmark wrote with --json")
    parser.add_argument("--out", type=Path, help="the picture (default: beside the rows, .png)")
    options = parser.parse_args(argv)
    import matplotlib

    matplotlib.use("Agg")
    rows = json.loads(options.file.read_text())
    if not rows:
        parser.error(f"{options.file} holds no rows")
    figure = (curves if any("x" in row for row in rows) else bars)(rows)
    figure.text(0.99, 0.005, machine_line(rows), ha="right", va="bottom", fontsize=6, color="#555555")
    figure.tight_layout(rect=(0, 0.02, 1, 1))
    out = options.out or options.file.with_suffix(".png")
    figure.savefig(out, dpi=110)
    print(f"wrote {out}")
    return out


if __name__ == "__main__":
    main()
