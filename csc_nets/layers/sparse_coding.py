"""The sparse coding layer of vectors and tokens."""

from collections.abc import Sequence
from typing import Any, Unpack

import torch
from torch import Tensor

from csc_nets.functional import Problem
from csc_nets.functional.inputs import Inputs, broadcasts, check_inputs, check_like
from csc_nets.functional.operators.protocol import read, track
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

    Example:
        >>> layer = SparseCoding(8, 16, lam=0.1)
        >>> z = layer(torch.randn(4, 8))
        >>> z.shape, layer.synthesize(z).shape
        (torch.Size([4, 16]), torch.Size([4, 8]))
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

    @property
    def in_features(self) -> int:
        """Length F of a vector."""
        return self.dictionary.in_channels  # type: ignore[no-any-return]

    @property
    def out_features(self) -> int:
        """Number M of atoms."""
        return self.dictionary.out_channels  # type: ignore[no-any-return]

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
        operator = track(self.dictionary)
        given, axes = self._rows(operator, x, lam, init, mask)
        return self._solve(operator, given).view(*axes, self.dictionary.out_channels)

    def _rows(
        self,
        operator: Any,
        x: Tensor,
        lam: float | Tensor | None = None,
        init: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Inputs, tuple[int, ...]]:
        """Vectors and what belongs to them as one batch ``(N, F)``, and the axes that they came with."""
        name, (atoms, features) = self._get_name(), operator.weight.shape
        if not isinstance(x, Tensor) or x.ndim < 1 or x.shape[-1] != features:
            seen = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"{name}: expected {features} features (..., {features}), got {seen}")
        axes = tuple(x.shape[:-1])
        rows = x.reshape(-1, features)
        if isinstance(lam, Tensor) and lam.ndim > 1:
            if not broadcasts(lam.shape, (*axes, atoms)):
                raise ValueError(
                    f"{name}: lam must be a number, one per atom ({atoms},), or broadcast against the code "
                    f"{(*axes, atoms)}, got shape {tuple(lam.shape)}"
                )
            lam = lam.expand(*axes, lam.shape[-1]).reshape(rows.shape[0], lam.shape[-1])
        if isinstance(init, Tensor):
            if tuple(init.shape) != (*axes, atoms):
                raise ValueError(f"{name}: init must be {(*axes, atoms)}, got {tuple(init.shape)}")
            init = init.reshape(rows.shape[0], atoms)
        if isinstance(mask, Tensor):
            if not broadcasts(mask.shape, x.shape):
                raise ValueError(
                    f"{name}: mask must broadcast against the signal {tuple(x.shape)}, got shape {tuple(mask.shape)}"
                )
            mask = mask.expand(x.shape).reshape(rows.shape)
        return check_inputs(name, operator, rows, lam, init, mask), axes

    def problem(self, x: Tensor, lam: float | Tensor | None = None, mask: Tensor | None = None) -> Problem:
        """The problem that the layer solves for the vectors of ``x``, as one batch ``(N, F)``."""
        operator = read(self.dictionary)
        return self._problem(operator, self._rows(operator, x, lam, mask=mask)[0])

    def synthesize(self, z: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """The vectors ``(..., F)`` of codes ``(..., M)``. ``output_size`` is ignored."""
        atoms = self.dictionary.out_channels
        if not isinstance(z, Tensor) or z.ndim < 1 or z.shape[-1] != atoms:
            seen = tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__
            raise ValueError(f"{self._get_name()}: expected codes (..., {atoms}), got {seen}")
        check_like(self._get_name(), "z", z, self._like())
        return self.dictionary.synthesis(z)  # type: ignore[no-any-return]

    def objective(
        self, x: Tensor, z: Tensor, *, lam: float | Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Objective of a code per vector, ``(...)``."""
        operator = read(self.dictionary)
        given, axes = self._rows(operator, x, lam, z, mask)
        assert given.init is not None
        return self._problem(operator, given).objective(given.init).view(axes)

    def lam_max(self, x: Tensor) -> Tensor:
        """The smallest sparsity weight per vector at which the code is zero, ``(..., 1)``."""
        return self.problem(x).lam_max().view(*x.shape[:-1], 1)

    def coded(self, x: Tensor, output: Tensor, **arguments: Any) -> list[CodedStep]:
        """See :class:`~csc_nets.layers.coder.Coder`; vectors are one batch ``(N, F)``, whatever their axes."""
        given, _ = self._rows(read(self.dictionary), x, mask=arguments.get("mask"))
        rows = {**arguments, "mask": given.mask}
        return super().coded(given.x, output.reshape(len(given.x), -1), **rows)
