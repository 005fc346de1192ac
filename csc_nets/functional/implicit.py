r"""The gradient of a sparse code that solves its problem, however it was found.

At a solution with support S and signs :math:`\sigma` a small change of the problem leaves both alone (where no
correlation off the support is at its weight), so that the code follows from the optimality conditions on S

.. math:: D_S^T m (x - D_S z_S) - \lambda \sigma - \mu z_S = 0 .

Derivation: differentiating them, and with g the gradient at the code,

.. math:: (D_S^T m D_S + \mu) u = g_S, \quad \partial x = m \odot D u, \quad
          \partial W = r \star u - (m \odot D u) \star z, \quad \partial \lambda = - u \odot \sigma

where r is the observed residual and :math:`\star` the correlation of :mod:`csc_nets.functional.recompute`. Nothing of
the iterations is kept. Sources: Bai, Kolter, Koltun, `"Deep Equilibrium Models" <https://arxiv.org/abs/1909.01377>`_,
2019, Theorem 1; Bertrand et al., `"Implicit differentiation of Lasso-type models"
<https://arxiv.org/abs/2002.08943>`_, 2020, for the restriction to the support.

**What the duality gap says.** With G the gap, :math:`\|D(z - z^*)\| \le \sqrt{2G}`, because F grows that fast from its
minimum. So a unit atom whose correlation is more than :math:`\sqrt{2G}` below its weight is off the support of the
solution. Once the support and signs are right, u is that of the solution and so is the gradient of x; that of the atoms
errs, with :math:`|K|` samples in an atom and :math:`s` the least singular value of :math:`m D_S`, by at most

.. math:: \sqrt{2 G |K|}\, (\|u\| + \|D u\| / s)

(Derivation: each entry of a correlation is an inner product of a signal and a shifted code.) With a wrong support the
error has no bound: entries of g are missing or in excess.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from csc_nets.functional.convergence import converge
from csc_nets.functional.dictionary import ConvGeometry
from csc_nets.functional.problem import Problem
from csc_nets.functional.pursuit import SAFETY
from csc_nets.functional.recompute import Pursuit

__all__ = ["CONVERGED", "Optimum", "implicit", "least_solution", "solution"]

# A gap in units of half the squared norm of the signal at which a fixed number of steps counts as converged.
CONVERGED = 1e-3
# Steps, where their number is free.
MOST = 20_000


@dataclass(frozen=True)
class Optimum:
    """What is constant in the optimality conditions of a code.

    Args:
        geometry: how the atoms are laid; of no axes for a matrix.
        ridge: :math:`\\mu`.
        missing: True where the signal is not known.
        bound: of the largest eigenvalue of :math:`D^T D`, 0-d.
        steps: of the linear solver, at most.
    """

    geometry: ConvGeometry
    ridge: float
    missing: Tensor | None
    bound: Tensor
    steps: int = 200

    def observed(self, signal: Tensor) -> Tensor:
        """The known part of a fresh signal."""
        return signal if self.missing is None else signal.masked_fill_(self.missing, 0)


def solution(
    pursuit: Pursuit,
    problem: Problem,
    weight: Tensor,
    threshold: Tensor,
    init: Tensor | None,
    *,
    steps: int | None,
    tol: float,
) -> Tensor:
    """The code of a pursuit, once it is seen to solve its problem. Without gradient: call it where none is recorded.

    Args:
        pursuit: proximal gradient steps.
        problem: what they solve, for signals that are 0 where they are missing.
        weight, threshold, init: as for the pursuit.
        steps: number of steps of the pursuit; None for as many greedy ones as it takes, see
            :mod:`csc_nets.functional.convergence`.
        tol: duality gap over half the squared norm of the signal.

    Raises:
        RuntimeError: the gap of a sample is above ``tol``, or not a number.
    """
    if steps is None:
        problem = problem.expanded()
        z, gap, steps = converge(problem, SAFETY / problem.lipschitz(), tol=tol, steps=MOST, init=init)
    else:
        z = pursuit(problem.x, weight, threshold, init)
        energy = problem.x.square().flatten(1).sum(1, dtype=torch.float64) / 2
        gap = problem.duality_gap(z)
        gap = torch.where(gap <= 0, 0, gap / energy)
    left = ~(gap <= tol)
    if bool(left.any()):
        raise RuntimeError(
            f"{int(left.sum())} of {len(z)} codes are no solutions after {steps} steps: duality gap over half the "
            f"squared norm of the signal up to {float(gap[left].amax()):.1e}, allowed {tol:.1e}. Raise "
            "steps or tol, or use backward='recompute'"
        )
    return z


def implicit(optimum: Optimum, z: Tensor, x: Tensor, weight: Tensor, lam: Tensor) -> Tensor:
    """The code ``z``, with the gradient above.

    Args:
        optimum: the problem.
        z: a code ``(N, M, *S')`` that solves it, without gradient; nobody but the caller knows how well.
        x: signal ``(N, C, *S)``, 0 where it is missing.
        weight: atoms ``(M, C, *K)``.
        lam: sparsity weight; broadcasts against the code.

    Returns:
        ``z``, whose gradient is taken once: differentiating it again is a RuntimeError.
    """
    return _Implicit.apply(optimum, z, x, weight, lam)


def least_solution(
    apply: Callable[[Tensor], Tensor], b: Tensor, scale: Tensor, tol: float, steps: int
) -> tuple[Tensor, Tensor]:
    r"""The solution of least norm of :math:`A u = b` per sample, for a positive semi-definite A.

    Conjugate residuals: of the Krylov space they take the vector of least residual, so that an equation that cannot be
    fulfilled is solved in the sense of least squares, where conjugate gradients would diverge. What then remains is in
    the null space, and taking its direction out of u leaves the least solution (Liu, Milzarek, Roosta, "Obtaining
    pseudo-inverse solutions with MINRES", 2023, the lifting step).

    Args:
        apply: :math:`u \mapsto A u`, row by row.
        b: ``(N, n)``.
        scale: of the eigenvalues of A, 0-d; those 6e-6 (float32; 2e-12 in float64) of it count as 0.
        tol: the norm of the residual in units of that of b at which a row is done.
        steps: applications of A, at most.

    Returns:
        u ``(N, n)``, and the norm of the residual over that of b, ``(N,)``.
    """
    dot = lambda s, t: torch.linalg.vecdot(s, t)[:, None]  # noqa: E731
    null = torch.finfo(b.dtype).eps ** 0.75 * scale
    u, r, p = torch.zeros_like(b), b.clone(), b.clone()
    image = apply(r)
    size = norm = dot(b, b)
    rho, singular = dot(r, image), (norm > 0) & (dot(image, image) <= null**2 * norm)
    done = singular | (norm == 0)
    for k in range(steps):
        if k % 4 == 0 and bool(done.all()):
            break
        length = torch.where(done, 0, rho / dot(image, image))
        u.addcmul_(length, p)
        r.addcmul_(length, image, value=-1)
        of_r = apply(r)
        before, rho, norm = rho, dot(r, of_r), dot(r, r)
        singular = (norm > tol**2 * size) & (dot(of_r, of_r) <= null**2 * norm)
        done = done | singular | (norm <= tol**2 * size)
        share = torch.where(done, 0, rho / before)
        p.mul_(share).add_(r)
        image = image.mul_(share).add_(of_r)
    u = torch.where(singular, u - dot(u, r) / norm * r, u)
    return u, torch.where(size > 0, norm / size, 0).sqrt().flatten()


class _Implicit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, optimum: Optimum, z: Tensor, x: Tensor, weight: Tensor, lam: Tensor) -> Tensor:
        ctx.optimum = optimum
        ctx.save_for_backward(z, x, weight, lam)
        return z.view_as(z)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("backward='implicit' has no second derivatives: use backward='unroll'")
        z, x, weight, lam = ctx.saved_tensors
        _, _, wants_x, wants_weight, wants_lam = ctx.needs_input_grad
        optimum: Optimum = ctx.optimum
        geometry, size = optimum.geometry, x.shape[2:]

        # Rows in the order of memory, so that they are views. The linear solver sees the entries of the support only.
        atoms_last = not z.is_contiguous()
        shape = z.movedim(1, -1).shape if atoms_last else z.shape

        def as_rows(code: Tensor) -> Tensor:
            return (code.movedim(1, -1) if atoms_last else code).flatten(1)

        def as_code(rows: Tensor) -> Tensor:
            return rows.view(shape).movedim(-1, 1) if atoms_last else rows.view(shape)

        index, padding = _support(as_rows(z))
        dense = as_rows(torch.zeros_like(z))

        def apply(u: Tensor) -> Tensor:
            signal = optimum.observed(geometry.synthesis(as_code(dense.scatter_(1, index, u)), weight, size))
            v = as_rows(geometry.analysis(signal, weight, exact=False)).gather(1, index).masked_fill_(padding, 0)
            return v.add_(u, alpha=optimum.ridge) if optimum.ridge else v

        with torch.autocast(z.device.type, enabled=False):
            tol = torch.finfo(z.dtype).eps ** 0.5
            right = as_rows(gradient).gather(1, index).masked_fill_(padding, 0)
            u = least_solution(apply, right, optimum.bound, tol, optimum.steps)[0]
            u = as_code(dense.scatter_(1, index, u))
            of_x = of_weight = of_lam = None
            if wants_x or wants_weight:
                residual = optimum.observed(x - geometry.synthesis(z, weight, size))
                of_x, of_weight = geometry.analysis_gradients(u, residual, weight, atoms=wants_weight)
                assert of_x is not None
                of_x = optimum.observed(of_x)
                surplus = geometry.analysis_gradients(z, of_x, weight, signal=False, atoms=wants_weight)[1]
                of_weight = None if surplus is None or of_weight is None else of_weight - surplus
            if wants_lam:
                of_lam = -(u * z.sign()).sum_to_size(lam.shape)
        return None, None, of_x if wants_x else None, of_weight, of_lam


def _support(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Where rows ``(N, n)`` are not zero: columns ``(N, k)``, and True where they are but padding of shorter rows.

    Padding is a column where its row is zero.
    """
    sample, column = rows.nonzero(as_tuple=True)
    counts = torch.bincount(sample, minlength=len(rows))
    most = int(counts.amax()) if len(rows) else 0
    place = torch.arange(len(sample), device=rows.device) - (counts.cumsum(0) - counts)[sample]
    index = (rows == 0).int().argmax(1, keepdim=True).repeat(1, most)
    index[sample, place] = column
    return index, torch.arange(most, device=rows.device) >= counts[:, None]
