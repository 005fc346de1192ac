r"""Block coordinate descent: the atoms of one size after the other explain what the others left."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from csc_nets.functional.operators.protocol import norm_bound
from csc_nets.functional.penalties import Penalty
from csc_nets.functional.problem import Problem
from csc_nets.functional.pursuits.base import Pursuit, register_pursuit
from csc_nets.functional.pursuits.descending import falling
from csc_nets.functional.step import Step

__all__ = ["BlockCoordinate"]


@register_pursuit("block_coordinate")
@dataclass(frozen=True, repr=False)
class BlockCoordinate(Pursuit):
    r"""Sweeps over the blocks of :math:`D = [D_1 \; D_2 \; \cdots]`, with a weight that falls:

    .. math:: z_i \leftarrow \mathrm{prox}_{\eta_i \lambda_k}\bigl(z_i + \eta_i D_i^T (x - \textstyle\sum_j D_j z_j)
              \bigr) \quad \text{for } i = 1, 2, \ldots, \qquad \eta_i = 1 / \|D_i\|^2

    Where the atoms of a block are orthonormal, this is the least objective over the block. Proximal gradients on the
    whole of D take shorter steps, because its bases overlap; here what one block has explained is gone before the next
    one looks. A sweep costs one product with D and one with its transpose. Sardy, Bruce, Tseng, "Block coordinate
    relaxation methods for nonparametric wavelet denoising", 2000. With a falling weight and missing samples it is
    morphological component analysis: Starck, Elad, Donoho, 2005; Elad, Starck, Querre, Donoho, 2005.

    The operator says what its blocks are, in the order of the sweep: ``blocks`` (operators), ``split(z)`` and
    ``join(codes)``. An operator that does not is one block.

    Args:
        count: number of sweeps.
        start: the first weight over the last.
        share: share of the sweeps in which the weight falls.
    """

    count: int = 20
    start: float = 50.0
    share: float = 0.9
    takes_step_size = False

    def __post_init__(self) -> None:
        falling(self.count, self.start, self.share)

    def check(self, penalty: Penalty) -> None:
        """Refuses a penalty that ties entries of different blocks together.

        Raises:
            ValueError: says why.
        """
        if not penalty.separable:
            raise ValueError(f"BlockCoordinate codes blocks of atoms in turn: {penalty!r} is no sum over entries")

    def steps(self, problem: Problem) -> Iterator[Step]:
        """Not a table of steps."""
        raise NotImplementedError("the sweeps of BlockCoordinate are no rows of a table: call run")

    @torch.no_grad()
    def run(self, problem: Problem, init: Tensor | None = None) -> Tensor:
        """The code ``(N, M, *S')``, without gradient."""
        operator: Any = problem.operator
        operator = operator if hasattr(operator, "blocks") else _OneBlock(operator)
        blocks, lams, mu = operator.blocks, _weights(operator, problem), problem.quadratic
        gains = [1 / (norm_bound(block, problem.x) + mu) for block in blocks]
        residual = problem.masked(problem.x) if init is None else problem.residual(init)
        codes: list[Any] = [0.0] * len(blocks) if init is None else operator.split(init)
        for weight in falling(self.count, self.start, self.share):
            for i, (block, gain, lam) in enumerate(zip(blocks, gains, lams, strict=True)):
                before, correlation = codes[i], block.analysis(residual)
                downhill = correlation - mu * before if mu else correlation
                codes[i] = problem.penalty.prox(before + gain * downhill, gain * weight * lam)
                residual = problem.masked(residual - block.synthesis(codes[i] - before, problem.size))
        return operator.join(codes)  # type: ignore[no-any-return]


def _weights(operator: Any, problem: Problem) -> list[Any]:
    """The weights of each block."""
    lam, ndim = problem.lam, problem.x.ndim
    if not isinstance(lam, Tensor) or lam.numel() == 1 or (lam.ndim == ndim and lam[0].numel() == 1):
        return [lam] * len(operator.blocks)
    whole = operator.analysis(problem.masked(problem.x)).shape
    return operator.split(lam.expand(whole))  # type: ignore[no-any-return]


class _OneBlock:
    """An operator as its only block."""

    def __init__(self, operator: Any) -> None:
        self.blocks, self.analysis = [operator], operator.analysis

    def split(self, code: Tensor) -> list[Tensor]:
        return [code]

    def join(self, codes: list[Tensor]) -> Tensor:
        return codes[0]
