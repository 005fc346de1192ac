"""Compares a learned dictionary with the true one, which made the data."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from csc_nets.functional import unit_norm

__all__ = ["AtomMatch", "atom_match"]


@dataclass(frozen=True)
class AtomMatch:
    """The learned atom that was paired with each of the M true atoms.

    Attributes:
        correlation: absolute inner product of the two unit atoms at their best shift, ``(M,)``; 0 without a partner.
        index: number of the learned atom, ``(M,)``; -1 without a partner.
        shift: position of the learned atom's first sample, relative to the first sample of the true atom, ``(M,
            dims)``.
        sign: 1 or -1, ``(M,)``. The match of a true atom is ``sign * learned[index]``, moved by ``shift``.
    """

    correlation: Tensor
    index: Tensor
    shift: Tensor
    sign: Tensor

    def share(self, threshold: float = 0.99) -> float:
        """Share of the true atoms that were found with at least this correlation."""
        return (self.correlation >= threshold).double().mean().item()


@torch.no_grad()
def atom_match(learned: Tensor, true: Tensor) -> AtomMatch:
    r"""Pairs each true atom with a learned atom. Order, sign and shift of the learned atoms do not matter.

    The correlation of a pair is :math:`\max_\tau |\langle a, T_\tau b \rangle|` over all shifts :math:`\tau`, where the
    atoms are continued by zeros. (Shifts do not matter because a convolutional dictionary with :math:`T_\tau b` in
    place of b makes the same signals.) Pairs are chosen greedily: the largest correlation first, no atom twice. If
    every true atom has a learned copy, this is the best assignment. Otherwise the sum of correlations may be below the
    largest one.

    Args:
        learned: atoms ``(L, C, *K)`` or ``(L, F)``, of any norm and number.
        true: atoms ``(M, C, *K')`` or ``(M, F)``; kernels may differ in size.

    Raises:
        ValueError: channels, features or axes of the two differ, or one has no atoms or atoms that are not finite.

    Example:
        >>> atoms = torch.randn(4, 1, 5, 5)
        >>> match = atom_match(-atoms[[2, 0, 3, 1]], atoms)
        >>> match.index, match.share(0.99)
        (tensor([1, 3, 0, 2]), 1.0)
    """
    if learned.ndim != true.ndim or learned.ndim < 2 or learned.shape[1] != true.shape[1]:
        raise ValueError(
            f"atom_match: learned and true must be atoms (M, F) or (M, C, *K) with the same channels, got "
            f"{tuple(learned.shape)} and {tuple(true.shape)}"
        )
    for name, atoms in (("learned", learned), ("true", true)):
        if len(atoms) == 0 or not bool(atoms.isfinite().all()):
            raise ValueError(
                f"atom_match: {name} must be one atom or more without NaN or infinite values, got "
                f"{int((~atoms.isfinite()).sum())} such values in shape {tuple(atoms.shape)}"
            )
    dims = learned.ndim - 2
    correlations = _correlations(unit_norm(learned), unit_norm(true))  # (M, L, *shifts)
    best, at = correlations.abs().flatten(2).max(2)
    signed = correlations.flatten(2).gather(2, at[..., None])[..., 0]
    offsets = torch.stack(torch.unravel_index(at, correlations.shape[2:]), -1) if dims else at.new_zeros(*at.shape, 0)
    offsets = offsets - (at.new_tensor(learned.shape[2:]) - 1)

    index = torch.full((len(true),), -1, device=at.device)
    rows, columns = torch.unravel_index(best.flatten().argsort(descending=True, stable=True), best.shape)
    free = set(range(len(learned)))
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        if index[row] < 0 and column in free:
            index[row] = column
            free.remove(column)
    found, each, partner = index >= 0, torch.arange(len(true), device=at.device), index.clamp_min(0)
    return AtomMatch(
        best[each, partner] * found,
        index,
        offsets[each, partner] * found[:, None],
        torch.where(signed[each, partner] < 0, -1, 1),
    )


def _correlations(learned: Tensor, true: Tensor) -> Tensor:
    """Inner products ``(M, L, *shifts)``, for shifts from ``1 - K`` to ``K' - 1`` of the learned atom."""
    if learned.ndim == 2:
        return (true @ learned.T)[..., None]
    convolution = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[learned.ndim]
    return convolution(true, learned, padding=tuple(n - 1 for n in learned.shape[2:]))
