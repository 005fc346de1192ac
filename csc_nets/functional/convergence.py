r"""Proximal gradient steps to a certified accuracy: greedy FISTA.

.. math:: z_{k+1} = \mathrm{prox}_{\gamma g}(y_k - \gamma \nabla f(y_k)), \qquad
          y_{k+1} = \begin{cases} z_{k+1} & \text{where } \langle y_k - z_{k+1}, z_{k+1} - z_k \rangle \ge 0 \\
          2 z_{k+1} - z_k & \text{elsewhere} \end{cases}

Source: Liang, Luo, Schoenlieb, `"Improving 'Fast Iterative Shrinkage-Thresholding Algorithm': Faster, Smarter, and
Greedier" <https://arxiv.org/abs/1811.01430>`_, 2022, Algorithm 4: full momentum from the first step on, dropped where
it points uphill, with steps longer than 1/L. The momentum of FISTA grows slowly after each restart; this one does not
wait. A sample whose code moves further than the first step did has its step shortened, down to the one that is safe.
"""

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from csc_nets.functional import prox
from csc_nets.functional.problem import Problem

__all__ = ["converge"]

# Steps in units of the safe one, and their shortening, of a code that moves this many times as far as at first.
_LENGTH, _SHORTER, _FAR = 1.4, 0.96, 4.0
# Looks at the gap come at least this often (a look costs what a step does), later at every eighth of all steps so far.
_LOOK = 4


@torch.no_grad()
def converge(
    problem: Problem, step_size: float | Tensor, *, tol: float, steps: int, init: Tensor | None = None
) -> tuple[Tensor, Tensor, int]:
    """A code with a duality gap of at most ``tol`` times half the squared norm of the signal, sample by sample.

    Args:
        problem: what to solve. A sample is left alone once it is solved.
        step_size: a safe one, at most 1/L.
        tol: tolerance, > 0.
        steps: largest number of steps.
        init: warm start ``(N, M, *S')``; None is zero.

    Returns:
        The code ``(N, M, *S')``, its gap over half the squared norm of the signal ``(N,)``, float64, which is larger
        than ``tol`` where the steps did not suffice, or not finite, and the number of steps.
    """
    with parametrize.cached():
        return _converge(problem, step_size, tol, steps, init)


def _converge(
    problem: Problem, step_size: float | Tensor, tol: float, steps: int, init: Tensor | None
) -> tuple[Tensor, Tensor, int]:
    shrink = prox.nonneg_soft_threshold if problem.nonneg else prox.soft_threshold
    energy = problem.masked(problem.x).square().flatten(1).sum(1, dtype=torch.float64) / 2
    residual = problem.masked(problem.x) if init is None else problem.residual(init)
    correlation = problem.pair.analysis(residual)
    z = y = torch.zeros_like(correlation) if init is None else init.expand_as(correlation)
    one = (len(z), *(1,) * (z.ndim - 1))
    least = torch.as_tensor(step_size, dtype=z.dtype, device=z.device)
    eta, first, done, look = (_LENGTH * least).expand(one), None, None, 0
    for k in range(1, steps + 1):
        new = torch.addcmul(y, correlation, eta)
        if problem.ridge:
            new /= 1 + eta * problem.ridge
        new = shrink(new, eta * problem.lam / (1 + eta * problem.ridge))
        if done is not None:
            new = torch.where(done.view(one), z, new)
        move = new - z
        far = torch.linalg.vector_norm(move.flatten(1), dim=1)
        first = far if first is None else first
        eta = torch.where((far > _FAR * first).view(one), (_SHORTER * eta).clamp_min(least), eta)
        uphill = torch.linalg.vecdot((y - new).flatten(1), move.flatten(1)) >= 0
        z, y = new, torch.where(uphill.view(one), new, move.add_(new))
        if k == steps or k >= look + max(_LOOK, look // 8):
            gap = problem.duality_gap(z)
            gap, look = torch.where(gap <= 0, 0, gap / energy), k
            done = gap <= tol
            if k == steps or bool((done | ~gap.isfinite()).all()):
                return z, gap, k
        correlation = problem.pair.analysis(problem.residual(y))
    raise ValueError(f"steps must be an int >= 1, got {steps!r}")
