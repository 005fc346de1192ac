"""New starts for atoms that do little: what the dictionary explains worst."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from csc_nets.functional import Cascade, ConvGeometry, unit_norm
from csc_nets.layers import Dictionary2d

__all__ = ["largest_patches", "move", "moves_to_centre", "rarely_used", "redundant", "residual_atoms"]


def rarely_used(mass: Tensor, share: float) -> Tensor:
    """Numbers of the atoms whose part in the code is at most ``share`` of the average atom's.

    Args:
        mass: sum of magnitudes of each atom's coefficients, ``(M,)``.
        share: between 0 (only those that were never used) and 1.
    """
    return (mass <= share * mass.mean()).nonzero()[:, 0]


def redundant(atoms: Tensor, stride: Sequence[int], mass: Tensor, similarity: float) -> Tensor:
    """Numbers of the atoms that another one with a larger part in the code can stand in for.

    Two copies of an atom, one of them moved and cut off, share the coefficients, so that neither is rarely used.

    Args:
        atoms: unit atoms ``(M, C, H, W)``.
        stride: of their code: two atoms are compared at the shifts that a code can make up for.
        mass: as for :func:`rarely_used`.
        similarity: the correlation, in absolute value, above which it can; 1 or more: never.
    """
    if similarity >= 1:  # rounding puts the correlation of copies on either side of 1
        return mass.new_empty(0, dtype=torch.long)
    margin = [s * ((k - 1) // s) for k, s in zip(atoms.shape[2:], stride, strict=True)]
    alike = conv2d(atoms, atoms, stride=tuple(stride), padding=margin).abs().flatten(2).amax(2) > similarity
    order = mass.argsort(descending=True, stable=True)
    rank = torch.empty_like(order).scatter(0, order, torch.arange(len(order), device=order.device))
    return (alike & (rank < rank[:, None])).any(1).nonzero()[:, 0]


def moves_to_centre(atoms: Tensor, stride: Sequence[int]) -> Tensor:
    """How far to move atoms in their windows so that the centre of their energy is nearest to the middle.

    An atom that was found at the edge of its window is cut off there; a code can make up for the move, and the atom can
    grow what it lacks.

    Args:
        atoms: ``(M, C, H, W)``.
        stride: of their code; moves are multiples of it.

    Returns:
        Rows and columns ``(M, 2)``; 0 for an atom that would lose a tenth of its energy.
    """
    energy = atoms.square().sum(1)
    whole = energy.sum((1, 2))
    moves = []
    for axis, step in zip((1, 2), stride, strict=True):
        length = energy.shape[axis]
        places = torch.arange(length, device=atoms.device, dtype=atoms.dtype)
        centre = (energy.sum(3 - axis) * places).sum(1) / whole.clamp_min(torch.finfo(atoms.dtype).tiny)
        moves.append(((length - 1) / 2 - centre).div(step).round().long() * step)
    both = torch.stack(moves, 1)
    kept = move(atoms, both).square().sum((1, 2, 3)) >= 0.9 * whole
    return both * kept[:, None]


def move(atoms: Tensor, moves: Tensor) -> Tensor:
    """Atoms ``(M, C, H, W)`` moved by rows and columns ``(M, 2)``; what comes in from outside the window is zero."""
    for axis in (2, 3):
        length = atoms.shape[axis]
        source = torch.arange(length, device=atoms.device) - moves[:, axis - 2, None]  # (M, length)
        inside = (source >= 0) & (source < length)
        shape = (-1, 1, length, 1) if axis == 2 else (-1, 1, 1, length)
        atoms = atoms.gather(axis, source.clamp(0, length - 1).view(shape).expand_as(atoms)) * inside.view(shape)
    return atoms


def largest_patches(signal: Tensor, geometry: ConvGeometry, count: int) -> Tensor:
    """The patch with most energy in each of the ``count`` signals where it is largest.

    A patch is what an atom lies on at one position of the code; in the padding it is zero.

    Args:
        signal: ``(N, C, *S)``.
        geometry: how atoms are laid over it.
        count: patches; at most one for each signal comes back.

    Returns:
        ``(min(count, N), C, *K)``, the largest energy first.
    """
    ones = signal.new_ones(1, 1, *geometry.kernel_size)
    energy = geometry.analysis(signal.square().sum(1, keepdim=True), ones).flatten(1)
    best, at = energy.max(1)
    chosen = best.argsort(descending=True, stable=True)[:count]
    # A patch is the gradient of a correlation with respect to the atom, for every stride, padding and dilation.
    with torch.enable_grad():
        atoms = signal.new_zeros(len(chosen), signal.shape[1], *geometry.kernel_size, requires_grad=True)
        correlations = geometry.analysis(signal[chosen].detach(), atoms).flatten(2)
        each = torch.arange(len(chosen), device=signal.device)
        (patches,) = torch.autograd.grad(correlations[each, each, at[chosen]].sum(), atoms)
    return patches


@torch.no_grad()
def residual_atoms(dictionaries: Sequence[Dictionary2d], residual: Tensor, layer: int, count: int) -> Tensor:
    r"""Unit atoms for a layer, made from what the whole dictionary leaves unexplained.

    They are :func:`largest_patches` of the residual r as the layer sees it, :math:`D_{i-1}^T \cdots D_1^T r`: as new
    atoms of layer i they correlate most with it.

    Args:
        dictionaries: the one of the image first.
        residual: images less their reconstructions, ``(N, C, H, W)``.
        layer: number of the dictionary, from 0.
        count: atoms wanted; at most one for each image comes back, and none for an image without residual.
    """
    seen = Cascade(dictionaries[:layer]).analysis(residual) if layer else residual
    atoms = unit_norm(largest_patches(seen, dictionaries[layer].geometry, count))
    return atoms[atoms.flatten(1).any(1)]
