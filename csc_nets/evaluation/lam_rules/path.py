"""Codes of one signal at many sparsity weights, each from the one before."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from csc_nets.evaluation.lam_rules.base import Grid, LamRule, scaled_to
from csc_nets.functional import FISTA, Problem
from csc_nets.functional.checks import as_count
from csc_nets.layers import CSC

__all__ = ["PathRule", "crossing", "lam_path", "lowest"]


def lam_path(
    layer: CSC, x: Tensor, grid: Tensor, steps: int = 4, mask: Tensor | None = None
) -> Iterator[tuple[Problem, Tensor]]:
    """The problems of a layer at some sparsity weights and their codes, from the largest weight to the smallest.

    Each code is ``steps`` of FISTA from the code before it, so the whole path costs about as much as one long solve:
    neighbours on the path have nearly the same support (Friedman, Hastie, Tibshirani, "Regularization paths for
    generalized linear models via coordinate descent", 2010, section 2.5). Whatever the pursuit of the layer, these are
    approximate solutions of its problem.

    Args:
        layer: a coding layer.
        x: its input ``(N, C, *S)``.
        grid: weights, ascending ``(K,)``.
        steps: for each weight.
        mask: 0 where ``x`` is missing.
    """
    problem, z = layer.problem(x, mask=mask), None
    for value in grid.flip(0):
        problem = replace(problem, lam=scaled_to(layer, value, x.ndim)[0])
        z = FISTA(steps).run(problem, z)
        yield problem, z


@dataclass(frozen=True)
class PathRule(LamRule):
    """A rule that looks at the codes along a path of weights.

    Args:
        points: weights on the path.
        largest: the largest of them as a multiple of the layer's own one, which is the smallest.
        steps: of the pursuit for each.
    """

    points: int = 12
    largest: float = 32.0
    steps: int = 4

    def __post_init__(self) -> None:
        Grid(self.points, self.largest)
        as_count(self.steps)

    def grid(self, layer: CSC) -> Tensor:
        """The weights, ascending ``(K,)``."""
        return Grid(self.points, self.largest).of(layer)

    def residuals(self, layer: CSC, x: Tensor, grid: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mean square of ``x - D z`` over the entries of each sample, for each weight: ``(N, K)``, ascending."""
        x = x.to(grid)
        with torch.autocast(x.device.type, enabled=False):
            path = lam_path(layer, x, grid, self.steps, mask)
            found = [problem.residual(z).square().flatten(1).sum(1) for problem, z in path]
        return torch.stack(found[::-1], 1) / observed_entries(x, mask)


def observed_entries(x: Tensor, mask: Tensor | None) -> Tensor | int:
    """How many numbers of a sample are there, ``(N, 1)`` with a mask."""
    return x[0].numel() if mask is None else (mask != 0).expand_as(x).flatten(1).sum(1, keepdim=True)


def crossing(gap: Tensor, grid: Tensor) -> Tensor:
    """Where a function that is known on a grid first reaches 0 from below, by linear interpolation, ``(N,)``.

    Args:
        gap: its values ``(N, K)``.
        grid: ascending ``(K,)``. The first point where ``gap`` is above 0 there already, the last where it never is.
    """
    above = gap >= 0
    right = torch.where(above.any(1), above.int().argmax(1), len(grid) - 1)
    left = (right - 1).clamp_min(0)
    low, high = (gap.gather(1, k[:, None])[:, 0] for k in (left, right))
    inside = (right > 0) & (high >= 0)
    share = torch.where(inside, -low / torch.where(inside, high - low, 1), 1)
    return grid[left] + share * (grid[right] - grid[left])


def lowest(curve: Tensor, grid: Tensor) -> Tensor:
    """The weight at the lowest point of a curve, ``(N,)``: the top of the parabola of three points around it.

    Args:
        curve: values ``(N, K)``.
        grid: ascending and equally far apart in its logarithm, ``(K,)``. An end of it, where the curve is lowest there.
    """
    middle = curve.detach().argmin(1)
    k = middle.clamp(1, len(grid) - 2)
    a, b, c = (curve.gather(1, (k + i)[:, None])[:, 0] for i in (-1, 0, 1))
    bend = a - 2 * b + c
    inside = (middle == k) & (bend > 0)
    move = torch.where(inside, (a - c) / (2 * torch.where(inside, bend, 1)), (middle - k).to(curve))
    return grid[k] * (grid[1] / grid[0]) ** move
