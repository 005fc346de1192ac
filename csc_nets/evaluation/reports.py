"""What ``evaluate.py report=...`` prints and leaves in the run folder: text, numbers and a picture."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision.utils import save_image

from csc_nets.evaluation.layer_inversion import invert_layers
from csc_nets.theory import energy_profile, report

__all__ = ["list_reports", "save_report"]

Denormalize = Callable[[Tensor], Tensor]


def save_report(
    name: str, model: nn.Module, images: Tensor, denormalize: Denormalize, folder: Path, **options: Any
) -> str:
    """Computes a report and writes ``NAME.txt``, ``NAME.json`` (a list of rows) and, where there is one, ``NAME.png``.

    Args:
        name: one of :func:`list_reports`: ``"theory"`` (coherence, local sparsity, guarantees), ``"energy"`` (where the
            network loses its input) or ``"inversion"`` (how well each layer's input comes back).
        model: the network, in evaluation mode.
        images: a few normalised images ``(N, C, H, W)``.
        denormalize: from normalised images to pixels in [0, 1].
        folder: is created where it does not exist.
        **options: of :func:`csc_nets.theory.report` or :func:`~csc_nets.evaluation.invert_layers`.

    Returns:
        The text.

    Raises:
        ValueError: an unknown report, or a network that it has nothing to say about.
    """
    if name not in _REPORTS:
        raise ValueError(f"report must be one of {', '.join(_REPORTS)}, got {name!r}")
    folder.mkdir(parents=True, exist_ok=True)
    text, rows = _REPORTS[name](model, images, denormalize, folder / f"{name}.png", **options)
    (folder / f"{name}.txt").write_text(text + "\n")
    # JSON knows neither infinity nor NaN.
    rows = [{k: v if not isinstance(v, float) or math.isfinite(v) else None for k, v in row.items()} for row in rows]
    (folder / f"{name}.json").write_text(json.dumps(rows, indent=2) + "\n")
    return text


def list_reports() -> list[str]:
    """Names of the reports."""
    return list(_REPORTS)


_Result = tuple[str, list[dict[str, Any]]]


def _theory(model: nn.Module, images: Tensor, denormalize: Denormalize, picture: Path, **options: Any) -> _Result:
    found = report(model, images, **options)
    return str(found), found.rows


def _energy(model: nn.Module, images: Tensor, denormalize: Denormalize, picture: Path, **options: Any) -> _Result:
    profile = energy_profile(model, images, **options)
    if find_spec("matplotlib"):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 4.5), layout="constrained")
        profile.plot(figure.subplots())
        figure.savefig(picture, dpi=110)
    return str(profile), [asdict(row) for row in profile.rows]


def _inversion(model: nn.Module, images: Tensor, denormalize: Denormalize, picture: Path, **options: Any) -> _Result:
    found = invert_layers(model, images, **options)
    tiles = found.grid()
    pixels = denormalize(tiles.flatten(0, 1)).clamp(0, 1)
    scale = max(1, -(-64 // pixels.shape[-1]))
    save_image(interpolate(pixels, scale_factor=scale), picture, nrow=tiles.shape[1], padding=4, pad_value=1)
    return str(found), found.rows


_REPORTS: dict[str, Callable[..., _Result]] = {"theory": _theory, "energy": _energy, "inversion": _inversion}
