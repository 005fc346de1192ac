r"""The sparse coding problem, and the numbers that measure how well a code solves it.

.. math:: F(z) = \tfrac12 \|m \odot (x - D z)\|^2 + \lambda R(z) + \tfrac{\mu}{2} \|z\|^2

with a penalty R, by default the l1 norm. Signals are ``(N, C, *S)`` or ``(N, F)``, codes ``(N, M, *S')`` or ``(N, M)``:
samples first, atoms second.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from csc_nets.functional.checks import is_number, is_transformed
from csc_nets.functional.operators.protocol import norm_bound
from csc_nets.functional.penalties import Penalty, as_penalty, check_ridge

__all__ = ["SAFETY", "Problem", "align", "as_weight", "dual_value"]

# Step size times Lipschitz constant. An estimate of the constant may be too small: by 10 % for a single wave in two
# dimensions (see ConvGeometry.probe).
SAFETY = 0.9


def as_weight(lam: float | Tensor, ndim: int, name: str = "lam") -> float | Tensor:
    """A sparsity weight that broadcasts against codes of ``ndim`` axes. A bad weight is refused.

    Args:
        lam: a number, a tensor ``()``, one weight per atom ``(M,)`` or ``(M, 1, ...)``, or a tensor with ``ndim`` axes,
            such as one weight per sample ``(N, 1, ...)``.
        ndim: axes of the codes, samples and atoms included.
        name: name of the weight in error messages.

    Raises:
        ValueError: negative or not finite, or of another shape.
    """
    if not isinstance(lam, Tensor):
        if not is_number(lam) or not 0 <= lam < math.inf:
            raise ValueError(f"{name} must be a finite number >= 0 or a tensor, got {lam!r}")
        return lam
    # Reading a value would stop a graph being traced, or wait for the accelerator.
    if lam.numel() and lam.device.type == "cpu" and not is_transformed():
        low, high = torch.aminmax(lam.detach())
        if not 0 <= low.item() <= high.item() < math.inf:
            raise ValueError(f"{name} must be finite and not negative, got {low.item()} to {high.item()}")
    return align(lam, ndim, name)


def align(lam: Tensor, ndim: int, name: str = "lam") -> Tensor:
    """The shape part of :func:`as_weight`: ``(M,)`` becomes ``(M, 1, ...)``, the rest stays."""
    if lam.ndim == 1:
        return lam.view(-1, *(1,) * (ndim - 2))
    per_atom = lam.ndim == ndim - 1 and all(n == 1 for n in lam.shape[1:])
    if lam.ndim not in (0, ndim) and not per_atom:
        raise ValueError(
            f"{name} must be a number, one weight per atom (M,), or one per sample with {ndim} axes "
            f"(N{', 1' * (ndim - 1)}), got shape {tuple(lam.shape)}"
        )
    return lam


@dataclass(frozen=True)
class Problem:
    """One sparse coding problem: signals, a dictionary, a penalty and its weights.

    Args:
        x: signals ``(N, C, *S)`` or ``(N, F)``.
        operator: the dictionary; see :func:`~csc_nets.functional.as_operator`.
        lam: as for :func:`as_weight`.
        ridge: weight mu of half the squared l2 norm, beside that of the penalty.
        nonneg: codes are non-negative: the penalty is the sum of a non-negative code.
        mask: 0 where ``x`` is missing (it may hold anything there, NaN too) and anything else where it was observed;
            broadcasts against ``x``.
        penalty: R; None for the l1 norm.
        step: step size of a pursuit; None for 0.9 over the bound of the squared norm.
        check: check ``lam``; a layer has checked its own already.

    Raises:
        ValueError: a bad weight, ``x`` without a batch axis, or complex with non-negative codes.
    """

    x: Tensor
    operator: Any
    lam: float | Tensor
    ridge: float = 0.0
    nonneg: bool = False
    mask: Tensor | None = None
    penalty: Penalty = None  # type: ignore[assignment]  # __post_init__ sets it
    step: float | Tensor | None = None
    check: bool = True

    def __post_init__(self) -> None:
        if self.x.ndim < 2:
            raise ValueError(f"signals must be (N, F) or (N, C, *S), got shape {tuple(self.x.shape)}")
        penalty = self.penalty or as_penalty(None, self.nonneg)
        if self.x.is_complex() and penalty.nonneg:
            raise ValueError(f"complex signals have complex codes, without a sign: take nonneg=False, got {penalty!r}")
        object.__setattr__(self, "penalty", penalty)
        object.__setattr__(self, "nonneg", penalty.nonneg)
        object.__setattr__(self, "ridge", check_ridge(self.ridge))
        if self.check:
            object.__setattr__(self, "lam", as_weight(self.lam, self.x.ndim))
        elif isinstance(self.lam, Tensor):
            object.__setattr__(self, "lam", align(self.lam, self.x.ndim))

    @property
    def pair(self) -> Any:
        """Older name of ``operator``."""
        return self.operator

    @property
    def size(self) -> tuple[int, ...]:
        """Spatial size of the signals."""
        return tuple(self.x.shape[2:])

    @property
    def quadratic(self) -> float:
        """The whole weight mu: the problem's plus the penalty's."""
        return self.ridge + self.penalty.ridge

    def expanded(self) -> "Problem":
        """The same problem; where one signal comes with a weight for each sample, the signal is repeated."""
        if not isinstance(self.lam, Tensor) or self.lam.ndim < self.x.ndim:
            return self
        samples = torch.broadcast_shapes(self.x.shape[:1], self.lam.shape[:1])
        return replace(self, x=self.x.expand(*samples, *self.x.shape[1:]))

    def masked(self, signal: Tensor) -> Tensor:
        """The observed part of a signal."""
        return signal if self.mask is None else signal.masked_fill(self.mask == 0, 0)

    def signal(self, estimate: Tensor | None) -> Tensor:
        """The signal with which a step compares its estimate ``D z``. ``estimate`` is None at the zero code.

        A subclass for several layers overrides this: there the signal is a code that changes with the estimate.
        """
        return self.x

    def residual(self, z: Tensor) -> Tensor:
        """Observed part of ``x - D z``."""
        return self.masked(self.x - self.operator.synthesis(z, self.size))

    def penalty_value(self, z: Tensor) -> Tensor:
        """``lam R(z)`` plus ridge, per sample ``(N,)``."""
        value = self.penalty.value(z, self.lam)
        return value + self.quadratic / 2 * _energy(z) if self.quadratic else value

    def objective(self, z: Tensor) -> Tensor:
        """F(z) per sample ``(N,)``, without checking ``z >= 0``."""
        return _energy(self.residual(z)) / 2 + self.penalty_value(z)

    def energy(self) -> Tensor:
        """Half the squared norm of the observed signal, per sample ``(N,)`` in float64: the unit of tolerances."""
        return _energy(self.masked(self.x), torch.float64) / 2

    def lam_max(self) -> Tensor:
        """Smallest weight per sample at which the code is zero: the dual norm of the correlations with ``x``.

        Shape ``(N, 1, ...)`` with as many axes as the code, so it can be scaled and used as ``lam``. Rounded up by 32
        ulps, so that the code is exactly zero there whatever order a convolution sums in.
        """
        correlation = self.operator.analysis(self.masked(self.x))
        top = self.penalty.gauge(correlation, 1.0)
        top = top * (1 + 32 * torch.finfo(top.dtype).eps)
        return top.view(-1, *(1,) * (correlation.ndim - 1))

    def duality_gap(self, z: Tensor) -> Tensor:
        r"""An upper bound of :math:`F(z) - \min F`, per sample ``(N,)`` in float64; 0 exactly at a solution.

        The residual, scaled into the dual feasible set, is the dual point: with
        :math:`c = D^T r - \mu z`, :math:`\theta = s r` is feasible where the gauge of :math:`s c` is at most 1; for
        the l1 norm this is :math:`s |c_j| \le \lambda_j` (Kim et al., "An interior-point method for large-scale
        l1-regularized least squares", 2007, section III). The ridge enters as extra rows :math:`\sqrt\mu I` of the
        dictionary. Where a weight is 0 the bound is F(z) itself in most cases.

        Raises:
            NotImplementedError: the penalty has no dual.
        """
        # The gap is a small difference of large sums, so it is computed in float64.
        x, r, wide = self.masked(self.x), self.residual(z), torch.float64
        correlation, mu = self.operator.analysis(r), self.quadratic
        if mu:
            correlation = correlation - mu * z
        excess = self.penalty.gauge(correlation, self.lam).to(wide)
        norm = _energy(r, wide) + (mu * _energy(z, wide) if mu else 0)
        inner = _inner(x, r)
        value = self.penalty.exact_value(z, self.lam)
        return norm / 2 + value - dual_value(inner, norm, excess, self.nonneg)

    def lipschitz(self) -> Tensor:
        """Largest eigenvalue of ``D^T D`` on signals of this size, or the dictionary's own bound of it.

        A step size is made of it.
        """
        return norm_bound(self.operator, self.x)

    @property
    def step_size(self) -> float | Tensor:
        """Step size of a pursuit: the given one, or 0.9 over :meth:`lipschitz`."""
        return SAFETY / self.lipschitz() if self.step is None else self.step


def dual_value(inner: Tensor, norm: Tensor, excess: Tensor, nonneg: bool) -> Tensor:
    """The largest dual objective on the ray of a residual, per sample ``(N,)``.

    Args:
        inner: inner product of the residual and the signal.
        norm: squared norm of the residual.
        excess: the largest ratio of a correlation of the residual to its weight.
        nonneg: codes are non-negative.
    """
    # Along the ray the dual is a parabola with its top at inner / norm.
    limit = 1 / excess
    best = torch.where(norm > 0, inner / norm, 0.0)
    scale = torch.minimum(torch.maximum(best, torch.zeros_like(best) if nonneg else -limit), limit)
    return scale * inner - scale.square() * norm / 2


def _energy(t: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Squared norm per sample ``(N,)``."""
    square = t.abs().square() if t.is_complex() else t.square()
    # Over several axes: flattening codes in channels_last would copy them.
    return square.sum(tuple(range(1, t.ndim)), dtype=dtype)


def _inner(x: Tensor, r: Tensor) -> Tensor:
    """Real inner product per sample ``(N,)``, float64."""
    product = (x.conj() * r).real if r.is_complex() or x.is_complex() else x * r
    return product.sum(tuple(range(1, r.ndim)), dtype=torch.float64)
