"""``report=robustness``: corruptions, and what helps against them at test time, side by side."""

from collections.abc import Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from csc_nets.evaluation.corruptions import list_corruptions
from csc_nets.evaluation.lam_rules import list_lam_rules
from csc_nets.evaluation.lam_rules.adaptive import Layers
from csc_nets.evaluation.report_input import ReportInput, Result
from csc_nets.evaluation.robustness.attacked import BUDGET, attacked_accuracies
from csc_nets.evaluation.robustness.measure import Accuracies, accuracies, with_oracles
from csc_nets.evaluation.robustness.methods import noisy_copies, robustness_methods
from csc_nets.evaluation.robustness.table import Measured, save_table
from csc_nets.models import create_model

__all__ = ["robustness", "save_robustness"]

BENCHMARK = 15
NOISES = ("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise")


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
    attacks: Sequence[float] = (),
    attack_norm: str = "linf",
    attack_images: int = 100,
    attack_budget: Mapping[str, int] = BUDGET,
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
        seed: of the corruptions, of the order of the images and of attacks.
        attacks: sizes of adversarial perturbations, in pixels from 0 to 1; none for no attacks.
        attack_norm: ``"linf"``, ``"l2"`` or another norm of :func:`~csc_nets.functional.register_norm`.
        attack_images: the first of the test images, which are attacked.
        attack_budget: arguments of :class:`~csc_nets.evaluation.attacks.Budget`.
    """
    options = _checked(locals())
    measured = _measure(given, **options)
    text = save_table(given.picture, [measured], options)
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
    known = _checked({**(robustness.__kwdefaults__ or {}), **options})
    measured = [_measure(given, **known) for given in inputs]
    file = inputs[0].picture.with_name("robustness_of_runs.png")
    text = save_table(file, measured, known)
    file.with_suffix(".txt").write_text(text + "\n")
    return text


def _checked(options: Mapping[str, Any]) -> dict[str, Any]:
    options = {key: value for key, value in options.items() if key != "given"}
    several = {"all": list_corruptions(), "benchmark": list_corruptions()[:BENCHMARK]}
    options["corruptions"] = [name for given in options["corruptions"] for name in several.get(given, [given])]
    for name in ("corruptions", "severities"):
        if not options[name]:
            raise ValueError(f"{name} must be at least one, got {options[name]!r}")
    for name, least in (("calibration_images", 0), ("batch_size", 1), ("attack_images", 1)):
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
    attacks: Sequence[float],
    attack_norm: str,
    attack_images: int,
    attack_budget: Mapping[str, int],
    **conditions: Any,
) -> Measured:
    pixels, labels = _images(given, "test", given.images, seed)
    classes, output = len(given.data.class_names), given.model(_normalized(given, pixels[:2]))
    if classes < 2 or output.ndim != 2 or output.shape[1] != classes:
        shape = tuple(output.shape[1:])
        raise ValueError(f"report robustness needs a classifier of {classes} classes, got outputs of shape {shape}")
    training = None
    if calibration_images:
        clean, _ = _images(given, "train", calibration_images, seed)
        training = [_normalized(given, copy) for copy in noisy_copies(clean, seed)]
    denoise = None if denoiser is None else partial(_denoised, create_model(denoiser, pretrained=True).to(given.device))
    methods = robustness_methods(given.model, rules, layers=layers, training=training, denoise=denoise)
    normalize = partial(_normalized, given)
    found = accuracies(given.model, methods, pixels, labels, normalize, seed=seed, **conditions)
    images = f"{len(labels):,} {given.tested} images of {given.data.name}"
    left: Accuracies = {}
    if attacks:
        some = pixels[:attack_images], labels[:attack_images]
        how: dict[str, Any] = {"eps": attacks, "norm": attack_norm, "budget": attack_budget, "seed": seed}
        left = attacked_accuracies(given.model, methods, *some, normalize, **how)
    return Measured(**_identity(given), images=images, found=with_oracles(found, methods), attacked=left)


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


def _identity(given: ReportInput) -> dict[str, Any]:
    """What sets a run apart, and what it shares with other seeds."""
    file = given.run / "config.yaml" if given.run else None
    config: dict[str, Any] = yaml.safe_load(file.read_text()) if file and file.is_file() else {}
    run = given.run.name if given.run else given.data.name
    alike = {key: config.get(key) for key in ("data", "model", "task", "trainer", "callbacks")}
    return {
        "run": run,
        "network": config.get("model", {}).get("name", type(given.model).__name__),
        "seed": config.get("seed"),
        "alike": yaml.safe_dump(alike) if config else run,
    }


def _save_images(given: ReportInput, options: Mapping[str, Any]) -> None:
    if find_spec("matplotlib"):
        from csc_nets.evaluation.robustness.pictures import save_images

        pixels, _ = _images(given, "test", 3, options["seed"])
        file = given.picture.with_name(f"{given.picture.stem}_images.png")
        save_images(file, given.model, pixels[:3], partial(_normalized, given), options)
