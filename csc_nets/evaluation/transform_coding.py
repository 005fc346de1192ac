"""What a code is compared with: block transforms (DCT, principal components) and JPEG on the same images."""

import io
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

from csc_nets.functional.dct import colour_axes, dct_atoms

__all__ = ["BlockTransform", "jpeg", "keep_largest"]


@dataclass(frozen=True)
class BlockTransform:
    """An orthonormal transform of blocks of an image that do not overlap.

    Args:
        basis: ``(C b b, C b b)``, a row a basis image ``(C, b, b)``.
        mean: what is taken from the pixels first, ``(C, b, b)`` or ``(C, 1, 1)``.
        block: side b in pixels. Images that are no multiple of it are continued by their last row and column.
    """

    basis: Tensor
    mean: Tensor
    block: int

    @classmethod
    def dct(cls, train: Tensor, block: int) -> "BlockTransform":
        """The DCT of each block along the principal axes of the colours of training images ``(N, C, H, W)``."""
        mean, axes = colour_axes(train)
        basis = dct_atoms(axes, block).flatten(1)
        return cls(basis, mean.view(-1, 1, 1), block)

    @classmethod
    def principal_components(cls, train: Tensor, block: int) -> "BlockTransform":
        """Principal components of the blocks of training images ``(N, C, H, W)``, with their mean taken away."""
        rows = _blocks(train.double(), block).flatten(0, 2).flatten(1)
        mean = rows.mean(0)
        basis = torch.linalg.eigh((rows - mean).T @ (rows - mean)).eigenvectors.T.flip(0)
        return cls(basis, mean.view(train.shape[1], block, block), block)

    def analysis(self, pixels: Tensor) -> Tensor:
        """Coefficients ``(N, blocks, C b b)``."""
        cut = _blocks(pixels.double(), self.block) - self.mean
        return cut.flatten(3).flatten(1, 2) @ self.basis.T

    def synthesis(self, code: Tensor, size: tuple[int, int]) -> Tensor:
        """Images ``(N, C, *size)`` of coefficients."""
        b = self.block
        rows, columns = (-(-n // b) for n in size)
        cut = (code @ self.basis).unflatten(2, (-1, b, b)) + self.mean
        grid = cut.unflatten(1, (rows, columns)).permute(0, 3, 1, 4, 2, 5)
        whole = grid.reshape(len(code), -1, rows * b, columns * b)
        return whole[..., : size[0], : size[1]]


def keep_largest(code: Tensor, count: int, *, each: bool) -> Tensor:
    """A code with its largest entries alone.

    Args:
        code: ``(N, ...)``.
        count: entries for an image, on average; at least 1.
        each: keep as many of each image; else one threshold serves all images.
    """
    flat = code.flatten(1) if each else code.flatten()[None]
    count = min(count if each else count * len(code), flat.shape[1])
    index = flat.abs().topk(count, dim=1).indices
    return torch.zeros_like(flat).scatter(1, index, flat.gather(1, index)).view(code.shape)


def jpeg(pixels: Tensor, quality: int) -> tuple[Tensor, int]:
    """Images through Pillow's JPEG, and the bits of all of them.

    Args:
        pixels: ``(N, C, H, W)`` in [0, 1].
        quality: Pillow's, from 1 to 95.

    Counted is what stands behind the start of the scan. Headers and tables, about 600 bytes a file, are left out: they
    would weigh most in small images. The tables are those of the file (``optimize=True``).
    """
    back, total = [], 0
    for image in pixels:
        file = io.BytesIO()
        to_pil_image(image.float().clamp(0, 1)).save(file, "JPEG", quality=quality, optimize=True)
        data = file.getvalue()
        total += 8 * (len(data) - data.index(b"\xff\xda"))
        back.append(pil_to_tensor(Image.open(io.BytesIO(data))).double() / 255)
    return torch.stack(back), total


def _blocks(pixels: Tensor, b: int) -> Tensor:
    """``(N, rows, columns, C, b, b)``."""
    more = [-n % b for n in pixels.shape[2:]]
    if any(more):
        pixels = pad(pixels, (0, more[1], 0, more[0]), mode="replicate")
    return pixels.unfold(2, b, b).unfold(3, b, b).permute(0, 2, 3, 1, 4, 5)
