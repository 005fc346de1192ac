r"""A pursuit whose threshold falls: for penalties that are not convex, where the start decides which code is found."""

from collections.abc import Iterator
from dataclasses import dataclass

from csc_nets.functional.problem import Problem
from csc_nets.functional.pursuits.base import register_pursuit
from csc_nets.functional.pursuits.proximal_gradient import ISTA
from csc_nets.functional.step import Step

__all__ = ["Descending", "falling"]


@register_pursuit("descending")
@dataclass(frozen=True, repr=False)
class Descending(ISTA):
    r"""Iterative thresholding with a weight that falls to :math:`\lambda`:

    .. math:: z \leftarrow \mathrm{prox}_{\eta \lambda_k}(z + \eta D^T (x - D z)), \qquad
              \lambda_k = \lambda \max(1, s^{1 - k / (\theta T)})

    With the l0 penalty the large coefficients are found first, and what they explain is gone when the threshold gets to
    the small ones, as in matching pursuit, but for all positions at once. Plain iterative hard thresholding takes the
    small echoes of a large coefficient in other atoms together with it, and stays there. Starck, Elad, Donoho, "Image
    decomposition via the combination of sparse representations and a variational approach", 2005 (section III);
    Blumensath and Davies, "Iterative thresholding for sparse approximations", 2008, for the steps without descent.

    Args:
        count: number T of steps.
        tol: as for :class:`ISTA`.
        start: s, the first weight over the last. For the l0 penalty the threshold begins :math:`\sqrt s` times as high.
        share: :math:`\theta`, the share of the steps in which the weight falls; the rest is taken with the last.
    """

    count: int = 40
    start: float = 2500.0
    share: float = 0.8
    solves = False  # it ends where no small move helps, which need not be the least objective

    def __post_init__(self) -> None:
        super().__post_init__()
        falling(self.count, self.start, self.share)

    def steps(self, problem: Problem) -> Iterator[Step]:
        """``count`` rows with the problem's step size."""
        gain = problem.step_size
        for weight in falling(self.count, self.start, self.share):
            yield Step(gain, shift=gain * problem.lam * (weight - 1)) if weight > 1 else Step(gain)


def falling(count: int, start: float, share: float) -> list[float]:
    """Weights that fall geometrically from ``start`` to 1 in a share of ``count`` steps, and stay there.

    Raises:
        ValueError: a start below 1, or a share outside (0, 1].
    """
    if not 1 <= start < float("inf"):
        raise ValueError(f"start must be a finite number >= 1, got {start!r}")
    if not 0 < share <= 1:
        raise ValueError(f"share must be in (0, 1], got {share!r}")
    fall = share * (count - 1)
    return [max(1.0, start ** (1 - k / fall)) if fall else 1.0 for k in range(count)]
