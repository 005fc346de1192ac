r"""The gradient of a sparse code that solves its problem. It does not depend on the pursuit that found the code.

A solution is a fixed point of a proximal gradient step, :math:`z = \mathrm{prox}_{t}(v)` with
:math:`v = \kappa (z + g D^T m (x - D z))`, :math:`t = \kappa g \lambda` and :math:`\kappa = 1 / (1 + g \mu)`.

Derivation: with J the derivative of the prox at v, differentiating the fixed point gives, for a gradient c at the code,

.. math:: w - \kappa (I - g D^T m D) J^T w = c, \qquad \partial v = J^T w, \qquad
          \partial t = (\partial \mathrm{prox} / \partial t)^T w,

and automatic differentiation of one step gives the gradients of signal, atoms and weights. No iteration is kept. Where
the prox acts on each entry by itself, J is a diagonal matrix j, and with :math:`u = J w` on the support
(:math:`j \ne 0`) the equation is symmetric,

.. math:: \bigl(D_S^T m D_S + \mu + (1/j - 1) / (\kappa g)\bigr)\, \kappa g\, u = c_S .

For the l1 norms j is 1 there: :math:`(D_S^T m D_S + \mu) \kappa g u = c_S`. For other proximal maps the first equation
is solved in the sense of least squares. Sources: Bai, Kolter, Koltun, `"Deep Equilibrium Models"
<https://arxiv.org/abs/1909.01377>`_, 2019, Theorem 1; Bertrand et al., `"Implicit differentiation of Lasso-type models"
<https://arxiv.org/abs/2002.08943>`_, 2020, for the restriction to the support.

**The duality gap and the gradient.** With G the gap, :math:`\|D(z - z^*)\| \le \sqrt{2G}`, because F grows that fast
from its minimum. So a unit atom whose correlation is more than :math:`\sqrt{2G}` below its weight is off the support of
the solution. Once the support and signs are right, u and the gradient of x are those of the solution. The gradient of
the atoms has an error of at most

.. math:: \sqrt{2 G |K|}\, (\|u\| + \|D u\| / s)

with :math:`|K|` samples in an atom and :math:`s` the least singular value of :math:`m D_S` (derivation: each entry of a
correlation is an inner product of a signal and a shifted code). With a wrong support the error has no bound: entries of
c are missing, or there are too many.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from csc_nets.functional.checks import full_precision, is_transformed
from csc_nets.functional.gradients.base import Gradient, register_gradient
from csc_nets.functional.operators.least_squares import least_solution
from csc_nets.functional.operators.protocol import norm_bound
from csc_nets.functional.penalties import Penalty
from csc_nets.functional.problem import Problem, refuse_broken
from csc_nets.functional.pursuits.base import Pursuit

__all__ = ["CONVERGED", "Implicit", "least_solution"]

# A fixed number of steps counts as converged when its gap over half the squared norm of the signal is below this.
CONVERGED = 1e-3


@register_gradient("implicit")
@dataclass(frozen=True)
class Implicit(Gradient):
    """The gradient of a solution. Its cost does not depend on the number of steps; see the top of this file.

    The code must be a solution, to the pursuit's tolerance or else to 1e-3 of half the squared norm of the signal.
    Otherwise a forward pass with gradient raises a RuntimeError. Codes are computed in full precision under autocast.
    Of a pursuit with a number of steps, transforms of ``torch.func`` and compilers see the plain steps.

    Args:
        steps: largest number of steps of the linear solver.
    """

    steps: int = 200

    def check(self, pursuit: Pursuit, penalty: Penalty) -> None:
        """Refuses pursuits that do not end at a solution."""
        if not pursuit.solves:
            raise ValueError(
                f"gradient='implicit' is that of a solution, and steps of {pursuit!r} do not end at one: "
                "take gradient='unroll'"
            )

    def __call__(self, pursuit: Pursuit, problem: Problem, init: Tensor | None = None) -> Tensor:
        """The code, with the gradient of a solution."""
        if pursuit.count is not None and (not torch.is_grad_enabled() or is_transformed()):
            return pursuit.run(problem, init)
        problem = _in_full_precision(problem)
        with full_precision(problem.x):
            with torch.no_grad():
                z = pursuit.run(problem, None if init is None else init.to(problem.x.dtype))
                if pursuit.count is not None:
                    _require_solution(problem, z, pursuit)
            return self._attached(problem, z) if torch.is_grad_enabled() else z

    def _attached(self, problem: Problem, z: Tensor) -> Tensor:
        """The code with the gradient of one step; the backward pass solves the equation above."""
        gain = problem.step_size
        shrinkage = 1 / (1 + problem.quadratic * gain)
        v = shrinkage * (z + gain * problem.operator.analysis(problem.residual(z)))
        if not (v.requires_grad or (isinstance(problem.lam, Tensor) and problem.lam.requires_grad)):
            return z
        t = problem.penalty.threshold(problem.lam, shrinkage * gain)
        t = torch.as_tensor(t, dtype=z.abs().dtype, device=z.device)
        if problem.penalty.kernel is None or z.is_complex():
            code = problem.penalty.prox(v, t)
        else:  # on the support of the code
            code = torch.where(z != 0, v - t * z.sign(), 0)
        if not code.requires_grad:
            return z
        linear = _Linearised(problem, z, v.detach(), t.detach(), shrinkage, gain, self.steps)
        code.register_hook(linear.solve)
        return z + (code - code.detach())  # the value is z, the gradient is that of the step


def _in_full_precision(problem: Problem) -> Problem:
    """The problem in the precision that it has without autocast."""
    weight = getattr(problem.operator, "weight", problem.x)
    return replace(problem, x=problem.x.to(weight.dtype), check=False) if not problem.x.is_complex() else problem


def _require_solution(problem: Problem, z: Tensor, pursuit: Pursuit) -> None:
    """Refuses a code that is not a solution.

    Raises:
        RuntimeError: the duality gap of a sample is above the tolerance, or not a number; for a penalty without a dual,
            a step moves the code by more than that, in units of its norm.
    """
    tol = pursuit.tol or CONVERGED
    if problem.penalty.has_dual:
        measure, gap = "duality gap over half the squared norm of the signal", problem.duality_gap(z)
        gap = torch.where(gap <= 0, 0, gap / problem.energy())
    else:
        measure, gain = "change by one more step over the norm of the code", problem.step_size
        shrinkage = 1 / (1 + problem.quadratic * gain)
        v = shrinkage * (z + gain * problem.operator.analysis(problem.residual(z)))
        moved = z - problem.penalty.prox(v, torch.as_tensor(problem.penalty.threshold(problem.lam, shrinkage * gain)))
        norm = torch.linalg.vector_norm(z.flatten(1), dim=1)
        gap = torch.linalg.vector_norm(moved.flatten(1), dim=1)
        gap = torch.where(gap == 0, 0, gap / norm)
    left = ~(gap <= tol)
    if bool(left.any()):
        refuse_broken(problem, gap)
        raise RuntimeError(
            f"{int(left.sum())} of {len(z)} codes are no solutions after {pursuit.count} steps: {measure} up to "
            f"{float(gap[left].amax()):.1e}, allowed {tol:.1e}. Raise steps or tol, or use gradient='recompute'"
        )


@dataclass
class _Linearised:
    """The equation of a gradient at a code."""

    problem: Problem
    z: Tensor
    v: Tensor
    t: Tensor
    shrinkage: float | Tensor
    gain: float | Tensor
    steps: int

    def solve(self, c: Tensor | None) -> Tensor | None:
        """w for the gradient c at the code; None where there is no gradient."""
        if c is None:
            return None
        if torch.is_grad_enabled():
            raise RuntimeError("gradient='implicit' has no second derivatives: use gradient='unroll'")
        with full_precision(c):
            if self.problem.penalty.separable and not c.is_complex():
                return self._on_support(c)
            return self._least_squares(c)

    def _normal(self, u: Tensor) -> Tensor:
        """``D^T m D u``."""
        problem, operator = self.problem, self.problem.operator
        signal = problem.masked(operator.synthesis(u, problem.size))
        kwargs = {"exact": False} if hasattr(operator, "scaled") else {}
        code: Tensor = operator.analysis(signal, **kwargs)
        return code.detach()

    def _slope(self) -> Tensor:
        """The diagonal j of the derivative of the prox."""
        if self.problem.penalty.kernel is not None:
            return (self.z != 0).to(self.z.dtype)
        return self._transposed(torch.ones_like(self.v))

    def _transposed(self, w: Tensor) -> Tensor:
        """``J^T w``."""
        with torch.enable_grad():
            v = self.v.detach().requires_grad_()
            (found,) = torch.autograd.grad(self.problem.penalty.prox(v, self.t), v, w)
        return found

    def _on_support(self, c: Tensor) -> Tensor:
        slope = self._slope()
        # Rows in the order of memory, so that they are views. The linear solver sees the entries of the support only.
        atoms_last = not slope.is_contiguous()
        shape = slope.movedim(1, -1).shape if atoms_last else slope.shape

        def as_rows(code: Tensor) -> Tensor:
            return (code.movedim(1, -1) if atoms_last else code).flatten(1)

        def as_code(rows: Tensor) -> Tensor:
            return rows.view(shape).movedim(-1, 1) if atoms_last else rows.view(shape)

        slopes = as_rows(slope)
        index, padding = _support(slopes)
        dense = torch.zeros_like(slopes)
        own = slopes.gather(1, index)
        extra = None
        if self.problem.penalty.kernel is None:
            extra = torch.where(padding, 0, (1 / own - 1) / (self.shrinkage * self.gain))
        mu = self.problem.quadratic

        def apply(u: Tensor) -> Tensor:
            v = as_rows(self._normal(as_code(dense.scatter_(1, index, u)))).gather(1, index).masked_fill_(padding, 0)
            v = v.add_(u, alpha=mu) if mu else v
            return v if extra is None else v + extra * u

        right = as_rows(c).gather(1, index).masked_fill_(padding, 0)
        bound = norm_bound(self.problem.operator, self.problem.x)
        bound = bound + mu if extra is None else bound + mu + extra.abs().amax()
        u, _ = least_solution(apply, right, bound, torch.finfo(c.dtype).eps ** 0.5, self.steps)
        u = torch.where(padding, 0, u / (self.shrinkage * self.gain))
        if extra is None:  # w = u / j on the support. Elsewhere the code is 0 and w has no effect.
            return as_code(torch.zeros_like(slopes).scatter_(1, index, u))
        whole = as_code(torch.zeros_like(slopes).scatter_(1, index, u))
        return c + self.shrinkage * (whole - self.gain * self._normal(whole))

    def _least_squares(self, c: Tensor) -> Tensor:
        shape, shrinkage, gain = c.shape, self.shrinkage, self.gain

        def flat(code: Tensor) -> Tensor:
            return torch.view_as_real(code).flatten(1) if code.is_complex() else code.flatten(1)

        def code(rows: Tensor) -> Tensor:
            return torch.view_as_complex(rows.view(*shape, 2)) if c.is_complex() else rows.view(shape)

        def residual(w: Tensor) -> Tensor:
            u = self._transposed(w)
            return w - shrinkage * (u - gain * self._normal(u))

        def adjoint(w: Tensor) -> Tensor:
            with torch.enable_grad():
                v = self.v.detach().requires_grad_()
                forward = shrinkage * (w - gain * self._normal(w))
                # J itself, by differentiating its transpose.
                dummy = torch.zeros_like(w).requires_grad_()
                (back,) = torch.autograd.grad(
                    self.problem.penalty.prox(v, self.t),
                    v,
                    dummy,
                    create_graph=True,
                )
                (found,) = torch.autograd.grad(back, dummy, forward)
            return w - found

        def apply(rows: Tensor) -> Tensor:
            return flat(adjoint(residual(code(rows))))

        right, scale = flat(adjoint(c)), torch.ones((), dtype=c.abs().dtype, device=c.device)
        rows, _ = least_solution(apply, right, scale, torch.finfo(scale.dtype).eps ** 0.75, 4 * self.steps)
        return code(rows)


def _support(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Columns ``(N, k)`` of the non-zeros of rows ``(N, n)``, and a mask that is True at the padding of shorter rows.

    Padding is a column in which the row is zero.
    """
    sample, column = rows.nonzero(as_tuple=True)
    counts = torch.bincount(sample, minlength=len(rows))
    most = int(counts.amax()) if len(rows) else 0
    place = torch.arange(len(sample), device=rows.device) - (counts.cumsum(0) - counts)[sample]
    index = (rows == 0).int().argmax(1, keepdim=True).repeat(1, most)
    index[sample, place] = column
    return index, torch.arange(most, device=rows.device) >= counts[:, None]
