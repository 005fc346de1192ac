"""From stored pixels to what a network reads: random crop, mirror, normalisation and cutout, a whole batch at a time.

Nothing here draws random numbers. Each image comes with a row of `DRAWS` uniform numbers in [0, 1), which makes a batch
a pure function of its images and its rows, the same on every device.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

DRAWS = 5
"""Uniform numbers an image needs: crop top, crop left, mirror, cutout row, cutout column."""

MIRROR = 2
"""Which of them decides whether an image is mirrored: one below one half."""

PADDING_MODES = ("zeros", "reflect")


def crop_and_flip(images: Tensor, top: Tensor, left: Tensor, mirror: Tensor, padding: int, mode: str) -> Tensor:
    """Crop each image out of its padded self at its own place, then mirror the chosen ones left to right.

    Args:
        images: Pixels ``(N, C, H, W)`` of any dtype.
        top: First row of each crop in the padded image, int64 ``(N,)`` in ``[0, 2 * padding]``.
        left: First column of each crop in the padded image, int64 ``(N,)`` in ``[0, 2 * padding]``.
        mirror: Which crops to mirror, bool ``(N,)``.
        padding: Pixels added on each side; below ``min(H, W)`` where ``mode`` is ``"reflect"``.
        mode: ``"zeros"`` (black) or ``"reflect"`` (mirrored without repeating the border pixel).

    Returns:
        Pixels ``(N, C, H, W)`` of the same dtype.
    """
    n, channels, height, width = images.shape
    rows = torch.arange(height, device=images.device) + top[:, None] - padding
    columns = torch.arange(width, device=images.device) + left[:, None] - padding
    columns = torch.where(mirror[:, None], columns.flip(1), columns)
    if mode == "reflect":
        source_rows, source_columns = _reflect(rows, height), _reflect(columns, width)
    else:
        source_rows, source_columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    # One gather from the unpadded pixels does the padding, the crop and the mirror: no padded copy is made.
    index = (source_rows[:, :, None] * width + source_columns[:, None, :]).view(n, 1, height * width)
    picked = images.flatten(2).gather(2, index.expand(n, channels, height * width)).view(images.shape)
    if mode == "reflect":
        return picked
    return picked * _rectangle(rows == source_rows, columns == source_columns, images.dtype)


def cutout(images: Tensor, row: Tensor, column: Tensor, size: int) -> Tensor:
    """Put zeros into one square per image, centred anywhere in it, so that the square may reach over the border.

    Source: DeVries and Taylor, *Improved Regularization of Convolutional Neural Networks with Cutout* (2017),
    section 3; applied after normalisation, where zero is the mean colour.

    Args:
        images: Normalised images ``(N, C, H, W)``.
        row: Centre row of each square, int64 ``(N,)`` in ``[0, H)``.
        column: Centre column of each square, int64 ``(N,)`` in ``[0, W)``.
        size: Side of the square in pixels; its first row is ``row - size // 2``.

    Returns:
        Images ``(N, C, H, W)``.
    """
    height, width = images.shape[2:]
    down = torch.arange(height, device=images.device) - (row[:, None] - size // 2)
    across = torch.arange(width, device=images.device) - (column[:, None] - size // 2)
    hit = _rectangle((down >= 0) & (down < size), (across >= 0) & (across < size), images.dtype)
    return images * (1 - hit)


class Preprocess(nn.Module):
    """Random crop, mirror, normalisation, cutout and memory format of one split.

    Args:
        mean: Mean of each channel, on the scale where white is 1.
        std: Standard deviation of each channel on that scale.
        white: Stored value of white: 255 for uint8 images, 1 for float images.
        crop_padding: Pixels of padding around the image that the random crop is taken from; 0 for no crop.
        padding_mode: ``"zeros"`` or ``"reflect"``.
        flip: Whether an image is mirrored left to right with probability one half.
        cutout: Side in pixels of the square that is put to zero; 0 for none.
        channels_last: Whether the result is stored in ``torch.channels_last``.

    Shape:
        - Input: stored pixels ``(N, C, H, W)``; ``draws`` float ``(N, DRAWS)``, uniform in [0, 1).
        - Output: float32 ``(N, C, H, W)``.
    """

    gain: Tensor
    offset: Tensor

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        white: float = 255.0,
        crop_padding: int = 0,
        padding_mode: str = "zeros",
        flip: bool = False,
        cutout: int = 0,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        m, s = torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)
        self.register_buffer("gain", (1 / (s * white)).float().view(1, -1, 1, 1))
        self.register_buffer("offset", (m / s).float().view(1, -1, 1, 1))
        self.crop_padding, self.padding_mode = crop_padding, padding_mode
        self.flip, self.cutout = flip, cutout
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format

    def forward(self, images: Tensor, draws: Tensor) -> Tensor:
        if self.crop_padding or self.flip:
            places = 2 * self.crop_padding + 1
            top, left = _whole(draws[:, 0], places), _whole(draws[:, 1], places)
            mirror = (draws[:, MIRROR] < 0.5) & self.flip
            images = crop_and_flip(images, top, left, mirror, self.crop_padding, self.padding_mode)
        images = images.to(torch.float32, copy=True).mul_(self.gain).sub_(self.offset)
        if self.cutout:
            row, column = _whole(draws[:, 3], images.shape[2]), _whole(draws[:, 4], images.shape[3])
            images = cutout(images, row, column, self.cutout)
        return images.contiguous(memory_format=self.memory_format)


def _rectangle(rows: Tensor, columns: Tensor, dtype: torch.dtype) -> Tensor:
    # A product in the type of the images is several times faster than bool masks on the CPU.
    return (rows.to(dtype)[:, :, None] * columns.to(dtype)[:, None, :])[:, None]


def _whole(uniform: Tensor, count: int) -> Tensor:
    # A float32 just below 1 times `count` may round up to `count` itself.
    return (uniform * count).long().clamp(max=count - 1)


def _reflect(position: Tensor, size: int) -> Tensor:
    return (size - 1) - ((size - 1) - position.abs()).abs()
