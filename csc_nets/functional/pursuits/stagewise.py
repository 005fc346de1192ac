r"""Matching in stages: the atoms whose correlation is above a falling threshold, and least squares on them."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from csc_nets.functional.checks import is_transformed
from csc_nets.functional.problem import Problem, as_weight
from csc_nets.functional.pursuits.base import Pursuit, register_pursuit
from csc_nets.functional.pursuits.descending import falling
from csc_nets.functional.refit import conjugate_gradients
from csc_nets.functional.step import Step

__all__ = ["Stagewise"]


@register_pursuit("stagewise")
@dataclass(frozen=True, repr=False)
class Stagewise(Pursuit):
    r"""Orthogonal matching pursuit for all positions at once. Stage k keeps the support

    .. math:: S_k = \mathrm{supp}\, \mathrm{prox}_{\lambda_k}\bigl(z + D^T (x - D z)\bigr), \qquad
              z \leftarrow \arg\min_{\mathrm{supp}\, z \subseteq S_k} \|x - D z\|^2

    with a weight :math:`\lambda_k` that falls as in :class:`Descending`, and a few conjugate gradients for the least
    squares. What is taken in is explained at once and whole, where a step of :class:`Descending` explains the share
    :math:`\eta`, so echoes of a large coefficient in other atoms are gone before the threshold reaches them. Step
    sizes play no part, so the code does not depend on the bound of :math:`\|D\|^2`. For an orthonormal dictionary it
    is the prox. Donoho, Tsaig, Drori, Starck, "Sparse solution of underdetermined systems of linear equations by
    stagewise orthogonal matching pursuit", 2012, with the support of Foucart, "Hard thresholding pursuit", 2011,
    (HTP1): an atom that is no longer worth its weight leaves.

    Args:
        count: number of stages.
        start: the first weight over the last.
        share: share of the stages in which the weight falls.
        fits: conjugate gradients of a stage.
        at_once: entries that may enter a position of the code in a stage, those of the largest correlation; None for
            all. With 1, and a weight that does not fall, it is orthogonal matching pursuit, which coherent atoms need:
            a threshold lets all of them in together.
    """

    count: int = 20
    start: float = 2500.0
    share: float = 0.9
    fits: int = 2
    at_once: int | None = None
    takes_step_size = False
    local = False  # the rates of the conjugate gradients are those of whole signals

    def __post_init__(self) -> None:
        falling(self.count, self.start, self.share)
        if isinstance(self.fits, bool) or not isinstance(self.fits, int) or self.fits < 1:
            raise ValueError(f"Stagewise: fits must be an int >= 1, got {self.fits!r}")
        if self.at_once is not None and (isinstance(self.at_once, bool) or self.at_once < 1):
            raise ValueError(f"Stagewise: at_once must be an int >= 1 or None, got {self.at_once!r}")

    def steps(self, problem: Problem) -> Iterator[Step]:
        """Not a table of steps."""
        raise NotImplementedError("the stages of Stagewise are no rows of a table: call run")

    @torch.no_grad()
    def run(self, problem: Problem, init: Tensor | None = None) -> Tensor:
        """The code ``(N, M, *S')``, without gradient."""
        operator = problem.operator
        correlation = operator.analysis(problem.masked(problem.x) if init is None else problem.residual(init))
        z = torch.zeros_like(correlation) if init is None else init
        readable = not is_transformed() and z.device.type == "cpu"  # reading would wait for an accelerator
        for weight in falling(self.count, self.start, self.share):
            kept = problem.penalty.prox(z + correlation, as_weight(problem.lam, z.ndim) * weight) != 0
            if self.at_once is not None:
                entering = correlation.abs().masked_fill(~kept | (z != 0), 0)
                kept &= (z != 0) | (entering >= entering.topk(min(self.at_once, z.shape[1]), 1).values[:, -1:])
            if not readable or bool(((z != 0) & ~kept).any()):
                z = z * kept
                correlation = operator.analysis(problem.residual(z))
            z, correlation = conjugate_gradients(operator, z, correlation, kept, problem.size, self.fits, problem.mask)
        return z
