r"""The sparse coding problem and the numbers that say how well a code solves it.

.. math:: F(z) = \tfrac12 \|m \odot (x - D z)\|^2 + \sum_j \lambda_j |z_j| + \tfrac{\mu}{2} \|z\|^2,
          \qquad \text{optionally } z \ge 0

Signals are ``(N, C, *S)`` or ``(N, F)``, codes ``(N, M, *S')`` or ``(N, M)``: samples first, atoms second.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from csc_nets.functional.dictionary import ConvGeometry, largest_eigenpair

__all__ = ["AdjointPair", "Problem", "as_adjoint_pair", "as_weight"]


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
    """A sparsity weight that broadcasts against codes of ``ndim`` axes.

    Args:
        lam: a number, a tensor ``()``, one weight per atom ``(M,)``, or a tensor that broadcasts against the codes as
            it is, such as one weight per sample ``(N, 1, 1, 1)``.
        ndim: axes of the codes, samples and atoms included.
        name: what to call it in an error.

    Raises:
        ValueError: negative or not finite, or of another number of axes.
    """
    if isinstance(lam, Tensor):
        if lam.ndim not in (0, 1, ndim):
            raise ValueError(
                f"{name} must be a number, one weight per atom (M,), or one per sample with {ndim} axes "
                f"(N{', 1' * (ndim - 1)}), got shape {tuple(lam.shape)}"
            )
        # Reading a value would stop a graph being traced, or wait for the accelerator.
        if not torch.compiler.is_compiling() and lam.device.type == "cpu":
            low, high = torch.aminmax(lam.detach())
            if not 0 <= low.item() <= high.item() < math.inf:
                raise ValueError(f"{name} must be finite and not negative, got {low.item()} to {high.item()}")
        return lam.view(-1, *(1,) * (ndim - 2)) if lam.ndim == 1 else lam
    if isinstance(lam, bool) or not isinstance(lam, (int, float)) or not 0 <= lam < math.inf:
        raise ValueError(f"{name} must be a finite number >= 0 or a tensor, got {lam!r}")
    return lam


@dataclass(frozen=True)
class Problem:
    """One sparse coding problem: signals, a dictionary, weights.

    Args:
        x: signals ``(N, C, *S)`` or ``(N, F)``.
        pair: the dictionary.
        lam: as for :func:`as_weight`.
        ridge: weight mu of the squared l2 norm.
        nonneg: codes are non-negative.
        mask: 1 where ``x`` was observed and 0 where it is missing; broadcasts against ``x``.
    """

    x: Tensor
    pair: AdjointPair
    lam: float | Tensor
    ridge: float = 0.0
    nonneg: bool = False
    mask: Tensor | None = None

    def masked(self, signal: Tensor) -> Tensor:
        """The observed part of a signal."""
        return signal if self.mask is None else signal * self.mask

    def residual(self, z: Tensor) -> Tensor:
        """Observed part of ``x - D z``."""
        return self.masked(self.x - self.pair.synthesis(z, tuple(self.x.shape[2:])))

    def penalty(self, z: Tensor) -> Tensor:
        """Weighted l1 norm plus ridge, per sample ``(N,)``."""
        value = self._l1(z)
        return value + self.ridge / 2 * z.square().flatten(1).sum(1) if self.ridge else value

    def objective(self, z: Tensor) -> Tensor:
        """F(z) per sample ``(N,)``, without checking ``z >= 0``."""
        return self.residual(z).square().flatten(1).sum(1) / 2 + self.penalty(z)

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
        r"""An upper bound of :math:`F(z) - \min F`, per sample ``(N,)``; 0 exactly at a solution.

        The residual, scaled into the dual feasible set, is the dual point: with
        :math:`c = D^T r - \mu z`, :math:`\theta = s r` is feasible where :math:`s |c_j| \le \lambda_j` (Kim et al.,
        "An interior-point method for large-scale l1-regularized least squares", 2007, section III). The ridge enters
        as extra rows :math:`\sqrt\mu I` of the dictionary. Where a weight is 0 the bound is F(z) itself, as a rule.
        """
        x, r = self.masked(self.x), self.residual(z)
        correlation = self.pair.analysis(r) - self.ridge * z
        correlation = correlation.clamp_min(0) if self.nonneg else correlation.abs()
        excess = torch.where(correlation > 0, correlation / as_weight(self.lam, z.ndim), 0.0).flatten(1).amax(1)
        norm = r.square().flatten(1).sum(1) + self.ridge * z.square().flatten(1).sum(1)
        inner = (x * r).flatten(1).sum(1)
        # Along the ray of the residual the dual is a parabola with its top at inner / norm.
        limit = 1 / excess
        best = torch.where(norm > 0, inner / norm, 0.0)
        scale = torch.minimum(torch.maximum(best, torch.zeros_like(best) if self.nonneg else -limit), limit)
        dual = scale * inner - scale.square() * norm / 2
        return norm / 2 + self._l1(z) - dual

    def _l1(self, z: Tensor) -> Tensor:
        return (as_weight(self.lam, z.ndim) * z.abs()).flatten(1).sum(1)

    def lipschitz(self) -> float | Tensor:
        """Largest eigenvalue of ``D^T D`` on signals of this size, for a step size; exact for a matrix.

        A dictionary layer's own estimate is used where there is one.
        """
        if hasattr(self.pair, "lipschitz"):
            return self.pair.lipschitz
        if isinstance(self.pair, _Matrix):
            return torch.linalg.matrix_norm(self.pair.weight.detach(), ord=2).square()
        size = tuple(self.x.shape[2:])
        with torch.no_grad():
            start = torch.randn(
                (1, *self.x.shape[1:]), generator=torch.Generator().manual_seed(0), dtype=torch.float64
            ).to(self.x)
            return largest_eigenpair(lambda u: self.pair.synthesis(self.pair.analysis(u), size), start, 40)[1]
