"""Scattering: averages of the moduli of wavelet coefficients, and of the moduli of theirs. Nothing is learned."""

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from csc_nets.functional import morlet_bank, wavelet_bank_2d
from csc_nets.functional.checks import autocast_dtype, full_precision
from csc_nets.layers.leaf import leaf

__all__ = ["Scattering2d"]

BANKS = ("wavelet", "morlet")

# Numbers of one intermediate result that are handled at once on a CPU: they should fit its cache.
CACHED = 2**19


def _whole(n: Any) -> bool:
    return isinstance(n, int) and not isinstance(n, bool) and n >= 1


# What a setting may be, also when it is assigned.
_SETTINGS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "scales": (_whole, "scales >= 1"),
    "angles": (_whole, "angles >= 1"),
    "order": (lambda n: _whole(n) and n <= 2, "order 1 or 2"),
    "bank": (lambda bank: bank in BANKS, f"bank to be one of {', '.join(BANKS)}"),
    "input_size": (
        lambda size: isinstance(size, tuple) and len(size) == 2 and all(map(_whole, size)),
        "input_size to be an int >= 1, or a height and a width",
    ),
}


class Scattering2d(nn.Module):
    r"""Scattering coefficients of images up to second order.

    .. math:: S_0 = x * \phi, \qquad S_1[j, \theta] = |x * \psi_{j, \theta}| * \phi, \qquad
              S_2[j, \theta, j', \theta'] = \bigl||x * \psi_{j, \theta}| * \psi_{j', \theta'}\bigr| * \phi, \quad j < j'

    at every :math:`2^J`-th pixel (Bruna, Mallat, `Invariant Scattering Convolution Networks
    <https://arxiv.org/abs/1203.1513>`_). Only paths to coarser scales are followed: a modulus is smoother than its
    argument, so the other paths have almost no energy.

    The image is reflected at its border by at least :math:`2^J` pixels, and then periodic. A path of scale j is
    computed at every :math:`2^j`-th pixel: its spectrum is folded before it is transformed back. The output of a
    band-limited wavelet loses nothing. Its modulus has a wider band, so it is aliased, as in all fast implementations.
    This changes coefficients of second order by 0.2 % with the wavelet bank (l2, photographs and noise), and by 1 %
    with the Morlet bank. Real signals have half spectra: the real and the imaginary part of a wavelet's output are two
    of them. The average is a product with a matrix on each side.

    Args:
        scales: J.
        angles: L, over half a turn.
        order: 1 or 2.
        bank: ``"wavelet"``, the Parseval frame of :func:`~csc_nets.functional.wavelet_bank_2d`, with moduli times
            :math:`\sqrt2` for the mirror images: no energy is lost but in paths that are not followed and in the
            folding of moduli; or ``"morlet"``, the filters of kymatio.
        input_size: height and width of the images for which the filters are kept. For other sizes every forward pass
            computes them, which takes longer than the pass itself.

    All of these may be assigned later; filters are then made anew.

    Shape:
        ``(N, C, H, W)`` to ``(N, C * paths, ceil(H / 2^J), ceil(W / 2^J))``, both with or without N, of one type; under
        autocast the output is float32. paths = ``1 + J L + L^2 J (J - 1) / 2``. The paths of a channel lie side by
        side, ordered by scale, then angle, of the first wavelet, then of the second, all of first order before those
        of second.
    """

    def __init__(
        self,
        scales: int = 2,
        angles: int = 8,
        *,
        order: int = 2,
        bank: str = "wavelet",
        input_size: int | Sequence[int] = 32,
    ) -> None:
        super().__init__()
        self.scales, self.angles, self.order, self.bank, self.input_size = scales, angles, order, bank, input_size
        self._keep_filters()

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _SETTINGS:
            return super().__setattr__(name, value)
        if name == "input_size":
            value = (value, value) if isinstance(value, int) else tuple(value) if isinstance(value, Sequence) else value
        allowed, text = _SETTINGS[name]
        if not allowed(value):
            raise ValueError(f"Scattering2d: expected {text}, got {value!r}")
        before = self.__dict__.get(name)
        self.__dict__[name] = value
        if self._buffers and value != before:
            try:
                self._keep_filters()
            except ValueError:
                self.__dict__[name] = before
                raise

    def _keep_filters(self) -> None:
        """Makes the filters for images of the size of ``input_size``."""
        size = cast(Sequence[int], self.input_size)
        filters, old = self._filters(size), next(iter(self._buffers.values()), None)
        for name in list(self._buffers):
            delattr(self, name)
        for name, value in filters.items():
            self.register_buffer(name, value if old is None else value.to(old), persistent=False)

    @property
    def paths(self) -> int:
        """Output channels for each input channel."""
        first, pairs = self.scales * self.angles, self.scales * (self.scales - 1) // 2
        return 1 + first + (self.order == 2) * pairs * self.angles**2

    def _places(self, size: Sequence[int]) -> list[int]:
        """Height and width of the coefficients."""
        return [-(-n // 2**self.scales) for n in size]

    def _padding(self, size: Sequence[int]) -> list[int]:
        """Pixels before and after, per axis: 2^J, and after the last one what makes a multiple of 2^J."""
        step = 2**self.scales
        least = step + 1
        after = [step + -n % step for n in size]
        if any(n < max(least, pad + 1) for n, pad in zip(size, after, strict=True)):
            raise ValueError(
                f"Scattering2d: {self.scales} scales need images of {least} x {least} pixels or more, {2 * step} where "
                f"a side is no multiple of {step}, got {tuple(size)}"
            )
        return [step, after[0], step, after[1]]

    def _filters(self, size: Sequence[int]) -> dict[str, Tensor]:
        """``wavelets_j_i``: those of scale i for signals on every 2^j-th pixel; ``rows_j``, ``columns_j``: averages."""
        top, bottom, left, right = self._padding(size)
        padded = (size[0] + top + bottom, size[1] + left + right)
        # On the CPU whatever the default device: what follows looks at numbers.
        with torch.device("cpu"):
            return {name: value.float() for name, value in self._make_filters(padded).items()}

    def _make_filters(self, padded: Sequence[int]) -> dict[str, Tensor]:
        if self.bank == "morlet":
            wavelets, average = morlet_bank(padded, self.scales, self.angles)
        else:
            frame = wavelet_bank_2d(padded, self.scales, self.angles)
            average, wavelets = frame.low, list((math.sqrt(2) * frame.high).split(self.angles))
        filters = {}
        for j in range(self.scales):
            low = _low_frequencies(average, 2**j)
            filters[f"rows_{j}"], filters[f"columns_{j}"] = _averaging(low, 2 ** (self.scales - j))
            for i in range(j + 1 if self.order == 2 else self.scales, self.scales):
                filters[f"wavelets_{j}_{i}"] = _halves(_low_frequencies(wavelets[i], 2**j), 2 ** (i - j))
        for i in range(self.scales):
            filters[f"wavelets_{i}"] = _halves(wavelets[i], 2**i)
        return filters

    @leaf
    def forward(self, x: Tensor) -> Tensor:
        """Coefficients ``(N, C * paths, H', W')`` of images ``(N, C, H, W)``."""
        if not isinstance(x, Tensor) or x.ndim not in (3, 4) or not x.is_floating_point():
            seen = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"Scattering2d: expected images (N, C, H, W) of floats, got {seen}")
        if x.ndim == 3:
            return self.forward(x[None])[0]
        size = tuple(x.shape[2:])
        top, bottom, left, right = self._padding(size)
        if size == self.input_size:
            filters = dict(self.named_buffers())
        elif torch.compiler.is_compiling():
            raise ValueError(f"Scattering2d: compiled for images of {self.input_size}, got {size}; set input_size")
        else:
            filters = self._filters(size)
        dtype = x.dtype if x.dtype == torch.float64 else torch.float32
        given = dtype if autocast_dtype(x) else x.dtype  # half precision is for what comes in and goes out
        filters = {name: value.to(x.device, dtype) for name, value in filters.items()}
        # What torch's transforms and borders do not take. ``not`` would fix a free size on torch 2.6.
        if x.numel() == 0:
            return x.new_empty(x.shape[0], x.shape[1] * self.paths, *self._places(size), dtype=given)
        channels_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
        with full_precision(x):
            images = F.pad(x.to(dtype), (left, right, top, bottom), mode="reflect").flatten(0, 1)
            if x.device.type != "cpu" or torch.compiler.is_compiling():
                output = self._transform(images, filters)
            else:
                area = images.shape[1] * images.shape[2]
                widest = area * self.angles * max(2, self.angles // 2 if self.order == 2 else 0)
                parts = images.split(max(1, CACHED // widest))
                output = torch.cat([self._transform(part, filters) for part in parts])
        output = output.view(*x.shape[:2], *output.shape[1:]).flatten(1, 2).to(given)
        return output.contiguous(memory_format=torch.channels_last) if channels_last else output

    def _transform(self, images: Tensor, filters: dict[str, Tensor]) -> Tensor:
        """Coefficients ``(B, paths, H', W')`` of padded images ``(B, H, W)``."""
        zeroth = _average(images[:, None], filters["rows_0"], filters["columns_0"])
        first, second = [], []
        spectrum = _spectrum(images)
        for j in range(self.scales):
            moduli = _moduli(spectrum, filters[f"wavelets_{j}"], 2**j)
            first.append(_average(moduli, filters[f"rows_{j}"], filters[f"columns_{j}"]))
            if self.order == 1 or j == self.scales - 1:
                continue
            inner = _spectrum(moduli)
            pairs = []
            for i in range(j + 1, self.scales):
                deeper = _moduli(inner, filters[f"wavelets_{j}_{i}"], 2 ** (i - j))
                pairs.append(_average(deeper, filters[f"rows_{i}"], filters[f"columns_{i}"]))
            second.append(torch.cat(pairs, 2).flatten(1, 2))
        return torch.cat([zeroth, *first, *second], 1)

    def extra_repr(self) -> str:
        numbers = f"scales={self.scales}, angles={self.angles}, order={self.order}"
        return f"{numbers}, bank={self.bank!r}, input_size={self.input_size}"


def _low_frequencies(filters: Tensor, factor: int) -> Tensor:
    """Filters ``(..., H, W)`` for a signal at every ``factor``-th sample: their spectrum up to the new band limit."""
    for axis in (-2, -1):
        n = filters.shape[axis] // factor
        before = filters.narrow(axis, 0, n // 2)
        filters = torch.cat([before, filters.narrow(axis, filters.shape[axis] - n + n // 2, n - n // 2)], axis)
    return filters


def _halves(filters: Tensor, factor: int) -> Tensor:
    r"""Real spectra ``(L, H, W)`` as those of the real and the imaginary part, laid out for :func:`_moduli`.

    :math:`\psi = a + i b` with :math:`\hat a` the even and :math:`i \hat b` the odd part of :math:`\hat\psi`. Each
    number stands twice, for the real and the imaginary part of what it is multiplied with.
    """
    mirrored = filters.flip(-2, -1).roll((1, 1), (-2, -1))
    parts = torch.stack([filters + mirrored, filters - mirrored], 1) / (2 * factor**2)
    parts = torch.cat([parts, parts[..., :1]], -1).repeat_interleave(2, -1)
    return _tiles(parts.unflatten(-1, (-1, 2)), factor)


def _tiles(spectrum: Tensor, factor: int) -> Tensor:
    """The parts of a spectrum that subsampling adds up: ``(..., 2, H, W + 1, 2)`` to ``(factor^2, ..., n)``.

    Of each tile of the spectrum the left half, W / (2 factor) + 1 columns: its right half is the mirror image.
    """
    height, width = spectrum.shape[-3] // factor, (spectrum.shape[-2] - 1) // factor
    tiles: Tensor = spectrum.unflatten(-3, (factor, height)).unfold(-2, width // 2 + 1, width)
    # (..., 2, factor, H / factor, factor, 2, columns)
    tiles = tiles.movedim((-5, -3), (0, 1)).transpose(-1, -2)
    return tiles.flatten(0, 1).flatten(-4)


def _averaging(spectrum: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """A low-pass at every ``step``-th sample, all but the first and last ones, as matrices on both sides.

    Returns:
        ``(T, H', H)`` and ``(T, W', W)``: the average of u is the sum over T of rows @ u @ columns^T. A Gaussian needs
        one term.
    """
    left, values, right = torch.linalg.svd(torch.fft.ifft2(spectrum).real)
    terms = int((values > 1e-6 * values[0]).sum())
    matrices = []
    for vectors in (left.T[:terms], right[:terms]):
        n = vectors.shape[1]
        lag = step * torch.arange(1, n // step - 1)[:, None] - torch.arange(n)
        matrices.append((vectors * values[:terms, None].sqrt())[:, lag % n])
    return matrices[0], matrices[1]


def _spectrum(signal: Tensor) -> Tensor:
    """Spectra of real signals ``(..., H, W)`` and the same times -i, as real numbers ``(..., 2, H, W + 1, 2)``."""
    half = torch.fft.rfft2(signal)
    mirrored = half.flip(-2, -1).roll(1, -2).conj()
    whole = torch.cat([half[..., :-1], mirrored], -1)
    return torch.view_as_real(torch.stack([whole, -1j * whole], -3))


def _moduli(spectrum: Tensor, filters: Tensor, factor: int) -> Tensor:
    """Moduli of filtered signals at every ``factor``-th sample: ``(..., L, H / factor, W / factor)``."""
    height, width = spectrum.shape[-3] // factor, (spectrum.shape[-2] - 1) // factor
    tiles = _tiles(spectrum, factor).unsqueeze(-2)
    folded = tiles[0] * filters[0]
    for tile, response in zip(tiles[1:], filters[1:], strict=True):
        folded.addcmul_(tile, response)
    halves = torch.view_as_complex(folded.unflatten(-1, (2, height, -1, 2)))
    real, imaginary = torch.fft.irfft2(halves, s=(height, width)).unbind(-3)
    # Not below the smallest normal number: the derivative of a root is infinite at 0.
    return torch.addcmul(real * real, imaginary, imaginary).clamp_min(torch.finfo(real.dtype).tiny).sqrt()


def _average(signal: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Averages ``(..., H', W')`` of ``(..., H, W)``, the matrices of :func:`_averaging` on both sides."""
    if len(rows) == 1:
        return rows[0] @ signal @ columns[0].T
    partial: Tensor = (rows.flatten(0, 1) @ signal).unflatten(-2, rows.shape[:2])
    return partial.transpose(-3, -2).flatten(-2) @ columns.transpose(1, 2).flatten(0, 1)
