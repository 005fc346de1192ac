"""The discrepancy principle."""

from dataclasses import dataclass

from torch import Tensor

from csc_nets.evaluation.lam_rules.base import register_lam_rule
from csc_nets.evaluation.lam_rules.path import PathRule, crossing
from csc_nets.functional import estimate_noise_level
from csc_nets.layers import CSC

__all__ = ["Discrepancy"]


@register_lam_rule("discrepancy")
@dataclass(frozen=True)
class Discrepancy(PathRule):
    r"""The weight at which the code leaves as much of the signal as is noise.

    .. math:: \|x - D z_\lambda\|^2 = n \hat\sigma^2

    with n the number of entries of x. Morozov, "On the solution of functional equations by the method of
    regularization", 1966. The residual grows with :math:`\lambda` (compare the objectives of two solutions), so there
    is one such weight, or the layer's own one explains too little already and is kept.

    Args:
        points, largest, steps: see :class:`~csc_nets.evaluation.PathRule`.
        sigma: the noise level in the units of x, where it is known; None to estimate it from each sample.
    """

    sigma: float | None = None

    def __call__(self, layer: CSC, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """See :class:`~csc_nets.evaluation.LamRule`."""
        grid = self.grid(layer)
        level = estimate_noise_level(x, mask, differentiable=True) if self.sigma is None else self.sigma
        variance = (level * x.new_ones(len(x), dtype=grid.dtype)).square()
        return crossing(self.residuals(layer, x, grid, mask) - variance[:, None], grid)
