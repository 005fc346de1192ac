"""Bits of a quantised code when each atom has a distribution of its own, learnt from other images."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["AtomCoder"]

_HALF, _WEIGHT = 0.05, 2.0  # counts added to those of an atom: of non-zeros, and of the mean magnitude of all atoms


@dataclass(frozen=True)
class AtomCoder:
    r"""An ideal arithmetic coder of indices with a fixed table: a geometric distribution of magnitudes an atom.

    .. math:: P(q = 0) = 1 - p_j, \qquad P(q) = p_j \, \tfrac12 (1 - r_j) \, r_j^{|q| - 1}

    for the entries of atom j, independent of each other. The table is fitted to training images, so both sides know it;
    bits are :math:`-\log_2 P` (Cover and Thomas, "Elements of Information Theory", section 13.3). Each set of atoms
    has a table, and all positions of an atom share their entry.

    Args:
        tables: p and r of the atoms ``(M_i,)`` of each set.
    """

    tables: list[tuple[Tensor, Tensor]]

    @classmethod
    def fit(cls, indices: Sequence[Tensor]) -> "AtomCoder":
        """The table of indices ``(N, M_i, H_i, W_i)`` of each set of atoms."""
        tables = []
        for q in indices:
            q = q.abs().transpose(0, 1).flatten(1).double()
            used, total = (q > 0).double().sum(1), q.sum(1)
            mean = (total.sum() - used.sum()) / total.sum().clamp_min(1)
            tables.append(
                ((used + _HALF) / (q.shape[1] + 1), (total - used + _WEIGHT * mean) / (total + _WEIGHT).clamp_min(1e-9))
            )
        return cls(tables)

    def bits(self, indices: Sequence[Tensor]) -> float:
        """Bits of all indices together."""
        total = 0.0
        for q, (p, r) in zip(indices, self.tables, strict=True):
            q = q.abs().transpose(0, 1).flatten(1).double()
            p, r = p[:, None], r[:, None].clamp_min(1e-12)
            some = p.log2() - 1 + (1 - r).log2() + (q - 1) * r.log2()
            total -= float(torch.where(q > 0, some, (1 - p).log2()).sum())
        return total

    def prices(self) -> list[Tensor]:
        """Expected bits of a non-zero beyond those of a zero, ``(M_i,)`` of each set.

        A code that minimises error plus bits has weights in proportion to these.
        """
        found = []
        for p, r in self.tables:
            r = r.clamp_min(1e-12)
            found.append((1 - p).log2() - p.log2() + 1 - (1 - r).log2() - r / (1 - r) * r.log2())
        return found
