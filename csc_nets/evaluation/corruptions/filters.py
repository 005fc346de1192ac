"""Filters of batches of images, with the borders of the programs that made the published folders."""

import torch
from torch import Tensor

__all__ = ["blur", "convolve", "gaussian_taps", "pad"]


def gaussian_taps(sigma: float, radius: int) -> Tensor:
    """Weights ``(2 radius + 1,)`` of a Gaussian of deviation ``sigma`` in pixels, with sum 1."""
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    taps = (-(offsets**2) / (2 * sigma**2)).exp() if radius else torch.ones(1, dtype=torch.float64)
    return taps / taps.sum()


def blur(images: Tensor, sigma: float, border: str = "edge", truncate: float = 4.0) -> Tensor:
    """Images ``(..., H, W)`` blurred by a Gaussian.

    Args:
        images: to blur.
        sigma: deviation in pixels.
        border: as in `pad`.
        truncate: where the filter ends, in deviations.
    """
    taps = gaussian_taps(sigma, int(truncate * sigma + 0.5))
    for axis in (-2, -1):
        images = _filter(images, taps, axis, border)
    return images


def _filter(images: Tensor, taps: Tensor, axis: int, border: str) -> Tensor:
    """Images filtered along one axis by an odd number of taps."""
    size, radius = images.shape[axis], len(taps) // 2
    if 4 * len(taps) <= size:
        padded = _continued(images, axis, radius, border)
        total = padded.narrow(axis, 0, size) * taps[0].item()
        for first, tap in enumerate(taps[1:].tolist(), 1):
            total.add_(padded.narrow(axis, first, size), alpha=tap)
        return total
    # One matrix is faster than many taps, and takes a filter that is longer than the image.
    rows = torch.arange(size)[:, None]
    columns = _inside(rows + torch.arange(-radius, radius + 1), size, border)
    matrix = taps.new_zeros(size, size).scatter_add_(1, columns, taps.expand(size, -1)).to(images)
    # A product from the right is one for the whole batch.
    return (images.mT @ matrix.T).mT if axis == -2 else images @ matrix.T


def pad(images: Tensor, reach: int, border: str) -> Tensor:
    """Images ``(..., H, W)`` continued by ``reach`` pixels over each border.

    Args:
        images: to continue.
        reach: pixels.
        border: ``"edge"`` repeats the last pixel (``aaa|abc``), ``"reflect"`` reflects with it (``cba|abc``), and
            ``"mirror"`` without it (``dcb|abcd``).
    """
    for axis in (-2, -1):
        images = _continued(images, axis, reach, border)
    return images


def _continued(images: Tensor, axis: int, reach: int, border: str) -> Tensor:
    size = images.shape[axis]
    return images.index_select(axis, _inside(torch.arange(-reach, size + reach), size, border).to(images.device))


def convolve(padded: Tensor, kernels: Tensor) -> Tensor:
    """Correlates images with kernels where they overlap whole, by Fourier transforms.

    Args:
        padded: ``(N, C, H + h - 1, W + w - 1)``.
        kernels: ``(N, h, w)``, one an image, or ``(1, h, w)``.

    Returns:
        ``(N, C, H, W)``.
    """
    size = [_fast_size(n) for n in padded.shape[-2:]]
    spectrum = torch.fft.rfft2(padded, s=size) * torch.fft.rfft2(kernels, s=size).conj()[:, None]
    height, width = (n - k + 1 for n, k in zip(padded.shape[-2:], kernels.shape[-2:], strict=True))
    return torch.fft.irfft2(spectrum, s=size)[..., :height, :width]


def _inside(index: Tensor, size: int, border: str) -> Tensor:
    """Which pixel of a row of ``size`` stands for one that may lie outside of it."""
    if border == "edge" or size == 1:
        return index.clamp(0, size - 1)
    twice = 1 if border == "reflect" else 0  # whether the last pixel is seen twice
    period = 2 * (size - 1 + twice)
    index = index % period
    return torch.minimum(index, period - twice - index)


def _fast_size(least: int) -> int:
    """The next size without a prime factor above 5, for which Fourier transforms are fast."""
    size = least
    while True:
        rest = size
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return size
        size += 1
