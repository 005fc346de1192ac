"""Blur: of a lens, of glass, of motion."""

import math

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from csc_nets.evaluation.corruptions.draws import Draws
from csc_nets.evaluation.corruptions.filters import blur, convolve, gaussian_taps, pad
from csc_nets.evaluation.corruptions.registry import register_corruption

__all__ = ["defocus_blur", "disk", "gaussian_blur", "glass_blur", "motion_blur", "streak", "zoom", "zoom_blur"]


@register_corruption(
    {32: (0.4, 0.6, 0.7, 0.8, 1), 64: (0.5, 0.75, 1, 1.25, 1.5), 224: (1, 2, 3, 4, 6)},
)
def gaussian_blur(images: Tensor, draws: Draws, sigma: float) -> Tensor:
    """A Gaussian of deviation ``sigma`` pixels."""
    return blur(images, sigma)


@register_corruption(
    {
        32: ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        64: ((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)),
        224: ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    }
)
def defocus_blur(images: Tensor, draws: Draws, radius: float, sigma: float) -> Tensor:
    """The `disk` of a lens out of focus."""
    kernel = disk(radius, sigma).to(images)
    reach = kernel.shape[-1] // 2
    return convolve(pad(images, reach, "mirror"), kernel[None])


def disk(radius: float, sigma: float) -> Tensor:
    """A disk ``(k, k)`` of sum 1, smoothed by a Gaussian of 3 x 3 pixels (5 x 5 where ``radius > 8``).

    The published program smooths it in an array that ends where the disk does. Some of its kernels have a sum near 1
    therefore, and change the brightness a little. Here the array is larger.
    """
    smooth = 1 if radius <= 8 else 2
    reach = math.floor(radius) + smooth
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float64) ** 2
    flat = (offsets[:, None] + offsets <= radius**2).double()
    taps = gaussian_taps(sigma, smooth)
    matrix = torch.zeros_like(flat)
    for offset, tap in enumerate(taps, -smooth):
        matrix += torch.diag(tap.expand(len(flat) - abs(offset)), offset)
    return matrix @ (flat / flat.sum()) @ matrix


@register_corruption(
    {
        32: ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        64: ((0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)),
        224: ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    }
)
def glass_blur(images: Tensor, draws: Draws, sigma: float, reach: int, rounds: int) -> Tensor:
    """Blurs, lets pixels wander through their neighbourhood, and blurs again.

    The published program means to swap two neighbours. It overwrites one by the other, since its second assignment
    reads what the first has written. The published images are made so, and these are, too.
    """
    moved = blur(images, sigma).flatten(2)
    for _ in range(rounds):
        moved = moved.gather(2, _wander(draws, images.shape[-2:], reach)[:, None].expand_as(moved))
    return blur(moved.view_as(images), sigma)


def _wander(draws: Draws, size: torch.Size, reach: int) -> Tensor:
    """Where each pixel ``(N, H W)`` comes from after each was overwritten by a neighbour, from the last to the first.

    A pixel whose neighbour was visited before gets what the neighbour has by then, which may come from further on.
    These chains are followed for all pixels at once, in steps that double.
    """
    height, width = size
    offsets = draws.uniform(2, height, width, low=-reach, high=reach).floor_().clamp_(max=reach - 1).long()
    place = torch.arange(height * width, device=offsets.device).view(height, width)
    visited = torch.zeros_like(place)
    visited[reach + 1 : height - reach + 1, reach + 1 : width - reach + 1] = 1
    target = (place + visited * (width * offsets[:, 0] + offsets[:, 1])).flatten(1)
    chain = torch.maximum(target, place.flatten())  # a neighbour further on was visited before, or keeps what it has
    while not torch.equal(further := chain.gather(1, chain), chain):
        chain = further
    return target.gather(1, chain)


@register_corruption(
    {
        32: ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        64: ((10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)),
        224: ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    }
)
def motion_blur(images: Tensor, draws: Draws, radius: int, sigma: float) -> Tensor:
    """A `streak` in a direction of -45 to 45 degrees from the horizontal."""
    return streak(images, draws.uniform(low=-45, high=45), radius, sigma)


def streak(images: Tensor, degrees: Tensor, radius: int, sigma: float) -> Tensor:
    """Blurs along a line that starts at each pixel.

    Args:
        images: ``(N, C, H, W)``.
        degrees: direction of the line in each image ``(N,)``.
        radius: half the length of the line, in pixels.
        sigma: deviation of the weights, which fall as a Gaussian does from its middle.
    """
    reach = 2 * radius
    weights = gaussian_taps(sigma, reach)[reach:]
    radians = degrees.double().deg2rad()[:, None]
    along = torch.arange(reach + 1, device=images.device)
    rows, columns = ((along * part - 0.5).ceil().long() + reach for part in (radians.sin(), radians.cos()))
    side = 2 * reach + 1
    shares = (weights / weights.sum()).to(images).expand(rows.shape)
    kernels = images.new_zeros(len(images), side * side).scatter_add_(1, rows * side + columns, shares)
    return convolve(pad(images, reach, "edge"), kernels.view(-1, side, side))


@register_corruption(
    {
        32: ((7, 0.01), (12, 0.01), (16, 0.01), (21, 0.01), (26, 0.01)),
        64: ((7, 0.01), (12, 0.01), (16, 0.01), (21, 0.01), (26, 0.01)),
        224: ((12, 0.01), (16, 0.01), (11, 0.02), (13, 0.02), (11, 0.03)),
    }
)
def zoom_blur(images: Tensor, draws: Draws, count: int, step: float) -> Tensor:
    """The mean of the image and of its enlargements by 1, ``1 + step``, and so on, ``count`` of them."""
    total = images.clone()
    for index in range(count):
        total += zoom(images, 1 + index * step)
    return total.div_(count + 1)


def zoom(images: Tensor, factor: float) -> Tensor:
    """The middle of images ``(N, C, H, W)``, enlarged to their size by linear interpolation."""
    size = images.shape[-2:]
    inner = [math.ceil(n / factor) for n in size]
    top, left = ((n - part) // 2 for n, part in zip(size, inner, strict=True))
    middle = images[..., top : top + inner[0], left : left + inner[1]]
    large = interpolate(middle, [round(part * factor) for part in inner], mode="bilinear", align_corners=True)
    top, left = ((n - part) // 2 for n, part in zip(large.shape[-2:], size, strict=True))
    return large[..., top : top + size[0], left : left + size[1]]
