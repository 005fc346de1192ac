"""Digital corruptions: warped, in large pixels, or compressed."""

import torch
from torch import Tensor
from torch.nn.functional import grid_sample
from torchvision.io import decode_jpeg, encode_jpeg

from csc_nets.evaluation.corruptions.draws import Draws
from csc_nets.evaluation.corruptions.filters import blur
from csc_nets.evaluation.corruptions.registry import register_corruption

__all__ = ["elastic_transform", "jpeg_compression", "pixelate"]


@register_corruption(
    {
        32: ((0, 0, 2.56), (1.6, 6.4, 2.24), (2.56, 1.92, 1.92), (3.2, 1.28, 1.6), (3.2, 0.96, 0.96)),
        64: ((0, 0, 5.12), (3.2, 19.2, 3.84), (6.4, 5.12, 3.84), (6.4, 1.92, 1.92), (10.24, 1.92, 1.28)),
        # Parts of 244 pixels; 224 were meant.
        224: ((488, 170.8, 24.4), (488, 19.52, 48.8), (12.2, 2.44, 4.88), (17.08, 2.44, 4.88), (29.28, 2.44, 4.88)),
    }
)
def elastic_transform(images: Tensor, draws: Draws, length: float, sigma: float, corner: float) -> Tensor:
    """Moves three corners of a square in the middle, with all between them, and then every pixel by itself.

    Args:
        images: ``(N, C, H, W)``.
        draws: random numbers.
        length: the displacement of a pixel is this, in pixels, times uniform noise in [-1, 1] that was blurred.
        sigma: deviation of that blur in pixels.
        corner: a corner moves by up to so many pixels along each axis.
    """
    height, width = images.shape[-2:]
    half = min(height, width) // 3
    middle = images.new_tensor([width // 2, height // 2])
    corners = middle + half * images.new_tensor([[1, 1], [1, -1], [-1, -1]])  # (3, 2), of x and y
    moved = corners + draws.uniform(3, 2, low=-corner, high=corner)
    ones = torch.ones_like(moved[..., :1])
    back = torch.linalg.solve(torch.cat([moved, ones], -1).double(), corners.double()).to(images)  # (N, 3, 2)
    y, x = torch.meshgrid(*(torch.arange(n).to(images) for n in (height, width)), indexing="ij")
    by_x, by_y, fixed = back[:, None, None].unbind(3)  # (N, 1, 1, 2)
    places = x[..., None] * by_x + y[..., None] * by_y + fixed
    edges = images.new_tensor([max(width - 1, 1), max(height - 1, 1)])  # reflected without the last pixel
    turned = grid_sample(images, 2 * places / edges - 1, padding_mode="reflection", align_corners=True)

    shift = length * blur(draws.uniform(2, height, width, low=-1, high=1), sigma, "reflect", truncate=3)
    places = torch.stack([x, y], -1) + shift.movedim(1, -1)
    sides = images.new_tensor([width, height])  # reflected with it
    return grid_sample(turned, (2 * places + 1) / sides - 1, padding_mode="reflection", align_corners=False)


@register_corruption(
    {32: (0.95, 0.9, 0.85, 0.75, 0.65), 64: (0.9, 0.8, 0.7, 0.6, 0.5), 224: (0.6, 0.5, 0.4, 0.3, 0.25)}
)
def pixelate(images: Tensor, draws: Draws, share: float) -> Tensor:
    """Each side has ``int(share side)`` pixels, means of those that they stand for."""
    for axis in (2, 3):
        images = _in_cells(images, axis, max(int(images.shape[axis] * share), 1))
    return images


def _in_cells(images: Tensor, axis: int, count: int) -> Tensor:
    """Images whose pixels along an axis are means over ``count`` cells.

    A pixel belongs to the cell in which its middle lies, to the lower one on the border of two. Afterwards it shows the
    cell at its middle, the upper one on a border, as in Pillow.
    """
    size = images.shape[axis]
    middle = 2 * torch.arange(size, device=images.device) + 1  # in half pixels, so that all numbers are whole
    cell, shown = (middle * count - 1) // (2 * size), middle * count // (2 * size)
    shape = [n if i != axis else count for i, n in enumerate(images.shape)]
    sums = images.new_zeros(shape).index_add_(axis, cell, images)
    pixels = torch.bincount(cell, minlength=count).view(-1, *(1,) * (images.ndim - 1 - axis))
    return (sums / pixels).index_select(axis, shown)


@register_corruption({32: (80, 65, 58, 50, 40), 64: (65, 58, 50, 40, 25), 224: (25, 18, 15, 10, 7)})
def jpeg_compression(images: Tensor, draws: Draws, quality: int) -> Tensor:
    """JPEG of a quality from 1 to 100. Images are rounded to 8 bits, coded on the CPU and read again."""
    coded = images.mul(255).round().to(torch.uint8).cpu()
    back = torch.stack([decode_jpeg(encode_jpeg(image, quality)) for image in coded])
    return back.to(images.device) / 255.0
