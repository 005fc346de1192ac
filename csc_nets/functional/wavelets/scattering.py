r"""Modulus cascades of filter banks, and the energy of a signal layer by layer.

.. math:: U[\emptyset] f = f, \qquad U[q, p] f = \sqrt2\, \bigl| U[q] f * g_p \bigr|, \qquad
          \Phi^n(f) = \{ U[q] f * \chi_{n + 1} : q \text{ of length } n \}

on periodic signals, with the banks :math:`(\chi_n, \{g_p\}_n)` of layers n = 1, 2, ... A filter and its mirror image
give the same modulus. The factor :math:`\sqrt2` makes sums of squares count both.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from csc_nets.functional.wavelets.filter_bank import FilterBank

__all__ = ["Scattering", "ScatteringEnergy", "scattering_energy", "scattering_features"]

# Numbers that are transformed back at once: 16 MiB in complex128.
BLOCK = 2**20


@dataclass(frozen=True)
class Scattering:
    """Features of a modulus cascade.

    Attributes:
        features: for each layer n = 0, ..., depth - 1 ``(N, *batch, paths, *S)``.
        paths: for each layer the filters of each path, in the order of the features; ``[()]`` for layer 0.
    """

    features: list[Tensor]
    paths: list[list[tuple[int, ...]]]


@dataclass(frozen=True)
class ScatteringEnergy:
    r"""Energy of N signals, layer by layer: ``sum(features) + propagated[:, -1] + sum(pruned) = total``.

    For a Parseval bank this is exact. In general, with the frame bounds :math:`A_n, B_n`, the sum on the left lies
    between :math:`\prod \min(1, A_n)` and :math:`\prod \max(1, B_n)` times the total.

    Attributes:
        features: energy that leaves through the low-pass behind layer n, ``(N, depth)``.
        propagated: :math:`W_n`, energy of the layer of n-fold moduli, ``(N, depth + 1)``; :math:`W_0` is the total.
            Pruned paths are left out: the true :math:`W_n` is larger by at most the energy that was pruned in the
            layers before, times the upper frame bounds.
        pruned: energy of the paths of length n that were not followed further, ``(N, depth + 1)``, 0 in the first
            and the last column.
    """

    features: Tensor
    propagated: Tensor
    pruned: Tensor

    @property
    def total(self) -> Tensor:
        """Energy of the signals, ``(N,)``."""
        return self.propagated[:, 0]


def scattering_features(
    x: Tensor,
    banks: FilterBank | Sequence[FilterBank],
    depth: int,
    *,
    pooling: int = 1,
    follow: Callable[[Mapping[str, Any], Mapping[str, Any]], bool] | None = None,
) -> Scattering:
    r"""The features :math:`\Phi^n(f)` of the layers n < depth, at every sample.

    With Parseval banks the map of x to all features does not expand distances, and commutes with shifts (Wiatowski,
    Boelcskei, `A Mathematical Theory of Deep Convolutional Neural Networks for Feature Extraction
    <https://arxiv.org/abs/1512.06293>`_). Gradients are finite everywhere, 0 where a modulus is 0.

    Args:
        x: real signals ``(N, *batch, *S)``.
        banks: one for all layers, or one per layer, of the precision and the size of the signals there.
        depth: number of layers; moduli are taken ``depth - 1`` times.
        pooling: s > 1 keeps every s-th sample of an axis behind each modulus, times :math:`s^{d/2}` (there, too).
            Energy is then kept as far as the samples left out resemble those kept; exactly in the case that no two
            frequencies of a filter differ by a multiple of 1 / s of the sampling rate, such as analytic filters of one
            axis with s = 2 (derivation: that is the spectrum of :math:`|f * g|^2`). Needs a bank per layer, for
            signals s times smaller each.
        follow: decides from the labels of two successive filters whether the path is taken; None takes all. Example:
            ``lambda first, second: second["scale"] > first["scale"]``, frequency-decreasing paths.

    Raises:
        ValueError: signals that are not in float32 or float64; banks that do not fit them, or have no labels to
            ``follow``; depth or pooling that is no whole number >= 1.

    Example:
        >>> from csc_nets.functional import wavelet_bank
        >>> bank = wavelet_bank(64, gap=0.125).to(dtype=torch.float32)
        >>> [tuple(layer.shape) for layer in scattering_features(torch.randn(5, 64), bank, 3).features]
        [(5, 1, 64), (5, 2, 64), (5, 4, 64)]
    """
    layers = _layers(x, banks, depth, pooling)
    if follow is not None and not all(bank.labels for bank in layers):
        raise ValueError("scattering_features: follow needs the labels of the filters, got a bank without any")
    axes = tuple(range(-len(layers[0].size), 0))
    maps = x.unsqueeze(-len(axes) - 1)
    features: list[Tensor] = []
    paths: list[list[tuple[int, ...]]] = [[()]]
    for n, bank in enumerate(layers):
        spectrum = _fft(maps, axes)
        features.append(_ifft(spectrum * bank.low, axes).real)
        if n + 1 == depth:
            break

        def taken(path: tuple[int, ...], p: int, n: int = n) -> bool:
            return follow is None or not path or follow(layers[n - 1].labels[path[-1]], layers[n].labels[p])

        steps = [(i, p) for i, path in enumerate(paths[n]) for p in range(len(bank)) if taken(path, p)]
        parents, filters = torch.tensor(steps, dtype=torch.int64, device=x.device).view(-1, 2).unbind(1)
        children = spectrum.index_select(-len(axes) - 1, parents) * bank.high[filters]
        maps = _pool(math.sqrt(2) * _ifft(children, axes).abs(), pooling, len(axes))
        paths.append([(*paths[n][i], p) for i, p in steps])
    return Scattering(features, paths)


@torch.no_grad()
def scattering_energy(
    x: Tensor, banks: FilterBank | Sequence[FilterBank], depth: int, *, prune: float = 0.0, pooling: int = 1
) -> ScatteringEnergy:
    r"""Energy of the features and of the propagated signals, layer by layer.

    .. math:: |||\Phi^n(f)|||^2 = \sum_q \|U[q] f * \chi_{n + 1}\|^2, \qquad W_n(f) = \sum_q \|U[q] f\|^2, \qquad
              \sum_{n < N} |||\Phi^n(f)|||^2 + W_N(f) = \|f\|^2

    the last for Parseval banks (Wiatowski, Grohs, Boelcskei, `Energy Propagation in Deep Convolutional Neural Networks
    <https://arxiv.org/abs/1704.03636>`_). Energies are taken from spectra, so that only paths of length below ``depth``
    are transformed back: :math:`\sum_{0 < n < N} P^n` of them. They are walked through depth first, in blocks: memory
    grows with depth, not with the number of paths.

    Args:
        x: real signals ``(N, *batch, *S)``; the axes in between are summed over.
        banks: as for :func:`scattering_features`.
        depth: N, the layers of features.
        prune: paths with at most this share of their signal's energy are not followed; their energy is in ``pruned``.
        pooling: as there; the balance then is exact in that case only.

    Raises:
        ValueError: as there, ``prune`` not in [0, 1), or signals that are not finite.

    Example:
        >>> from csc_nets.functional import wavelet_bank
        >>> bank = wavelet_bank(64, gap=0.125)
        >>> energy = scattering_energy(torch.randn(2, 64, dtype=torch.float64), bank, 2)
        >>> balance = energy.features.sum(1) + energy.propagated[:, -1]
        >>> torch.allclose(balance, energy.total, rtol=1e-12)
        True
    """
    if not 0 <= prune < 1:
        raise ValueError(f"scattering_energy: prune must be in [0, 1), got {prune!r}")
    layers = _layers(x, banks, depth, pooling)
    if not bool(x.isfinite().all()):
        raise ValueError(f"scattering_energy: x must be finite, got {int((~x.isfinite()).sum())} numbers that are not")
    dims = len(layers[0].size)
    axes = tuple(range(-dims, 0))
    signals = x.reshape(-1, *x.shape[x.ndim - dims :])
    sample = torch.arange(len(x), device=x.device).repeat_interleave(len(signals) // max(1, len(x)))
    result = ScatteringEnergy(
        x.new_zeros(len(x), depth), x.new_zeros(len(x), depth + 1), x.new_zeros(len(x), depth + 1)
    )
    result.propagated[:, 0] = x.square().flatten(1).sum(1)
    low = [bank.low.square().flatten() for bank in layers]
    high = [2 * bank.high.square().flatten(1).T for bank in layers]

    def descend(maps: Tensor, sample: Tensor, n: int) -> None:
        """Adds the energies of maps ``(K, *S)`` after n moduli, which belong to the signals ``sample (K,)``."""
        spectrum = _fft(maps, axes)
        power = torch.view_as_real(spectrum).square().sum(-1).flatten(1) / low[n].numel()
        result.features[:, n].index_add_(0, sample, power @ low[n])
        energy = power @ high[n]  # (K, P)
        result.propagated[:, n + 1].index_add_(0, sample, energy.sum(1))
        if n + 1 == depth:
            return
        kept = energy > prune * result.total[sample, None]
        result.pruned[:, n + 1].index_add_(0, sample, (energy * ~kept).sum(1))
        block = max(1, BLOCK // low[n].numel())
        for rows in kept.nonzero().split(block):
            parent, p = rows.unbind(1)
            moduli = _ifft(spectrum[parent] * layers[n].high[p], axes).abs()
            descend(_pool(math.sqrt(2) * moduli, pooling, dims), sample[parent], n + 1)

    block = max(1, BLOCK // low[0].numel())
    for part, owner in zip(signals.split(block), sample.split(block), strict=True):
        descend(part, owner, 0)
    return result


def _layers(x: Tensor, banks: FilterBank | Sequence[FilterBank], depth: int, pooling: int) -> list[FilterBank]:
    """A bank for each layer."""
    if any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in (depth, pooling)):
        raise ValueError(f"scattering: depth and pooling must be whole numbers >= 1, got {depth!r} and {pooling!r}")
    layers = [banks] * depth if isinstance(banks, FilterBank) else list(banks)
    if len(layers) != depth:
        raise ValueError(f"scattering: expected one bank, or one for each of {depth} layers, got {len(layers)}")
    dims = len(layers[0].size)
    if x.ndim <= dims or x.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"scattering: x must be real signals (N, *batch, *S) in float32 or float64, got {x.dtype} {tuple(x.shape)}"
        )
    size = tuple(x.shape[x.ndim - dims :])
    for n, bank in enumerate(layers):
        if bank.size != size or bank.low.dtype != x.dtype:
            raise ValueError(
                f"scattering: layer {n} needs a bank of size {size} in {x.dtype}, got {bank.size} in {bank.low.dtype}"
            )
        size = tuple(-(-s // pooling) for s in size)
    return layers


def _fft(maps: Tensor, axes: tuple[int, ...]) -> Tensor:
    return torch.fft.fftn(maps, dim=axes) if maps.numel() > 0 else maps.to(maps.dtype.to_complex())


def _ifft(spectrum: Tensor, axes: tuple[int, ...]) -> Tensor:
    return torch.fft.ifftn(spectrum, dim=axes) if spectrum.numel() > 0 else spectrum


def _pool(maps: Tensor, factor: int, dims: int) -> Tensor:
    """Every ``factor``-th sample of the last ``dims`` axes, scaled so that evenly spread energy stays."""
    maps = maps[..., ::factor] if dims == 1 else maps[..., ::factor, ::factor]
    return maps if factor == 1 else maps * factor ** (dims / 2)
