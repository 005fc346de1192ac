"""The table of the robustness report: Markdown, CSV, JSON and curves."""

import csv
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from csc_nets.evaluation.robustness.measure import CLEAN, Accuracies, as_row

__all__ = ["Measured", "save_table"]

LEGEND = """\
Accuracy in %: on clean images; means over severities {severities} of each corruption; means of the noises and of all.
+ batch norm: statistics of the corrupted batch of up to {batch_size} images, so an answer depends on the other images.
"""
CODED = """\
Rules choose lam of each image from the image alone. fixed lam: as trained. fitted: the line of a rule comes from
{calibration_images} training images with Gaussian noise and the network's own answers, without labels.
oracle: the best lam of five for each corruption and severity by the labels of the test images; no rule may do so.
"""
ATTACKED = """\
Attacks: accuracy in % that the strongest attack leaves on the first {attack_images} images, in pixels from 0 to 1: an
upper bound of the robust accuracy. The attack knows the method, and differentiates a rule.
"""


@dataclass(frozen=True)
class Measured:
    """What a run gave: its rows, and what sets it apart from others.

    Attributes:
        run: name of the run folder, or of the data set where there is none.
        network: name of the network.
        seed: of the run; None where nothing is known.
        images: which ones it was tested on, in words.
        alike: runs that differ in the seed alone have the same.
        found: accuracies by row and condition.
        attacked: accuracies by row and attack.
    """

    run: str
    network: str
    seed: Any
    images: str
    alike: str
    found: Accuracies
    attacked: Accuracies

    def rows(self) -> list[dict[str, Any]]:
        """A row of plain values for each method."""
        about = {"run": self.run, "network": self.network, "seed": self.seed}
        rows = []
        for name, values in self.found.items():
            left = {key: value for key, value in self.attacked.get(name, {}).items() if key != CLEAN}
            rows.append({"name": name, **about, **as_row(values), **values, **left})
        return rows


def save_table(file: Path, measured: Sequence[Measured], options: Mapping[str, Any]) -> str:
    """Writes the rows as ``FILE.csv`` and ``FILE.json``, and the curves.

    Args:
        file: of the curves, a PNG.
        measured: of each run.
        options: of :func:`~csc_nets.evaluation.robustness.robustness`.

    Returns:
        The table of each network in Markdown, over seeds where there are several, and what the rows are.
    """
    rows = [row for run in measured for row in run.rows()]
    file.with_suffix(".json").write_text(json.dumps(rows, indent=2) + "\n")
    fields = list(dict.fromkeys(key for row in rows for key in row))
    with file.with_suffix(".csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fields)
        writer.writeheader()
        writer.writerows(rows)
    groups: dict[str, list[Measured]] = {}
    for run in measured:
        groups.setdefault(run.alike, []).append(run)
    tables = [_table(group) for group in groups.values()]
    shown = {**options, "severities": ", ".join(map(str, options["severities"]))}
    legend = LEGEND + (CODED if any("fixed lam" in run.found for run in measured) else "")
    legend += ATTACKED if any(run.attacked for run in measured) else ""
    if find_spec("matplotlib"):
        from csc_nets.evaluation.robustness.pictures import save_curves

        save_curves(file, {_title(group): _mean([run.found for run in group]) for group in groups.values()})
    return "\n\n".join([*tables, legend.format(**shown).rstrip()])


def _title(group: Sequence[Measured]) -> str:
    if len(group) == 1:
        return f"{group[0].run} ({group[0].network})"
    return f"{group[0].network}, mean of {len(group)} seeds ({', '.join(run.run for run in group)})"


def _table(group: Sequence[Measured]) -> str:
    """Tables in Markdown, of corruptions and of attacks; of several seeds the mean and the standard deviation."""
    spread = "; mean and standard deviation over seeds" if len(group) > 1 else ""
    tables = [{name: [as_row(run.found[name]) for run in group] for name in group[0].found}]
    if group[0].attacked:
        tables.append({name: [run.attacked[name] for run in group] for name in group[0].attacked})
    return "\n\n".join([f"{_title(group)}, {group[0].images}{spread}", *map(_markdown, tables)])


def _markdown(rows: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    names = list(next(iter(rows.values()))[0])
    head = ["", *(name.replace("_noise", "").replace("_", " ") for name in names)]
    cells = [head, ["---", *["---:"] * len(names)]]
    for name, found in rows.items():
        cells.append([name, *(_cell([row[column] for row in found]) for column in names)])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in cells)


def _cell(values: Sequence[float]) -> str:
    mean = f"{100 * statistics.fmean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {100 * statistics.stdev(values):.1f}"


def _mean(found: Sequence[Accuracies]) -> Accuracies:
    return {
        name: {key: statistics.fmean(run[name][key] for run in found) for key in values}
        for name, values in found[0].items()
    }
