r"""The sparse coding problem and the numbers that say how well a code solves it.

.. math:: F(z) = \tfrac12 \|m \odot (x - D z)\|^2 + \sum_j \lambda_j |z_j| + \tfrac{\mu}{2} \|z\|^2,
          \qquad \text{optionally } z \ge 0

Signals are ``(N, C, *S)`` or ``(N, F)``, codes ``(N, M, *S')`` or ``(N, M)``: samples first, atoms second.
"""

import math
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from csc_nets.functional.dictionary import ConvGeometry, largest_eigenpair

__all__ = ["AdjointPair", "Problem", "as_adjoint_pair", "as_weight", "dual_value"]


class AdjointPair(Protocol):
    """Analysis and synthesis, exact adjoints of each other. Every dictionary layer is one."""

    def analysis(self, x: Tensor) -> Tensor:
        """Signal to code."""

    def synthesis(self, z: Tensor, output_size: tuple[int, ...] | None = None) -> Tensor:
        """Code to signal, of spatial size ``output_size``."""


@dataclass(frozen=True)
class _Matrix:
    weight: Tensor

    def analysis(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)

    def synthesis(self, z: Tensor, output_size: tuple[int, ...] | None = None) -> Tensor:
        return z @ self.weight


@dataclass(frozen=True)
class _Convolution:
    weight: Tensor
    geometry: ConvGeometry

    def analysis(self, x: Tensor) -> Tensor:
        return self.geometry.analysis(x, self.weight)

    def synthesis(self, z: Tensor, output_size: tuple[int, ...] | None = None) -> Tensor:
        return self.geometry.synthesis(z, self.weight, output_size)


def as_adjoint_pair(dictionary: AdjointPair | Tensor) -> AdjointPair:
    """Lets a pursuit take plain weights: ``(M, F)`` is a matrix whose rows are atoms, ``(M, C, *K)`` a convolution.

    A convolution given as a tensor has stride 1 and no padding; use a ``Dictionary`` layer for anything else.
    """
    if not isinstance(dictionary, Tensor):
        return dictionary
    if dictionary.ndim == 2:
        return _Matrix(dictionary)
    if 3 <= dictionary.ndim <= 5:
        return _Convolution(dictionary, ConvGeometry.create(dictionary.ndim - 2, tuple(dictionary.shape[2:])))
    raise ValueError(f"dictionary: expected weights (M, F) or (M, C, *K), got shape {tuple(dictionary.shape)}")


def as_weight(lam: float | Tensor, ndim: int, name: str = "lam") -> float | Tensor:
    """A sparsity weight that broadcasts against codes of ``ndim`` axes; says no to a bad one.

    Args:
        lam: a number, a tensor ``()``, one weight per atom ``(M,)`` or ``(M, 1, ...)``, or a tensor with ``ndim`` axes,
            such as one weight per sample ``(N, 1, ...)``.
        ndim: axes of the codes, samples and atoms included.
        name: what to call it in an error.

    Raises:
        ValueError: negative or not finite, or of another shape.
    """
    if not isinstance(lam, Tensor):
        if isinstance(lam, bool) or not isinstance(lam, (int, float)) or not 0 <= lam < math.inf:
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


def is_transformed() -> bool:
    """Whether a compiler traces, or ``torch.func`` or forward-mode differentiation looks on."""
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
    )


@dataclass(frozen=True)
class Problem:
    """One sparse coding problem: signals, a dictionary, weights.

    Args:
        x: signals ``(N, C, *S)`` or ``(N, F)``.
        pair: the dictionary.
        lam: as for :func:`as_weight`.
        ridge: weight mu of the squared l2 norm.
        nonneg: codes are non-negative.
        mask: 0 where ``x`` is missing (it may hold anything there, NaN too) and anything else where it was observed;
            broadcasts against ``x``.

    Raises:
        ValueError: a bad weight, or ``x`` without a batch axis.
    """

    x: Tensor
    pair: AdjointPair
    lam: float | Tensor
    ridge: float = 0.0
    nonneg: bool = False
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        if self.x.ndim < 2:
            raise ValueError(f"signals must be (N, F) or (N, C, *S), got shape {tuple(self.x.shape)}")
        if not 0 <= self.ridge < math.inf:
            raise ValueError(f"ridge must be a finite number >= 0, got {self.ridge!r}")
        object.__setattr__(self, "lam", as_weight(self.lam, self.x.ndim))

    def expanded(self) -> "Problem":
        """The same, with a signal for every weight where one signal has the weights of several samples."""
        if not isinstance(self.lam, Tensor) or self.lam.ndim < self.x.ndim:
            return self
        samples = torch.broadcast_shapes(self.x.shape[:1], self.lam.shape[:1])
        return replace(self, x=self.x.expand(*samples, *self.x.shape[1:]))

    def masked(self, signal: Tensor) -> Tensor:
        """The observed part of a signal."""
        return signal if self.mask is None else signal.masked_fill(self.mask == 0, 0)

    def residual(self, z: Tensor) -> Tensor:
        """Observed part of ``x - D z``."""
        return self.masked(self.x - self.pair.synthesis(z, tuple(self.x.shape[2:])))

    def penalty(self, z: Tensor) -> Tensor:
        """Weighted l1 norm plus ridge, per sample ``(N,)``."""
        value = _sum(self.lam * z.abs())
        return value + self.ridge / 2 * _sum(z.square()) if self.ridge else value

    def objective(self, z: Tensor) -> Tensor:
        """F(z) per sample ``(N,)``, without checking ``z >= 0``."""
        return _sum(self.residual(z).square()) / 2 + self.penalty(z)

    def lam_max(self) -> Tensor:
        """Smallest weight per sample at which the code is zero: the largest (absolute) correlation of ``x``.

        Shape ``(N, 1, ...)`` with as many axes as the code, so it can be scaled and used as ``lam``. Rounded up by 32
        ulps, so that the code is exactly zero there whatever order a convolution sums in.
        """
        correlation = self.pair.analysis(self.masked(self.x))
        correlation = correlation if self.nonneg else correlation.abs()
        top = correlation.flatten(1).amax(1).clamp_min(0) * (1 + 32 * torch.finfo(correlation.dtype).eps)
        return top.view(-1, *(1,) * (correlation.ndim - 1))

    def duality_gap(self, z: Tensor) -> Tensor:
        r"""An upper bound of :math:`F(z) - \min F`, per sample ``(N,)`` in float64; 0 exactly at a solution.

        The residual, scaled into the dual feasible set, is the dual point: with
        :math:`c = D^T r - \mu z`, :math:`\theta = s r` is feasible where :math:`s |c_j| \le \lambda_j` (Kim et al.,
        "An interior-point method for large-scale l1-regularized least squares", 2007, section III). The ridge enters
        as extra rows :math:`\sqrt\mu I` of the dictionary. Where a weight is 0 the bound is F(z) itself, as a rule.
        """
        # It is a small difference of large sums, hence float64.
        x, r, wide = self.masked(self.x), self.residual(z), torch.float64
        correlation = self.pair.analysis(r)
        if self.ridge:
            correlation = correlation - self.ridge * z
        correlation = correlation if self.nonneg else correlation.abs()
        lam, size = self.lam, z.abs()
        if not isinstance(lam, Tensor) or lam.ndim < z.ndim or lam.shape[2:].numel() == 1:
            # One weight for all positions: their largest correlation and their sum say it all.
            axes = tuple(range(2, z.ndim))
            correlation = correlation.amax(axes, keepdim=True) if axes else correlation
            size = size.sum(axes, dtype=wide, keepdim=True) if axes else size
        excess = torch.where(correlation > 0, correlation / lam, 0.0).flatten(1).amax(1).to(wide)
        norm = _sum(r.square(), wide) + (self.ridge * _sum(z.square(), wide) if self.ridge else 0)
        inner = _sum(x * r, wide)
        return norm / 2 + _sum(lam * size, wide) - dual_value(inner, norm, excess, self.nonneg)

    def lipschitz(self) -> Tensor:
        """Largest eigenvalue of ``D^T D`` on signals of this size, for a step size; exact for a matrix.

        A dictionary layer's own bound is used where there is one.
        """
        size = tuple(self.x.shape[2:])
        if hasattr(self.pair, "bound"):
            return self.pair.bound(size)
        pair = self.pair
        if isinstance(pair, _Matrix | _Convolution) and pair.weight.dtype in (torch.float16, torch.bfloat16):
            pair = replace(pair, weight=pair.weight.float())  # no eigenvalue solver in half precision
        with torch.no_grad():
            if isinstance(pair, _Matrix):
                value = torch.linalg.matrix_norm(pair.weight, ord=2).square()
            else:
                generator = torch.Generator().manual_seed(0)
                start = torch.randn((1, *self.x.shape[1:]), generator=generator, dtype=torch.float64)
                start = start.to(pair.weight if isinstance(pair, _Convolution) else self.x)
                value = largest_eigenpair(lambda u: pair.synthesis(pair.analysis(u), size), start, 40)[1]
        return value.to(self.x.dtype).clamp_min(torch.finfo(self.x.dtype).tiny)


def dual_value(inner: Tensor, norm: Tensor, excess: Tensor, nonneg: bool) -> Tensor:
    """The largest dual objective on the ray of a residual, per sample ``(N,)``.

    Args:
        inner: of the residual with the signal.
        norm: of the residual, squared.
        excess: the largest quotient of a correlation of the residual and its weight.
        nonneg: codes are non-negative.
    """
    # Along the ray the dual is a parabola with its top at inner / norm.
    limit = 1 / excess
    best = torch.where(norm > 0, inner / norm, 0.0)
    scale = torch.minimum(torch.maximum(best, torch.zeros_like(best) if nonneg else -limit), limit)
    return scale * inner - scale.square() * norm / 2


def _sum(t: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Sum per sample ``(N,)``."""
    # Over the axes as they are: flattening codes in channels_last would copy them.
    return t.sum(tuple(range(1, t.ndim)), dtype=dtype)
