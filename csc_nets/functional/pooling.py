r"""Pooling by absolute value with switches: where in its window the largest entry stood.

A window of an atom's positions is a block of the code. Windows tile the positions, the last ones may be cut off; one
window over all positions is the block of the theory (Gilbert et al., `Towards Understanding the Invertibility of
Convolutional Neural Networks <https://arxiv.org/abs/1705.08664>`_, section 3), windows of 2 or 3 samples are what
networks use.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["absolute_pool", "entries", "fixed_switches", "unpool"]

_MAX_POOL: dict[int, Callable[..., Any]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


def absolute_pool(v: Tensor, window: int | Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
    """The entry of largest magnitude in each window, with its sign.

    Args:
        v: ``(N, M, *S)`` with 1 to 3 spatial axes.
        window: samples per axis, one int or one per axis; None for all positions.

    Returns:
        Entries ``(N, M, *ceil(S / window))``, and the switches, int64 of the same shape: the positions of the entries
        in ``S``, flattened. Of equal entries the first counts.

    Raises:
        ValueError: a window below 1, or not one per axis.

    Example:
        >>> absolute_pool(torch.tensor([[[1.0, -3.0, 2.0, 0.5, 4.0]]]), 2)
        (tensor([[[-3.,  2.,  4.]]]), tensor([[[1, 2, 4]]]))
    """
    size = _window(v, window)
    peaks, switches = _MAX_POOL[v.ndim - 2](v.abs(), size, ceil_mode=True, return_indices=True)
    negative = entries(v.detach(), switches) < 0
    return peaks * (1 - 2 * negative.to(peaks)), switches


def entries(v: Tensor, switches: Tensor) -> Tensor:
    """The entries of ``v (N, M, *S)`` at ``switches``, in the shape of the switches."""
    return v.flatten(2).gather(2, switches.flatten(2)).view(switches.shape)


def unpool(values: Tensor, switches: Tensor, size: Sequence[int]) -> Tensor:
    """The adjoint of taking entries: ``values`` at their switches, zeros elsewhere.

    Args:
        values: ``(N, M, *P)``.
        switches: positions, int64 of the same shape, no two of an atom equal.
        size: spatial size ``S`` of the result.

    Returns:
        ``(N, M, *S)``.
    """
    flat = values.new_zeros(*values.shape[:2], torch.Size(size).numel())
    return flat.scatter(2, switches.flatten(2), values.flatten(2)).view(*values.shape[:2], *size)


def fixed_switches(v: Tensor, window: int | Sequence[int] | None = None) -> Tensor:
    """Switches that know nothing: the first position of every window. Arguments as for :func:`absolute_pool`."""
    size = _window(v, window)
    axes = [torch.arange(0, n, w, device=v.device) for n, w in zip(v.shape[2:], size, strict=True)]
    flat = torch.zeros([len(axis) for axis in axes], dtype=torch.int64, device=v.device)
    for at, n in zip(torch.meshgrid(*axes, indexing="ij"), v.shape[2:], strict=True):
        flat = flat * n + at
    return flat.expand(*v.shape[:2], *flat.shape)


def _window(v: Tensor, window: int | Sequence[int] | None) -> tuple[int, ...]:
    dims = v.ndim - 2
    if dims not in _MAX_POOL:
        raise ValueError(f"expected codes (N, M, *S) with 1 to 3 spatial axes, got shape {tuple(v.shape)}")
    if window is None:
        return tuple(v.shape[2:])
    size = tuple(window) if isinstance(window, Sequence) else (window,) * dims
    if len(size) != dims or any(not isinstance(w, int) or w < 1 for w in size):
        raise ValueError(f"window must be an int >= 1 or {dims} of them, got {window!r}")
    return tuple(min(w, n) for w, n in zip(size, v.shape[2:], strict=True))
