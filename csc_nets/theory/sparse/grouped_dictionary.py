"""A dictionary whose atoms may lie in groups of channels, as the filters of a grouped convolution do."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from csc_nets.functional import ConvGeometry

__all__ = ["GroupedDictionary"]


@dataclass(frozen=True)
class GroupedDictionary:
    """Atoms and their positions over a signal.

    Attributes:
        weight: atoms ``(M, C / groups, *K)``, or ``(M, F)`` for a matrix.
        geometry: kernel size, stride, padding and dilation of the atoms.
        groups: number of groups of channels; each group has ``M / groups`` atoms.
    """

    weight: Tensor
    geometry: ConvGeometry
    groups: int = 1

    @property
    def per_group(self) -> tuple[Tensor, ...]:
        """The atoms of each group. Atoms of different groups have no channel in common."""
        return self.weight.chunk(self.groups)

    def synthesis(self, z: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """The signal ``(N, C, *S)`` of a code ``(N, M, *S')``. For a matrix: ``(N, F)`` of ``(N, M)``."""
        if not self.geometry.dims:
            return z @ self.weight
        parts = zip(z.chunk(self.groups, 1), self.per_group, strict=True)
        return torch.cat([self.geometry.synthesis(part, atoms, output_size) for part, atoms in parts], 1)
