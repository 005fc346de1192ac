"""A dictionary whose atoms may lie in groups of channels, as the filters of a grouped convolution do."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from csc_nets.functional import ConvGeometry

__all__ = ["GroupedDictionary"]


@dataclass(frozen=True)
class GroupedDictionary:
    """Atoms ``(M, C / groups, *K)`` or ``(M, F)`` and how they lie over a signal."""

    weight: Tensor
    geometry: ConvGeometry
    groups: int = 1

    @property
    def per_group(self) -> tuple[Tensor, ...]:
        """The atoms of each group; those of different groups share no channel."""
        return self.weight.chunk(self.groups)

    def synthesis(self, z: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """The signal of a code; ``(N, F)`` of ``(N, M)`` for a matrix."""
        if not self.geometry.dims:
            return z @ self.weight
        parts = zip(z.chunk(self.groups, 1), self.per_group, strict=True)
        return torch.cat([self.geometry.synthesis(part, atoms, output_size) for part, atoms in parts], 1)
