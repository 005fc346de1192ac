"""Mutual coherence of a dictionary: the largest correlation of two different atoms, over all pairs and shifts."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from csc_nets.functional import ConvGeometry, unit_norm

__all__ = ["mutual_coherence", "welch_bound"]

# Entries of the Gram matrix that are held at once: 32 MiB in float64.
BLOCK = 2**22


@dataclass(frozen=True)
class _Filters:
    """Atoms ``(M, C, *K)``. Two of them overlap at lags that are multiples of ``step``, in samples of an atom."""

    weight: Tensor
    step: tuple[int, ...]
    groups: int

    @property
    def reach(self) -> list[int]:
        """Largest number of steps, per axis, at which two atoms still overlap."""
        return [(n - 1) // t for n, t in zip(self.weight.shape[2:], self.step, strict=True)]


def mutual_coherence(
    dictionary: Tensor | nn.Module,
    stride: int | Sequence[int] = 1,
    dilation: int | Sequence[int] = 1,
    *,
    shifts: bool = True,
    signed: bool = False,
) -> float:
    r"""Largest absolute inner product of two different unit atoms, over all pairs and all shifts.

    .. math:: \mu(D) = \max_{(a, b, \tau) \ne (a, a, 0)}
              \Bigl| \sum_{c, x} W_{a, c}[x]\, W_{b, c}[x + \tau] \Bigr|

    (Papyan, Romano, Elad, `Convolutional Neural Networks Analyzed via Convolutional Sparse Coding
    <https://arxiv.org/abs/1607.08194>`_, 2017.) Derivation of the lags: the atoms at positions p and q of the strided
    grid overlap where :math:`s p + d x = s q + d y`, so :math:`y - x` runs over the multiples of
    :math:`s / \gcd(s, d)`.

    The value is the coherence of the matrix D for two kinds of signals: circular ones whose length is a multiple of s
    and at least :math:`2 d (n - 1) + 1` samples, and unpadded ones that are long enough to contain all shifts.

    Args:
        dictionary: atoms ``(M, C, *K)`` with 1 to 3 spatial axes, or ``(M, F)`` (rows are atoms), or a dictionary
            layer, a convolution (of any groups: atoms of different groups share no channel), or ``nn.Linear``.
            Atoms are normalised first, in float64. An atom of zeros counts as orthogonal to all others.
        stride: samples between neighbouring shifts of an atom; a layer has its own.
        dilation: spacing of an atom's samples; a layer has its own.
        shifts: False compares the atoms at one position only, as flattened vectors. This is the coherence of Gilbert
            et al., `Towards Understanding the Invertibility of Convolutional Neural Networks
            <https://arxiv.org/abs/1705.08664>`_, Table 4. Their figures for random filters suggest ``signed=True``.
        signed: take the largest inner product, not the largest absolute one. The result may be negative.

    Returns:
        A number in [0, 1], or in [-1, 1] if signed. It is 0 for a single atom that does not overlap its own shifts.

    Raises:
        ValueError: ``dictionary`` is not one of these, its weights are not finite, or a layer or a matrix is given
            with a stride or a dilation.

    Example:
        >>> mutual_coherence(torch.eye(3))
        0.0
        >>> mutual_coherence(torch.tensor([[[3.0, 4.0]]]))  # one atom, and its shift by one sample
        0.48
    """
    filters = _filters(dictionary, stride, dilation)
    per_group = filters.weight.chunk(filters.groups)
    reach = filters.reach if shifts else [0] * len(filters.reach)
    # Atoms that do not overlap have the product 0. If all of them overlap, the signed maximum starts at -1.
    apart = (shifts and len(reach) > 0) or filters.groups > 1 or len(filters.weight) == 1
    least = -1.0 if signed and not apart else 0.0
    return min(1.0, max(_largest_correlation(atoms, filters.step, reach, signed, least) for atoms in per_group))


def welch_bound(
    dictionary: Tensor | nn.Module, stride: int | Sequence[int] = 1, dilation: int | Sequence[int] = 1
) -> float:
    r"""Lower bound of the coherence of all dictionaries that have this shape and this number of non-zero atoms.

    .. math:: \mu^2 \ge \frac{m / (C \prod_i \min(n_i, t_i)) - 1}
              {m \prod_i (2 \lfloor (n_i - 1) / t_i \rfloor + 1) - 1}, \qquad t = s / \gcd(s, d)

    for m unit atoms of C channels and n samples per axis, stride s and dilation d. The bound is 0 where the right side
    is negative.

    Derivation (after Welch 1974): let the signal be circular with N samples. The Gram matrix G of the
    :math:`P = m N / \prod s` atoms has trace P. The atoms reach :math:`\min(n, t) / s` of the samples of an axis, so
    :math:`\mathrm{rank}\, G \le N C \prod \min(n, t) / s` and :math:`\|G\|_F^2 \ge P^2 / \mathrm{rank}\, G`. A row of G
    holds a 1 and at most :math:`m \prod (2 \lfloor (n - 1) / t \rfloor + 1) - 1` other entries that are not 0, so
    :math:`\|G\|_F^2 \le P + P (m \prod(\dots) - 1) \mu^2`. With C = s = 1 it is
    :math:`\sqrt{(m - 1) / (m (2 n - 1) - 1)}` (Papyan, Sulam, Elad 2017, one axis); for matrices it is Welch's own.

    Args:
        dictionary: as for :func:`mutual_coherence`. Only its shape matters, and m, the number of atoms that are not
            zero (an atom of zeros is orthogonal to all others). With groups, the group with the largest m counts.
        stride: as for :func:`mutual_coherence`.
        dilation: as for :func:`mutual_coherence`.

    Example:
        >>> round(welch_bound(torch.randn(2, 1, 5)), 4)  # (2 - 1) / (2 * 9 - 1)
        0.2425
    """
    filters = _filters(dictionary, stride, dilation)
    kernel = filters.weight.shape[2:]
    channels = filters.weight.shape[1]
    atoms = max(int(group.flatten(1).any(1).sum()) for group in filters.weight.chunk(filters.groups))
    dimension = channels * math.prod(min(n, t) for n, t in zip(kernel, filters.step, strict=True))
    neighbours = atoms * math.prod(2 * r + 1 for r in filters.reach) - 1
    return math.sqrt(max(0.0, atoms / dimension - 1) / neighbours) if neighbours > 0 else 0.0


def _filters(dictionary: Any, stride: int | Sequence[int], dilation: int | Sequence[int]) -> _Filters:
    groups = 1
    if isinstance(dictionary, Tensor):
        weight: Any = dictionary
    else:
        if stride != 1 or dilation != 1:
            raise ValueError(f"a layer has its own stride and dilation, got stride={stride!r}, dilation={dilation!r}")
        geometry = getattr(dictionary, "geometry", None)
        if isinstance(dictionary, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            stride, dilation, groups = dictionary.stride, dictionary.dilation, dictionary.groups
        elif isinstance(geometry, ConvGeometry):
            stride, dilation, groups = geometry.stride, geometry.dilation, geometry.groups
        weight = getattr(dictionary, "weight", None)
        known = isinstance(geometry, ConvGeometry) or isinstance(dictionary, nn.Conv1d | nn.Conv2d | nn.Conv3d)
        if not isinstance(weight, Tensor) or not (known or weight.ndim == 2):
            raise ValueError(
                f"dictionary must be weights (M, C, *K) or (M, F), a dictionary layer or a convolution, got "
                f"{type(dictionary).__name__}"
            )
    if not 2 <= weight.ndim <= 5 or weight.numel() == 0:
        raise ValueError(f"dictionary: expected atoms (M, C, *K) or (M, F), got shape {tuple(weight.shape)}")
    if not bool(weight.isfinite().all()):
        raise ValueError("dictionary: the atoms hold NaN or infinite values")
    if weight.ndim == 2 and any(value not in (1, ()) for value in (stride, dilation)):
        raise ValueError(f"atoms (M, F) have no shifts, got stride={stride!r}, dilation={dilation!r}")
    grid = ConvGeometry.create(weight.ndim - 2, tuple(weight.shape[2:]), stride, 0, dilation)
    step = tuple(s // math.gcd(s, d) for s, d in zip(grid.stride, grid.dilation, strict=True))
    return _Filters(weight.detach().double(), step, groups)


def _largest_correlation(atoms: Tensor, step: Sequence[int], reach: Sequence[int], signed: bool, least: float) -> float:
    atoms = unit_norm(atoms)
    best = atoms.new_full((), least)
    origin = (0,) * len(step)
    for lag in itertools.product(*(range(-r * t, r * t + 1, t) for r, t in zip(reach, step, strict=True))):
        if lag < origin:  # <a, b moved by -lag> is <b, a moved by lag>
            continue
        early = late = atoms
        for axis, j in enumerate(lag, start=2):
            n = atoms.shape[axis] - abs(j)
            early, late = early.narrow(axis, max(j, 0), n), late.narrow(axis, max(-j, 0), n)
        late = late.flatten(1).T
        start = 0
        for rows in early.flatten(1).split(max(1, BLOCK // len(atoms))):
            products = rows @ late
            if lag == origin:
                products.diagonal(start).fill_(least)
            best = torch.maximum(best, products.max() if signed else torch.linalg.vector_norm(products, math.inf))
            start += len(rows)
    return best.item()
