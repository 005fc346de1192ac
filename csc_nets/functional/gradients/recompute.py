r"""The gradient of an unrolled pursuit from its codes alone.

A row of a pursuit (:class:`~csc_nets.functional.Step`), with g its gain and :math:`\kappa` the shrinkage of a ridge, is

.. math:: y_k = z_{k-1} + \iota_k (z_{k-1} - z_{k-2}), \quad p_k = z_{k-1} + \alpha_k (z_{k-1} - z_{k-2}), \quad
          r_k = m \odot (x - D p_k), \quad z_k = \mathrm{prox}_t(\kappa y_k + \kappa g D^T r_k)

Automatic differentiation keeps the points, :math:`r_k` and :math:`z_k` of every step. The codes are enough: two codes
give the points by one pass over memory, and a synthesis gives the residuals. This gradient keeps three codes of four,
and as many syntheses as take half the memory of the codes. Where all syntheses are kept, it keeps two codes of four. An
analysis computes each missing code again.

Derivation: with c the gradient at :math:`z_k`, h that at the argument of the prox, which is c where the code is not
zero, and :math:`u = m \odot D h`,

.. math:: \partial y_k = \kappa h, \quad \partial p_k = - \kappa g D^T u, \quad
          \partial x \mathrel{+}= \kappa g u, \quad
          \partial W \mathrel{+}= \kappa g\, (r_k \star h - u \star p_k), \quad
          \partial t \mathrel{-}= h \odot \mathrm{sign}(z_k)

where :math:`x \star z` is the correlation of a signal and a code, the gradient of :math:`\langle z, D^T x \rangle` and
of :math:`\langle x, D z \rangle` with respect to the atoms. So a step costs one synthesis, one analysis and two
correlations, as in automatic differentiation. The gradients of both points are added to those of the two codes from
which the points were computed.

The formula holds for the l1 norms, for operators with methods for these correlations, and for rows that share one
operator. Other rows (with their own filters or learned gains, or other penalties) are run again, a few at a time, under
automatic differentiation. The gradient and the saving are the same, and every row runs twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from csc_nets.functional.checks import autocast_dtype, full_precision, is_transformed
from csc_nets.functional.gradients.base import Gradient, register_gradient
from csc_nets.functional.kernels import Kernels
from csc_nets.functional.penalties import Penalty
from csc_nets.functional.problem import Problem
from csc_nets.functional.pursuits.base import Pursuit
from csc_nets.functional.pursuits.loop import advance, extrapolated, run
from csc_nets.functional.step import Step

__all__ = ["Recompute"]

# Of this many successive codes the last one or two are not kept, and computed again from the two before them.
SEGMENT = 4
# The codes take at least this many times the memory of the syntheses that are kept.
SHARE = 2


@register_gradient("recompute")
@dataclass(frozen=True)
class Recompute(Gradient):
    """The gradient of the unrolled steps, up to rounding, with less than half of the memory; see the top of this file.

    Transforms of ``torch.func`` and compilers see the plain steps. A second derivative costs as much as with automatic
    differentiation.
    """

    def check(self, pursuit: Pursuit, penalty: Penalty) -> None:
        """Refuses pursuits that are not a fixed table of steps."""
        if pursuit.count is None or pursuit.tol is not None:
            raise ValueError(f"gradient='recompute' takes a fixed number of steps, got {pursuit!r}")
        if not pursuit.is_table:
            raise ValueError(
                f"gradient='recompute' runs a table of steps, and {pursuit!r} does more than that with its codes: "
                "take gradient='unroll'"
            )

    def __call__(self, pursuit: Pursuit, problem: Problem, init: Tensor | None = None) -> Tensor:
        """The code, with the gradient of its steps."""
        if not torch.is_grad_enabled() or is_transformed():
            return pursuit.run(problem, init)
        rows = tuple(pursuit.steps(problem))
        if not _has_formula(problem, rows):
            return _rerun(problem, rows, init)
        inputs = (problem.x, problem.operator.weight, problem.lam, init)
        if not any(isinstance(t, Tensor) and t.requires_grad for t in inputs):
            return pursuit.run(problem, init)
        code: Tensor = _Recompute.apply(problem, rows, *inputs)
        return code


def _has_formula(problem: Problem, rows: Sequence[Step]) -> bool:
    """Whether the formula above holds for these rows."""
    numbers = (n for row in rows for n in (row.gain, row.shift, row.ahead, row.inertia))
    return (
        problem.penalty.kernel is not None
        and hasattr(problem.operator, "analysis_gradients")
        and type(problem).signal is Problem.signal
        and not problem.x.is_complex()
        and all(row.operator is None and row.memory is None and row.penalty is None for row in rows)
        and not any(isinstance(n, Tensor) and (n.ndim or n.requires_grad) for n in numbers)
    )


def _rerun(problem: Problem, rows: Sequence[Step], init: Tensor | None) -> Tensor:
    """Runs the rows under checkpoints: their intermediate results are computed again for the gradient."""
    if any(row.memory is not None for row in rows):
        return run(problem, rows, init)
    before, z = init, init
    for row in rows:
        new = checkpoint(advance, problem, row, z, before, use_reentrant=False, preserve_rng_state=False)
        before, z = z, new
    assert z is not None
    return z


def _with(problem: Problem, x: Tensor, weight: Tensor, lam: Any) -> Problem:
    return replace(problem, x=x, operator=problem.operator.map(lambda _: weight), lam=lam, check=False)


def _emptied(problem: Problem) -> Problem:
    """The problem without its tensors: autograd keeps these."""
    empty = problem.x.new_empty((0,) * problem.x.ndim)
    return _with(problem, empty, problem.operator.weight.new_empty(0), 0.0)


class _Record:
    """Codes of a pursuit and syntheses of its points. It keeps some of them and computes the others again."""

    def __init__(self, problem: Problem, rows: Sequence[Step], init: Tensor | None) -> None:
        self.problem, self.rows, self.init = problem, rows, init
        self.codes: list[Tensor | None] = []
        self.estimates: list[Tensor | None] = [None] * len(rows)

    def add_code(self, z: Tensor) -> None:
        k = len(self.codes)
        # All syntheses of a small signal are kept, so that a code costs one analysis.
        dropped = 2 if SHARE * self.problem.x.numel() <= z.numel() else 1
        self.codes.append(z if k % SEGMENT < SEGMENT - dropped or k == len(self.rows) - 1 else None)

    def add_estimate(self, estimate: Tensor, point: Tensor) -> None:
        k, every = len(self.codes), max(1, -(-SHARE * estimate.numel() // max(1, point.numel())))
        if k % every == 0:
            self.estimates[k] = estimate

    def open(self, kept: Sequence[Tensor | None]) -> None:
        """Takes the kept codes and syntheses, before codes are read again."""
        self.kernels, count = Kernels(self.problem), len(self.rows)
        self.codes, self.estimates = list(kept[:count]), list(kept[count:])

    def code(self, k: int) -> Tensor:
        z = self.codes[k]
        if z is None:
            point, start = self.points(k)
            assert point is not None and start is not None  # the first code is always kept
            estimate, kernel = self.estimate(k, point), self.kernels(self.rows[k])
            fresh = start is not self.codes[k - 1]
            z = self.codes[k] = kernel.advance(self.problem.x, start, point, estimate, disposable=fresh)
        return z

    def points(self, k: int) -> tuple[Tensor | None, Tensor | None]:
        """The points where step k takes its gradient and where it starts; None for the zero code."""
        if k == 0:
            return self.init, self.init
        return extrapolated(self.code(k - 1), self.code(k - 2) if k > 1 else self.init, self.rows[k])

    def estimate(self, k: int, point: Tensor) -> Tensor:
        """Synthesis of the point of step k."""
        signal = self.estimates[k]
        if signal is None:
            signal = self.estimates[k] = self.kernels(self.rows[k]).synthesis(point, self.problem.size)
        return signal


class _Recompute(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, problem: Problem, rows: Sequence[Step], x: Tensor, weight: Tensor, lam: Any, init: Tensor | None
    ) -> Tensor:
        problem = _with(problem, x, weight, lam)
        record = _Record(problem, rows, init)
        z = run(problem, rows, init, record=record)
        ctx.problem, ctx.rows, ctx.lam = _emptied(problem), rows, None if isinstance(lam, Tensor) else lam
        ctx.precision = autocast_dtype(x)
        ctx.save_for_backward(x, weight, lam if ctx.lam is None else None, init, *record.codes, *record.estimates)
        return z

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, lam, init, *kept = ctx.saved_tensors
        lam = lam if ctx.lam is None else ctx.lam
        wants, problem = ctx.needs_input_grad[2:], _with(ctx.problem, x, weight, lam)
        with full_precision(x) if ctx.precision is None else torch.autocast(x.device.type, ctx.precision):
            if torch.is_grad_enabled():  # for a second derivative
                inputs = (x, weight, lam, init)
                wanted = [t for t, wants_it in zip(inputs, wants, strict=True) if wants_it]
                found = iter(torch.autograd.grad(run(problem, ctx.rows, init), wanted, gradient, create_graph=True))
                return None, None, *(next(found) if wants_it else None for wants_it in wants)
            record = _Record(problem, ctx.rows, init)
            record.open(kept)
            return None, None, *_gradients(record, gradient, weight, wants)


def _gradients(record: _Record, c: Tensor, weight: Tensor, wants: Sequence[bool]) -> tuple[Tensor | None, ...]:
    """Gradients of signal, atoms, sparsity weight and warm start, None where they are not wanted."""
    problem, rows, lam = record.problem, record.rows, record.problem.lam
    # One signal may have several weights, and all signals may share one warm start.
    x = problem.x.expand(len(c), *problem.x.shape[1:])
    record.init = None if record.init is None else record.init.expand_as(c)
    wants_x, wants_weight, wants_lam, _ = wants
    missing = record.kernels.missing

    def observed(signal: Tensor) -> Tensor:
        return signal if missing is None else signal.masked_fill_(missing, 0)

    nonneg = problem.penalty.kernel == "nonneg"
    # Under autocast codes are in half precision. Convolutions use half precision, sums over the steps full precision.
    filters = problem.operator.map(lambda w: w.to(c.dtype))
    of_x, of_weight = torch.zeros_like(x), torch.zeros_like(weight)
    of_lam = torch.zeros_like(lam) if isinstance(lam, Tensor) else None
    of_init = later = None
    scaled: Any = None
    scaled_by: Any = None
    for k in reversed(range(len(rows))):
        z, (point, _) = record.code(k), record.points(k)
        if scaled is None or rows[k].gain is not scaled_by:
            folded, _, shrinkage = record.kernels.threshold(rows[k])
            gain, scaled_by = torch.as_tensor(folded, dtype=weight.dtype, device=weight.device), rows[k].gain
            scaled = problem.operator.map(partial(_scaled, gain=gain, dtype=c.dtype))
        h = torch.ops.aten.threshold_backward(c, z, 0) if nonneg else c.masked_fill(z == 0, 0)
        if wants_lam and of_lam is not None:
            of_lam -= gain * (h if nonneg else h * z.sign()).sum_to_size(of_lam.shape)
        residual = x
        if wants_weight and point is not None:
            residual = observed(x - record.estimate(k, point))
        wants_signal = wants_x or point is not None
        u, correlation = filters.analysis_gradients(h, residual, signal=wants_signal, atoms=wants_weight)
        if correlation is not None:
            of_weight.addcmul_(correlation, gain)
        if u is None or point is None:
            if u is not None:
                of_x.addcmul_(observed(u), gain)
            break
        u = observed(u)
        if wants_x:
            of_x.addcmul_(u, gain)
        of_point, correlation = scaled.synthesis_gradients(u, point.to(c.dtype), atoms=wants_weight)
        if correlation is not None:
            of_weight.addcmul_(correlation, gain, value=-1)
        of_start = h if shrinkage is None else h.mul_(shrinkage)
        if k:
            c, later = _to_codes(rows[k], of_start, of_point, later)
        else:
            of_init = _minus(of_start.sub_(of_point), later)
        record.codes[k] = record.estimates[k] = None
    found = (of_x, of_weight, of_lam, of_init)
    return tuple(gradient if wanted else None for gradient, wanted in zip(found, wants, strict=True))


Share = tuple[Tensor, Any]


def _to_codes(row: Step, of_start: Tensor, of_point: Tensor, later: Share | None) -> tuple[Tensor, Share | None]:
    """Gradient of the code before a step, and the share that is subtracted from the gradient of the code before that.

    Args:
        row: the step.
        of_start: gradient of its start.
        of_point: minus the gradient of its point.
        later: the share that the step after it subtracts.
    """
    ahead, inertia = row.ahead, row.inertia
    if ahead == inertia:
        whole = of_start.sub_(of_point)
        return _minus(whole * (1 + ahead), later), (whole, ahead) if ahead else None
    of_code = of_start * (1 + inertia) - of_point * (1 + ahead)
    return _minus(of_code, later), (of_start * inertia - of_point * ahead, 1.0)


def _scaled(weight: Tensor, gain: Tensor, dtype: torch.dtype) -> Tensor:
    return (weight * gain).to(dtype)


def _minus(fresh: Tensor, share: Share | None) -> Tensor:
    return fresh if share is None else fresh.sub_(share[0], alpha=share[1])
