"""Dynamics of a sparse prior: ISTA with a convolution and ReLU as its first step, and locally competitive algorithm."""

from dataclasses import dataclass

import torch
from torch import Tensor

from csc_nets.functional.checks import as_count, check_step_size
from csc_nets.functional.problem import SAFETY, Problem
from csc_nets.functional.pursuits.base import Pursuit, register_pursuit
from csc_nets.functional.pursuits.loop import run
from csc_nets.functional.step import Step

__all__ = ["LCA", "PriorISTA"]


@register_pursuit("prior_ista")
@dataclass(frozen=True, repr=False)
class PriorISTA(Pursuit):
    r"""ISTA with a first step of size 1 from the zero code: a convolution with ReLU, exact for orthonormal atoms.

    Args:
        count: number of steps.
        step_size: :math:`\eta` of all steps, the first included; None for 1 and then :math:`0.9 / \|D\|^2`.
    """

    count: int = 1
    step_size: float | None = None
    takes_step_size = False  # of a layer: it has its own

    def __post_init__(self) -> None:
        object.__setattr__(self, "count", as_count(self.count))
        check_step_size(self.step_size)

    @property
    def single_gain(self) -> float | None:  # type: ignore[override]
        """The size of the first step where it is the only one."""
        return None if self.count > 1 else self.step_size or 1.0

    def steps(self, problem: Problem) -> list[Step]:
        """Rows from the zero code."""
        first = self._row(1.0 if self.step_size is None else self.step_size)
        return [first] if self.count == 1 else [first, *[self._further(problem)] * (self.count - 1)]

    def run(self, problem: Problem, init: Tensor | None = None) -> Tensor:
        """The code ``(N, M, *S')``. From a warm start all steps are further ones."""
        if init is None:
            return run(problem, self.steps(problem))
        return run(problem, [self._further(problem)] * self.count, init)

    def _row(self, eta: float | Tensor) -> Step:
        return Step(eta)

    def _further(self, problem: Problem) -> Step:
        return self._row(self._later_step_size(problem.lipschitz()) if self.step_size is None else self.step_size)

    def _later_step_size(self, bound: Tensor) -> Tensor:
        return SAFETY / bound


@register_pursuit("lca")
@dataclass(frozen=True, repr=False)
class LCA(PriorISTA):
    r"""The locally competitive algorithm (Rozell, Johnson, Baraniuk, Olshausen 2008) in Euler steps.

    .. math:: \tau \dot u = D^T x - u - (D^T D - I) z, \qquad z = \mathrm{prox}_\lambda(u)

    A step of length :math:`\eta = dt / \tau` is a row of gain 1 with memory :math:`1 - \eta`: u moves towards
    :math:`z + D^T (x - D z)` by the share :math:`\eta`. Unlike ISTA, u remembers how far a coefficient is below its
    threshold.

    Args:
        count: number of steps, from rest (:math:`u = 0`) or from a warm start (u is the code plus its threshold).
        step_size: :math:`\eta` of all steps; None for 1 and then :math:`0.9 / \max(1, \|D\|^2)`.
    """

    def _row(self, eta: float | Tensor) -> Step:
        return Step(1.0, memory=1 - eta)

    def _later_step_size(self, bound: Tensor) -> Tensor:
        return SAFETY / torch.clamp_min(bound, 1)
