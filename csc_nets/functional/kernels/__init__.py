"""Kernels that execute a row of a pursuit. What the operator can do decides which one runs."""

from typing import Any

import torch
from torch import Tensor

from csc_nets.functional.kernels.folded import FoldedStep
from csc_nets.functional.kernels.plain import PlainStep
from csc_nets.functional.problem import Problem, align
from csc_nets.functional.prox import at_least
from csc_nets.functional.step import Step

__all__ = ["FoldedStep", "Kernels", "PlainStep"]

Number = float | Tensor


class Kernels:
    """Makes the kernel of each row; successive rows that are alike share one.

    Args:
        problem: what is being solved.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.missing = None if problem.mask is None else problem.mask == 0
        self._row: Step | None = None
        self._kernel: FoldedStep | PlainStep | None = None

    def __call__(self, row: Step, argument: Tensor | None = None) -> FoldedStep | PlainStep:
        """The kernel of a row.

        Args:
            row: the step.
            argument: argument of the last prox, which a row with memory reads.
        """
        before, kernel = self._row, self._kernel
        if kernel is None or not all(getattr(before, f) is getattr(row, f) for f in _KERNEL_FIELDS):
            kernel = self._build(row)
            if argument is not None:
                kernel.argument = argument
            self._row, self._kernel = row, kernel
        return kernel

    def threshold(self, row: Step) -> tuple[Number, Number, Number | None]:
        r"""Gain, threshold and shrinkage :math:`\kappa` of a row, the first two times :math:`\kappa`.

        With :math:`\kappa = 1 / (1 + g \mu)`, the prox of :math:`g (\lambda R + \mu/2 \|\cdot\|^2)` at v is that of
        :math:`\kappa g \lambda R` at :math:`\kappa v`, for every R (complete the square).
        """
        problem, penalty = self.problem, row.penalty or self.problem.penalty
        gain, shift = _aligned(row.gain, problem.x.ndim), _aligned(row.shift, problem.x.ndim)
        shrinkage = None
        if problem.quadratic:
            shrinkage = 1 / (1 + problem.quadratic * gain)
            gain, shift = gain * shrinkage, shift * shrinkage
        threshold = penalty.threshold(problem.lam, gain)
        if isinstance(shift, Tensor) or shift:
            threshold = threshold + shift
            if not penalty.any_sign:
                threshold = at_least(threshold, 0.0) if isinstance(threshold, Tensor) else max(threshold, 0.0)
        return gain, threshold, shrinkage

    def _build(self, row: Step) -> FoldedStep | PlainStep:
        problem = self.problem
        operator: Any = problem.operator if row.operator is None else row.operator
        gain, threshold, shrinkage = self.threshold(row)
        penalty = row.penalty or problem.penalty
        if not hasattr(operator, "scaled") or row.memory is not None:
            return PlainStep(
                operator,
                penalty,
                gain,
                torch.as_tensor(threshold, device=problem.x.device),
                shrinkage=shrinkage,
                missing=self.missing,
                memory=row.memory,
            )
        weight: Tensor = operator.weight

        def as_tensor(number: Number) -> Tensor:
            return torch.as_tensor(number, dtype=weight.dtype, device=weight.device)

        return FoldedStep(
            operator,
            penalty,
            None if isinstance(gain, float) and gain == 1 else _flat(as_tensor(gain)),
            as_tensor(threshold),
            shrinkage=None if shrinkage is None else torch.as_tensor(shrinkage),
            missing=self.missing,
        )


# Fields of a row on which its kernel depends; the loop extrapolates.
_KERNEL_FIELDS = ("gain", "shift", "operator", "memory", "penalty")


def _aligned(value: Number, ndim: int) -> Number:
    return align(value, ndim) if isinstance(value, Tensor) else value


def _flat(gain: Tensor) -> Tensor:
    return gain.flatten() if gain.ndim else gain
