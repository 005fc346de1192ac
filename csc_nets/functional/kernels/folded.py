"""A step of a pursuit with gain and threshold folded into its filters."""

from typing import Any

import torch
from torch import Tensor

from csc_nets.functional.checks import autocast_dtype, is_transformed
from csc_nets.functional.kernels import shrink
from csc_nets.functional.operators.protocol import FilterOperator
from csc_nets.functional.penalties import Penalty

__all__ = ["FoldedStep"]


class FoldedStep:
    r"""The step :math:`z \leftarrow \mathrm{prox}_t(\kappa y + g D^T (x - D p))` of an operator with filters.

    The filters of the analysis contain the gain, and their bias is the threshold. So a step is one synthesis and one
    analysis, with a few in-place passes over their outputs. The first step is one analysis.

    Under autocast the convolutions read half precision, so codes, estimates and added thresholds are in it. Atoms,
    their normalisation, gains and thresholds are computed in float32 and rounded once. A residual of a float32 signal
    is computed in float32.

    Args:
        operator: a :class:`~csc_nets.functional.Convolution`, a :class:`~csc_nets.functional.Matrix`, or a
            :class:`~csc_nets.functional.Pair` of them.
        penalty: the step ends with its prox.
        gain: g, a 0-d tensor or one per atom ``(M,)``; None for 1. A 0-d gain multiplies the signals instead of the
            filters where the signals are the smaller tensor. This is so in the last layers of a network, where a scaled
            copy of the filters would be most of the memory of a step.
        threshold: t, a 0-d tensor, ``(M, 1, ...)`` or per sample ``(N, 1, ...)``.
        shrinkage: factor :math:`\kappa` of the code, below 1 with a ridge; None for 1.
        missing: True where the signal is not known.
    """

    argument: Tensor | None = None  # kept by steps with memory only, see PlainStep

    def __init__(
        self,
        operator: FilterOperator,
        penalty: Penalty,
        gain: Tensor | None,
        threshold: Tensor,
        *,
        shrinkage: Tensor | None = None,
        missing: Tensor | None = None,
    ) -> None:
        self.penalty, self.threshold, self.shrinkage, self.missing = penalty, threshold, shrinkage, missing
        self._exact, self._gain = operator, gain
        self.atoms = _rounded(operator)
        self._folded: FilterOperator | None = None
        if gain is not None and gain.ndim:
            self._folded = _rounded(operator.scaled(gain))
        weight = self.atoms.weight
        self._has_descent = hasattr(operator, "descent")
        # On an accelerator the prox and the extrapolation behind it are one kernel.
        plain = penalty.kernel is not None and (shrinkage is None or not shrinkage.ndim) and not self._has_descent
        self.fuses_extrapolation = plain and shrink.serves(weight.device)
        # Elsewhere a non-negative threshold that all samples share is the bias of the analysis.
        folds = penalty.kernel == "nonneg" and threshold.ndim < weight.ndim and not self.fuses_extrapolation
        self.bias = -threshold.flatten().expand(len(weight)) if folds else None

    def start(self, x: Tensor) -> Tensor:
        """The step from the zero code, ``(N, M, *S')``, for signals ``x (N, C, *S)`` without missing entries."""
        operator, x = self._weighted(x)
        if self.bias is not None and self._fuses(operator, x):
            return operator.analysis_relu(x, self.bias)
        return self._shrink(operator.analysis(x, self.bias))[0]

    def synthesis(self, z: Tensor, size: tuple[int, ...]) -> Tensor:
        """Signal ``(N, C, *size)`` of a code."""
        return self.atoms.synthesis(z, size)

    def advance(self, x: Tensor, start: Tensor, point: Tensor, estimate: Tensor, *, disposable: bool = False) -> Tensor:
        """The step from a code.

        Args:
            x: signal ``(N, C, *S)``.
            start: y, ``(N, M, *S')``.
            point: p, where the gradient is taken.
            estimate: ``D p``; it is left as it is.
            disposable: ``start`` may be overwritten.
        """
        if self._has_descent:
            lateral: Any = self._weighted(x)[0]  # an operator with descent
            return self._shrink(lateral.descent(x, point, estimate, self.bias), start)[0]
        operator, residual = self._weighted(self._residual(x, estimate))
        if disposable and self.bias is not None and self._fuses(operator, residual):
            return operator.analysis_relu(residual, self.bias, onto=start)
        return self._shrink(operator.analysis(residual, self.bias, exact=False, like=start), start)[0]

    def advance_and_extrapolate(
        self, x: Tensor, start: Tensor, estimate: Tensor, before: Tensor, weight: float
    ) -> tuple[Tensor, Tensor]:
        """The step from a code where the gradient is taken there, too, and the new code's extrapolation.

        Args:
            x: signal ``(N, C, *S)``.
            start: where the step starts and takes its gradient, ``(N, M, *S')``.
            estimate: synthesis of ``start``.
            before: the last code, from which the new one is extrapolated.
            weight: of the extrapolation.

        Returns:
            The new code and the extrapolated one, ``(N, M, *S')`` each.
        """
        operator, residual = self._weighted(self._residual(x, estimate))
        return self._shrink(operator.analysis(residual, self.bias, exact=False, like=start), start, before, weight)

    def _residual(self, x: Tensor, estimate: Tensor) -> Tensor:
        """The observed part of ``x - estimate``."""
        # Out of place: an in-place difference has the other sign, which would need a second copy of the filters.
        # An estimate may be of single precision where the code is not (col2im).
        residual = (x - estimate).to(x.dtype)
        return residual if self.missing is None else residual.masked_fill_(self.missing, 0)

    def _weighted(self, signal: Tensor) -> tuple[FilterOperator, Tensor]:
        """Operator and signal, one of them times the gain."""
        gain, folded = self._gain, self._folded
        if gain is None:
            return self.atoms, signal
        if folded is not None:
            return folded, signal
        # A compiler would specialise on the size of the batch here.
        small = not self._has_descent and 2 * signal.numel() < self.atoms.weight.numel()
        if not torch.compiler.is_compiling() and small:
            return self.atoms, signal * gain
        folded = self._folded = _rounded(self._exact.scaled(gain))
        return folded, signal

    def _shrink(
        self, v: Tensor, y: Tensor | None = None, before: Tensor | None = None, weight: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """The proximal map of ``v + y``, which may overwrite v, and its extrapolation from the code ``before``."""
        if self.fuses_extrapolation and shrink.applies(v, self.threshold):
            nonneg = self.penalty.kernel == "nonneg"
            return shrink.shrink(
                v, self.threshold, y=y, shrinkage=self.shrinkage, before=before, inertia=weight, nonneg=nonneg
            )
        if y is not None:
            v = v.add_(y if self.shrinkage is None else y * self.shrinkage)
        if self.penalty.kernel == "nonneg":
            # Not in place: under vmap over weights per sample v has fewer batch axes than the weights.
            z = (v if self.bias is not None else v - self.threshold.to(v.dtype)).relu_()
        elif self.penalty.kernel == "soft" and not (torch.is_grad_enabled() or is_transformed() or v.is_complex()):
            beyond = torch.clamp(v, -self.threshold.to(v.dtype), self.threshold.to(v.dtype))
            z = v.sub_(beyond) if beyond.shape == v.shape else v - beyond  # one signal may have several weights
        else:
            z = self.penalty.prox(v, self.threshold.to(v.dtype))
        return z, z if before is None else torch.lerp(before, z, 1 + weight)

    def _fuses(self, operator: FilterOperator, x: Tensor) -> bool:
        return self.bias is not None and self.shrinkage is None and operator.can_fuse(x)


def _rounded(operator: FilterOperator) -> FilterOperator:
    """The operator with its weights rounded as autocast does it; autocast itself would make and keep a copy for every
    convolution."""
    weight = operator.weight
    rounded = autocast_dtype(weight)
    if weight.dtype != torch.float32 or rounded is None:
        return operator
    return operator.map(lambda weight: weight.to(rounded))
