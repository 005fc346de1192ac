r"""The momentum of SDNet's public code, which is not that of FISTA."""

from collections.abc import Iterator
from dataclasses import dataclass

from csc_nets.functional.problem import Problem
from csc_nets.functional.pursuits.base import register_pursuit
from csc_nets.functional.pursuits.proximal_gradient import ISTA, extrapolations
from csc_nets.functional.step import Step

__all__ = ["SDNetMomentum"]


@register_pursuit("sdnet")
@dataclass(frozen=True, repr=False)
class SDNetMomentum(ISTA):
    r"""FISTA's weights with the gradient at z instead of the extrapolated point: a heavy-ball method.

    .. math:: z_{k+1} = \mathrm{prox}_{\eta\lambda}\bigl(z_k + \tfrac{t_k - 1}{t_{k+1}} (z_k - z_{k-1})
              + \eta D^T (x - D z_k)\bigr)

    Source: the public code of Dai et al., `Revisiting Sparse Convolutional Model for Visual Recognition
    <https://arxiv.org/abs/2210.12945>`_, whose paper says FISTA. With one or two steps the two are the same. For
    networks that were trained with more steps of that code, see :func:`~csc_nets.models.import_sdnet`.
    """

    def steps(self, problem: Problem) -> Iterator[Step]:
        """``count`` rows with the problem's step size."""
        gain = problem.step_size
        return (Step(gain, inertia=beta) for beta in extrapolations(self.count))
