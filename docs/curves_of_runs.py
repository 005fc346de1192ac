"""Draws how numbers of several runs went, epoch by epoch: one line a run, one colour for runs that differ in the seed.

    python train.py -m experiment=digits_csc_ctrl model=csc_ctrl_32,conv_ctrl_32 seed=0,1,2 trainer.max_epochs=500
    python docs/curves_of_runs.py runs/digits_csc_ctrl-digits --keys val/psnr train/loss [--out curves.png]

Every folder below the given ones that holds config.yaml and metrics.csv is a run.
"""

import argparse
import csv
import json
from pathlib import Path

import yaml
from table_of_runs import label

COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999", "#8C564B", "#BCBD22"]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("folders", type=Path, nargs="+", help="folders with runs at any depth")
    options.add_argument("--keys", nargs="+", default=["val/loss"], help="columns of metrics.csv (default val/loss)")
    options.add_argument("--out", type=Path, default=Path("curves.png"), help="picture (default curves.png)")
    chosen = options.parse_args()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(chosen.keys), 3.6), layout="constrained")
    axes = figure.subplots(1, len(chosen.keys), squeeze=False)[0]
    labels: dict[str, str] = {}
    for table in sorted(path for folder in chosen.folders for path in folder.rglob("metrics.csv")):
        try:
            config = yaml.safe_load((table.parent / "config.yaml").read_text())
            with table.open(newline="") as file:
                rows = list(csv.DictReader(file))
            curves = [[(int(row["step"]) + 1, float(row[key])) for row in rows if row.get(key)] for key in chosen.keys]
        except (OSError, ValueError, KeyError, yaml.YAMLError) as error:
            print(f"left out: {table} or its config.yaml is damaged: {' '.join(str(error).split())}")
            continue
        if not all(curves):
            print(f"left out: {table} lacks one of {', '.join(chosen.keys)}")
            continue
        for name in ("seed", "run_dir", "resume", "logger"):
            config.pop(name, None)
        group = json.dumps(config, sort_keys=True)
        name = None if group in labels else label(config)  # once in the legend
        labels.setdefault(group, name or "")
        colour = COLOURS[list(labels).index(group) % len(COLOURS)]
        for axis, points in zip(axes, curves, strict=True):
            axis.plot(*zip(*points, strict=True), color=colour, label=name, linewidth=1)
    if not labels:
        raise SystemExit(f"no run under {', '.join(map(str, chosen.folders))}")
    for axis, key in zip(axes, chosen.keys, strict=True):
        axis.set(xlabel="batches", title=key)
        axis.grid(alpha=0.3)
    lines, names = axes[0].get_legend_handles_labels()
    shared = set.intersection(*(set(name.split()) for name in names)) if len(names) > 1 else set()
    names = [" ".join(word for word in name.split() if word not in shared) for name in names]
    figure.legend(lines, names, loc="outside lower center", ncols=len(names))
    figure.savefig(chosen.out, dpi=110)
    print(f"{chosen.out}: {', '.join(labels.values())}")


if __name__ == "__main__":
    main()
