"""Weather: snow, frost and fog."""

import torch
from torch import Tensor

from csc_nets.evaluation.corruptions.blur import streak, zoom
from csc_nets.evaluation.corruptions.draws import Draws
from csc_nets.evaluation.corruptions.registry import register_corruption

__all__ = ["fog", "grey", "plasma", "snow"]


def grey(images: Tensor) -> Tensor:
    """Luma ``(N, 1, H, W)`` of ITU-R BT.601; grey images as they are."""
    if images.shape[1] == 1:
        return images
    weights = images.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    return (images * weights).sum(1, keepdim=True)


@register_corruption(
    {
        32: (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
        64: (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.8),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.8),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.7),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.65),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.6),
        ),
        224: (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
    }
)
def snow(
    images: Tensor,
    draws: Draws,
    mean: float,
    scale: float,
    factor: float,
    least: float,
    radius: int,
    sigma: float,
    share: float,
) -> Tensor:
    """Flakes that fall, and a scene that has turned pale.

    Args:
        images: ``(N, C, H, W)``.
        draws: random numbers.
        mean: of the normal noise that the flakes are cut from.
        scale: its deviation.
        factor: its enlargement, which makes the flakes larger.
        least: a flake is where the noise is above.
        radius: half the length of their `streak`, in a direction of 45 to 135 degrees from the horizontal.
        sigma: deviation of its weights.
        share: of the image; the rest is an image that is grey and at least half white.
    """
    flakes = zoom(mean + scale * draws.normal(1, *images.shape[2:]), factor)
    flakes = torch.where(flakes < least, 0, flakes).clamp(0, 1)
    flakes = streak(flakes, draws.uniform(low=-135, high=-45), radius, sigma)
    pale = torch.maximum(images, 1.5 * grey(images) + 0.5)
    return torch.lerp(pale, images, share) + flakes + flakes.flip(-2, -1)


@register_corruption(
    {
        32: ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        64: ((0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75)),
        224: ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    }
)
def fog(images: Tensor, draws: Draws, density: float, decay: float) -> Tensor:
    """Adds ``density`` times a `plasma`, scaled so that the brightest value is the brightest that may come out."""
    brightest = images.amax((1, 2, 3), keepdim=True)
    clouds = plasma(draws, max(images.shape[2:]), decay)[:, None, : images.shape[2], : images.shape[3]]
    return (images + density * clouds) * (brightest / (brightest + density))


def plasma(draws: Draws, size: int, decay: float) -> Tensor:
    """Clouds ``(N, S, S)`` from 0 to 1 by the diamond-square algorithm; S is ``size`` or the next power of two.

    A. Fournier, D. Fussell and L. Carpenter, *Computer Rendering of Stochastic Models*, Communications of the ACM 25
    (1982), on a torus. The middle of each square of four known points is their mean plus noise, and so is the middle of
    each diamond of four. The grid is then twice as fine, and the noise ``decay`` squared times weaker.
    """
    grid, noise = draws.uniform(1, 1).zero_(), 1.0
    while grid.shape[-1] < size:
        cells = grid.shape[-1]
        middle, above, left = (noise * draws.uniform(3, cells, cells, low=-1)).unbind(1)
        right, below = grid.roll(-1, -1), grid.roll(-1, -2)
        middle += (grid + right + below + below.roll(-1, -1)) / 4
        above += (grid + right + middle + middle.roll(1, -2)) / 4
        left += (grid + below + middle + middle.roll(1, -1)) / 4
        fine = grid.new_empty(len(grid), 2 * cells, 2 * cells)
        fine[:, ::2, ::2], fine[:, ::2, 1::2], fine[:, 1::2, ::2], fine[:, 1::2, 1::2] = grid, above, left, middle
        grid, noise = fine, noise / decay**2
    low, high = grid.amin((1, 2), keepdim=True), grid.amax((1, 2), keepdim=True)
    return (grid - low) / (high - low).clamp(min=torch.finfo(grid.dtype).tiny)
