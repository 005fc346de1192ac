"""A sparsity weight that follows what the code leaves unexplained."""

from dataclasses import dataclass

from torch import Tensor

from csc_nets.evaluation.lam_rules.base import LineRule, register_lam_rule
from csc_nets.evaluation.lam_rules.path import PathRule, crossing
from csc_nets.layers import CSC

__all__ = ["Residual"]


@register_lam_rule("residual")
@dataclass(frozen=True)
class Residual(PathRule, LineRule):
    r"""The smallest weight that is a line in its own residual.

    .. math:: \lambda = a\, r(\lambda) + b, \qquad r(\lambda) = \tfrac1n \|x - D z_\lambda\|^2

    SDNet draws a line through the residuals and the best weights of noisy images, arXiv 2210.12945. A residual is
    known once there is a weight, so the line at test time is an equation. r does not fall, and it is bounded by
    :math:`\|x\|^2 / n`:

    - with :math:`a \ge 0` the right side maps an interval into itself and does not fall, so there is a solution, and
      the iteration :math:`\lambda \leftarrow a r(\lambda) + b` from below climbs to the smallest one;
    - it is the only one where :math:`a r'(\lambda) < 1`. Over an orthonormal dictionary
      :math:`r'(\lambda) = 2 \lambda k / n` with k non-zeros, so where :math:`2 a \lambda k < n`;
    - with :math:`a \le 0` the two sides cross once.

    Args:
        points, largest, steps: see :class:`~csc_nets.evaluation.PathRule`.
        slope, intercept: a and b, from :func:`~csc_nets.evaluation.calibrate_rule`.
    """

    slope: float | None = None
    intercept: float | None = None

    def __call__(self, layer: CSC, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """See :class:`~csc_nets.evaluation.LamRule`.

        Raises:
            ValueError: the line is not fitted.
        """
        if self.slope is None or self.intercept is None:
            raise ValueError("rule residual needs slope and intercept: take calibrate_rule with training images")
        grid = self.grid(layer)
        line = self.slope * self.residuals(layer, x, grid, mask) + self.intercept
        return crossing(grid - line, grid)

    def statistic(self, layer: CSC, x: Tensor, lam: float, mask: Tensor | None = None) -> Tensor:
        """The mean square of the residual at a weight, ``(N,)``, at the end of the path down to it."""
        grid = self.grid(layer)
        path = (grid / lam).log().abs().argmin()  # the point of the path that is nearest
        return self.residuals(layer, x, grid[path:], mask)[:, 0]
