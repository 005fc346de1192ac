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
from csc_nets.functional.operators.least_squares import explained
from csc_nets.functional.operators.protocol import norm_bound
from csc_nets.functional.penalties import Penalty, as_penalty, check_ridge

__all__ = ["SAFETY", "Problem", "align", "as_weight", "dual_value", "observed", "refuse_broken"]

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
    if lam.device.type == "cpu" and not is_transformed() and lam.numel():
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


def observed(mask: Tensor) -> Tensor:
    """A mask as booleans: True where a signal was observed. 0 and NaN say that it was not."""
    if mask.is_floating_point():
        return (mask != 0) & (mask == mask)
    return mask if mask.dtype == torch.bool else mask != 0


@dataclass(frozen=True)
class Problem:
    """One sparse coding problem: signals, a dictionary, a penalty and its weights.

    Args:
        x: signals ``(N, C, *S)`` or ``(N, F)``.
        operator: the dictionary; see :func:`~csc_nets.functional.as_operator`.
        lam: as for :func:`as_weight`.
        ridge: weight mu of half the squared l2 norm, beside that of the penalty.
        nonneg: codes are non-negative: the penalty is the sum of a non-negative code.
        mask: 0 or NaN where ``x`` is missing (it may hold anything there, NaN too) and anything else where it was
            observed; broadcasts against ``x``. Kept as booleans.
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
        if self.mask is not None:
            object.__setattr__(self, "mask", observed(self.mask))
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
        dictionary.

        **Weights of 0.** An atom j that costs nothing asks of a dual point :math:`D_j^T \theta = 0`, or
        :math:`\le 0` for non-negative codes. With a ridge its extra row takes up all of :math:`D_j^T r`. Without, the
        residual is first projected: what such atoms can explain of it is taken out by least squares. That is exact up
        to rounding. Compilers and ``torch.func`` get F(z) itself as the bound in this case.

        Raises:
            NotImplementedError: the penalty has no dual.
        """
        # The gap is a small difference of large sums, so it is computed in float64.
        x, r, wide = self.masked(self.x), self.residual(z), torch.float64
        correlation, mu, free = self.operator.analysis(r), self.quadratic, self._free(z)
        primal = _energy(r, wide) / 2 + (mu / 2 * _energy(z, wide) if mu else 0)
        rows = mu * _energy(z, wide) if mu else 0.0
        if mu and free is not None:
            taken = correlation.relu() if self.nonneg else correlation
            rows = mu * _energy(z.masked_fill(free, 0), wide) + _energy(taken.masked_fill(~free, 0), wide) / mu
        elif free is not None:
            r, correlation = self._projected(r, correlation, z, free)
        if mu:
            correlation = correlation - mu * z
        if free is not None:
            correlation = correlation.masked_fill(free, 0)
        excess = self.penalty.gauge(correlation, self.lam).to(wide)
        if free is not None and not mu:
            excess = excess.clamp_min(1)  # a longer dual point would make more of the rounding of the projection
        value, inner, one_sided = self.penalty.exact_value(z, self.lam), _inner(x, r), self.nonneg
        cost = self.penalty.support(correlation, self.lam)
        if cost is not None:
            inner, one_sided = inner - cost.to(wide), True
        return primal + value - dual_value(inner, _energy(r, wide) + rows, excess, one_sided)

    def _free(self, z: Tensor) -> Tensor | None:
        """Where entries of the code cost nothing; None for nowhere, or where looking at numbers is not possible."""
        if is_transformed() or not bool((torch.as_tensor(self.lam) == 0).any()):
            return None
        return self.penalty.free(self.lam, z)

    @torch.no_grad()
    def _projected(self, r: Tensor, correlation: Tensor, z: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
        """A residual without what free atoms can explain, and its correlations with all atoms."""
        # Of non-negative codes those that are used; those that could be used are found by what is left.
        chosen = free & (z > 0) if self.nonneg else free
        size, scale = self.size, self.lipschitz()
        rounding = 4 * torch.finfo(r.dtype).eps
        for _ in range(8):
            if bool(chosen.any()):
                r = r - self.masked(explained(self.operator, self.masked, r, chosen, size, scale, rounding))
                correlation = self.operator.analysis(r)
            if not self.nonneg:
                break
            level = 64 * rounding * _energy(r).sqrt().view(-1, *(1,) * (r.ndim - 1))
            more = free & (correlation > level) & ~chosen
            if not bool(more.any()):
                break
            chosen = chosen | more
        else:
            # Still not feasible: the zero signal is, and bounds by F(z) itself.
            bad = more.flatten(1).any(1).view(-1, *(1,) * (r.ndim - 1))
            r, correlation = r.masked_fill(bad, 0), correlation.masked_fill(bad, 0)
        return r, correlation

    def unit(self) -> Tensor | None:
        """Powers of two ``(N, 1, ...)`` that bring signals to a size whose squares the type holds; None for none.

        An l1 problem of signals and weights in other units has its code in them.
        """
        size = self.masked(self.x).abs().flatten(1).amax(1)
        extreme = (size > 0) & ((size < 1e-9) | (size > 1e9))
        if not bool(extreme.any()):
            return None
        exponent = torch.where(extreme, size, 1).double().log2().floor()
        return exponent.exp2().view(-1, *(1,) * (self.x.ndim - 1))

    def in_units(self, unit: Tensor) -> "Problem":
        """The problem with signals and weights divided by :meth:`unit`."""
        x, wide = self.x, torch.as_tensor(self.lam, dtype=torch.float64, device=self.x.device)
        # At most what the type holds: far above all correlations.
        lam = (wide / unit).clamp_max(torch.finfo(x.dtype).max).to(x.real.dtype if x.is_complex() else x.dtype)
        return replace(self, x=(x / unit).to(x.dtype), lam=lam, check=False)

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
        nonneg: the ray has one side only, as for codes that are non-negative.
    """
    # Along the ray the dual is a parabola with its top at inner / norm.
    limit = 1 / excess
    best = torch.where(norm > 0, inner / norm, 0.0)
    scale = torch.minimum(torch.maximum(best, torch.zeros_like(best) if nonneg else -limit), limit)
    return scale * inner - scale.square() * norm / 2


def refuse_broken(problem: Problem, gap: Tensor) -> None:
    """Says what is wrong where a gap is no number.

    Raises:
        ValueError: a gap is not finite.
    """
    if bool(gap.isfinite().all()):
        return
    if not bool(problem.masked(problem.x).isfinite().all()):
        raise ValueError("x holds NaN or infinite values (a mask of 0 leaves them out)")
    raise ValueError(
        f"the duality gap is no number: {problem.x.dtype} does not hold the squares of x, whose largest magnitude is "
        f"{float(problem.masked(problem.x).abs().amax()):.1e}, or the dictionary or lam holds others than finite values"
    )


def _energy(t: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Squared norm per sample ``(N,)``."""
    square = t.abs().square() if t.is_complex() else t.square()
    # Over several axes: flattening codes in channels_last would copy them.
    return square.sum(tuple(range(1, t.ndim)), dtype=dtype)


def _inner(x: Tensor, r: Tensor) -> Tensor:
    """Real inner product per sample ``(N,)``, float64."""
    product = (x.conj() * r).real if r.is_complex() or x.is_complex() else x * r
    return product.sum(tuple(range(1, r.ndim)), dtype=torch.float64)
