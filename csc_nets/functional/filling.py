r"""Missing pixels: what a smooth picture says, and what a dictionary of blocks says on shifted grids."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from csc_nets.functional.penalties import L0
from csc_nets.functional.problem import Problem
from csc_nets.functional.pursuits.base import Pursuit
from csc_nets.functional.pursuits.block_coordinate import BlockCoordinate

__all__ = ["fill", "fill_smoothly"]


def fill_smoothly(x: Tensor, seen: Tensor) -> Tensor:
    """Missing pixels by the means of seen ones in ever larger squares, bilinear between them.

    Gortler, Grzeszczuk, Szeliski, Cohen, "The lumigraph", 1996 (pull and push).

    Args:
        x: images ``(N, C, H, W)``; what is missing is not read.
        seen: booleans ``(N, 1, H, W)``, True where a pixel was seen.

    Returns:
        Images ``(N, C, H, W)``; seen pixels are as given.
    """
    known = x.masked_fill(~seen, 0)
    if min(x.shape[2:]) == 1 or bool(seen.all()):
        return known
    share = F.avg_pool2d(seen.to(x.dtype), 2, ceil_mode=True)
    means = F.avg_pool2d(known, 2, ceil_mode=True) / share.clamp_min(1e-6)
    coarse = fill_smoothly(means, share > 0)
    return torch.where(seen, known, F.interpolate(coarse, x.shape[2:], mode="bilinear", align_corners=False))


@torch.no_grad()
def fill(
    operator: Any,
    x: Tensor,
    seen: Tensor,
    *,
    stride: int,
    rounds: int = 10,
    shifts: int = 8,
    start: float = 1.0,
    stop: float = 0.05,
    pursuit: Pursuit | None = None,
) -> Tensor:
    r"""Images whose missing pixels are filled, by a code that is computed again and again with a falling weight.

    .. math:: x \leftarrow m \odot x + (1 - m) \odot \tfrac1S \sum_s T_s^{-1} D z_{\lambda_k}(T_s x)

    A block of atoms that do not overlap knows nothing of its neighbours, so each round takes the mean over S grids that
    are shifted by :math:`T_s`, other ones each time. Guleryuz, "Nonlinear approximation-based image recovery using
    adaptive sparse reconstructions and iterated denoising", 2006; the mean over shifts is that of Coifman and Donoho,
    "Translation-invariant de-noising", 1995. The start is :func:`fill_smoothly`.

    Args:
        operator: the dictionary D.
        x: images ``(N, C, H, W)``; what is missing is not read.
        seen: True, or not 0, where a pixel was seen; broadcasts against ``(N, 1, H, W)``.
        stride: of D in pixels: shifts are below it.
        rounds: number of rounds.
        shifts: S, of a round, drawn at random by a generator of its own.
        start: the first weight of an l0 norm; it falls geometrically.
        stop: the last weight.
        pursuit: for the codes; None for a single sweep of :class:`BlockCoordinate`.

    Returns:
        Images ``(N, C, H, W)``; seen pixels are as given.

    Raises:
        ValueError: a number of rounds or shifts below 1, or weights that are not above 0.
    """
    if rounds < 1 or shifts < 1 or not 0 < stop <= start:
        raise ValueError(
            f"fill: rounds and shifts must be at least 1 and 0 < stop <= start, got rounds={rounds}, shifts={shifts}, "
            f"start={start}, stop={stop}"
        )
    pursuit = BlockCoordinate(1) if pursuit is None else pursuit
    seen = (seen != 0).expand(len(x), 1, *x.shape[2:])
    filled, (height, width) = fill_smoothly(x, seen), x.shape[2:]
    generator = torch.Generator().manual_seed(0)
    for k in range(rounds):
        lam = start * (stop / start) ** (k / max(1, rounds - 1))
        found = torch.zeros_like(filled)
        for top, left in torch.randint(stride, (shifts, 2), generator=generator).tolist():
            sides = (left, -(left + width) % stride, top, -(top + height) % stride)
            wide = F.pad(filled, sides, mode="replicate")
            code = pursuit.run(Problem(wide, operator, lam, penalty=L0()))
            found += operator.synthesis(code, tuple(wide.shape[2:]))[..., top : top + height, left : left + width]
        filled = torch.where(seen, filled, found / shifts)
    return filled
