"""Masks of pixels, and the plain way to fill what they hide."""

from collections.abc import Callable, Sequence
from contextlib import suppress

import torch
from torch import Tensor
from torch.nn.functional import interpolate

__all__ = ["bayer_masks", "check_mask", "fill_by_interpolation", "random_masks"]


def check_mask(mask: float | str, mask_size: int, *, name: str = "mask", words: Sequence[str] = ()) -> None:
    """Refuses a share outside [0, 1), under the name of its argument, and squares without a side.

    Args:
        mask: share of the pixels, or one of ``words``.
        mask_size: side of a square in pixels.
        name: of the argument.
        words: names of masks that are allowed, too.

    Raises:
        ValueError: says which.
    """
    share = isinstance(mask, int | float) and not isinstance(mask, bool) and 0 <= mask < 1
    if not share and mask not in words:
        allowed = " or ".join(["a share of the pixels in [0, 1)", *map(repr, words)])
        raise ValueError(f"{name} must be {allowed}, got {mask!r}")
    if isinstance(mask_size, bool) or not isinstance(mask_size, int) or mask_size < 1:
        raise ValueError(f"mask_size must be an int >= 1, got {mask_size!r}")


_Draw = Callable[[Callable[..., Tensor], Tensor, torch.Generator | None], Tensor]


def _plain_draw(random: Callable[..., Tensor], like: Tensor, generator: torch.Generator | None) -> Tensor:
    return random(like.shape, generator=generator)


def random_masks(
    images: Tensor,
    share: float,
    size: int = 1,
    generator: torch.Generator | None = None,
    draw: _Draw = _plain_draw,
) -> Tensor:
    """Booleans ``(N, 1, H, W)``, True where a pixel is seen.

    The image is cut into squares, and the same number of them is hidden in each image, at places drawn at random. So
    the share is exact in each image, as far as it is a whole number of squares.

    Args:
        images: ``(N, C, H, W)``.
        share: of the squares that is hidden, in [0, 1).
        size: side of a square in pixels; those at the far borders are cut off.
        generator: of random numbers, on the CPU; None for torch's own.
        draw: makes the random numbers, as :meth:`csc_nets.tasks.Task.draw`, by which an image has the same mask
            whatever the number of processes.
    """
    height, width = images.shape[2:]
    squares = images[:, :1, ::size, ::size]
    places = draw(torch.rand, squares, generator).flatten(1).argsort(1).argsort(1)
    seen = (places >= round(share * places.shape[1])).view(squares.shape).float()
    return interpolate(seen, scale_factor=size)[..., :height, :width].bool().to(images.device)


def bayer_masks(images: Tensor) -> Tensor:
    """What a camera with a Bayer filter sees of colour images ``(N, 3, H, W)``: booleans of the same shape.

    Red and green alternate in even rows, green and blue in odd ones (Bayer, US patent 3,971,065).

    Raises:
        ValueError: images of another number of channels.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"a Bayer mosaic is of colour images (N, 3, H, W), got {tuple(images.shape)}")
    seen = torch.zeros(images.shape, dtype=torch.bool, device=images.device)
    seen[:, 0, ::2, ::2] = True
    seen[:, 1, ::2, 1::2] = True
    seen[:, 1, 1::2, ::2] = True
    seen[:, 2, 1::2, 1::2] = True
    return seen


def fill_by_interpolation(images: Tensor, seen: Tensor) -> Tensor:
    """Missing pixels by linear interpolation over the triangles of seen ones; outside of them the nearest one.

    ``scipy.interpolate.griddata``, each image by itself.

    Args:
        images: ``(N, C, H, W)``; what is missing is not read.
        seen: ``(N, 1, H, W)``. Seen pixels on one line make no triangle: the nearest one is taken everywhere.

    Raises:
        ValueError: an image without a seen pixel.
    """
    from scipy.interpolate import griddata  # here, because few need it
    from scipy.spatial import QhullError

    if not bool(seen.flatten(1).any(1).all()):
        raise ValueError("fill_by_interpolation: an image has no seen pixel")

    filled = images.cpu().clone()
    for image, known in zip(filled, seen[:, 0].cpu(), strict=True):
        places, wanted = known.nonzero().numpy(), (~known).nonzero().numpy()
        values = image[:, known].T.numpy()
        if not len(wanted):
            continue
        filling = torch.from_numpy(griddata(places, values, wanted, "nearest"))
        with suppress(QhullError):
            linear = torch.from_numpy(griddata(places, values, wanted, "linear"))
            filling = torch.where(linear.isnan(), filling, linear)
        image[:, ~known] = filling.T.to(image.dtype)
    return filled.to(images.device)
