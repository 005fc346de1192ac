"""``report=robustness``: corruptions, and what helps against them at test time, side by side."""

import csv
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from csc_nets.evaluation.corruptions import list_corruptions
from csc_nets.evaluation.lam_rules import list_lam_rules
from csc_nets.evaluation.lam_rules.adaptive import Layers
from csc_nets.evaluation.report_input import ReportInput, Result
from csc_nets.evaluation.robustness.measure import Accuracies, accuracies, as_row, with_oracles
from csc_nets.evaluation.robustness.methods import noisy_copies, robustness_methods
from csc_nets.models import create_model

__all__ = ["robustness", "save_robustness"]

BENCHMARK = 15
NOISES = ("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise")
LEGEND = """\
Accuracy in %: on clean images; means over severities {severities} of each corruption; means of the noises and of all.
+ batch norm: statistics of the corrupted batch of about {batch_size} images, so an answer depends on the other images.
"""
CODED = """\
Rules choose lam of each image from the image alone. fixed lam: as trained. fitted: the line of a rule comes from
{calibration_images} training images with Gaussian noise and the network's own answers, without labels.
oracle: the best lam of five for each corruption and severity by the labels of the test images; no rule may do so.
"""


@dataclass(frozen=True)
class Measured:
    """What a run gave: its rows, and what sets it apart from others.

    Attributes:
        run: name of the run folder, or of the data set where there is none.
        network: name of the network.
        seed: of the run; None where nothing is known.
        alike: runs that differ in the seed alone have the same.
        found: accuracies by row and condition.
    """

    run: str
    network: str
    seed: Any
    alike: str
    found: Accuracies

    def rows(self) -> list[dict[str, Any]]:
        """A row of plain values for each method."""
        about = {"run": self.run, "network": self.network, "seed": self.seed}
        return [{"name": name, **about, **as_row(values), **values} for name, values in self.found.items()]


def robustness(
    given: ReportInput,
    *,
    corruptions: Sequence[str] = NOISES,
    severities: Sequence[int] = (1, 3, 5),
    rules: Sequence[str] | None = None,
    layers: Layers = "first",
    denoiser: str | None = None,
    calibration_images: int = 500,
    batch_size: int = 250,
    seed: int = 0,
) -> Result:
    """Accuracy under corruptions: fixed lam, rules for lam, batch norm of the batch, both, an oracle.

    Args:
        given: the network and its data; ``images`` is the number of test images.
        corruptions: names of :func:`~csc_nets.evaluation.list_corruptions`; ``"benchmark"`` for the 15 over which
            CIFAR-10-C is averaged, ``"all"`` for all.
        severities: 1 to 5.
        rules: names of :func:`~csc_nets.evaluation.list_lam_rules`; None for all of them.
        layers: ``"first"`` coding layer, or ``"all"``.
        denoiser: network with weights in the package, ``"cdlnet"``, to put in front for a row of its own; it estimates
            the noise of each channel and treats it as a grey image.
        calibration_images: training images for rules with a line to fit; 0 leaves them out.
        batch_size: of test images; batch norm takes its statistics from so many.
        seed: of the corruptions and of the order of the images.
    """
    options = _checked(locals())
    measured = _measure(given, **options)
    text = _finish(given.picture, [measured], options)
    _save_images(given, options)
    return text, measured.rows()


def save_robustness(inputs: Sequence[ReportInput], **options: Any) -> str:
    """One table of several runs, in the reports of the first; runs that differ in the seed alone are also averaged.

    Args:
        inputs: of each run, as a report is given.
        **options: of :func:`robustness`.

    Returns:
        The text.
    """
    known = {**(robustness.__kwdefaults__ or {}), **options}
    known = _checked(known)
    measured = [_measure(given, **known) for given in inputs]
    file = inputs[0].picture.with_name("robustness_of_runs.png")
    text = _finish(file, measured, known)
    file.with_suffix(".txt").write_text(text + "\n")
    rows = [row for run in measured for row in run.rows()]
    file.with_suffix(".json").write_text(json.dumps(rows, indent=2) + "\n")
    return text


def _checked(options: Mapping[str, Any]) -> dict[str, Any]:
    options = {key: value for key, value in options.items() if key != "given"}
    several = {"all": list_corruptions(), "benchmark": list_corruptions()[:BENCHMARK]}
    options["corruptions"] = [name for given in options["corruptions"] for name in several.get(given, [given])]
    for name in ("corruptions", "severities"):
        if not options[name]:
            raise ValueError(f"{name} must be at least one, got {options[name]!r}")
    for name, least in (("calibration_images", 0), ("batch_size", 1)):
        if isinstance(options[name], bool) or not isinstance(options[name], int) or options[name] < least:
            raise ValueError(f"{name} must be an int >= {least}, got {options[name]!r}")
    options["rules"] = list_lam_rules() if options["rules"] is None else list(options["rules"])
    return options


@torch.no_grad()
def _measure(
    given: ReportInput,
    *,
    rules: Sequence[str],
    layers: Layers,
    denoiser: str | None,
    calibration_images: int,
    seed: int,
    **conditions: Any,
) -> Measured:
    pixels, labels = _images(given, "test", given.images, seed)
    if len(given.data.class_names) < 2:
        raise ValueError(f"report robustness needs a classifier and labelled images, got {given.data.name}")
    training = None
    if calibration_images:
        clean, _ = _images(given, "train", calibration_images, seed)
        training = [_normalized(given, copy) for copy in noisy_copies(clean, seed)]
    denoise = None if denoiser is None else partial(_denoised, create_model(denoiser, pretrained=True).to(given.device))
    methods = robustness_methods(given.model, rules, layers=layers, training=training, denoise=denoise)
    normalize = partial(_normalized, given)
    found = accuracies(given.model, methods, pixels, labels, normalize, seed=seed, **conditions)
    return Measured(*_identity(given), with_oracles(found, methods))


def _images(given: ReportInput, split: str, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Pixels and labels of a part of a split, in random order: folders are sorted by class."""
    batches = [(given.data.denormalize(images), labels) for images, labels in given.batches(split, count)]
    pixels, labels = torch.cat([pair[0] for pair in batches]), torch.cat([pair[1] for pair in batches])
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    return pixels[order.to(pixels.device)], labels[order.to(labels.device)].to(pixels.device)


def _normalized(given: ReportInput, pixels: Tensor) -> Tensor:
    mean, std = (pixels.new_tensor(values).view(-1, 1, 1) for values in (given.data.mean, given.data.std))
    return (pixels - mean) / std


@torch.no_grad()
def _denoised(network: nn.Module, pixels: Tensor) -> Tensor:
    parts = [network.eval()(part) for part in pixels.flatten(0, 1)[:, None].split(300)]
    return torch.cat(parts).view_as(pixels).clamp(0, 1)


def _identity(given: ReportInput) -> tuple[str, str, Any, str]:
    file = given.run / "config.yaml" if given.run else None
    config: dict[str, Any] = yaml.safe_load(file.read_text()) if file and file.is_file() else {}
    network = config.get("model", {}).get("name", type(given.model).__name__)
    alike = {k: v for k, v in config.items() if k in ("data", "model", "task", "trainer", "callbacks")}
    name = given.run.name if given.run else given.data.name
    return name, network, config.get("seed"), yaml.safe_dump(alike) if config else name


def _finish(file: Path, measured: Sequence[Measured], options: Mapping[str, Any]) -> str:
    """Writes the table as CSV, and the curves; returns the text."""
    rows = [row for run in measured for row in run.rows()]
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
    if find_spec("matplotlib"):
        from csc_nets.evaluation.robustness.pictures import save_curves

        save_curves(file, {_title(group): _mean([run.found for run in group]) for group in groups.values()})
    return "\n\n".join([*tables, legend.format(**shown).rstrip()])


def _title(group: Sequence[Measured]) -> str:
    if len(group) == 1:
        return f"{group[0].run} ({group[0].network})"
    return f"{group[0].network}, mean of {len(group)} seeds ({', '.join(run.run for run in group)})"


def _table(group: Sequence[Measured]) -> str:
    """A table in Markdown; of several seeds the mean and the standard deviation."""
    rows = {name: [as_row(run.found[name]) for run in group] for name in group[0].found}
    names = list(next(iter(rows.values()))[0])
    head = ["", *(name.replace("_noise", "").replace("_", " ") for name in names)]
    cells = [head, ["---", *["---:"] * len(names)]]
    for name, found in rows.items():
        cells.append([name, *(_cell([row[column] for row in found]) for column in names)])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in cells]
    spread = "; mean and standard deviation over seeds" if len(group) > 1 else ""
    return "\n".join([f"{_title(group)}{spread}", "", *lines])


def _cell(values: Sequence[float]) -> str:
    mean = f"{100 * statistics.fmean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {100 * statistics.stdev(values):.1f}"


def _mean(found: Sequence[Accuracies]) -> Accuracies:
    return {
        name: {key: statistics.fmean(run[name][key] for run in found) for key in values}
        for name, values in found[0].items()
    }


def _save_images(given: ReportInput, options: Mapping[str, Any]) -> None:
    if find_spec("matplotlib"):
        from csc_nets.evaluation.robustness.pictures import save_images

        pixels, _ = _images(given, "test", 3, options["seed"])
        file = given.picture.with_name(f"{given.picture.stem}_images.png")
        save_images(file, given.model, pixels[:3], partial(_normalized, given), options)
