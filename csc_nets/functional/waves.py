r"""Periodic signals as sums of waves, and what a convolutional dictionary does to each.

Derivation. Let a position be :math:`s q + r` with the stride s and :math:`0 \le r < s`, along each axis. Signals
:math:`x_c(s q + r) = u_{c,r} e^{i \omega q}` have codes :math:`z_m e^{i \omega q}` with
:math:`z_m = \sum_{c,t} W_{m,c,t} e^{i \omega q_t} u_{c,r_t}`, over the taps t of an atom at positions
:math:`s q_t + r_t`. Synthesis is the adjoint, so :math:`D D^T` is a small matrix for each frequency :math:`\omega`, and
a product with a few of them reads the atoms twice, where a product with all signals costs two convolutions.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from csc_nets.functional.dictionary import ConvGeometry

__all__ = ["Waves"]


@dataclass(frozen=True)
class Waves:
    """The waves of periodic signals of one size; real and imaginary parts of their u are ``(F, 2, C, R)``.

    R is the product of the strides. Of two conjugate waves one is among the F, or both where that is simpler.

    Args:
        geometry: circular.
        size: of the signals, multiples of the strides.
    """

    geometry: ConvGeometry
    size: tuple[int, ...]

    @property
    def _blocks(self) -> list[int]:
        return [n // s for n, s in zip(self.size, self.geometry.stride, strict=True)]

    def __len__(self) -> int:
        first, *others = self._blocks
        return (first // 2 + 1) * math.prod(others)

    def read(self, signal: Tensor) -> Tensor:
        """All waves ``(F, 2, C, R)`` of a signal ``(1, C, *size)``."""
        dims = self.geometry.dims
        sizes = [n for pair in zip(self._blocks, self.geometry.stride, strict=True) for n in pair]
        parts = signal[0].reshape(-1, *sizes)
        parts = parts.permute(0, *range(2, 2 * dims + 1, 2), *range(1, 2 * dims, 2))  # (C, strides, blocks)
        # Real signals: half of the first axis tells the other half.
        spectrum = torch.fft.rfftn(parts, dim=(*range(1 - dims, 0), -dims))
        state = torch.view_as_real(spectrum.reshape(len(parts), math.prod(self.geometry.stride), -1))
        return state.permute(2, 3, 0, 1)

    def write(self, waves: Tensor, index: Tensor) -> Tensor:
        """The signal ``(1, C, *size)`` of some waves ``(n, 2, C, R)``; of equal or conjugate ones the first counts."""
        blocks, strides = self._blocks, self.geometry.stride
        conjugate = torch.zeros_like(index)
        for frequency, n in zip(_unravel(index, blocks), blocks, strict=True):
            conjugate = conjugate * n + (-frequency) % n
        again = ((index[:, None] == index) | (conjugate[:, None] == index)).tril(-1).any(1)
        share = torch.where(again, 0.0, torch.where(conjugate == index, 1.0, 2.0)).to(waves.dtype) / math.prod(blocks)
        positions = torch.arange(math.prod(blocks), device=index.device)
        cosine, sine = self._turns(index, _unravel(positions, blocks), waves.dtype)
        flat = (share.view(-1, 1, 1, 1) * waves).flatten(2)
        parts = flat[:, 0].T @ cosine - flat[:, 1].T @ sine  # (C R, positions)
        order = [n for k in range(len(blocks)) for n in (1 + len(blocks) + k, 1 + k)]
        return parts.view(waves.shape[2], *strides, *blocks).permute(0, *order).reshape(1, -1, *self.size)

    def gram(self, waves: Tensor, index: Tensor, weight: Tensor) -> Tensor:
        """``D D^T`` of some waves ``(n, 2, C, R)``, for atoms ``(M, C, *K)``."""
        geometry, taps, device = self.geometry, math.prod(self.geometry.kernel_size), weight.device
        axes = zip(
            _unravel(torch.arange(taps, device=device), geometry.kernel_size),
            geometry.dilation,
            geometry.padding,
            geometry.stride,
            strict=True,
        )
        block, inside = [], torch.zeros(taps, dtype=torch.int64, device=device)
        for tap, d, (before, _), s in axes:
            position = tap * d - before
            block.append(position.div(s, rounding_mode="floor"))
            inside = inside * s + position % s
        phases = (inside[:, None] == torch.arange(waves.shape[3], device=device)).to(waves.dtype)  # (K, R)
        cosine, sine = (t[:, None] for t in self._turns(index, block, waves.dtype))

        real, imaginary = (waves @ phases.T).unbind(1)
        patch = torch.stack([real * cosine - imaginary * sine, real * sine + imaginary * cosine], 1)  # (n, 2, C, K)
        # Atoms in either memory format are read as they lie.
        last = not weight.is_contiguous()
        filters = weight.movedim(1, -1).flatten(1) if last else weight.flatten(1)
        rows = (patch.mT if last else patch).flatten(2).flatten(0, 1)
        rows = (rows @ filters.T) @ filters
        shape = (len(waves), 2, taps, -1) if last else (len(waves), 2, -1, taps)
        real, imaginary = (rows.view(shape).mT if last else rows.view(shape)).unbind(1)
        return torch.stack([real * cosine + imaginary * sine, imaginary * cosine - real * sine], 1) @ phases

    def _turns(self, index: Tensor, block: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosine and sine of ``omega q``, ``(n, L)``, for frequencies and L blocks q given by axis."""
        angle = torch.zeros((), dtype=dtype, device=index.device)
        for frequency, q, n in zip(_unravel(index, self._blocks), block, self._blocks, strict=True):
            angle = angle + (frequency[:, None] * q % n).to(dtype) * (2 * math.pi / n)
        return angle.cos(), angle.sin()


def _unravel(index: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """Coordinates of flat indices."""
    return [index // math.prod(sizes[k + 1 :]) % n for k, n in enumerate(sizes)]
