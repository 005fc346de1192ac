"""Spatter: drops of water or splashes of mud on the lens."""

import torch
from torch import Tensor
from torch.nn.functional import pad as zero_pad

from csc_nets.evaluation.corruptions.draws import Draws
from csc_nets.evaluation.corruptions.filters import blur, pad
from csc_nets.evaluation.corruptions.registry import register_corruption
from csc_nets.evaluation.corruptions.weather import grey

__all__ = ["canny", "distance", "spatter"]

_WATER = (175 / 255, 238 / 255, 238 / 255)
_MUD = (63 / 255, 42 / 255, 20 / 255)
_FAR = 20  # pixels from an edge, from where on distances are not told apart


@register_corruption(
    {
        32: (
            (0.62, 0.1, 0.7, 0.7, 0.5, False),
            (0.65, 0.1, 0.8, 0.7, 0.5, False),
            (0.65, 0.3, 1, 0.69, 0.5, False),
            (0.65, 0.1, 0.7, 0.69, 0.6, True),
            (0.65, 0.1, 0.5, 0.68, 0.6, True),
        ),
        64: (
            (0.62, 0.1, 0.7, 0.7, 0.6, False),
            (0.65, 0.1, 0.8, 0.7, 0.6, False),
            (0.65, 0.3, 1, 0.69, 0.6, False),
            (0.65, 0.1, 0.7, 0.68, 0.6, True),
            (0.65, 0.1, 0.5, 0.67, 0.6, True),
        ),
        224: (
            (0.65, 0.3, 4, 0.69, 0.6, False),
            (0.65, 0.3, 3, 0.68, 0.6, False),
            (0.65, 0.3, 2, 0.68, 0.5, False),
            (0.65, 0.3, 1, 0.65, 1.5, True),
            (0.67, 0.4, 1, 0.65, 1.5, True),
        ),
    }
)
def spatter(
    images: Tensor, draws: Draws, mean: float, scale: float, sigma: float, least: float, amount: float, mud: bool
) -> Tensor:
    """Drops are where blurred noise is above a threshold.

    Args:
        images: ``(N, C, H, W)``.
        draws: random numbers.
        mean: of the normal noise.
        scale: its deviation.
        sigma: deviation of its blur in pixels.
        least: the threshold.
        amount: of light in water, whose drops are lit from one side; the deviation of a blur of mud in pixels.
        mud: mud covers the image; water adds light to it.
    """
    liquid = blur(mean + scale * draws.normal(1, *images.shape[2:]), sigma)
    if mud:
        cover = blur((liquid > least).to(images), amount)
        cover = torch.where(cover < 0.8, 0, cover)
        return torch.lerp(images, _colour(_MUD, images), cover)
    levels = torch.where(liquid < least, 0, liquid * 255).floor().clamp(0, 255)
    light = levels * _relief(levels)
    light = light / light.amax((1, 2, 3), keepdim=True).clamp(min=1)
    return images + amount * light * _colour(_WATER, images)


def _colour(rgb: tuple[float, float, float], like: Tensor) -> Tensor:
    colour = like.new_tensor(rgb).view(1, 3, 1, 1)
    return colour if like.shape[1] == 3 else grey(colour)


def _relief(levels: Tensor) -> Tensor:
    """Light on the slopes of drops ``(N, 1, H, W)`` in [0, 255]: the distance from edges, with evened counts."""
    depth = _mean3(distance(canny(levels, 50, 150)).clamp(max=_FAR)).floor()
    p = pad(_equalised(depth), 1, "mirror")
    lit = p[..., 1:-1, 1:-1] + p[..., 1:-1, 2:] + p[..., 2:, 1:-1] + 2 * p[..., 2:, 2:]
    lit -= 2 * p[..., :-2, :-2] + p[..., :-2, 1:-1] + p[..., 1:-1, :-2]
    return _mean3(lit.clamp(0, 255)).round()


def _mean3(x: Tensor) -> Tensor:
    p = pad(x, 1, "mirror")
    across = p[..., :-2] + p[..., 1:-1] + p[..., 2:]
    return (across[..., :-2, :] + across[..., 1:-1, :] + across[..., 2:, :]) / 9


def _equalised(depth: Tensor) -> Tensor:
    """Whole numbers 0 to 20 replaced by 255 times the share of pixels up to them; pixels of the lowest do not count."""
    index = depth.long().flatten(1)
    ones = torch.ones_like(depth).flatten(1)
    upto = ones.new_zeros(len(depth), _FAR + 1).scatter_add_(1, index, ones).cumsum(1)
    lowest = upto.where(upto > 0, torch.inf).amin(1, keepdim=True)
    share = (upto - lowest).clamp(min=0) / (upto[:, -1:] - lowest).clamp(min=1)
    return (255 * share).round().gather(1, index).view_as(depth)


def canny(levels: Tensor, low: float, high: float) -> Tensor:
    """Edges ``(N, 1, H, W)`` as booleans, of images in [0, 255].

    J. Canny, *A Computational Approach to Edge Detection*, IEEE PAMI 8 (1986), with the slopes of 3 x 3 Sobel filters
    and the sum of their magnitudes for the strength. An edge is as strong as its neighbours along the slope at least,
    and above ``low``; it is above ``high`` or hangs together with one that is.
    """
    p = pad(levels, 1, "edge")
    across = p[..., 2:] - p[..., :-2]
    down = p[..., 2:, :] - p[..., :-2, :]
    dx = across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]
    dy = down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]
    strength = dx.abs() + dy.abs()
    p = zero_pad(strength, (1, 1, 1, 1))
    height, width = levels.shape[-2:]

    def beside(row: int, column: int) -> Tensor:
        return p[..., 1 + row : 1 + row + height, 1 + column : 1 + column + width]

    tangent = 2**0.5 - 1  # of 22.5 degrees
    flat, steep = dy.abs() < tangent * dx.abs(), dx.abs() < tangent * dy.abs()
    rising = dx * dy < 0
    first = torch.where(rising, beside(-1, 1), beside(-1, -1))
    second = torch.where(rising, beside(1, -1), beside(1, 1))
    top = (strength > first) & (strength > second)
    top = torch.where(flat, (strength > beside(0, -1)) & (strength >= beside(0, 1)), top)
    top = torch.where(steep, (strength > beside(-1, 0)) & (strength >= beside(1, 0)), top)
    weak, edges = top & (strength > low), top & (strength > high)
    while not torch.equal(grown := weak & _spread(edges), edges):
        edges = grown
    return edges


def _spread(edges: Tensor) -> Tensor:
    """What is an edge or beside one, in any of the eight directions."""
    p = zero_pad(edges, (1, 1, 1, 1))
    across = p[..., :-2] | p[..., 1:-1] | p[..., 2:]
    return across[..., :-2, :] | across[..., 1:-1, :] | across[..., 2:, :]


def distance(edges: Tensor) -> Tensor:
    """Euclidean distance in pixels to the nearest edge of ``(N, 1, H, W)``, right up to 20 and larger from there on."""
    far = float(2 * _FAR)
    along = torch.where(edges, 0.0, far)
    for step in (1, 2, 4, 8, 5):  # every number up to 20 is a sum of some of these
        p = zero_pad(along, (step, step), value=far)
        nearer = torch.minimum(p[..., : -2 * step], p[..., 2 * step :])
        along = torch.minimum(along, nearer + step)
    squared, height = along.square(), edges.shape[-2]
    p = zero_pad(squared, (0, 0, _FAR, _FAR), value=far**2)
    for step in range(1, _FAR + 1):
        nearer = torch.minimum(p[..., _FAR - step :, :][..., :height, :], p[..., _FAR + step :, :][..., :height, :])
        squared = torch.minimum(squared, nearer + step**2)
    return squared.sqrt()
