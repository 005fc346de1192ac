"""Translations and deformations of a signal: bounds for the change of the features of a modulus cascade."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from csc_nets.functional import FilterBank, scattering_features

__all__ = ["deform", "deformation_bound", "feature_distance", "translation_bound"]


def translation_bound(bank: FilterBank, shift: float, pooling: float = 1.0) -> float:
    r"""Bound for :math:`|||\Phi^n(T_t f) - \Phi^n(f)||| / \|f\|` for a translation by t.

    .. math:: \frac{2 \pi |t| K}{S_1 \cdots S_n}, \qquad K = \max_\omega |\hat\chi(\omega)|\, |\omega|

    (Wiatowski, Boelcskei, `A Mathematical Theory of Deep Convolutional Neural Networks for Feature Extraction
    <https://arxiv.org/abs/1512.06293>`_, 2018). Derivation: features commute with translations, and
    :math:`|e^{2 \pi i \omega t} - 1| \le 2 \pi |\omega t|` in the spectrum of the low-pass. The bound is also true
    with the energy :math:`W_n(f)` that reaches the layer in place of :math:`\|f\|^2`.

    Args:
        bank: filter bank of layer n + 1; its low-pass makes the features.
        shift: t, in the unit of length of the bank.
        pooling: product of the pooling factors before this layer.
    """
    if not 1 <= pooling < math.inf:
        raise ValueError(f"translation_bound: pooling must be a finite number >= 1, got {pooling!r}")
    if not math.isfinite(shift):
        raise ValueError(f"translation_bound: shift must be a finite number, got {shift!r}")
    return 2 * math.pi * abs(shift) * (bank.low.abs() * bank.radius()).max().item() / pooling


def deformation_bound(bandwidth: float, displacement: float, jacobian: float = 0.0, dim: int = 1) -> float:
    r"""Bound for :math:`|||\Phi(F_\tau f) - \Phi(f)||| / \|f\|` for :math:`(F_\tau f)(x) = f(x - \tau(x))`.

    .. math:: C R \|\tau\|_\infty, \qquad C = \frac{2 \pi}{\sqrt{1 - d\, \|D \tau\|_\infty}}

    for signals with frequencies up to R, and banks with B <= 1. Wiatowski and Boelcskei (see :func:`translation_bound`)
    prove a bound of this form with an unknown C, for :math:`\|D \tau\|_\infty \le 1 / (2 d)`. The C here is then at
    most :math:`2 \pi \sqrt2`.

    Derivation: the features do not increase distances. :math:`f(x - \tau) - f(x) = -\int_0^1 \nabla f(x - s \tau) \cdot
    \tau\, ds`, so its norm is at most :math:`\|\tau\|_\infty` times the largest one of :math:`\nabla f(x - s \tau(x))`.
    Substitution divides the square of that by :math:`\det(1 - s D \tau) \ge 1 - d \|D \tau\|_\infty` (Brent, Osborn,
    Smith, `Note on best possible bounds for determinants of matrices close to the identity matrix`, 2015), and
    :math:`\|\nabla f\| \le 2 \pi R \|f\|`.

    Args:
        bandwidth: R.
        displacement: largest length of tau, in the inverse unit of R.
        jacobian: largest entry of the derivative of tau, below 1 / d.
        dim: d.
    """
    if not all(0 <= n < math.inf for n in (bandwidth, displacement, jacobian)) or dim < 1 or dim * jacobian >= 1:
        raise ValueError(
            "deformation_bound: expected finite numbers, none of them negative, and jacobian < 1 / dim, got "
            f"bandwidth={bandwidth!r}, displacement={displacement!r}, jacobian={jacobian!r}, dim={dim!r}"
        )
    return 2 * math.pi * bandwidth * displacement / math.sqrt(1 - dim * jacobian)


def deform(x: Tensor, displacement: Tensor) -> Tensor:
    r"""Exact samples of :math:`f(x - \tau(x))`, where f is the trigonometric polynomial through the samples of x.

    The cost is the square of the number of samples.

    Args:
        x: periodic real signals ``(N, *S)`` with one or two axes.
        displacement: tau in samples, ``(dims, *S)``, or ``(dims,)`` for a translation.

    Raises:
        ValueError: the shapes do not fit.

    Example:
        >>> deform(torch.tensor([[0.0, 1.0, 0.0, 0.0]]), torch.tensor([1.0])).round(decimals=5).abs()
        tensor([[0., 0., 1., 0.]])
    """
    size, dims = tuple(x.shape[1:]), x.ndim - 1
    if dims not in (1, 2) or tuple(displacement.shape) not in ((dims,), (dims, *size)):
        raise ValueError(
            f"deform: expected signals (N, *S) with 1 or 2 axes and displacement (dims, *S) or (dims,), got "
            f"{tuple(x.shape)} and {tuple(displacement.shape)}"
        )
    displacement = displacement.to(x).reshape(dims, -1).expand(dims, math.prod(size))
    spectrum = torch.fft.fftn(x, dim=tuple(range(1, x.ndim))) / math.prod(size)
    grids = torch.meshgrid(*(torch.arange(n, dtype=x.dtype, device=x.device) for n in size), indexing="ij")
    waves = []
    for n, grid, tau in zip(size, grids, displacement, strict=True):
        at = (grid.flatten() - tau) / n
        k = torch.fft.fftfreq(n, 1 / n, dtype=x.dtype, device=x.device)
        wave = torch.polar(torch.ones_like(at)[:, None].expand(-1, n), 2 * math.pi * at[:, None] * k)
        if n % 2 == 0:  # the Nyquist frequency is one half of either sign
            wave[:, n // 2] = wave[:, n // 2].real.clone()
        waves.append(wave)
    made = torch.einsum("pk,nk->np", waves[0], spectrum) if dims == 1 else _plane(waves, spectrum)
    return made.real.reshape(x.shape)


def feature_distance(x: Tensor, y: Tensor, banks: FilterBank | Sequence[FilterBank], depth: int) -> Tensor:
    r"""Distances :math:`|||\Phi^n(x) - \Phi^n(y)|||` of each layer, ``(N, depth)``.

    For banks with B <= 1 the distance over all layers is at most the distance of x and y.

    Args:
        x: signals ``(N, *batch, *S)``.
        y: other signals of the same shape.
        banks: and ``depth``: as for :func:`~csc_nets.functional.scattering_features`.

    Raises:
        ValueError: the shapes of x and y differ, or ``scattering_features`` refuses an argument.
    """
    if x.shape != y.shape:
        raise ValueError(f"feature_distance: x and y must be of one shape, got {tuple(x.shape)} and {tuple(y.shape)}")
    pairs = zip(
        scattering_features(x, banks, depth).features, scattering_features(y, banks, depth).features, strict=True
    )
    return torch.stack([(a - b).flatten(1).norm(dim=1) for a, b in pairs], 1)


def _plane(waves: list[Tensor], spectrum: Tensor) -> Tensor:
    rows = torch.einsum("pk,nkl->npl", waves[0], spectrum)
    return (rows * waves[1]).sum(-1)
