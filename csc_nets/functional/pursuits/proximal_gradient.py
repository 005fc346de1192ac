r"""Proximal gradient pursuits: thresholding, ISTA, FISTA."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from csc_nets.functional.checks import as_count, check_tol
from csc_nets.functional.problem import Problem
from csc_nets.functional.pursuits.base import Pursuit, as_pursuit, register_pursuit
from csc_nets.functional.step import Step

__all__ = ["FISTA", "ISTA", "Threshold", "extrapolations"]


def extrapolations(count: int) -> list[float]:
    r"""FISTA's weights :math:`(t_k - 1) / t_{k+1}` of its first steps, with :math:`t_1 = 1` and
    :math:`t_{k+1} = \tfrac12 (1 + \sqrt{1 + 4 t_k^2})`.

    >>> [round(weight, 4) for weight in extrapolations(4)]
    [0.0, 0.0, 0.2818, 0.434]
    """
    t, weights = 1.0, [0.0]
    for _ in range(count - 1):
        t_next = (1 + (1 + 4 * t * t) ** 0.5) / 2
        weights.append((t - 1) / t_next)
        t = t_next
    return weights[:count]


@register_pursuit("threshold")
@dataclass(frozen=True, repr=False)
class Threshold(Pursuit):
    r"""One step of size 1, :math:`\mathrm{prox}_\lambda(D^T x)`: the forward pass of a CNN layer."""

    single_gain = 1.0
    takes_step_size = False

    def __repr__(self) -> str:
        return "Threshold()"

    def changed(self, **changes: Any) -> Pursuit:
        """The pursuit itself: it is one step for every ``count``."""
        return super().changed(**{key: value for key, value in changes.items() if key != "count"})

    @classmethod
    def spelled(cls, steps: int | None, tol: float | None, **options: Any) -> "Threshold":
        """The pursuit: it is one step for every ``steps``."""
        if tol is not None:
            raise ValueError(f"pursuit='threshold' is one step, not a solution: it takes no tol, got {tol!r}")
        return super().spelled(None, None, **options)  # type: ignore[return-value]

    def steps(self, problem: Problem) -> Iterator[Step]:
        """One row."""
        yield Step(1.0)


@register_pursuit("ista")
@dataclass(frozen=True, repr=False)
class ISTA(Pursuit):
    r"""Iterative shrinkage-thresholding, :math:`z \leftarrow \mathrm{prox}_{\eta \lambda}(z + \eta D^T (x - D z))`.

    Sources: Daubechies, Defrise, De Mol 2004; Beck and Teboulle 2009, eq. 1.4.

    Args:
        count: number of steps.
        tol: a sample stops when its duality gap is at most this times half its squared norm; None for never.
    """

    count: int = 2
    tol: float | None = None
    solves = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "count", as_count(self.count))
        check_tol(self.tol)

    def changed(self, **changes: Any) -> Pursuit:
        """Without a ``count`` it solves to its tolerance."""
        if "count" in changes and changes["count"] is None:
            return as_pursuit("fista", None, changes.get("tol", self.tol))
        return super().changed(**changes)

    def steps(self, problem: Problem) -> Iterator[Step]:
        """``count`` rows with the problem's step size."""
        gain = problem.step_size
        return (Step(gain) for _ in range(self.count))


@register_pursuit("fista")
@dataclass(frozen=True, repr=False)
class FISTA(ISTA):
    r"""Fast iterative shrinkage-thresholding, textbook form: the gradient is taken at the extrapolated point

    .. math:: y_k = z_k + \frac{t_k - 1}{t_{k+1}} (z_k - z_{k-1}), \qquad t_{k+1} = \tfrac12 (1 + \sqrt{1 + 4 t_k^2})

    Source: Beck and Teboulle, "A Fast Iterative Shrinkage-Thresholding Algorithm", 2009, eq. 4.1 to 4.3.
    """

    def steps(self, problem: Problem) -> Iterator[Step]:
        """``count`` rows with the problem's step size."""
        gain = problem.step_size
        return (Step(gain, ahead=beta, inertia=beta) for beta in extrapolations(self.count))
