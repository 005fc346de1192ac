"""The sparse coding layer of vectors and tokens."""

from typing import Any, Unpack

import torch
from torch import Tensor

from csc_nets.functional import Problem
from csc_nets.functional.operators.protocol import track
from csc_nets.layers.coder import CodedStep
from csc_nets.layers.coding import CSC
from csc_nets.layers.dictionary import DenseDictionary
from csc_nets.layers.leaf import leaf
from csc_nets.layers.options import CodingOptions

__all__ = ["SparseCoding"]


class SparseCoding(CSC):
    r"""Sparse code of vectors or tokens over a learned matrix of atoms.

    .. math:: z(x) = \arg\min_z \tfrac12 \|x - D z\|^2 + \lambda \|z\|_1, \quad z \ge 0

    Args:
        in_features: length F of a vector.
        atoms: number M of atoms.
        unit_norm: keep the atoms on the unit sphere; False trains plain weights.
        **options: see :class:`~csc_nets.layers.CodingOptions`.

    Shape:
        ``(..., F)`` to ``(..., M)``.
    """

    def __init__(
        self,
        in_features: int,
        atoms: int,
        *,
        unit_norm: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[CodingOptions],
    ) -> None:
        super().__init__(DenseDictionary(in_features, atoms, device, dtype, unit_norm=unit_norm), **options)

    @leaf
    def forward(
        self,
        x: Tensor,
        *,
        lam: float | Tensor | None = None,
        init: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Codes ``(..., M)`` of ``x (..., F)``; keywords as for :class:`CSC2d`, with one axis per axis of ``x``."""
        features = self.dictionary.in_channels
        if x.ndim < 1 or x.shape[-1] != features:
            raise ValueError(f"SparseCoding: expected {features} features (..., {features}), got {tuple(x.shape)}")
        atoms = self.dictionary.out_channels
        rows, lam, mask = self._rows(x, lam, mask)
        init = None if init is None else init.reshape(len(rows), atoms)
        problem = self._problem(track(self.dictionary), rows, lam, mask)
        return self.gradient(self.pursuit, problem, init).view(*x.shape[:-1], atoms)

    def _rows(
        self, x: Tensor, lam: float | Tensor | None, mask: Tensor | None
    ) -> tuple[Tensor, float | Tensor | None, Tensor | None]:
        """Vectors and what belongs to them as one batch ``(N, F)``."""
        rows = x.reshape(-1, x.shape[-1])
        if isinstance(lam, Tensor) and lam.ndim > 1:
            lam = lam.expand(*x.shape[:-1], lam.shape[-1]).reshape(len(rows), lam.shape[-1])
        return rows, lam, None if mask is None else mask.expand(x.shape).reshape(rows.shape)

    def problem(self, x: Tensor, lam: float | Tensor | None = None, mask: Tensor | None = None) -> Problem:
        """The problem that the layer solves for the vectors of ``x``, as one batch ``(N, F)``."""
        return super().problem(*self._rows(x, lam, mask))

    def objective(
        self, x: Tensor, z: Tensor, *, lam: float | Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Objective of a code per vector, ``(...)``."""
        return self.problem(x, lam, mask).objective(z.reshape(-1, z.shape[-1])).view(x.shape[:-1])

    def lam_max(self, x: Tensor) -> Tensor:
        """The smallest sparsity weight per vector at which the code is zero, ``(..., 1)``."""
        return self.problem(x).lam_max().view(*x.shape[:-1], 1)

    def coded(self, x: Tensor, output: Tensor, **arguments: Any) -> list[CodedStep]:
        """See :class:`~csc_nets.layers.coder.Coder`; vectors are one batch ``(N, F)``, whatever their axes."""
        rows, _, mask = self._rows(x, None, arguments.get("mask"))
        return super().coded(rows, output.reshape(len(rows), -1), **{**arguments, "mask": mask})
