"""Older spellings, kept for one minor version."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from csc_nets.functional.pursuits.proximal_gradient import extrapolations

__all__ = ["iterate"]


def iterate(
    update: Callable[[Tensor, bool], Tensor],
    z: Tensor,
    steps: int,
    *,
    momentum: bool = False,
    trace: Callable[[Tensor], Any] | None = None,
) -> Tensor:
    """Runs ``z <- update(y, False)``, with FISTA's extrapolation y or without. Write a pursuit instead.

    Args:
        update: proximal gradient step of a code ``(N, M, ...)``.
        z: the first code, the result of step 1.
        steps: number of steps, the first one included.
        momentum: extrapolate.
        trace: called with every code, the first included.
    """
    warnings.warn("functional.iterate is replaced by functional.run, over the rows of a pursuit", DeprecationWarning, 2)
    before = z
    for k, beta in enumerate(extrapolations(steps)):
        if k:
            y = torch.lerp(before, z, 1 + beta) if momentum else z
            before, z = z, update(y, False)
        if trace is not None:
            trace(z)
    return z
