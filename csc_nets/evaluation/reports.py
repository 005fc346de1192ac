"""What ``evaluate.py report=...`` prints and leaves in the run folder: text, numbers and a picture."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar, overload

import torch
from torch import nn

from csc_nets.data import ImageDataModule
from csc_nets.evaluation.activation_report import activations
from csc_nets.evaluation.autoencoder_reports import classes, generation, noise, reconstruction
from csc_nets.evaluation.coding import coding_rows
from csc_nets.evaluation.features import (
    effective_rank,
    extract_features,
    linear_probe,
    nearest_neighbours,
    nearest_subspace,
)
from csc_nets.evaluation.inpainting import inpainting
from csc_nets.evaluation.layer_inversion import invert_layers
from csc_nets.evaluation.rate_distortion_report import rate_distortion
from csc_nets.evaluation.report_input import ReportInput, Result
from csc_nets.evaluation.restoration import restoration
from csc_nets.evaluation.robustness import robustness, save_robustness
from csc_nets.evaluation.run_page import page, save_comparison
from csc_nets.evaluation.structure import class_structure
from csc_nets.registry import Registry
from csc_nets.signature import Argument, check_value, nearest, signature_of
from csc_nets.tasks.evaluation_label import LabelPart, folder_part, value_part
from csc_nets.tasks.safe_files import written_whole
from csc_nets.theory import energy_profile, report

__all__ = ["check_report", "compare_runs", "list_reports", "register_report", "report_label", "save_report"]

Report = Callable[..., Result]
Comparison = Callable[..., str]

_REPORTS: Registry[Report] = Registry("report", "register_report", "save_report")
_IMAGES: dict[str, int | None] = {}
_JUDGED: set[str] = set()
_COMPARISONS: dict[str, Comparison] = {}
_Build = TypeVar("_Build", bound=Report)


@overload
def register_report(
    report: _Build,
    *,
    name: str | None = None,
    images: int | None = 8,
    network: bool = False,
    compare: Comparison | None = None,
) -> _Build: ...
@overload
def register_report(
    *, name: str | None = None, images: int | None = 8, network: bool = False, compare: Comparison | None = None
) -> Callable[[_Build], _Build]: ...
def register_report(
    report: Any = None,
    *,
    name: str | None = None,
    images: int | None = 8,
    network: bool = False,
    compare: Comparison | None = None,
) -> Any:
    """Decorator that makes a function a report of ``evaluate.py``.

    The function takes a :class:`ReportInput` and returns a text and its numbers as rows: dicts of plain values. Its
    further arguments, by keyword and with defaults, are options: ``options.NAME=`` on the command line.

    Args:
        report: the function, where the decorator stands without parentheses.
        name: what the report is called; None for the function's name.
        images: number of test images that it is given where the command line names none; None for a report that does
            not ask for a number.
        network: whether it looks at ``given.network``.
        compare: takes a list of :class:`ReportInput`, one a run, and the options; it writes what sets the runs side by
            side, and returns a text. None for a report on single runs.

    Raises:
        ValueError: another module has registered that name.

    Example::

        @register_report
        def size(given: ReportInput) -> Result:
            count = sum(parameter.numel() for parameter in given.model.parameters())
            return f"{count} parameters", [{"name": "parameters", "value": count}]
    """

    def add(report: Any) -> Any:
        known = report.__name__ if name is None else name
        _REPORTS.add(report, known)
        _IMAGES[known] = images
        if network:
            _JUDGED.add(known)
        if compare is not None:
            _COMPARISONS[known] = compare
        return report

    return add if report is None else add(report)


def list_reports() -> list[str]:
    """Sorted names of the reports."""
    return _REPORTS.names()


def save_report(
    name: str,
    model: nn.Module,
    data: ImageDataModule,
    folder: Path,
    images: int | None = None,
    network: str | Path | None = None,
    run: Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> str:
    """Computes a report and writes ``NAME.txt``, ``NAME.json`` (a list of rows) and, where there is one, ``NAME.png``.

    Of any network:

    - ``"theory"``: coherence, local sparsity, guarantees;
    - ``"energy"``: where the network loses its input;
    - ``"inversion"``: how well each layer's input comes back;
    - ``"features"``: how well simple rules tell the classes by the network's features, fitted to training images, and
      how the classes lie; the picture shows absolute cosines, sorted by class;
    - ``"page"``: all that is known of a run, as one HTML file ``page.html`` that needs nothing else.

    Of a classifier:

    - ``"robustness"``: accuracy under corruptions, and what helps at test time: rules for lam, batch norm of the batch,
      both; also ``robustness.csv`` and ``robustness_images.png``.

    Of a network with CSC layers:

    - ``"coding"``: how far above the least objective each layer's codes are, beside two steps of ISTA.

    Of a network with a sparse autoencoder of its activations:

    - ``"activations"``: what the codes keep, and what single atoms stand for; the picture shows the images that use
      each of them most.

    Of an autoencoder:

    - ``"reconstruction"``: PSNR, SSIM, alignment of features, whether an image is recognised in what came back;
    - ``"rate_distortion"``: how many non-zeros and bits its code has, and what comes back, beside DCT, principal
      components and JPEG at as many; also ``rate_distortion_images.png``;
    - ``"noise"``: noisy images, and other sparsity weights, against the clean images.

    Of a denoiser:

    - ``"restoration"``: photographs with noise, missing pixels and colour mosaics; ``options.clean=false`` restores
      noisy ones into ``restored/``.

    Of a closed loop:

    - ``"classes"``: what the decoder makes of the mean, of the principal directions and of draws from each class;
    - ``"generation"``: FID and KID of reconstructions and of draws, in the feature space of ``network``.

    Args:
        name: one of :func:`list_reports`.
        model: the network, in evaluation mode.
        data: what it is shown.
        folder: is created where it does not exist. A report that fails leaves it as it was.
        images: test images that a report looks at, or shows where it looks at many; None for as many as it takes by
            itself, mostly 8. ``"features"``, ``"noise"``, ``"classes"`` and ``"generation"`` take no number.
        network: run folder of a classifier, or ``"inception"``, for ``"generation"``.
        run: the run folder, for ``"page"``.
        options: of the report: its arguments by keyword.

    Returns:
        The text.

    Raises:
        ValueError: an unknown report, an option that it does not take, or a network that it has nothing to say about.
    """
    options, count = check_report(name, images, network, options)
    compute = _REPORTS[name]
    with written_whole(folder) as room:
        given = ReportInput(model, data, count, room / f"{name}.png", network, run)
        text, rows = compute(given, **options)
        text = text.replace(str(room), str(folder))  # a report may say where its files are
        (room / f"{name}.txt").write_text(text + "\n")
        # JSON knows neither infinity nor NaN.
        finite = [{k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in r.items()} for r in rows]
        (room / f"{name}.json").write_text(json.dumps(finite, indent=2) + "\n")
    return text


def compare_runs(
    name: str,
    runs: Sequence[tuple[nn.Module, ImageDataModule, Path, Path]],
    images: int | None = None,
    network: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> str:
    """Puts several runs side by side, where a report can, in the report's folder of the first run.

    Args:
        name: one of :func:`list_reports`.
        runs: of each run its network, its data, the folder for reports and the run folder.
        images, network, options: as for :func:`save_report`.

    Returns:
        The text.

    Raises:
        ValueError: the report is one on single runs.
    """
    if name not in _COMPARISONS or not runs:
        able = " or ".join(f"report={known}" for known in sorted(_COMPARISONS))
        raise ValueError(f"run: several runs are compared by {able}, got report={name}")
    options, count = check_report(name, images, network, options)
    folder = runs[0][2]
    with written_whole(folder) as room:
        inputs = [
            ReportInput(model, data, count, room / f"{name}{f'_{i}' if i else ''}.png", network, run)
            for i, (model, data, _, run) in enumerate(runs)
        ]
        text = _COMPARISONS[name](inputs, **options)
    return text.replace(str(room), str(folder))


def check_report(
    name: str, images: int | None, network: str | Path | None, options: Mapping[str, Any] | None
) -> tuple[dict[str, Any], int]:
    """The options of a report and its number of images; what it would not look at is refused.

    Args:
        name: one of :func:`list_reports`.
        images, network, options: as for :func:`save_report`.

    Raises:
        ValueError: an unknown report, an option that it does not take, or a bad number.
    """
    arguments = _arguments(name)
    if images is not None and (isinstance(images, bool) or not isinstance(images, int) or images < 1):
        raise ValueError(f"images must be an int >= 1, got {images!r}")
    if images is not None and _IMAGES[name] is None:
        raise ValueError(f"report={name} takes no number of images, got images={images}")
    if network is not None and name not in _JUDGED:
        able = " or ".join(f"report={known}" for known in sorted(_JUDGED))
        raise ValueError(f"network is for {able}; report={name} takes none, got network={network}")
    for key, value in (options or {}).items():
        if key not in arguments:
            near = nearest(key, arguments)
            hint = f"did you mean {near[0]}?" if near else f"it takes {', '.join(arguments) or 'none'}"
            raise ValueError(f"unknown option options.{key} of report {name}; {hint}")
        check_value(f"options.{key}", value, arguments[key])
    return dict(options or {}), images or _IMAGES[name] or 8


def report_label(
    name: str, images: int | None, network: str | Path | None, options: Mapping[str, Any] | None
) -> list[LabelPart]:
    """What sets a report apart from that of the same name with all that it takes by itself.

    Args:
        name: one of :func:`list_reports`.
        images, network, options: as for :func:`save_report`.
    """
    parts = [] if images in (None, _IMAGES[name]) else [value_part("images", images)]
    if network is not None:
        known = Path(network).expanduser().is_dir()
        parts.append(folder_part("network", network) if known else value_part("network", str(network)))
    defaults = {key: argument.default for key, argument in _arguments(name).items()}
    changed = {key: value for key, value in (options or {}).items() if not _same(value, defaults[key])}
    return [*parts, *(value_part(key, value) for key, value in sorted(changed.items()))]


def _same(value: Any, default: Any) -> bool:
    plain = [list(item) if isinstance(item, tuple) else item for item in (value, default)]
    return type(plain[0]) is type(plain[1]) and bool(plain[0] == plain[1])


def _arguments(name: str) -> dict[str, Argument]:
    """What a report takes beside its input."""
    return dict(list(signature_of(_REPORTS[name]).arguments.items())[1:])


@register_report(name="theory")
def _theory(given: ReportInput) -> Result:
    found = report(given.model, given.shown())
    return str(found), found.rows


@register_report(name="energy")
def _energy(given: ReportInput) -> Result:
    profile = energy_profile(given.model, given.shown())
    if find_spec("matplotlib"):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 4.5), layout="constrained")
        profile.plot(figure.subplots())
        figure.savefig(given.picture, dpi=110)
    return str(profile), [asdict(row) for row in profile.rows]


@register_report(name="inversion")
def _inversion(given: ReportInput) -> Result:
    found = invert_layers(given.model, given.shown())
    given.save(given.data.denormalize(found.grid()))
    return str(found), found.rows


@register_report(name="features", images=None)
def _features(given: ReportInput) -> Result:
    train, labels = extract_features(given.model, given.batches("train"))
    test, truth = extract_features(given.model, given.batches("test"))
    rules = {
        "nearest subspace": lambda: nearest_subspace(train, labels, test, components=given.components(train)),
        "nearest neighbours": lambda: nearest_neighbours(train, labels, test, k=min(5, len(train))),
        "linear probe": lambda: linear_probe(train, labels, test),
    }
    rows: list[dict[str, Any]] = [
        {"name": name, "value": (rule() == truth).double().mean().item()} for name, rule in rules.items()
    ]
    lines = [f"{row['name']:<20}{row['value']:.2%}" for row in rows]
    structure = class_structure(test, truth)
    given.save(structure.cosines[None, None, None])
    means = {name: torch.tensor(getattr(structure, name)).nanmean().item() for name in ("ranks", "within", "between")}
    numbers = {
        "effective rank": effective_rank(test),
        "of a class": means["ranks"],
        "cosine within": means["within"],
        "cosine between": means["between"],
    }
    rows += [{"name": name, "value": value} for name, value in numbers.items()]
    of = f" of {test.shape[1]} dimensions"
    lines += [f"{name:<20}{value:.3g}{of if 'rank' in name else ''}" for name, value in numbers.items()]
    counts = f"accuracy on {len(test)} {given.tested} images, fitted to {len(train)} training images"
    return "\n".join([*lines, "", f"{counts}; mean absolute cosines"]), rows


@register_report(name="coding")
def _coding(given: ReportInput) -> Result:
    rows = coding_rows(given.model, given.shown())
    width = max(len(row["name"]) for row in rows)
    lines = [f"{'layer':{width}}  {'pursuit':>10} steps  excess  two of ISTA  density  silent atoms"]
    lines += [
        f"{row['name']:{width}}  {row['pursuit']:>10} {row['steps'] or 'tol':>5}  {row['excess']:6.3f}  "
        f"{row['two_steps']:11.3f}  {row['density']:7.1%}  {row['silent']:12.1%}"
        for row in rows
    ]
    return "\n".join([*lines, "", "excess: objective over the least one, minus 1"]), rows


for _report in (activations, reconstruction, rate_distortion, inpainting, restoration):
    register_report(_report)
for _report in (noise, classes):
    register_report(_report, images=None)
register_report(generation, images=None, network=True)
register_report(page, compare=lambda runs: save_comparison(runs, runs[0].picture.with_name("page_of_runs.html")))
register_report(robustness, images=1000, compare=save_robustness)
