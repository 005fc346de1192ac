r"""Greedy pursuits of codes with a fixed number of atoms: matching pursuit and its orthogonal form, in batches.

.. math:: c = D^T (x - D z), \qquad S \leftarrow S \cup \{\text{the largest of } c\}

Matching pursuit adds the correlation of the new atom to its value (Mallat, Zhang, "Matching pursuits with
time-frequency dictionaries", 1993). Orthogonal matching pursuit fits all values anew on S (Pati, Rezaiifar,
Krishnaprasad, 1993); with fewer rounds than atoms it adds several in each (generalised OMP: Wang, Kwon, Shim, 2012).
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from csc_nets.functional.checks import as_count
from csc_nets.functional.penalties import Penalty, TopK
from csc_nets.functional.problem import Problem
from csc_nets.functional.pursuits.base import Pursuit, register_pursuit
from csc_nets.functional.refit import refit

__all__ = ["OMP", "MatchingPursuit"]


@dataclass(frozen=True, repr=False)
class _Greedy(Pursuit):
    count: int = 8
    takes_step_size = False
    local = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "count", as_count(self.count))

    def check(self, penalty: Penalty) -> None:
        """Refuses penalties that do not say how many atoms a code has."""
        if not isinstance(penalty, TopK):
            raise ValueError(f"{self!r} needs a number of atoms: penalty=TopK(k), got {penalty!r}")


@register_pursuit("omp")
@dataclass(frozen=True, repr=False)
class OMP(_Greedy):
    r"""Orthogonal matching pursuit for :class:`~csc_nets.functional.TopK`, whose k is the number of atoms.

    Each of ``count`` rounds adds :math:`k / \text{count}` atoms and fits the values by least squares. A warm start
    gives the first atoms and values. With ``penalty.nonneg`` atoms whose value falls below 0 leave the code. No
    gradient passes through it: atoms are trained on its codes as constants, which is the gradient of the least error.

    Args:
        count: rounds; k of them add one atom each.
        fit_steps: steps of conjugate gradients of a fit, where the operator has no exact one.
    """

    fit_steps: int = 10

    @torch.no_grad()
    def run(self, problem: Problem, init: Tensor | None = None) -> Tensor:
        """The code ``(N, M, *S')``."""
        penalty: TopK = problem.penalty  # type: ignore[assignment]
        x = problem.masked(problem.signal(None))
        z = init if init is None else self._fitted(problem, x, penalty.prox(init, 0.0))
        for size in self._sizes(penalty.k):
            # Atoms of the code stay in front of all others.
            correlation = problem.operator.analysis(x if z is None else problem.residual(z))
            score = correlation.relu() if penalty.nonneg else correlation.abs()
            if z is not None:
                score = score.masked_fill(z != 0, torch.finfo(score.dtype).max)
            kept = replace(penalty, k=size, nonneg=False).prox(score, 0.0) != 0
            started = correlation if z is None else torch.where(z != 0, z, correlation)
            z = self._fitted(problem, x, started * kept)
        assert z is not None
        return z

    def _sizes(self, k: int) -> list[int]:
        """Numbers of atoms after each round."""
        rounds = min(self.count, k)
        return [-(-k * (r + 1) // rounds) for r in range(rounds)]

    def _fitted(self, problem: Problem, x: Tensor, z: Tensor) -> Tensor:
        mask = problem.mask
        return refit(problem.operator, x, z, self.fit_steps, mask, nonneg=problem.penalty.nonneg)


@register_pursuit("matching")
@dataclass(frozen=True, repr=False)
class MatchingPursuit(_Greedy):
    """Matching pursuit: ``count`` rounds, in each of which one atom takes what it explains of the residual.

    The penalty :class:`~csc_nets.functional.TopK` says whether there is one code for a sample or one at each position,
    and the sign of the values. An atom may come again, so a code has at most ``count`` non-zeros, and never more than
    the penalty allows: the largest stay. The gradient is that of the values; the choice of the atoms has none.

    Args:
        count: rounds.
    """

    def run(self, problem: Problem, init: Tensor | None = None) -> Tensor:
        """The code ``(N, M, *S')``."""
        penalty: TopK = problem.penalty  # type: ignore[assignment]
        one, z = replace(penalty, k=1), None if init is None else penalty.prox(init, 0.0)
        for _ in range(self.count):
            residual = problem.masked(problem.signal(None)) if z is None else problem.residual(z)
            new = one.prox(problem.operator.analysis(residual), 0.0)
            z = new if z is None else z + new
        assert z is not None
        return penalty.prox(z, 0.0)
