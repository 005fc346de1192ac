"""How a row of a pursuit runs: chosen here, below the loop, by what the operator can do."""

from typing import Any

import torch
from torch import Tensor

from csc_nets.functional.kernels.folded import FoldedStep
from csc_nets.functional.kernels.plain import PlainStep
from csc_nets.functional.problem import Problem, align

__all__ = ["FoldedStep", "Kernels", "PlainStep"]


class Kernels:
    """Makes the kernel of each row, once for neighbours that are alike.

    Args:
        problem: what is being solved.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.missing = None if problem.mask is None else problem.mask == 0
        self._row: Any = None
        self._kernel: Any = None

    def __call__(self, row: Any, argument: Tensor | None = None) -> Any:
        """The kernel of a row; ``argument`` is that of the prox before, which rows with memory go on from."""
        before = self._row
        if before is not None and all(getattr(before, f) is getattr(row, f) for f in _KERNEL_FIELDS):
            return self._kernel
        self._row, self._kernel = row, self._build(row)
        if argument is not None:
            self._kernel.argument = argument
        return self._kernel

    def threshold(self, row: Any) -> tuple[Any, Any, Any]:
        r"""Gain, threshold and shrinkage :math:`\kappa` of a row, the first two times :math:`\kappa`.

        With :math:`\kappa = 1 / (1 + g \mu)`, the prox of :math:`g (\lambda R + \mu/2 \|\cdot\|^2)` at v is that of
        :math:`\kappa g \lambda R` at :math:`\kappa v`, for every R (complete the square).
        """
        problem = self.problem
        gain, shift = _aligned(row.gain, problem.x.ndim), _aligned(row.shift, problem.x.ndim)
        threshold, keep = gain * problem.lam, None
        if isinstance(shift, Tensor) or shift:
            threshold = threshold + shift
            if problem.penalty.kernel != "nonneg":  # the others are no proximal map of a negative weight
                threshold = threshold.clamp_min(0) if isinstance(threshold, Tensor) else max(threshold, 0.0)
        if problem.quadratic:
            keep = 1 / (1 + problem.quadratic * gain)
            gain, threshold = gain * keep, keep * threshold
        return gain, threshold, keep

    def _build(self, row: Any) -> FoldedStep | PlainStep:
        problem = self.problem
        operator: Any = problem.operator if row.operator is None else row.operator
        gain, threshold, keep = self.threshold(row)
        if not hasattr(operator, "scaled") or row.memory is not None:
            options = {"missing": self.missing, "memory": row.memory, "keep": keep}
            return PlainStep(
                operator, problem.penalty, gain, torch.as_tensor(threshold, device=problem.x.device), **options
            )
        weight = operator.weight
        as_tensor = lambda t: torch.as_tensor(t, dtype=weight.dtype, device=weight.device)  # noqa: E731
        return FoldedStep(
            operator,
            problem.penalty,
            None if isinstance(gain, float) and gain == 1 else _flat(as_tensor(gain)),
            as_tensor(threshold),
            keep=None if keep is None else torch.as_tensor(keep),
            missing=self.missing,
        )


# What of a row its kernel depends on; extrapolations are the loop's.
_KERNEL_FIELDS = ("gain", "shift", "operator", "memory")


def _aligned(value: Any, ndim: int) -> Any:
    return align(value, ndim) if isinstance(value, Tensor) else value


def _flat(gain: Tensor) -> Tensor:
    return gain.flatten() if gain.ndim else gain
