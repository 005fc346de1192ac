"""Stein's unbiased risk estimate."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from csc_nets.evaluation.lam_rules.base import register_lam_rule
from csc_nets.evaluation.lam_rules.path import PathRule, lam_path, lowest
from csc_nets.functional import estimate_noise_level
from csc_nets.layers import CSC

__all__ = ["SURE"]

_STEP = 0.01  # of the finite difference, in root mean squares of the sample


@register_lam_rule("sure")
@dataclass(frozen=True)
class SURE(PathRule):
    r"""The weight whose synthesis is nearest to the clean signal, by an unbiased estimate of the squared distance.

    .. math:: \mathrm{SURE}(\lambda) = \|x - D z_\lambda\|^2 - n \hat\sigma^2 + 2 \hat\sigma^2
              \operatorname{div}_x D z_\lambda(x)

    for x = signal + noise of variance :math:`\hat\sigma^2`. Stein, "Estimation of the mean of a multivariate normal
    distribution", 1981. With an orthonormal dictionary this is SureShrink (Donoho, Johnstone, "Adapting to unknown
    smoothness via wavelet shrinkage", 1995, eq. 11).

    The divergence of exact solutions over independent atoms is the size of the support (Zou, Hastie, Tibshirani, "On
    the degrees of freedom of the lasso", 2007). Atoms that overlap are not independent and a few steps are no exact
    solution, so the default is a Monte Carlo estimate for the codes as they are (Ramani, Blu, Unser, "Monte-Carlo
    SURE", 2008): :math:`b^T (f(x + h b) - f(x)) / h` with one vector b of random signs, the same for all samples and
    calls. It doubles the cost.

    Args:
        points, largest, steps: see :class:`~csc_nets.evaluation.PathRule`.
        sigma: the noise level in the units of x, where it is known; None to estimate it from each sample.
        divergence: ``"monte_carlo"`` or ``"support"``.

    Raises:
        ValueError: another divergence.
    """

    sigma: float | None = None
    divergence: Literal["monte_carlo", "support"] = "monte_carlo"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.divergence not in ("monte_carlo", "support"):
            raise ValueError(f"divergence must be monte_carlo or support, got {self.divergence!r}")

    def __call__(self, layer: CSC, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """See :class:`~csc_nets.evaluation.LamRule`."""
        grid = self.grid(layer)
        return lowest(self.risk(layer, x, grid, mask), grid)

    def risk(self, layer: CSC, x: Tensor, grid: Tensor, mask: Tensor | None = None) -> Tensor:
        """SURE of each sample at each weight, ``(N, K)``."""
        level = estimate_noise_level(x, mask, differentiable=True) if self.sigma is None else self.sigma
        x = x.to(grid) if mask is None else x.to(grid).masked_fill(mask == 0, 0)
        variance = (level * x.new_ones(len(x))).square()
        there = torch.ones_like(x) if mask is None else (mask != 0).expand_as(x).to(x)
        estimate = self._support if self.divergence == "support" else self._monte_carlo
        with torch.autocast(x.device.type, enabled=False):
            residual, slope = estimate(layer, x, grid, mask, there)
        return residual + variance[:, None] * (2 * slope - there.flatten(1).sum(1, keepdim=True))

    def _support(
        self, layer: CSC, x: Tensor, grid: Tensor, mask: Tensor | None, there: Tensor
    ) -> tuple[Tensor, Tensor]:
        path = list(lam_path(layer, x, grid, self.steps, mask))[::-1]
        residual = [problem.residual(z).square().flatten(1).sum(1) for problem, z in path]
        return torch.stack(residual, 1), torch.stack([(z != 0).flatten(1).sum(1).to(x) for _, z in path], 1)

    def _monte_carlo(
        self, layer: CSC, x: Tensor, grid: Tensor, mask: Tensor | None, there: Tensor
    ) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        signs = torch.randint(0, 2, (1, *x.shape[1:]), generator=generator).to(x) * 2 - 1
        probe = signs * there
        h = _STEP * x.square().mean(tuple(range(1, x.ndim)), keepdim=True).sqrt().clamp_min(1e-6)
        both = torch.cat([x, x + h * probe])
        masks = None if mask is None else torch.cat([mask.expand_as(x)] * 2)
        residuals, slopes = [], []
        for problem, z in lam_path(layer, both, grid, self.steps, masks):
            here, moved = problem.operator.synthesis(z, problem.size).chunk(2)
            residuals.append(((x - here) * there).square().flatten(1).sum(1))
            slopes.append((probe * (moved - here) / h).flatten(1).sum(1))
        return torch.stack(residuals[::-1], 1), torch.stack(slopes[::-1], 1)
