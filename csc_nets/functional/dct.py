"""The discrete cosine transform as a matrix and as atoms, and the principal axes of colours."""

import math

import torch
from torch import Tensor

__all__ = ["colour_axes", "dct_atoms", "dct_matrix"]


def dct_matrix(size: int) -> Tensor:
    r"""Orthonormal DCT-II ``(size, size)``, a row a frequency: :math:`c_k \cos(\pi (n + 1/2) k / N)`; float64.

    Ahmed, Natarajan, Rao, "Discrete Cosine Transform", 1974; :math:`c_0 = \sqrt{1/N}`, others :math:`\sqrt{2/N}`.
    """
    n = torch.arange(size, dtype=torch.float64)
    basis = torch.cos(math.pi / size * (n + 0.5) * n[:, None]) * math.sqrt(2 / size)
    basis[0] /= math.sqrt(2)
    return basis


def dct_atoms(axes: Tensor, size: int, frequencies: int | None = None) -> Tensor:
    """Products of two cosines and a colour, ``(F F C, C, size, size)``, orthonormal; float64.

    The first f f C of them are those of the f lowest frequencies of each axis.

    Args:
        axes: orthonormal colours ``(C, C)``, a row a colour.
        size: side in pixels.
        frequencies: the F lowest of each axis; None for all, which is a basis.
    """
    rows = dct_matrix(size)[:frequencies]
    atoms = torch.einsum("ai,bj,ck->abckij", rows, rows, axes.double()).flatten(0, 1)
    number = torch.arange(len(rows))
    order = torch.maximum(number[:, None], number).flatten().argsort(stable=True)
    return atoms[order].reshape(-1, axes.shape[1], size, size)


def colour_axes(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean ``(C,)`` and principal axes ``(C, C)``, a row an axis, of the colours of images ``(N, C, H, W)``."""
    colours = images.double().transpose(0, 1).flatten(1)
    mean = colours.mean(1)
    centred = colours - mean[:, None]
    return mean, torch.linalg.eigh(centred @ centred.T).eigenvectors.T.flip(0)
