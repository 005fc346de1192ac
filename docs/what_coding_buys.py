"""Draws how well the coded layers of trained networks explain their inputs, layer by layer, a line a run.

    python docs/what_coding_buys.py RUN... [--images 64] [--out docs/images/what_coding_buys.png] [--json FILE]

Panels: objective of the codes over the least one; share of non-zeros; energy of the residual over that of the
layer's input; mutual coherence of the atoms beside the least possible (Welch's bound).
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

import csc_nets
from csc_nets.cli import build_data
from csc_nets.evaluation.coding import coding_rows
from csc_nets.tasks.run_folder import RunFolder
from csc_nets.theory import report

COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
PANELS = {
    "excess": ("objective over the least one, minus 1", True),
    "density": ("share of non-zeros", False),
    "unexplained": ("energy of the residual over the input's", True),
    "coherence": ("mutual coherence", False),
}


def measure(run: Path, count: int) -> list[dict[str, Any]]:
    """A row for each coded layer of a run's network, on test images."""
    config = RunFolder(run).config()
    data, model = build_data(config, {}), csc_nets.load(run).eval()
    data.setup("test")
    images = torch.cat([images for images, _ in data.test_dataloader()])
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    x = images[order[:count]]
    known = {row["name"]: row for row in report(model, x).rows}
    rows = coding_rows(model, x)
    for row in rows:
        about = known[row["name"]]
        row |= {"network": f"{config['model']['name']}, {row['pursuit']}, T = {row['steps']}"}
        row |= {"unexplained": float(about["residual"]) ** 2}
        row |= {key: float(about[key]) for key in ("coherence", "welch_bound")}
    return rows


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("runs", type=Path, nargs="+", help="run folders of classifiers with coded layers")
    options.add_argument("--images", type=int, default=64)
    options.add_argument("--out", type=Path, default=Path("docs/images/what_coding_buys.png"))
    options.add_argument("--json", type=Path)
    given = options.parse_args()
    from matplotlib.figure import Figure

    found = [measure(run, given.images) for run in given.runs]
    figure = Figure(figsize=(3.4 * len(PANELS), 3.6), layout="constrained")
    axes = figure.subplots(1, len(PANELS))
    for axis, (key, (title, log)) in zip(axes, PANELS.items(), strict=True):
        for rows, colour in zip(found, COLOURS, strict=False):
            values = [row[key] for row in rows]
            axis.plot(range(1, len(rows) + 1), values, color=colour, marker=".", label=rows[0]["network"])
        if key == "coherence":
            longest = max(found, key=len)
            bounds = [row["welch_bound"] for row in longest]
            axis.plot(range(1, len(longest) + 1), bounds, color="black", linestyle=":", label="least possible")
        axis.set(title=title, xlabel="coded layer", **({"yscale": "log"} if log else {"ylim": (0, 1)}))
        axis.title.set_fontsize("medium")
        axis.grid(alpha=0.3)
    figure.legend(*axes[-1].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    figure.savefig(given.out, dpi=110)
    rows = [row for part in found for row in part]
    for row in rows:
        print(" ".join(f"{key}={value:.3g}" if isinstance(value, float) else str(value) for key, value in row.items()))
    if given.json:
        given.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
