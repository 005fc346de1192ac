"""A matrix of atoms as an operator."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from csc_nets.functional.operators.fit_vectors import fit_vectors

__all__ = ["Matrix"]


@dataclass(frozen=True)
class Matrix:
    r"""A matrix whose rows are the atoms: :math:`D^T x = W x`, :math:`D z = W^T z`.

    Args:
        weight: ``(M, F)``.
        norm: signal size (of no axes) to a bound of :math:`\|D\|^2`, where it is known; None computes it.
    """

    weight: Tensor
    norm: Callable[[Sequence[int]], Tensor] | None = None

    def analysis(
        self, x: Tensor, bias: Tensor | None = None, *, exact: bool = True, like: Tensor | None = None
    ) -> Tensor:
        """Correlations ``(..., M)`` of signals ``(..., F)``, plus a bias per atom ``(M,)``."""
        return F.linear(x, self.weight, bias)

    def synthesis(self, z: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """Signals ``(..., F)`` of codes ``(..., M)``."""
        return z @ self.weight

    def bound(self, signal_size: Sequence[int]) -> Tensor:
        r"""Bound of :math:`\|D\|^2`, 0-d: the given one, or the exact value."""
        if self.norm is not None:
            return self.norm(signal_size)
        weight = self.weight.detach()
        wide = weight.to(torch.promote_types(weight.dtype, torch.float32))  # no half singular values
        value: Tensor = torch.linalg.matrix_norm(wide, ord=2).square()
        return value.to(weight.dtype).clamp_min(torch.finfo(weight.dtype).tiny)

    def analysis_gradients(
        self, code: Tensor, x: Tensor, *, signal: bool = True, atoms: bool = True
    ) -> tuple[Tensor | None, Tensor | None]:
        """See :meth:`ConvGeometry.analysis_gradients`."""
        return code @ self.weight if signal else None, code.T @ x if atoms else None

    def synthesis_gradients(self, signal: Tensor, z: Tensor, *, atoms: bool = True) -> tuple[Tensor, Tensor | None]:
        """See :meth:`ConvGeometry.synthesis_gradients`."""
        return F.linear(signal, self.weight), z.T @ signal if atoms else None

    def fit_support(self, x: Tensor, code: Tensor, nonneg: bool = False) -> Tensor | None:
        """Exact least squares on the support of a code, see
        :func:`~csc_nets.functional.operators.fit_vectors.fit_vectors`."""
        return fit_vectors(self.weight, x, code, nonneg)

    def scaled(self, gain: Tensor) -> "Matrix":
        """With the rows times a gain, 0-d or one per atom ``(M,)``."""
        return Matrix(self.weight * (gain.view(-1, 1) if gain.ndim else gain), self.norm)

    def map(self, change: Callable[[Tensor], Tensor]) -> "Matrix":
        """With changed atoms, such as rounded ones."""
        return Matrix(change(self.weight), self.norm)

    def can_fuse(self, x: Tensor) -> bool:
        """Never: there is no fused pass for matrices."""
        return False

    def analysis_relu(self, x: Tensor, bias: Tensor, onto: Tensor | None = None) -> Tensor:
        """See :meth:`FilterOperator.analysis_relu <csc_nets.functional.operators.protocol.FilterOperator>`."""
        code = self.analysis(x, bias)
        return (code if onto is None else onto.add_(code)).relu_()
