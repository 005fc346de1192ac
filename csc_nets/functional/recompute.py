r"""The gradient of an unrolled pursuit from its codes alone.

A step of a pursuit, with :math:`\eta` the step size times the shrinkage :math:`\kappa` of a ridge, is

.. math:: y_k = z_{k-1} + \beta_k (z_{k-1} - z_{k-2}), \quad r_k = m \odot (x - D y_k), \quad
          z_k = \mathrm{prox}_t(\kappa y_k + \eta D^T r_k)

Automatic differentiation keeps :math:`y_k`, :math:`r_k` and :math:`z_k` of every step. The codes are enough: the
points follow from them by one pass over memory, the residuals by a synthesis. Here as many of the syntheses
are kept as take half the memory of the codes, and three codes of four, or two where all syntheses are kept: the others
are an analysis away.

Derivation: with g the gradient at :math:`z_k`, h that at the argument of the prox, which is g where the code is not
zero, and :math:`u = m \odot D h`,

.. math:: \partial y_k = \kappa h - \eta D^T u, \quad \partial x \mathrel{+}= \eta u, \quad
          \partial W \mathrel{+}= \eta\, (r_k \star h - u \star y_k), \quad
          \partial t \mathrel{-}= h \odot \mathrm{sign}(z_k)

where :math:`x \star z` is the correlation of a signal and a code, the gradient of :math:`\langle z, D^T x \rangle` and
of :math:`\langle x, D z \rangle` with respect to the atoms. So a step costs one synthesis, one analysis and two
correlations, as it does in automatic differentiation. The point's gradient goes to the two codes that it is made of.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from csc_nets.functional.dictionary import ConvGeometry
from csc_nets.functional.pursuit import extrapolations, iterate

__all__ = ["Pursuit", "recompute"]

# Of this many codes in a row the last one or two are computed again, from the two before them.
SEGMENT = 4
# Codes that take as much memory as one synthesis that is kept.
SHARE = 2


class Step(Protocol):
    """A proximal gradient step, such as :class:`csc_nets.layers.proximal_step.ProximalStep`."""

    def start(self, x: Tensor) -> Tensor:
        """The step from the zero code."""

    def synthesis(self, z: Tensor, output_size: Sequence[int]) -> Tensor:
        """Signal of a code."""

    def update(self, y: Tensor, x: Tensor, *, disposable: bool = False, estimate: Tensor | None = None) -> Tensor:
        """The step from a code, whose synthesis may be known."""

    def leap(
        self, y: Tensor, x: Tensor, before: Tensor, weight: float, *, estimate: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The step from a code, and its extrapolation from the code before."""

    @property
    def leaps(self) -> bool:
        """Whether a leap is faster than the two things that it does."""


@dataclass(frozen=True)
class Pursuit:
    """A fixed number of proximal gradient steps as a function of what it can be differentiated by.

    Args:
        step: makes the step from ``(weight, threshold)``.
        geometry: how the atoms are laid; of no axes for a matrix.
        steps: number of steps, the first included.
        momentum: FISTA; else ISTA.
        step_size: :math:`\\eta`, 0-d; a constant.
        nonneg: the non-negative threshold; else the signed one.
        keep: :math:`\\kappa`, 0-d; None for 1.
        missing: True where the signal is not known.
        stop: as for :func:`~csc_nets.functional.iterate`.
    """

    step: Callable[[Tensor, Tensor], Step]
    geometry: ConvGeometry
    steps: int
    momentum: bool
    step_size: Tensor
    nonneg: bool
    keep: Tensor | None = None
    missing: Tensor | None = None
    stop: Callable[[Tensor, Tensor], Tensor] | None = None

    def __call__(
        self, x: Tensor, weight: Tensor, threshold: Tensor, init: Tensor | None, record: "_Record | None" = None
    ) -> Tensor:
        """The code ``(N, M, *S')``.

        Args:
            x: signal ``(N, C, *S)``, 0 where it is missing.
            weight: atoms ``(M, C, *K)``.
            threshold: of the proximal map; broadcasts against the code.
            init: warm start ``(N, M, *S')``, or None for zero.
            record: what is kept for the gradient.
        """
        step = self.step(weight, threshold)

        def estimate(y: Tensor) -> Tensor | None:
            return None if record is None else record.add_estimate(step.synthesis(y, x.shape[2:]), y)

        def update(y: Tensor, disposable: bool = False) -> Tensor:
            return step.update(y, x, disposable=disposable, estimate=estimate(y))

        def leap(y: Tensor, before: Tensor, weight: float) -> tuple[Tensor, Tensor]:
            return step.leap(y, x, before, weight, estimate=estimate(y))

        first = step.start(x) if init is None else update(init)
        trace = None if record is None else record.add_code
        return iterate(
            update,
            first,
            self.steps,
            leap=leap if step.leaps else None,
            momentum=self.momentum,
            stop=self.stop,
            trace=trace,
        )

    def observed(self, signal: Tensor) -> Tensor:
        """The known part of a fresh signal."""
        return signal if self.missing is None else signal.masked_fill_(self.missing, 0)


def recompute(pursuit: Pursuit, x: Tensor, weight: Tensor, threshold: Tensor, init: Tensor | None) -> Tensor:
    """The code of a pursuit without ``stop``, with the gradient above; arguments and value as for :class:`Pursuit`.

    Equal to that of automatic differentiation up to rounding. The gradient can be differentiated again, at the price
    of automatic differentiation.
    """
    return _Recompute.apply(pursuit, x, weight, threshold, init)


class _Record:
    """Codes of a pursuit and syntheses of its points; those that were not kept are computed again."""

    def __init__(self, pursuit: Pursuit, x: Tensor, init: Tensor | None) -> None:
        self.pursuit, self.x, self.init = pursuit, x, init
        self.codes: list[Tensor | None] = []
        self.estimates: list[Tensor | None] = [None] * pursuit.steps
        self.beta = extrapolations(pursuit.steps, pursuit.momentum)

    def add_code(self, z: Tensor) -> None:
        k = len(self.codes)
        # With a small signal, whose syntheses are all kept, a code costs an analysis only.
        dropped = 2 if SHARE * self.x.numel() <= z.numel() else 1
        self.codes.append(z if k % SEGMENT < SEGMENT - dropped or k == self.pursuit.steps - 1 else None)

    def add_estimate(self, estimate: Tensor, code: Tensor) -> Tensor:
        k, every = len(self.codes), max(1, -(-SHARE * estimate.numel() // max(1, code.numel())))
        if k % every == 0:
            self.estimates[k] = estimate
        return estimate

    def open(self, step: Step, kept: Sequence[Tensor | None]) -> None:
        """Makes it readable again, from what was kept."""
        self.step, count = step, self.pursuit.steps
        self.codes, self.estimates = list(kept[:count]), list(kept[count:])

    def code(self, k: int) -> Tensor:
        z = self.codes[k]
        if z is None:
            y = self.point(k)
            assert y is not None  # the first code is always kept
            estimate = self.estimate(k, y)
            z = self.codes[k] = self.step.update(y, self.x, disposable=self.beta[k] > 0, estimate=estimate)
        return z

    def point(self, k: int) -> Tensor | None:
        """Where step k takes its gradient, None for the zero code; a fresh tensor where the step extrapolates."""
        if self.beta[k]:
            return torch.lerp(self.code(k - 2), self.code(k - 1), 1 + self.beta[k])
        return self.code(k - 1) if k else self.init

    def estimate(self, k: int, y: Tensor) -> Tensor:
        """Synthesis of the point y of step k."""
        signal = self.estimates[k]
        if signal is None:
            signal = self.estimates[k] = self.step.synthesis(y, self.x.shape[2:])
        return signal


class _Recompute(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, pursuit: Pursuit, x: Tensor, weight: Tensor, threshold: Tensor, init: Tensor | None
    ) -> Tensor:
        record = _Record(pursuit, x, init)
        z = pursuit(x, weight, threshold, init, record)
        ctx.pursuit, device = pursuit, x.device.type
        ctx.precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        ctx.save_for_backward(x, weight, threshold, init, *record.codes, *record.estimates)
        return z

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, threshold, init, *kept = ctx.saved_tensors
        wants = ctx.needs_input_grad[1:]
        with torch.autocast(x.device.type, ctx.precision, enabled=ctx.precision is not None):
            if torch.is_grad_enabled():  # somebody will differentiate again
                inputs = (x, weight, threshold, init)
                wanted = [t for t, wants_it in zip(inputs, wants, strict=True) if wants_it]
                found = iter(torch.autograd.grad(ctx.pursuit(*inputs), wanted, gradient, create_graph=True))
                return None, *(next(found) if wants_it else None for wants_it in wants)
            record = _Record(ctx.pursuit, x, init)
            record.open(ctx.pursuit.step(weight, threshold), kept)
            return None, *_gradients(record, gradient, weight, threshold, wants)


def _gradients(
    record: _Record, g: Tensor, weight: Tensor, threshold: Tensor, wants: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """Gradients of signal, atoms, threshold and warm start, None where they are not wanted."""
    pursuit, beta = record.pursuit, [*record.beta, 0.0]
    # One signal may have several weights, and a warm start be that of all signals.
    x = record.x.expand(len(g), *record.x.shape[1:])
    record.init = None if record.init is None else record.init.expand_as(g)
    geometry, eta, keep = pursuit.geometry, pursuit.step_size, pursuit.keep
    wants_x, wants_weight, wants_threshold, _ = wants
    # Under autocast codes are in half precision: convolutions in that, sums over the steps in full.
    filters, gain = weight.to(g.dtype), (weight * eta).to(g.dtype)
    of_x, of_weight, of_threshold = torch.zeros_like(x), torch.zeros_like(weight), torch.zeros_like(threshold)
    of_init = later = None
    for k in reversed(range(pursuit.steps)):
        z, y = record.code(k), record.point(k)
        g = torch.ops.aten.threshold_backward(g, z, 0) if pursuit.nonneg else g.masked_fill(z == 0, 0)
        if wants_threshold:
            of_threshold -= (g if pursuit.nonneg else g * z.sign()).sum_to_size(threshold.shape)
        residual = x
        if wants_weight and y is not None:
            residual = pursuit.observed(x - record.estimate(k, y))
        u, correlation = geometry.analysis_gradients(
            g, residual, filters, signal=wants_x or y is not None, atoms=wants_weight
        )
        if correlation is not None:
            of_weight += correlation
        if u is None or y is None:
            of_x += 0 if u is None else pursuit.observed(u)
            break
        u = pursuit.observed(u)
        if wants_x:
            of_x += u
        of_y, correlation = geometry.synthesis_gradients(u, y.to(gain.dtype), gain, atoms=wants_weight)
        if correlation is not None:
            of_weight -= correlation
        of_y = (g if keep is None else g.mul_(keep)).sub_(of_y)
        if k == 0:
            of_init = of_y
        else:
            g = of_y * (1 + beta[k])
            if later is not None:
                g.sub_(later, alpha=beta[k + 1])
            later = of_y
        record.codes[k] = record.estimates[k] = None
    found = (of_x.mul_(eta), of_weight.mul_(eta), of_threshold, of_init)
    return tuple(gradient if wanted else None for gradient, wanted in zip(found, wants, strict=True))
