"""A sparsity weight that follows the noise level of the input."""

import math
from dataclasses import dataclass

from torch import Tensor

from csc_nets.evaluation.lam_rules.base import LineRule, own_lam, register_lam_rule
from csc_nets.functional import estimate_noise_level
from csc_nets.layers import CSC

__all__ = ["NoiseLevel"]


@register_lam_rule("noise_level")
@dataclass(frozen=True)
class NoiseLevel(LineRule):
    r"""A line in the noise level, :math:`\lambda = a \hat\sigma + b`, and at least the layer's own weight.

    :math:`\hat\sigma` is that of :func:`~csc_nets.functional.estimate_noise_level`. Without a fit the line is the
    universal threshold :math:`\lambda = \hat\sigma \sqrt{2 \ln M}` of M atoms (Donoho, Johnstone, "Ideal spatial
    adaptation by wavelet shrinkage", 1994, section 2.2): of the correlations of M unit atoms with noise alone hardly
    one is larger. Fine texture counts as noise, so a clean photograph gets a larger weight, too.

    Args:
        slope: a; None for the universal threshold.
        intercept: b; None for 0.
    """

    works_unfitted = True
    slope: float | None = None
    intercept: float | None = None

    def __call__(self, layer: CSC, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """See :class:`~csc_nets.evaluation.LamRule`; ``x`` are images ``(N, C, H, W)``."""
        slope = _universal(layer) if self.slope is None else self.slope
        level = estimate_noise_level(x, mask, differentiable=True)
        return (slope * level + (self.intercept or 0.0)).clamp_min(own_lam(layer))

    def statistic(self, layer: CSC, x: Tensor, lam: float, mask: Tensor | None = None) -> Tensor:
        """The noise level, ``(N,)``."""
        return estimate_noise_level(x, mask)


def _universal(layer: CSC) -> float:
    """The universal threshold of as many coefficients at a place as a layer has atoms, for noise of deviation 1."""
    atoms = sum(map(len, layer.thresholds().values()))
    if not atoms:
        raise ValueError(f"the universal threshold needs a layer with atoms, got {type(layer).__name__}: give slope")
    return math.sqrt(2 * math.log(atoms))
