r"""A convolutional dictionary in the Fourier domain: a product per frequency.

Derivation. Lay the signal on a circle of P samples: sample i at position i, and the samples that padding adds behind
it. The atom of code position j begins at ``j * stride - padding``. So synthesis is a circular convolution of the code
with the atom, rolled by the padding. This holds for

- circular borders: P is the size of the signal;
- zero borders without padding: every atom lies within the signal, and codes are zero at all other positions;
- zero borders with padding: atoms extend into the part of the circle behind the signal, which is not observed.

A stride s becomes channels: signal and atoms are distributed over s channels per axis (pixel i to channel i mod s). On
this coarser grid, the grid of the code, the stride is 1.

One complex code carries two real atoms: with :math:`e = \bar d_1 + i \bar d_2`, the analysis
:math:`\mathcal F^{-1}(e q)` has the first atom's correlation as its real part and the second's as its imaginary part,
and synthesis, its adjoint, is the real part of :math:`\mathcal F^{-1}(\bar e \hat z)`. Complex transforms need no half
spectra, and their inverse is faster than that of real ones.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from csc_nets.functional.operators.geometry import ConvGeometry
from csc_nets.functional.operators.protocol import Operator

__all__ = ["FourierDictionary", "prefers_fourier"]

# Complex numbers that a pass works on at a time: as many as the cache of a core holds; an accelerator needs more.
BLOCK = {"cpu": 1 << 17, "cuda": 1 << 25}


@dataclass(frozen=True)
class FourierDictionary:
    """Spectra of the atoms, and the layout of signals and codes on the circle.

    The number of "channels" is that of the signal times the strides. A "pair" is two atoms, one as the real and one as
    the imaginary part.

    Attributes:
        spectra: of the pairs of atoms, ``(pairs, channels, *grid)`` complex.
        gram: eigenvalues of :math:`D D^T` per frequency, ``(channels, *grid)``, in order where there is one channel.
        basis: their eigenvectors ``(*grid, channels, channels)``; None for one channel.
        count: number of atoms.
        geometry: strides and padding.
        signal_size: spatial size of the signal.
        code_size: spatial size of the code.
    """

    spectra: Tensor
    gram: Tensor
    basis: Tensor | None
    count: int
    geometry: ConvGeometry
    signal_size: tuple[int, ...]
    code_size: tuple[int, ...]

    @classmethod
    def create(cls, pair: Operator, signal_size: Sequence[int]) -> "FourierDictionary":
        """The spectra of a convolutional dictionary on signals of one size.

        Raises:
            ValueError: the dictionary is no circular or zero-padded convolution, or its circle does not close.
        """
        size = tuple(signal_size)
        circle = circle_size(pair, size)
        if circle is None:
            raise ValueError(
                f"a Fourier dictionary is a convolution with zero padding, or with circular padding on a signal whose "
                f"size is a multiple of the stride, in float32 or float64; got {pair!r} on a signal of size {size}"
            )
        weight, geometry = pair.weight.detach(), pair.geometry  # type: ignore[attr-defined]
        for axis, (k, d, (lo, _), n) in enumerate(
            zip(geometry.kernel_size, geometry.dilation, geometry.padding, circle, strict=True), start=2
        ):
            place = (torch.arange(k, device=weight.device) * d - lo) % n
            shape = list(weight.shape)
            shape[axis] = n
            weight = weight.new_zeros(shape).index_copy_(axis, place, weight)
        atoms = _deal(weight, geometry.stride)
        if len(atoms) % 2:
            atoms = torch.cat([atoms, torch.zeros_like(atoms[:1])])
        spatial = tuple(range(-geometry.dims, 0))
        spectra = torch.fft.fftn(torch.complex(atoms[::2], -atoms[1::2]), dim=spatial).conj().resolve_conj()
        # d1 - i d2 transforms to D1 - i D2, whose conjugate is wanted.
        if atoms.shape[1] == 1:
            power = torch.fft.fftn(atoms[:, 0], dim=spatial).abs().square().sum(0, keepdim=True)
            return cls(spectra, power, None, len(pair.weight), geometry, size, geometry.code_size(size))  # type: ignore[attr-defined]
        waves = torch.fft.fftn(atoms, dim=spatial).flatten(2).permute(2, 1, 0)
        values, basis = torch.linalg.eigh(waves @ waves.mH)
        grid = spectra.shape[2:]
        return cls(
            spectra,
            values.clamp_min(0).T.reshape(-1, *grid).contiguous(),
            basis.view(*grid, *basis.shape[1:]),
            len(pair.weight),  # type: ignore[attr-defined]
            geometry,
            size,
            geometry.code_size(size),
        )

    @property
    def grid(self) -> tuple[int, ...]:
        """Positions of a code on the circle."""
        return tuple(self.spectra.shape[2:])

    @property
    def axes(self) -> tuple[int, ...]:
        """The spatial axes, from the end."""
        return tuple(range(-self.geometry.dims, 0))

    @property
    def is_cropped(self) -> bool:
        """Whether atoms reach beyond the observed signal."""
        return self.geometry.padding_mode == "zeros" and any(p != (0, 0) for p in self.geometry.padding)

    def embed(self, x: Tensor) -> Tensor:
        """Signals ``(N, C, *S)`` on the circle, zeros behind them: ``(N, channels, *grid)``."""
        return _deal(
            _fill(x, [g * s for g, s in zip(self.grid, self.geometry.stride, strict=True)]), self.geometry.stride
        )

    def pack(self, z: Tensor) -> Tensor:
        """Codes ``(N, M, *S')`` as pairs on the grid, ``(N, pairs, *grid)`` complex."""
        pairs = _pair_up(_fill(z, self.grid), 0)
        # Runs write in place, so it must be a copy in every memory format.
        return torch.view_as_complex(pairs.clone(memory_format=torch.contiguous_format))

    def unpack(self, u: Tensor) -> Tensor:
        """Pairs on the grid, ``(N, pairs, *grid, 2)`` real, as codes ``(N, 2 pairs, *S')``."""
        return self.inside(u).movedim(-1, 2).flatten(1, 2)

    def inside(self, u: Tensor) -> Tensor:
        """The part ``(N, pairs, *S', 2)`` of ``(N, pairs, *grid, 2)`` where atoms may lie."""
        for axis, n in enumerate(self.code_size, start=2):
            u = u.narrow(axis, 0, n)
        return u

    def weight_of_pairs(self, lam: float | Tensor) -> float | Tensor:
        """A weight that broadcasts against ``(N, M, *S')`` as one that does against ``(N, pairs, *grid, 2)``."""
        if not isinstance(lam, Tensor) or lam.numel() == 1:
            return float(lam)
        lam = lam.to(self.gram)
        lam = lam[None] if lam.ndim <= len(self.grid) + 1 else lam
        # Filled with 1, because callers divide by it.
        lam = _fill(lam, [1 if n == 1 else g for n, g in zip(lam.shape[2:], self.grid, strict=True)], 1.0)
        return lam[..., None] if lam.shape[1] == 1 else _pair_up(lam, 1.0)

    def blocks(self, samples: int) -> list[slice]:
        """Groups of pairs that a pass treats one after another, so that what it computes stays in the cache."""
        width = max(1, BLOCK.get(self.gram.device.type, BLOCK["cuda"]) // (samples * math.prod(self.grid)))
        return [slice(i, i + width) for i in range(0, len(self.spectra), width)]

    def analyze_block(self, q: Tensor, block: slice) -> Tensor:
        """Analysis of signals of spectrum ``q`` by one block of pairs: ``(N, block, *grid)`` complex."""
        atoms = self.spectra[block]
        total = atoms[:, 0] * q[:, 0, None]
        for channel in range(1, q.shape[1]):
            total.addcmul_(atoms[:, channel], q[:, channel, None])
        return self.ifft(total)

    def synthesize_block(self, u: Tensor, block: slice) -> Tensor:
        """Spectrum ``(N, channels, *grid)`` of what one block of pairs adds, before :meth:`real_part`."""
        waves = self.fft(u).conj_physical_()
        atoms = self.spectra[block]
        if atoms.shape[1] == 1:
            return waves.mul_(atoms[:, 0]).sum(1, keepdim=True).conj()
        return torch.stack([(waves * atoms[:, c]).sum(1) for c in range(atoms.shape[1])], 1).conj()

    def synthesize(self, u: Tensor) -> Tensor:
        """Spectrum of the signal of packed codes ``u``."""
        parts = [self.synthesize_block(u[:, b], b) for b in self.blocks(len(u))]
        return self.real_part(torch.stack(parts).sum(0))

    def weighted_gram(self, weight: Tensor) -> Tensor:
        r"""Eigenvalues of :math:`D \, \mathrm{weight} \, D^T` per frequency, ``(N, channels, *grid)``.

        Args:
            weight: ``(N, 1)``, or one per pair ``(N, pairs)`` where there is one channel.
        """
        if weight.shape[1] == 1:
            return weight.view(-1, *(1,) * self.gram.ndim) * self.gram
        total = self.gram.new_zeros(len(weight), self.gram[0].numel())
        for block in self.blocks(1):
            total += weight[:, block] @ torch.view_as_real(self.spectra[block]).square().sum(-1).flatten(1)
        # Of two real atoms, at frequencies of both signs.
        return self.real_part(total.view(-1, *self.gram.shape))

    def filter(self, s: Tensor, values: Tensor) -> Tensor:
        """Spectra ``(N, channels, *grid)`` times the matrices with the eigenvectors of a gram and these eigenvalues."""
        return self._rotate(values * self._rotate(s, True))

    def _rotate(self, s: Tensor, adjoint: bool = False) -> Tensor:
        if self.basis is None:
            return s
        basis = self.basis.mH if adjoint else self.basis
        return (basis @ s.movedim(1, -1).unsqueeze(-1)).squeeze(-1).movedim(-1, 1)

    def fft(self, t: Tensor) -> Tensor:
        """Spectra over the spatial axes."""
        spectrum: Tensor = torch.fft.fftn(t, dim=self.axes)
        return spectrum

    def ifft(self, t: Tensor) -> Tensor:
        """The inverse of :meth:`fft`."""
        signal: Tensor = torch.fft.ifftn(t, dim=self.axes)
        return signal

    def real_part(self, s: Tensor) -> Tensor:
        """The spectrum of the real part of a signal of spectrum ``s``."""
        mirrored = s.flip(self.axes).roll((1,) * len(self.axes), self.axes)
        return (s + mirrored.conj()) / 2


def circle_size(pair: Operator, signal_size: Sequence[int]) -> tuple[int, ...] | None:
    """Samples per axis of the circle on which the dictionary is a circular convolution; None where there is none."""
    geometry, weight = getattr(pair, "geometry", None), getattr(pair, "weight", None)
    if not isinstance(geometry, ConvGeometry) or not isinstance(weight, Tensor):
        return None
    if weight.dtype not in (torch.float32, torch.float64) or geometry.padding_mode == "reflect" or geometry.groups > 1:
        return None
    if len(signal_size) != geometry.dims:
        return None
    circle = []
    code = geometry.code_size(signal_size)
    for n, count, k, s, d, (lo, hi) in zip(
        signal_size, code, geometry.kernel_size, geometry.stride, geometry.dilation, geometry.padding, strict=True
    ):
        extent = d * (k - 1) + 1
        if geometry.padding_mode == "circular" and (lo, hi) != (0, 0):
            if n % s or count * s > n or extent > n:
                return None
            circle.append(n)
        else:
            # Atoms that extend beyond the left and the right end share the samples behind the signal.
            circle.append(_fast_size(max(n + max(lo, hi), count * s, extent), s))
    return tuple(circle)


def prefers_fourier(pair: Operator, x: Tensor) -> bool:
    """Whether Douglas-Rachford in the Fourier domain is the faster way to codes of signals like ``x``.

    A rule of thumb from ``benchmarks/solve.py``. It holds for dictionaries with more atoms than channels. Other
    problems take few steps with every method.
    """
    if not len(x) or circle_size(pair, x.shape[2:]) is None:
        return False
    geometry: ConvGeometry = pair.geometry  # type: ignore[attr-defined]
    weight: Tensor = pair.weight  # type: ignore[attr-defined]
    if x.shape[1] != weight.shape[1] or x.dtype != weight.dtype:
        return False
    channels = x.shape[1] * math.prod(geometry.stride)
    return channels <= 8 and channels < len(weight) and math.prod(x.shape[2:]) >= 256


def _fast_size(least: int, step: int) -> int:
    """The smallest multiple of ``step``, at least ``least``, with no other factors than 2, 3 and 5."""
    n = -(-least // step)
    while True:
        rest = n
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n * step
        n += 1


def _fill(t: Tensor, size: Sequence[int], value: float = 0.0) -> Tensor:
    """``t`` with ``value`` behind it on the spatial axes."""
    missing = [n - have for n, have in zip(size, t.shape[2:], strict=True)]
    return F.pad(t, [p for n in reversed(missing) for p in (0, n)], value=value) if any(missing) else t


def _pair_up(t: Tensor, filling: float) -> Tensor:
    """``(N, M, ...)`` as ``(N, pairs, ..., 2)``."""
    if t.shape[1] % 2:
        t = torch.cat([t, torch.full_like(t[:, :1], filling)], 1)
    pairs: Tensor = t.unflatten(1, (-1, 2))
    return pairs.movedim(2, -1)


def _deal(t: Tensor, stride: tuple[int, ...]) -> Tensor:
    """``(N, C, *S)`` to ``(N, C * prod(stride), *S / stride)``: sample i of an axis to channel i mod stride."""
    if all(s == 1 for s in stride):
        return t
    dims = len(stride)
    split = t.reshape(*t.shape[:2], *(n for g, s in zip(t.shape[2:], stride, strict=True) for n in (g // s, s)))
    coarse = range(2, 2 + 2 * dims, 2)
    return split.permute(0, 1, *(i + 1 for i in coarse), *coarse).flatten(1, 1 + dims).contiguous()
