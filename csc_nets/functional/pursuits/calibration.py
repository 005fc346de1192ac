r"""Steps with coefficients for each atom, calibrated on signals so that the objective becomes small.

.. math:: z_{k+1} = \mathrm{prox}_{g \lambda + s}\bigl(z_k + b \odot (z_k - z_{k-1})
          + g \odot (D^T H (x - D z_k) - \mu z_k)\bigr), \qquad g, s, b \in \mathbb{R}^M \text{ for each step}

ISTA has the gain g = 1/(L + mu), the shift s = 0 and the inertia b = 0. Its step is safe for every signal. For most
signals it is far too short, because L is set by the few directions (low frequencies) that all atoms share. With a gain
for each atom, and a shift that removes the excess, one analysis reaches the objective of four to ten steps of FISTA. H
is the identity, or whitens residuals (:func:`whitening`), which helps with few channels and similar atoms.

Derivation of the update. On the support of the new code, with sign :math:`\sigma`, a step adds
:math:`h = g (d - \lambda \sigma) - s \sigma` to the point that inertia gives, with
:math:`d = D^T H (x - D z_k) - \mu z_k`.
It is linear in its coefficients: :math:`\Delta z = \Delta g (d - \lambda \sigma) - \Delta s\, \sigma + \Delta b
(z_k - z_{k-1}) = \alpha h + \beta \sigma + \Delta b (z_k - z_{k-1})` for :math:`\Delta g = \alpha g` and
:math:`\Delta s = \alpha s - \beta`: the codes are enough, d is not needed. Let :math:`e` be minus the gradient of the
objective after the step, on the support. Per atom, the three are the least-squares fit of e: that is the steepest
descent of the objective among the codes which the coefficients can reach, and its best length is
:math:`\langle e, \Delta z \rangle / (\|D \Delta z\|^2 + \mu \|\Delta z\|^2)`. Where e is orthogonal to the three for
every atom, the objective is stationary in all of them. Neither the optimum nor a derivative of the pursuit is needed.

Step sizes learned on the objective: Ablin, Moreau, Massias, Gramfort, "Learning step sizes for unfolded sparse coding",
2019 (one for each step); encoders trained to predict codes: Kavukcuoglu, Ranzato, LeCun, "Fast Inference in Sparse
Coding Algorithms", 2008.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from csc_nets.functional.checks import as_count, full_precision
from csc_nets.functional.operators import Operator, Preconditioned, as_operator
from csc_nets.functional.operators.protocol import read
from csc_nets.functional.problem import SAFETY, Problem
from csc_nets.functional.prox import at_least
from csc_nets.functional.pursuits.loop import run
from csc_nets.functional.step import Step

__all__ = ["calibrate", "calibrated", "calibrated_rows", "calibrated_step_size", "calibration_update", "whitening"]

Metric = Callable[[Tensor], Tensor]

# Every atom gets this share of an average atom's evidence as evidence for no change. So an atom that is active at a few
# positions only is not fitted to these alone.
_PRIOR = 0.5
# The least gain over ISTA's. A gain of 0 would stay at 0.
_LEAST = 1e-2


def calibrated(
    x: Tensor,
    dictionary: Operator | Tensor,
    lam: float | Tensor,
    coefficients: Tensor,
    *,
    metric: Metric | None = None,
    **options: Any,
) -> Tensor:
    """Codes by steps with given coefficients; see the top of this file.

    Args:
        x: signals ``(N, C, *S)`` or ``(N, F)``.
        dictionary, lam: as for :func:`~csc_nets.functional.fista`.
        coefficients: gain, shift and inertia of each step and atom, ``(T, 3, M)``.
        metric: H, a map of residuals; None for the identity.
        options: ``nonneg``, ``ridge`` and ``mask``, as for :func:`~csc_nets.functional.fista`.

    Returns:
        Codes ``(N, M, *S')``.

    Raises:
        ValueError: coefficients of another shape or without a step, a bad weight.
    """
    if coefficients.ndim != 3 or coefficients.shape[1] != 3 or not len(coefficients):
        raise ValueError(f"coefficients must be (T, 3, M) with T >= 1, got shape {tuple(coefficients.shape)}")
    problem = Problem(x, read(as_operator(dictionary)), lam, **options)
    return run(problem, calibrated_rows(problem, coefficients, metric))


def calibrated_rows(problem: Problem, coefficients: Tensor, metric: Metric | None = None) -> list[Step]:
    r"""The table of steps with coefficients ``(T, 3, M)``.

    Here the ridge is in the gradient; in a :class:`~csc_nets.functional.Step` it is in the prox. With
    :math:`r = 1 - g \mu > 0`, the step with coefficients g, s, b is the row with :math:`g / r, s / r, b / r`
    (derivation: insert these into both forms). A gain above :math:`1/\mu` would change the sign of codes, and is
    replaced by one slightly below it.
    """
    operator = None if metric is None else Preconditioned(problem.operator, problem.operator, metric)
    return [_row(problem, step, operator) for step in coefficients]


def _row(problem: Problem, coefficients: Tensor, operator: Operator | None) -> Step:
    mu = problem.quadratic
    if mu:
        gain, *others = coefficients.unbind()
        gain = gain.clamp_max(0.99 / mu)
        coefficients = torch.stack([gain, *others]) / (1 - mu * gain)
    gain, shift, inertia = coefficients.unbind()
    if not problem.nonneg:  # a signed soft threshold must not be negative
        gain, shift, _ = _per_atom(coefficients, problem.x)
        shift = at_least(shift, -gain * problem.lam)
    return Step(gain, inertia=inertia, shift=shift, operator=operator)


def calibrated_step_size(problem: Problem) -> Tensor:
    """ISTA's step size where the ridge is in the gradient, 0-d."""
    return SAFETY / (problem.lipschitz() + problem.quadratic)


@torch.no_grad()
def calibrate(
    x: Tensor,
    dictionary: Operator | Tensor,
    lam: float | Tensor,
    steps: int,
    *,
    updates: int = 20,
    rate: float = 0.5,
    metric: Metric | None = None,
    **options: Any,
) -> Tensor:
    """Coefficients for signals like ``x``, starting from those of ISTA.

    Args:
        x: signals ``(N, C, *S)`` or ``(N, F)``.
        dictionary, lam: as for :func:`calibrated`.
        steps: number of steps T.
        updates: number of updates of all steps; each costs 4 T - 1 syntheses and 3 T analyses.
        rate: share of an update that is taken.
        metric: H, as for :func:`calibrated`, with ``||D^T H D|| <= ||D||^2``.
        options: ``nonneg``, ``ridge`` and ``mask``, as for :func:`~csc_nets.functional.fista`.

    Returns:
        The coefficients ``(T, 3, M)`` with the least sum of objectives among all that were tried.

    Raises:
        ValueError: ``steps`` or ``updates`` below 1, a bad weight.
    """
    as_count(steps)
    as_count(updates, "updates")
    problem = Problem(x, read(as_operator(dictionary)), lam, **options)
    atoms = problem.operator.analysis(x[:1]).shape[1]
    now = x.new_zeros(steps, 3, atoms)
    step_size = calibrated_step_size(problem)
    now[:, 0] = step_size
    best, least = now, math.inf
    for k in range(updates + 1):
        total = float(problem.objective(calibrated(x, dictionary, lam, now, metric=metric, **options)).sum())
        if total < least:
            best, least = now, total
        if k < updates:
            now = calibration_update(problem, now, step_size, rate, metric)
    return best


@torch.no_grad()
def calibration_update(
    problem: Problem,
    coefficients: Tensor,
    step_size: Tensor,
    rate: float,
    metric: Metric | None = None,
    *,
    codes: Sequence[Tensor] | None = None,
    limit: float = math.inf,
) -> Tensor:
    """Better coefficients ``(T, 3, M)`` for the signals of a problem; gains stay positive.

    Each step is improved on its own, by the objective after it. The coefficients of atoms that no signal uses return
    towards ISTA's, of gain ``step_size``: otherwise these atoms would not learn.

    Args:
        problem: signals, dictionary and weights.
        coefficients: ``(T, 3, M)``, as for :func:`calibrated`.
        step_size: ISTA's, 0-d.
        rate: share of the update that is taken; 1 is the best length as long as supports stay the same.
        metric: H, as for :func:`calibrated`.
        codes: the code after each step, where they are known.
        limit: bound of the change, which bounds the influence of a loud signal. A gain changes by at most this share
            of itself, a shift by this share of its size plus :math:`g \\lambda`, an inertia by this number.
    """
    wide = torch.promote_types(coefficients.dtype, torch.float32)  # half precision has no solver, and overflows in sums
    tiny = torch.finfo(wide).tiny
    ista = torch.zeros_like(coefficients[0])
    ista[0] = step_size
    before = z = None
    steps = []
    for step, new in zip(coefficients, codes or _codes(problem, coefficients, metric), strict=True):
        sign = new.sign()
        active = sign.abs()
        e = active * _descent(problem, new) - problem.lam * sign
        # For signed codes a threshold below 0 is replaced by 0, so its shift has no effect.
        clipped = sign if problem.nonneg else sign * (_threshold(problem, step, new) > 0)
        features = [new, clipped]
        if z is not None:
            moved = active * (z if before is None else z - before)
            features = [new - active * z - _per_atom(step, new)[2] * moved, clipped, moved]
        with full_precision(new):
            # Sums over samples and positions: (M, 3, 3) and (M, 3), or 2 in place of 3. They are taken without copies,
            # because copies and a product of matrices for each atom take longer.
            columns, axes = [f.to(wide) for f in (*features, e)], (0, *range(2, new.ndim))
            products = torch.stack([torch.stack([(a * b).sum(axes) for b in columns], 1) for a in columns], 1)
            gram, target = products[:, :-1, :-1], products[:, :-1, -1]
            evidence = gram.diagonal(dim1=1, dim2=2)
            evidence = (evidence + _PRIOR * evidence.mean(0) + tiny).rsqrt()
            scaled = evidence[:, :, None] * gram * evidence[:, None]
            scaled = scaled + torch.diag_embed(1 - scaled.diagonal(dim1=1, dim2=2))
            solution, _ = torch.linalg.solve_ex(scaled, evidence * target)  # solve would wait for an accelerator
            change = evidence * solution
            shape = (-1, *(1,) * (new.ndim - 2))
            parts = [c.view(shape) * f for c, f in zip(change.unbind(1), columns[:-1], strict=True)]
            dz = sum(parts[1:], parts[0])
        signal = problem.masked(problem.operator.synthesis(dz.to(new.dtype), tuple(problem.x.shape[2:])))
        curvature = signal.to(wide).square().sum()
        if problem.quadratic:
            curvature = curvature + problem.quadratic * dz.square().sum()
        # Without active atoms there is no change and no curvature.
        change = rate * (change * target).sum() / curvature.clamp_min(tiny) * change
        share, beta, *further = change.unbind(1)
        gain, shift, _ = step.to(wide)
        shifted = (share * shift - beta) * (gram[:, 1, 1] > 0)
        wanted = torch.stack([share * gain, shifted, *(further or [torch.zeros_like(gain)])])
        if math.isfinite(limit):
            most = limit * torch.stack([gain, gain * _level(problem) + shift.abs(), torch.ones_like(gain)])
            wanted = wanted.clamp(-most, most)
        better = (step + wanted).to(step.dtype)
        better = torch.cat([better[:1].clamp_min(_LEAST * step_size.to(step.dtype)), better[1:]])
        steps.append(torch.where(active.amax(axes) > 0, better, step.lerp(ista, rate)))
        before, z = z, new
    return torch.stack(steps)


def _level(problem: Problem) -> Tensor | float:
    """The sparsity weight of each atom, ``(M,)``, or of all; the mean of weights per sample."""
    lam = problem.lam
    if not isinstance(lam, Tensor):
        return lam
    return lam.mean((0, *range(2, lam.ndim))) if lam.ndim == problem.x.ndim else lam.flatten()


def whitening(weight: Tensor, lipschitz: Tensor | float, share: float = 1.0) -> Tensor:
    r"""Short filters that nearly invert :math:`D D^T + \rho` on signals, for stride 1.

    Derivation. On an unbounded signal :math:`D D^T` is a convolution, with a C x C matrix :math:`\hat D \hat D^*` at
    each frequency. The filters are a multiple of its inverse, cropped to the extent of :math:`D D^T`, with the largest
    factor for which :math:`\|D D^T H\| \le L` is seen: the bound :math:`\sqrt{\|A\|_1 \|A\|_\infty}` of the norm
    at the sampled frequencies. So ISTA's step stays safe.

    Args:
        weight: atoms ``(M, C, *K)``.
        lipschitz: bound L of the squared norm of D.
        share: :math:`\rho / L`, > 0. The less, the flatter the spectrum, and the farther the inverse reaches: below
            about 0.1 the crop may leave H with negative eigenvalues, and steps that climb along them.

    Returns:
        Filters of a convolution ``(C, C, *(2K - 1))``; differentiable in the atoms.
    """
    dtype, weight = weight.dtype, weight.to(torch.promote_types(weight.dtype, torch.float32))  # no half FFT on a CPU
    kernel = weight.shape[2:]
    axes, size = tuple(range(2, weight.ndim)), [4 * k for k in kernel]
    spectrum = torch.fft.fftn(weight, size, axes)
    # Conjugate, since filters of a convolution layer are correlated with the signal.
    gram = torch.einsum("mc...,md...->...cd", spectrum.conj(), spectrum)
    identity = torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device)
    inverse = torch.linalg.inv_ex(gram + share * lipschitz * identity)[0]  # inv would wait for an accelerator
    filters: Tensor = torch.fft.ifftn(inverse.movedim((-2, -1), (0, 1)), dim=axes).real.roll(
        [k - 1 for k in kernel], axes
    )
    for axis, k in zip(axes, kernel, strict=True):
        filters = filters.narrow(axis, 0, 2 * k - 1)
    product = (gram @ torch.fft.fftn(filters, size, axes).movedim((0, 1), (-2, -1))).abs()
    norm: Tensor = (product.sum(-1).amax(-1) * product.sum(-2).amax(-1)).amax().sqrt()
    return (filters * (lipschitz / norm)).to(dtype)


def _codes(problem: Problem, coefficients: Tensor, metric: Metric | None) -> list[Tensor]:
    """The code after every step."""
    codes: list[Tensor] = []
    run(problem, calibrated_rows(problem, coefficients, metric), trace=codes.append)
    return codes


def _descent(problem: Problem, z: Tensor) -> Tensor:
    """Minus the gradient of the smooth part at a code, ``(N, M, *S')``."""
    descent: Tensor = problem.operator.analysis(problem.residual(z))
    return descent - problem.quadratic * z if problem.quadratic else descent


def _threshold(problem: Problem, coefficients: Tensor, like: Tensor) -> Tensor:
    gain, shift, _ = _per_atom(coefficients, like)
    threshold: Tensor = gain * problem.lam + shift
    return threshold


def _per_atom(coefficients: Tensor, like: Tensor) -> Tensor:
    """Coefficients ``(3, M)`` that broadcast against a code."""
    return coefficients.view(3, -1, *(1,) * (like.ndim - 2))
