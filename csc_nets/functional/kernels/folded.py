"""A step of a pursuit with all that can be folded into its filters folded in."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from csc_nets.functional.checks import autocast_dtype
from csc_nets.functional.kernels import shrink
from csc_nets.functional.penalties import Penalty

__all__ = ["FoldedStep"]


class FoldedStep:
    r"""The step :math:`z \leftarrow \mathrm{prox}_t(\kappa y + g D^T (x - D p))` of an operator with filters.

    Gain and threshold go into the filters of the analysis and their bias, so that a step is one synthesis and one
    analysis with a few in-place passes over their fresh outputs, and the first step one analysis.

    Under autocast the convolutions take what they read in half precision, so codes, estimates and thresholds as they
    are added are in it, too. Atoms, their normalisation, gains and the product that is the threshold are computed in
    float32 and rounded once; a signal in float32 is subtracted from in float32.

    Args:
        operator: a :class:`~csc_nets.functional.Convolution`, a :class:`~csc_nets.functional.Matrix`, or a
            :class:`~csc_nets.functional.Pair` of them.
        penalty: whose prox ends the step.
        gain: g, a 0-d tensor or one per atom ``(M,)``; None for 1. A 0-d one goes into the signals instead of the
            filters where these are the smaller tensor, as in the last layers of a network, where a copy of the filters
            is most of what a step reads and keeps.
        threshold: t, a 0-d tensor, ``(M, 1, ...)`` or per sample ``(N, 1, ...)``.
        keep: factor :math:`\kappa` of the code, below 1 with a ridge; None for 1.
        missing: True where the signal is not known.
    """

    def __init__(
        self,
        operator: Any,
        penalty: Penalty,
        gain: Tensor | None,
        threshold: Tensor,
        *,
        keep: Tensor | None = None,
        missing: Tensor | None = None,
    ) -> None:
        self.penalty, self.threshold, self.keep, self.missing = penalty, threshold, keep, missing
        self._exact, self._gain = operator, gain
        self.atoms = _rounded(operator)
        self._folded: Any = self.atoms if gain is None else None
        if gain is not None and gain.ndim:
            self._folded = _rounded(operator.scaled(gain))
        weight = self.atoms.weight
        # Whether what follows an analysis is one kernel; then a leap is, too.
        self.leaps = penalty.kernel is not None and shrink.serves(weight.device)
        # Else a non-negative threshold that is the same for all samples is the bias of the analysis.
        folds = penalty.kernel == "nonneg" and threshold.ndim < weight.ndim and not self.leaps
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
            disposable: nobody will look at ``start`` again.
        """
        operator, residual = self._weighted(self._residual(x, estimate))
        if disposable and self.bias is not None and self._fuses(operator, residual):
            return operator.analysis_relu(residual, self.bias, onto=start)
        return self._shrink(operator.analysis(residual, self.bias, exact=False, like=start), start)[0]

    def leap(self, x: Tensor, start: Tensor, estimate: Tensor, before: Tensor, weight: float) -> tuple[Tensor, Tensor]:
        """The step, and its extrapolation from the code before by a weight, all ``(N, M, *S')``."""
        operator, residual = self._weighted(self._residual(x, estimate))
        return self._shrink(operator.analysis(residual, self.bias, exact=False, like=start), start, before, weight)

    def _residual(self, x: Tensor, estimate: Tensor) -> Tensor:
        """The observed part of ``x - estimate``."""
        # Out of place, because a sign that the filters take costs a second copy of them.
        residual = x - estimate
        return residual if self.missing is None else residual.masked_fill_(self.missing, 0)

    def _weighted(self, signal: Tensor) -> tuple[Any, Tensor]:
        """Operator and signal, one of them times the gain."""
        gain = self._gain
        if self._folded is not None or gain is None:
            return self._folded, signal
        # A compiler would take the answer for a promise on the size of the batch.
        if not torch.compiler.is_compiling() and 2 * signal.numel() < self.atoms.weight.numel():
            return self.atoms, signal * gain
        self._folded = _rounded(self._exact.scaled(gain))
        return self._folded, signal

    def _shrink(
        self, v: Tensor, y: Tensor | None = None, before: Tensor | None = None, weight: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """The proximal map of a fresh tensor plus the code y, and its extrapolation where there is a code before."""
        if self.leaps and shrink.applies(v, self.threshold):
            nonneg = self.penalty.kernel == "nonneg"
            return shrink.shrink(v, self.threshold, y=y, keep=self.keep, before=before, inertia=weight, nonneg=nonneg)
        if y is not None:
            v = v.add_(y if self.keep is None else y * self.keep)
        if self.penalty.kernel == "nonneg":
            # Not in place: under vmap over weights per sample v has fewer batch axes than they.
            z = (v if self.bias is not None else v - self.threshold.to(v.dtype)).relu_()
        else:
            z = self.penalty.prox(v, self.threshold.to(v.dtype))
        return z, z if before is None else torch.lerp(before, z, 1 + weight)

    def _fuses(self, operator: Any, x: Tensor) -> bool:
        return self.bias is not None and self.keep is None and operator.can_fuse(x)


def _rounded(operator: Any) -> Any:
    """The operator with the weights that autocast makes, once: it would make a copy, and keep it, for every
    convolution."""
    weight = operator.weight
    rounded = autocast_dtype(weight)
    if weight.dtype != torch.float32 or rounded is None:
        return operator
    change: Callable[[Tensor], Tensor] = lambda w: w.to(rounded)  # noqa: E731
    return operator.map(change)
