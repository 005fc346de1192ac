r"""Filter banks of modulus cascades as frequency responses, with their frame bounds, gap and leakage.

Signals and responses are real, so a filter :math:`\hat g(\omega)` and its mirror image :math:`\hat g(-\omega)` give the
same modulus. A bank holds one of the two. Every sum here counts both.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

__all__ = ["FilterBank", "kymatio_bank", "wavelet_bank", "wavelet_bank_2d", "weyl_heisenberg_bank"]

# Rounding errors where a response is zero, relative to its largest value.
ZERO = 1e-12


@dataclass(frozen=True)
class FilterBank:
    r"""A low-pass and P high-pass filters. The mirror images of the high-pass filters are not stored.

    Attributes:
        low: frequency response of the low-pass, real and even ``(*S)``, zero frequency first, one or two
            axes.
        high: frequency responses of the P high-pass filters, real ``(P, *S)``.
        labels: a description of each of them, such as ``{"scale": 1, "angle": 3}``.
        sampling_rate: samples per unit of length, so that frequencies are in cycles per unit.
    """

    low: Tensor
    high: Tensor
    labels: list[dict[str, Any]] = field(default_factory=list, repr=False)
    sampling_rate: float = 1.0

    def __post_init__(self) -> None:
        if self.low.ndim not in (1, 2) or self.high.shape[1:] != self.low.shape or len(self.high) == 0:
            raise ValueError(
                f"FilterBank: expected low (*S) with 1 or 2 axes and high (P, *S), P >= 1, got "
                f"{tuple(self.low.shape)} and {tuple(self.high.shape)}"
            )
        if self.low.is_complex() or self.high.is_complex():
            raise ValueError("FilterBank: frequency responses must be real, got complex ones")
        if not torch.allclose(self.low, _mirror(self.low), rtol=0, atol=1e-5 * self.low.abs().max().item()):
            raise ValueError("FilterBank: low must be the same at minus the frequency, else features are not real")
        if len(self.labels) not in (0, len(self.high)):
            raise ValueError(f"FilterBank: expected {len(self.high)} labels or none, got {len(self.labels)}")
        if not 0 < self.sampling_rate < math.inf:
            raise ValueError(f"FilterBank: sampling_rate must be a finite number > 0, got {self.sampling_rate!r}")
        largest = self.high.abs().flatten(1).amax(1)
        empty = (~(largest > ZERO * largest.max())).nonzero().flatten().tolist()
        if empty:
            which = self.labels[empty[0]] if self.labels else f"number {empty[0]}"
            raise ValueError(
                f"FilterBank: every filter must pass a frequency of the grid of size {self.size}, got {len(empty)} "
                f"of {len(self.high)} that pass none, the first being {which}: take a larger size or gap, fewer scales "
                f"or fewer angles"
            )

    def __len__(self) -> int:
        return len(self.high)

    @property
    def size(self) -> tuple[int, ...]:
        """Samples per axis."""
        return tuple(self.low.shape)

    def frequencies(self) -> Tensor:
        """Cycles per unit of length along each axis, ``(dims, *S)`` in float64; the Nyquist frequency is negative."""
        axes = [torch.fft.fftfreq(n, 1 / self.sampling_rate, dtype=torch.float64) for n in self.size]
        return torch.stack(torch.meshgrid(*axes, indexing="ij")).to(self.low.device)

    def radius(self) -> Tensor:
        """Length of the frequency, ``(*S)`` in float64."""
        radius: Tensor = torch.linalg.vector_norm(self.frequencies(), dim=0)
        return radius

    def littlewood_paley(self) -> Tensor:
        r"""The factor by which the filters and their mirror images multiply the energy at each frequency, ``(*S)``.

        .. math:: |\hat\chi(\omega)|^2 + \sum_p |\hat g_p(\omega)|^2 + |\hat g_p(-\omega)|^2

        At zero and at Nyquist, which are their own mirror images, a filter counts twice.
        """
        power = self.high.square().sum(0)
        return self.low.square() + power + _mirror(power)

    @property
    def bounds(self) -> tuple[float, float]:
        """Frame bounds A and B on real signals of this size: least and largest of the Littlewood-Paley sum."""
        low, high = torch.aminmax(self.littlewood_paley())
        return low.item(), high.item()

    def parseval(self) -> "FilterBank":
        """The bank divided by the root of its Littlewood-Paley sum: A = B = 1, with the same supports.

        Raises:
            ValueError: a frequency that no filter passes.
        """
        total = self.littlewood_paley()
        if not bool((total > 0).all()):
            raise ValueError(f"parseval: no filter passes {int((total <= 0).sum())} of {total.numel()} frequencies")
        return replace(self, low=self.low / total.sqrt(), high=self.high / total.sqrt())

    @property
    def gap(self) -> float:
        """High-pass gap delta: the largest radius of the grid up to which all filters but the low-pass are zero.

        It is the gap with which the bank was made, rounded down to the grid, and -inf if a filter passes constants.
        """
        radius = self.radius()
        passed = self.high.abs().amax(0)
        first = radius[passed > ZERO * passed.max()].min()
        below = radius[radius < first * (1 - ZERO)]
        return below.max().item() if below.numel() else -math.inf

    def leakage(self, opening: float = math.pi / 2) -> Tensor:
        """Share of each filter's energy outside of the best half-line (1-D) or sector (2-D), ``(P,)``: 0 if analytic.

        Args:
            opening: angle of the sector in radians: pi / 2 is an orthant in any rotation, which the theory needs, pi a
                half-plane. It has no effect in 1-D. Zero frequency is in every sector, Nyquist on the better side.
        """
        power = self.high.double().square().flatten(1)
        power = power * (power > (ZERO * self.high.abs().max()) ** 2)
        frequencies = self.frequencies().flatten(1)
        if len(self.size) == 1:
            k = frequencies[0]
            free = (k == 0) | (2 * k.abs() == self.sampling_rate)
            outside = torch.stack([(power * (k < 0) * ~free).sum(1), (power * (k > 0) * ~free).sum(1)]).amin(0)
        else:
            outside = torch.stack([_outside_sector(row, frequencies, self.sampling_rate, opening) for row in power])
        return outside / power.sum(1)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "FilterBank":
        """The bank on another device, or in another precision."""
        return replace(self, low=self.low.to(device, dtype), high=self.high.to(device, dtype))


def weyl_heisenberg_bank(size: int | Sequence[int], *, gap: float, sampling_rate: float = 1.0) -> FilterBank:
    r"""Parseval bank of equally wide filters, shifts of one window over a lattice of frequencies.

    .. math:: \hat g_m(\omega) = \prod_i w(\omega_i / \delta - m_i), \quad w(t) = \cos(\tfrac\pi2 t)
              \text{ on } [-1, 1], \qquad m \in \mathbb{Z}^d,\ \|m\|_\infty \ge 2

    and a low-pass that has the energy of the other windows: it is 1 where :math:`\|\omega\|_\infty \le \delta` and 0
    from :math:`2 \delta` on. For d = 1 these are the windows of Wiatowski, Grohs, Boelcskei, `Energy Propagation in
    Deep Convolutional Neural Networks <https://arxiv.org/abs/1704.03636>`_, 2018 (Weyl-Heisenberg filters: their
    k + 1 is m here). Derivation of the lattice for d = 2: shifts of the window's square sum to 1; a square of side 2
    around m lies in an orthant, turned by 45 degrees if one :math:`m_i` is 0, exactly if it keeps off the unit square
    around 0.

    Parts beyond Nyquist are cut off, and the bank is divided by the root of its Littlewood-Paley sum, which differs
    from 1 at Nyquist only.

    Args:
        size: samples of the signal, one int or one or two per axis.
        gap: delta in cycles per unit, below Nyquist; the gap of the bank is this, rounded down to the grid.
        sampling_rate: samples per unit of length.

    Raises:
        ValueError: a gap that is not positive, leaves no room for a filter, or is so small that a filter lies
            between the frequencies of the grid.

    Example:
        >>> bank = weyl_heisenberg_bank(1024, gap=1.0, sampling_rate=64.0)
        >>> len(bank), bank.gap
        (31, 1.0)
    """
    axes = [axis / gap for axis in _axes("weyl_heisenberg_bank", size, gap, sampling_rate)]
    # Windows m of each axis whose support meets the band, squared: {m: (n,)}.
    windows = []
    for axis in axes:
        last = math.ceil(axis.max().item() - ZERO)
        windows.append({m: _cosine(axis - m).square() for m in range(-last, last + 1)})
    centres: list[tuple[int, ...]] = [()]
    for row in windows:
        centres = [(*head, m) for head in centres for m in row]
    centres = [m for m in centres if m > (0,) * len(m) and max(map(abs, m)) >= 2]
    high = [_outer([row[i] for row, i in zip(windows, m, strict=True)]) for m in centres]
    low = _outer([row[-1] + row[0] + row[1] for row in windows])
    return _folded(low, high, [{"centre": m} for m in centres], size, sampling_rate)


def wavelet_bank(size: int, *, gap: float, sampling_rate: float = 1.0, ratio: float = 2.0) -> FilterBank:
    r"""Parseval bank of wavelets for signals of one axis, up to Nyquist.

    .. math:: \hat g_j(\omega) = \hat\psi(r^{-j} \omega / \delta), \quad
              \hat\psi(t) = \cos(\tfrac\pi2 \log_r t) \text{ on } [1/r, r], \qquad j \ge 1

    and a low-pass that is 1 up to :math:`\delta` and 0 from :math:`r \delta` on. With r = 2 the setting of Wiatowski,
    Grohs, Boelcskei (see :func:`weyl_heisenberg_bank`). The last wavelet is cut off at Nyquist.

    Args:
        size: samples of the signal.
        gap: delta in cycles per unit; the gap of the bank is this, rounded down to the grid.
        sampling_rate: samples per unit of length.
        ratio: r > 1 between the centres of neighbours.

    Raises:
        ValueError: a gap that is not positive, leaves no room for a wavelet, or is so small that one lies between the
            frequencies of the grid; ``ratio`` not above 1.

    Example:
        >>> [label["centre"] for label in wavelet_bank(1024, gap=1.0, sampling_rate=64.0).labels]
        [2.0, 4.0, 8.0, 16.0, 32.0]
    """
    if not 1 < ratio < math.inf:
        raise ValueError(f"wavelet_bank: ratio must be a finite number > 1, got {ratio!r}")
    (axis,) = _axes("wavelet_bank", size, gap, sampling_rate)
    scales = math.ceil(math.log(axis.max().item() / gap, ratio) - ZERO)
    low, bands = _radial(axis.abs() / gap, scales, ratio)
    labels: list[dict[str, Any]] = [{"scale": j, "centre": gap * ratio**j} for j in range(1, scales + 1)]
    return _folded(low, [band * (axis > 0) for band in bands], labels, size, sampling_rate)


def wavelet_bank_2d(size: int | Sequence[int], scales: int, angles: int, *, steerable: bool = False) -> FilterBank:
    r"""Parseval bank of directional wavelets for images: dyadic rings times angular windows.

    .. math:: \hat g_{j, l}(\omega) = \cos(\tfrac\pi2 \log_2 (2^{j + 2} |\omega|))\,
              \cos(\tfrac L2 (\angle\omega - \tfrac{\pi l}{L})), \qquad 0 \le j < J,\ 0 \le l < L

    with frequencies in cycles per sample, each factor where its argument is within :math:`\pm\tfrac\pi2`. The finest
    ring, j = 0, stays 1 from 1/4 on and reaches the corners of the spectrum. The low-pass is 1 up to
    :math:`2^{-J - 2}` (the gap, rounded down to the grid: 0 if a side has fewer than :math:`2^{J + 2}` pixels) and 0
    from :math:`2^{-J - 1}` on, so that it can be sampled at every :math:`2^J`-th pixel.

    Args:
        size: height and width, or one int for both.
        scales: J.
        angles: L over half a turn; from 4 on every filter lies in an orthant.
        steerable: :math:`\cos^{L - 1}` over a half-plane as angular window (Simoncelli and Freeman, `The Steerable
            Pyramid`, 1995): sums and differences of a filter with its mirror image, turned by any angle, are
            combinations of the L. These filters lie in no orthant for L below about 10.

    Raises:
        ValueError: ``scales`` or ``angles`` below 1, so many scales that the low-pass holds the mean alone, or so many
            angles that a filter lies between the frequencies of the grid.

    Example:
        >>> bank = wavelet_bank_2d(32, scales=2, angles=4)
        >>> bank.high.shape, bank.gap
        (torch.Size([8, 32, 32]), 0.0625)
    """
    sizes = (size, size) if isinstance(size, int) else tuple(size)
    if scales < 1 or angles < 1:
        raise ValueError(f"wavelet_bank_2d: scales and angles must be >= 1, got {scales} and {angles}")
    if len(sizes) != 2 or min(sizes) < 2 ** (scales + 1):
        raise ValueError(f"wavelet_bank_2d: {scales} scales need two axes of {2 ** (scales + 1)} or more, got {sizes}")
    y, x = torch.meshgrid(*_axes("wavelet_bank_2d", sizes, 2.0 ** -(scales + 2), 1.0), indexing="ij")
    low, bands = _radial(torch.hypot(x, y) * 2 ** (scales + 2), scales, 2.0)
    angle = torch.atan2(y, x)
    high, labels = [], []
    for j, band in enumerate(reversed(bands)):
        for i in range(angles):
            away = torch.remainder(angle - i * math.pi / angles + math.pi, 2 * math.pi) - math.pi
            if steerable:
                norm = math.comb(2 * angles - 2, angles - 1) * angles / 4 ** (angles - 1)
                window = away.cos().pow(2 * angles - 2) * (away.abs() <= math.pi / 2 + ZERO) / norm
            else:
                window = _cosine(away * angles / math.pi).square()
            high.append(band * window)
            labels.append({"scale": j, "angle": i})
    return _folded(low, high, labels, sizes, 1.0)


def kymatio_bank(size: Sequence[int], scales: int, angles: int) -> FilterBank:
    r"""The Morlet wavelets and the Gaussian of kymatio's 2-D transform, in float64.

    Args:
        size: height and width of the images, in pixels.
        scales: number J of scales; the Gaussian is as wide as ``2^J`` pixels.
        angles: number of directions.

    Wavelets are divided by :math:`\sqrt 2`, since a mirror image counts here: the cascade of this bank then gives
    kymatio's coefficients, before subsampling. It is neither Parseval nor analytic, and has no gap.

    Raises:
        ImportError: kymatio is not installed.
    """
    try:
        # The package itself does not import with scipy 1.17.
        from kymatio.scattering2d.filter_bank import filter_bank
    except ImportError as error:
        raise ImportError("kymatio_bank takes its filters from kymatio: pip install kymatio") from error
    height, width = size
    filters = filter_bank(height, width, scales, angles)
    high = torch.stack(
        [torch.as_tensor(psi["levels"][0], dtype=torch.float64).view(height, width) for psi in filters["psi"]]
    )
    low = torch.as_tensor(filters["phi"]["levels"][0], dtype=torch.float64).view(height, width)
    labels = [{"scale": psi["j"], "angle": psi["theta"]} for psi in filters["psi"]]
    return FilterBank(low, high / math.sqrt(2), labels)


def _mirror(response: Tensor) -> Tensor:
    """The response at minus the frequency."""
    axes = tuple(range(response.ndim))
    return response.flip(axes).roll((1,) * response.ndim, axes)


def _axes(name: str, size: int | Sequence[int], gap: float, sampling_rate: float) -> list[Tensor]:
    """Frequencies in rising order; both ends of the band for an even size."""
    sizes = (size,) if isinstance(size, int) else tuple(size)
    if len(sizes) not in (1, 2) or min(sizes) < 2:
        raise ValueError(f"{name}: size must be one or two numbers of samples >= 2, got {size!r}")
    if not 0 < sampling_rate < math.inf:
        raise ValueError(f"{name}: sampling_rate must be a finite number > 0, got {sampling_rate!r}")
    axes = [torch.arange(-(n // 2), n // 2 + 1, dtype=torch.float64) * sampling_rate / n for n in sizes]
    nyquist = min(axis.max().item() for axis in axes)
    if not 0 < gap < nyquist:
        raise ValueError(f"{name}: gap must be above 0 and below the largest frequency {nyquist:g}, got {gap!r}")
    return axes


def _cosine(t: Tensor) -> Tensor:
    """Exactly 0 outside of (-1, 1)."""
    return torch.where(t.abs() < 1 - ZERO, torch.cos(math.pi / 2 * t), 0.0)


def _outer(factors: Iterable[Tensor]) -> Tensor:
    product = torch.ones((), dtype=torch.float64)
    for factor in factors:
        product = product[..., None] * factor
    return product


def _radial(radius: Tensor, scales: int, ratio: float) -> tuple[Tensor, list[Tensor]]:
    """Squares of the low-pass and of the bands from the coarsest, by radius over the gap; the last one stays 1."""
    octave = radius.clamp_min(ratio**-1.0).log() / math.log(ratio)
    low = _cosine(octave.clamp_min(0)).square()
    bands = [_cosine((octave if j < scales else octave.clamp_max(j)) - j).square() for j in range(1, scales + 1)]
    return low, bands


def _folded(
    low: Tensor, high: Sequence[Tensor], labels: list[dict[str, Any]], size: int | Sequence[int], sampling_rate: float
) -> FilterBank:
    """From squared responses on a grid with both ends of the band to a Parseval bank."""
    sizes = (size,) if isinstance(size, int) else tuple(size)
    squares = torch.stack([low, *high])
    for axis, n in enumerate(sizes, start=1):
        if n % 2 == 0:  # both ends are the one bin of Nyquist
            ends = squares.narrow(axis, 0, 1) + squares.narrow(axis, n, 1)
            squares = torch.cat([ends, squares.narrow(axis, 1, n - 1)], axis)
    roots = torch.fft.ifftshift(squares.sqrt(), tuple(range(1, squares.ndim)))
    return FilterBank(roots[0], roots[1:], labels, sampling_rate).parseval()


def _outside_sector(power: Tensor, frequencies: Tensor, rate: float, opening: float) -> Tensor:
    """Energy of one filter outside of the best sector."""
    on = (power > 0) & (frequencies != 0).any(0)
    power, at = power[on], frequencies[:, on]
    edge = 2 * at.abs() == rate
    middle = (at.masked_fill(edge, 0) * power).sum(1, keepdim=True)
    at = torch.where(edge, at.abs() * torch.where(middle < 0, -1.0, 1.0), at)
    angle, order = torch.atan2(at[0], at[1]).sort()
    turns = torch.cat([angle, angle + 2 * math.pi])
    total = torch.cat([power.new_zeros(1), power[order].repeat(2).cumsum(0)])
    last = torch.searchsorted(turns, angle + opening + 1e-9, right=True)
    return (power.sum() - (total[last] - total[: len(angle)]).max()).clamp_min(0)
