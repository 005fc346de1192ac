r"""Proximal gradient steps to a certified accuracy: greedy FISTA.

.. math:: z_{k+1} = \mathrm{prox}_{\gamma g}(y_k - \gamma \nabla f(y_k)), \qquad
          y_{k+1} = \begin{cases} z_{k+1} & \text{where } \langle y_k - z_{k+1}, z_{k+1} - z_k \rangle \ge 0 \\
          2 z_{k+1} - z_k & \text{elsewhere} \end{cases}

Source: Liang, Luo, Schoenlieb, `"Improving 'Fast Iterative Shrinkage-Thresholding Algorithm': Faster, Smarter, and
Greedier" <https://arxiv.org/abs/1811.01430>`_, 2022, Algorithm 4: full momentum from the first step on, dropped where
it points uphill, with steps longer than 1/L. The momentum of FISTA grows slowly after each restart; this momentum is
full at once. If a step moves a code much further than the first step did, the step size of that sample is shortened,
down to half of the safe one.
"""

import torch
from torch import Tensor

from csc_nets.functional.problem import Problem

__all__ = ["converge"]

# Step size over the safe one; the factor that shortens it; how much longer than the first a step is before that.
_LENGTH, _SHORTER, _FAR = 1.4, 0.96, 4.0
# Shortest step size over the safe one. It is below 1, because the bound may lag behind the atoms in training.
_SHORTEST = 0.5
# Entries of a code that fit the cache of a core, together with the intermediate results of a step.
_CACHE = 1 << 16
# The gap is computed every this many steps, and later after an eighth of the steps so far: it costs as much as a step.
_LOOK = 4


@torch.no_grad()
def converge(
    problem: Problem, step_size: float | Tensor, *, tol: float, steps: int, init: Tensor | None = None
) -> tuple[Tensor, Tensor, int]:
    """A code with a duality gap of at most ``tol`` times half the squared norm of the signal, sample by sample.

    Args:
        problem: a problem whose penalty acts on each entry by itself and has a dual, as the l1 norms. A sample stays
            as it is once it is solved.
        step_size: a safe one, at most 1/L.
        tol: tolerance, > 0.
        steps: largest number of steps.
        init: warm start ``(N, M, *S')``; None is zero.

    Returns:
        The code ``(N, M, *S')``; its gap over half the squared norm of the signal, ``(N,)`` in float64, which is above
        ``tol`` or not finite where the steps did not suffice; and the number of steps.
    """
    energy = problem.energy()
    residual = problem.masked(problem.x) if init is None else problem.residual(init)
    correlation = problem.operator.analysis(residual).clone()  # it is overwritten, and it may share the signal's memory
    y = torch.zeros_like(correlation) if init is None else torch.empty_like(correlation).copy_(init)
    z, one = y.clone(), (len(y), *(1,) * (y.ndim - 1))
    least = torch.as_tensor(step_size, dtype=z.dtype, device=z.device)
    eta, lam = (_LENGTH * least).repeat(one), torch.as_tensor(problem.lam, dtype=z.dtype, device=z.device)
    first, done, some, look = torch.full_like(eta, torch.inf), torch.zeros_like(eta, dtype=torch.bool), False, 0
    parts = _parts(z)
    for k in range(1, steps + 1):
        for part in parts:
            weight = lam[part] if lam.ndim == z.ndim and len(lam) > 1 else lam
            still = done[part] if some else None
            _step(problem, z[part], y[part], correlation[part], weight, eta[part], first[part], still, least)
        z, correlation = correlation, z  # the new code stands in the memory of the correlations
        if k == steps or k >= look + max(_LOOK, look // 8):
            gap = problem.duality_gap(z)
            lost, look = ~gap.isfinite(), k
            gap = torch.where(gap <= 0, 0, gap / energy)
            done = (gap <= tol).view(one)
            if k == steps or bool((done.flatten() | lost).all()):
                return z, gap, k
            some = bool(done.any())
        correlation = problem.operator.analysis(problem.residual(y))
    raise ValueError(f"steps must be an int >= 1, got {steps!r}")


def _step(
    problem: Problem,
    z: Tensor,
    y: Tensor,
    correlation: Tensor,
    lam: Tensor,
    eta: Tensor,
    first: Tensor,
    done: Tensor | None,
    least: Tensor,
) -> None:
    """One step of some samples: writes the new code over ``correlation``, and the new ``y``, ``eta`` and ``first``."""
    atoms_last = not z.is_contiguous()

    def rows(code: Tensor) -> Tensor:
        """The entries of each sample in the order of memory."""
        return (code.movedim(1, -1) if atoms_last else code).flatten(1)

    new = correlation.mul_(eta).add_(y)
    gain = eta
    if problem.quadratic:
        shrinkage = 1 / (1 + eta * problem.quadratic)
        new, gain = new.mul_(shrinkage), eta * shrinkage
    threshold = torch.as_tensor(problem.penalty.threshold(lam, gain))
    if problem.penalty.kernel is None:
        new = new.copy_(problem.penalty.prox(new, threshold))
    else:
        new = new.sub_(threshold).relu_() if problem.nonneg else new.sub_(torch.clamp(new, -threshold, threshold))
    if done is not None:
        torch.where(done, z, new, out=new)
    move = new - z
    far = torch.linalg.vector_norm(rows(move), dim=1).view_as(eta)
    torch.where(first.isinf(), far, first, out=first)
    torch.where(far > _FAR * first, (_SHORTER * eta).clamp_min_(_SHORTEST * least), eta, out=eta)
    downhill = torch.linalg.vecdot(rows(y.sub_(new)), rows(move)) < 0
    torch.addcmul(new, move, downhill.view_as(eta).to(move.dtype), out=y)


def _parts(code: Tensor) -> list[slice]:
    """Groups of samples that a step treats one after another, so that its results stay in the cache."""
    if code.device.type != "cpu" or not code.numel():
        return [slice(None)]
    count = max(1, _CACHE * len(code) // code.numel())
    return [slice(i, i + count) for i in range(0, len(code), count)]
