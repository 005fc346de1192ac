"""A pursuit that stops at a tolerance: the forward pass of an equilibrium layer."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from csc_nets.functional.checks import check_tol, is_transformed
from csc_nets.functional.problem import Problem, refuse_broken
from csc_nets.functional.pursuits.base import Pursuit, register_pursuit
from csc_nets.functional.pursuits.greedy import converge
from csc_nets.functional.pursuits.loop import run, stop_rule
from csc_nets.functional.pursuits.proximal_gradient import FISTA

__all__ = ["ToTolerance"]


@register_pursuit("to_tolerance")
@dataclass(frozen=True, repr=False)
class ToTolerance(Pursuit):
    """Greedy FISTA (:mod:`csc_nets.functional.pursuits.greedy`) until every sample is solved; without gradient.

    For penalties without a dual, or that act on several entries at once, and for complex signals it runs FISTA with
    restarts.

    Args:
        tol: duality gap over half the squared norm of the signal, > 0; without a dual, the change of the code over its
            norm.
        most: largest number of steps.

    Raises:
        ValueError: the signal holds NaN or infinite values.
        RuntimeError: a sample did not reach the tolerance; or a compiler or ``torch.func`` runs the pursuit. The
            values of the codes decide when to stop, and neither of them can read these.
    """

    tol: float = 1e-3
    most: int = 20_000
    count = None
    solves = True
    local = False

    def __post_init__(self) -> None:
        if check_tol(self.tol) is None:
            raise ValueError("a pursuit without a number of steps solves to a tolerance: give tol")

    def changed(self, **changes: Any) -> Pursuit:
        """With a ``count`` it is FISTA, with this tolerance."""
        count = changes.pop("count", None)
        tol = changes.get("tol", self.tol)
        return replace(self, tol=tol) if count is None else FISTA(count, tol)

    @torch.no_grad()
    def run(self, problem: Problem, init: Tensor | None = None) -> Tensor:
        """The code ``(N, M, *S')``."""
        if is_transformed():
            raise RuntimeError(
                f"{self!r} looks at its codes to know when to stop, not under a compiler or torch.func: "
                "take a number of steps"
            )
        problem = problem.expanded()
        if not problem.x.numel():
            empty: Tensor = problem.operator.analysis(problem.x)
            return empty
        if not bool(problem.masked(problem.x).isfinite().all()):
            raise ValueError("x holds NaN or infinite values (a mask of 0 leaves them out)")
        penalty = problem.penalty
        if not (penalty.has_dual and penalty.separable) or problem.x.is_complex():
            return self._by_fista(problem, init)
        unit = problem.unit()
        if unit is not None:
            start = None if init is None else (init / unit).to(problem.x.dtype)
            return (self.run(problem.in_units(unit), start) * unit).to(problem.x.dtype)
        z, gap, steps = converge(problem, problem.step_size, tol=self.tol, steps=self.most, init=init)
        left = ~(gap <= self.tol)
        if bool(left.any()):
            refuse_broken(problem, gap)
            raise RuntimeError(
                f"{int(left.sum())} of {len(z)} codes are no solutions after {steps} steps: duality gap over half the "
                f"squared norm of the signal up to {float(gap[left].amax()):.1e}, allowed {self.tol:.1e}. Raise tol, "
                "or take a number of steps"
            )
        return z

    def _by_fista(self, problem: Problem, init: Tensor | None) -> Tensor:
        criterion = "gap" if problem.penalty.has_dual else "change"
        stop, done = stop_rule(problem, self.tol, criterion), torch.zeros(len(problem.x), dtype=torch.bool)

        def look(new: Tensor, old: Tensor) -> Tensor:
            nonlocal done
            finished = stop(new, old)
            done = done.to(finished.device) | finished
            return finished

        z = run(problem, FISTA(self.most).steps(problem), init, stop=look, restart=True)
        if not bool(done.all()):
            raise RuntimeError(
                f"{int((~done).sum())} of {len(z)} codes are no solutions to {self.tol:.1e} after {self.most} steps: "
                "raise tol, or take a number of steps"
            )
        return z
