"""Corruptions by name, and the one function that applies them."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from csc_nets.evaluation.corruptions.draws import Draws
from csc_nets.functional.checks import as_count, full_precision
from csc_nets.registry import Registry

__all__ = ["check_severity", "corrupt", "list_corruptions", "register_corruption"]

ORDER = (
    *("gaussian_noise", "shot_noise", "impulse_noise"),
    *("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness"),
    *("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
    *("speckle_noise", "gaussian_blur", "spatter", "saturate"),
)
"""The order of the paper: the 15 that are averaged over, then the four for validation."""

_VALUES_IN_CACHE = 1 << 17
_ROUNDING = 1e-4  # what normalising images and back may add to them


class _Corruption(NamedTuple):
    """A function of images, draws and constants, with five rows of constants for each side in pixels."""

    func: Callable[..., Tensor]
    presets: Mapping[int, Sequence[Any]]
    channels: tuple[int, ...]


CORRUPTIONS: Registry[Any] = Registry("corruption", create="corrupt")


def register_corruption(presets: Mapping[int, Sequence[Any]], channels: tuple[int, ...] = (1, 3)) -> Callable[..., Any]:
    """Decorator that makes a function a corruption under its name.

    The function takes images ``(N, C, H, W)`` of float32 in [0, 1], the `Draws` of the batch, and constants. It returns
    images of the same shape, which are clipped to [0, 1] afterwards.

    Args:
        presets: for a side in pixels, the constants of the five severities: a number or a tuple of arguments each.
        channels: how many channels the images may have.
    """

    def register(apply: Callable[..., Tensor]) -> Callable[..., Tensor]:
        if not presets or any(len(rows) != 5 for rows in presets.values()):
            raise ValueError(f"register_corruption: {apply.__name__} needs presets of five severities, got {presets}")
        CORRUPTIONS.add(_Corruption(apply, presets, channels), name=apply.__name__)
        return apply

    return register


def list_corruptions() -> list[str]:
    """All names: those of the paper in its order, the 15 of the benchmark first, then others by name."""
    names = CORRUPTIONS.names()
    return [name for name in ORDER if name in names] + [name for name in names if name not in ORDER]


@torch.no_grad()
def corrupt(images: Tensor, name: str, severity: int = 3, *, seed: int = 0, size: int | None = None) -> Tensor:
    """Corrupts images as ImageNet-C, Tiny-ImageNet-C or CIFAR-10-C does.

    Args:
        images: ``(N, C, H, W)`` or ``(C, H, W)``, floats in [0, 1] with C = 3 colours or 1 for grey, on any device.
            ``"saturate"`` needs colours.
        name: one of `list_corruptions`.
        severity: 1 (weak) to 5 (strong).
        seed: of the random numbers. Image ``i`` of the batch has ``seed + i`` and depends on nothing else of the batch:
            ``corrupt(images, name, seed=0)[8:]`` is ``corrupt(images[8:], name, seed=8)``, to rounding. For other draws
            of the same images take a seed that is further away than there are images. The same seed gives the same
            result on the same kind of device.
        size: side in pixels of the images that the constants are for: 32 (CIFAR-10-C), 64 (Tiny-ImageNet-C) or 224
            (ImageNet-C). None for the nearest to the shorter side of the images, in ratio.

    Returns:
        Images of the same shape, type and device in [0, 1], without a gradient. Those in the published folders are
        rounded to 8 bits; these are not.

    Raises:
        ValueError: an argument that is out of these ranges.

    Source: D. Hendrycks and T. Dietterich, *Benchmarking Neural Network Robustness to Common Corruptions and
    Perturbations*, ICLR 2019.

    Example:
        >>> import torch
        >>> from csc_nets.evaluation import corrupt
        >>> corrupt(torch.full((2, 3, 32, 32), 0.5), "brightness", severity=2)[0, 0, 0, 0]
        tensor(0.6000)
    """
    corruption = CORRUPTIONS[name]
    batch = _as_batch(images, name, corruption.channels)
    if size is not None and size not in corruption.presets:
        allowed = ", ".join(map(str, corruption.presets))
        raise ValueError(f"corrupt: size must be one of {allowed} or None, got {size!r}")
    size = size or _nearest(min(batch.shape[2:]), corruption.presets)
    row = corruption.presets[size][check_severity("corrupt", severity) - 1]
    constants = row if isinstance(row, tuple) else (row,)
    seed = as_count(seed, "corrupt: seed", least=0)
    # No image depends on its batch, so a CPU takes as many at once as its cache holds.
    step = max(1, _VALUES_IN_CACHE // batch[0].numel()) if batch.device.type == "cpu" else len(batch)
    result = torch.empty_like(batch, dtype=images.dtype)
    with full_precision(batch):
        for first in range(0, len(batch), step):
            part = batch[first : first + step]
            draws = Draws(seed + first, len(part), batch.device)
            result[first : first + step] = corruption.func(part, draws, *constants).clamp(0, 1)
    return result.view(images.shape)


def check_severity(owner: str, severity: Any) -> int:
    """Refuses a severity that is not 1, 2, 3, 4 or 5.

    Raises:
        ValueError: with the owner's name in front.
    """
    if isinstance(severity, bool) or severity not in range(1, 6):
        raise ValueError(f"{owner}: severity must be a whole number from 1 to 5, got {severity!r}")
    return int(severity)


def _as_batch(images: Any, name: str, channels: tuple[int, ...]) -> Tensor:
    """Checked images ``(N, C, H, W)`` of float32."""
    if not isinstance(images, Tensor):
        raise ValueError(f"corrupt: images must be a tensor, got {type(images).__name__}")
    if not images.is_floating_point():
        how = "images.float() / 255" if images.dtype == torch.uint8 else "images.float() / the value of white"
        raise ValueError(f"corrupt: images must be floats in [0, 1], got {images.dtype}: use {how}")
    if images.ndim not in (3, 4) or images.shape[-3] not in (1, 3) or not images.numel():
        raise ValueError(f"corrupt: images must be (N, C, H, W) or (C, H, W), C 1 or 3, got {tuple(images.shape)}")
    if images.shape[-3] not in channels:
        raise ValueError(f"corrupt: {name} needs images with 3 colours, got {tuple(images.shape)}")
    low, high = (value.item() for value in images.aminmax())
    if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):  # not (...), because of NaN
        raise ValueError(f"corrupt: images must be in [0, 1], got values from {low:.4g} to {high:.4g}")
    batch = images.reshape(-1, *images.shape[-3:]).float()
    return batch if low >= 0 and high <= 1 else batch.clamp(0, 1)


def _nearest(side: int, presets: Mapping[int, Any]) -> int:
    return min(presets, key=lambda known: abs(math.log(known / side)))
