"""How much of an image a code keeps, and how many numbers or bits the code has."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from csc_nets.tasks.image_quality import psnr, ssim

__all__ = ["RatePoint", "entropy_bits", "measure", "nonzeros_per_pixel", "psnr_mean", "psnr_of_all", "quantise"]

LEAST = 1e-10
"""Mean squared error that counts as none: 100 dB. A mean over images would be infinite with one equal image."""


@dataclass(frozen=True)
class RatePoint:
    """One way to store images, and what comes back.

    Attributes:
        name: the method and its setting.
        nonzeros: non-zero numbers over the number of pixels times channels; None where the method has no code.
        bits: bits for each pixel (of all channels); None where nothing was quantised.
        psnr_mean: mean over images of their PSNR in dB; see :func:`psnr_mean`.
        psnr_of_all: PSNR in dB of all pixels of all images together; see :func:`psnr_of_all`.
        ssim: mean over images of the structural similarity.
    """

    name: str
    nonzeros: float | None
    bits: float | None
    psnr_mean: float
    psnr_of_all: float
    ssim: float

    def row(self) -> dict[str, Any]:
        """The point as a dict of plain values."""
        return asdict(self)


def psnr_mean(images: Tensor, reference: Tensor) -> float:
    """Mean over ``images``, ``(N, C, H, W)``, of the PSNR to ``reference`` in dB, at most 100 dB each; white is 1.

    Flat images, of which little can be wrong, raise it.
    """
    return psnr(images, reference).clamp_max(-10 * math.log10(LEAST)).double().mean().item()


def psnr_of_all(images: Tensor, reference: Tensor) -> float:
    """PSNR in dB of the mean squared error of all ``images``, ``(N, C, H, W)``, to ``reference``, at most 100 dB.

    The images that came back worst decide it. It is never above :func:`psnr_mean` (Jensen's inequality).
    """
    error = (images.double() - reference.double()).square().mean().item()
    return -10 * math.log10(max(error, LEAST))


def nonzeros_per_pixel(code: Tensor, images: Tensor) -> float:
    """Non-zero entries of a code over the entries of the images ``(N, C, H, W)`` that it stands for."""
    return torch.count_nonzero(code).item() / images.numel()


def quantise(code: Tensor, step: float) -> tuple[Tensor, Tensor]:
    """Indices (int64) of a uniform quantiser with a level at zero, and the values that they stand for.

    Args:
        code: any shape.
        step: distance of neighbouring levels, in units of the code.

    Raises:
        ValueError: a step that is not above 0.
    """
    if not 0 < step < math.inf:
        raise ValueError(f"step must be a finite number > 0, got {step!r}")
    indices = (code / step).round()
    return indices.long(), indices * step


def entropy_bits(indices: Tensor) -> float:
    r"""Bits of all indices together, :math:`-\sum_i \log_2 p_i`, with p the share of each value among them;
    of whole numbers of any shape.

    This is an ideal entropy coder that knows the distribution of the values and takes the indices as independent
    (Cover and Thomas, "Elements of Information Theory", theorem 5.4.1). It is not a file: the table of the
    distribution is not counted, and what neighbours say about each other is not used.
    """
    counts = indices.unique(return_counts=True)[1].double()
    return float(-(counts * (counts / counts.sum()).log2()).sum())


def measure(
    name: str, back: Tensor, reference: Tensor, *, codes: Sequence[Tensor] = (), bits: float | None = None
) -> RatePoint:
    """A point of the curve.

    Args:
        name: of the method.
        back: images that came back, ``(N, C, H, W)``; clipped to [0, 1] here.
        reference: the images, pixels in [0, 1].
        codes: everything that ``back`` was computed from.
        bits: of all images together.
    """
    back = back.to(reference).clamp(0, 1)
    pixels = reference.shape[0] * math.prod(reference.shape[2:])
    return RatePoint(
        name,
        sum(nonzeros_per_pixel(code, reference) for code in codes) if codes else None,
        None if bits is None else bits / pixels,
        psnr_mean(back, reference),
        psnr_of_all(back, reference),
        ssim(back.float(), reference.float()).mean().item(),
    )
