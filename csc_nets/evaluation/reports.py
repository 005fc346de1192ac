"""What ``evaluate.py report=...`` prints and leaves in the run folder: text, numbers and a picture."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.functional import interpolate
from torchvision.utils import save_image

from csc_nets.data import ImageDataModule
from csc_nets.evaluation.features import (
    effective_rank,
    extract_features,
    linear_probe,
    nearest_neighbours,
    nearest_subspace,
)
from csc_nets.evaluation.layer_inversion import invert_layers
from csc_nets.theory import energy_profile, report

__all__ = ["list_reports", "save_report"]

FEATURES = 10_000  # training images, at most, that the report on features is fitted to, and test images


def save_report(name: str, model: nn.Module, data: ImageDataModule, folder: Path, images: int = 8) -> str:
    """Computes a report and writes ``NAME.txt``, ``NAME.json`` (a list of rows) and, where there is one, ``NAME.png``.

    Args:
        name: one of :func:`list_reports`: ``"theory"`` (coherence, local sparsity, guarantees), ``"energy"`` (where the
            network loses its input), ``"inversion"`` (how well each layer's input comes back) or ``"features"`` (how
            well simple rules tell the classes by the network's features, fitted to training images).
        model: the network, in evaluation mode.
        data: what it is shown.
        folder: is created where it does not exist.
        images: test images that the first three look at.

    Returns:
        The text.

    Raises:
        ValueError: an unknown report, or a network that it has nothing to say about.
    """
    if name not in _REPORTS:
        raise ValueError(f"report must be one of {', '.join(_REPORTS)}, got {name!r}")
    if isinstance(images, bool) or not isinstance(images, int) or images < 1:
        raise ValueError(f"images must be an int >= 1, got {images!r}")
    folder.mkdir(parents=True, exist_ok=True)
    text, rows = _REPORTS[name](model, data, images, folder / f"{name}.png")
    (folder / f"{name}.txt").write_text(text + "\n")
    # JSON knows neither infinity nor NaN.
    rows = [{k: v if not isinstance(v, float) or math.isfinite(v) else None for k, v in row.items()} for row in rows]
    (folder / f"{name}.json").write_text(json.dumps(rows, indent=2) + "\n")
    return text


def list_reports() -> list[str]:
    """Names of the reports."""
    return list(_REPORTS)


_Result = tuple[str, list[dict[str, Any]]]


def _theory(model: nn.Module, data: ImageDataModule, images: int, picture: Path) -> _Result:
    found = report(model, data.test_images(images))
    return str(found), found.rows


def _energy(model: nn.Module, data: ImageDataModule, images: int, picture: Path) -> _Result:
    profile = energy_profile(model, data.test_images(images))
    if find_spec("matplotlib"):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 4.5), layout="constrained")
        profile.plot(figure.subplots())
        figure.savefig(picture, dpi=110)
    return str(profile), [asdict(row) for row in profile.rows]


def _inversion(model: nn.Module, data: ImageDataModule, images: int, picture: Path) -> _Result:
    found = invert_layers(model, data.test_images(images))
    tiles = found.grid()
    pixels = data.denormalize(tiles.flatten(0, 1))
    scale = max(1, -(-64 // pixels.shape[-1]))
    save_image(interpolate(pixels, scale_factor=scale), picture, nrow=tiles.shape[1], padding=4, pad_value=1)
    return str(found), found.rows


def _features(model: nn.Module, data: ImageDataModule, images: int, picture: Path) -> _Result:
    data.setup()
    train, labels = extract_features(model, data.train_dataloader(), FEATURES)
    test, truth = extract_features(model, data.test_dataloader(), FEATURES)
    components = max(1, min(10, train.shape[1] // 4))  # 10 in the literature, for 128 dimensions
    rules = {
        "nearest subspace": lambda: nearest_subspace(train, labels, test, components=components),
        "nearest neighbours": lambda: nearest_neighbours(train, labels, test, k=min(5, len(train))),
        "linear probe": lambda: linear_probe(train, labels, test),
    }
    rows: list[dict[str, Any]] = [
        {"name": name, "value": (rule() == truth).double().mean().item()} for name, rule in rules.items()
    ]
    lines = [f"{row['name']:<20}{row['value']:.2%}" for row in rows]
    rank = effective_rank(test)
    rows.append({"name": "effective rank", "value": rank})
    lines.append(f"{'effective rank':<20}{rank:.1f} of {test.shape[1]} dimensions")
    counts = f"accuracy on {len(test)} test images, fitted to {len(train)} training images"
    return "\n".join([*lines, "", counts]), rows


_REPORTS: dict[str, Callable[[nn.Module, ImageDataModule, int, Path], _Result]] = {
    "theory": _theory,
    "energy": _energy,
    "inversion": _inversion,
    "features": _features,
}
