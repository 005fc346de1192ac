"""What a network says of images that are too small for it: the smallest size that it takes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from csc_nets.theory.network.evaluation_mode import evaluation_mode

__all__ = ["least_side", "naming_least_side"]

_ERRORS = (RuntimeError, ValueError)


@contextmanager
def naming_least_side(model: nn.Module, x: Tensor, run: Callable[[Tensor], Any], largest: int) -> Iterator[None]:
    """Inside, an error of a layer on images that are too small becomes one that names the smallest size.

    The layers know the sizes of their own inputs only, and a chain of them has no formula for the smallest image. So it
    is looked for once an error has come. Until then this costs nothing. Where a graph is traced, errors stay as they
    are.

    Args:
        model: for its name; it is put in evaluation mode while sizes are tried.
        x: the images ``(N, C, H, W)``.
        run: what was tried on them.
        largest: side of images that the network takes.
    """
    try:
        yield
    except _ERRORS as error:
        side = min(x.shape[2:])
        least = least_side(model, x, run, largest) if 0 < side < largest else None
        if least is None or side >= least:
            raise
        name = getattr(model, "model_name", "") or type(model).__name__
        raise ValueError(f"{name}: images must have {least} x {least} pixels or more, got {tuple(x.shape)}") from error


def least_side(model: nn.Module, like: Tensor, run: Callable[[Tensor], Any], largest: int) -> int | None:
    """Height and width of the smallest square images that ``run`` takes; None where it does not take the largest."""

    def takes(side: int) -> bool:
        try:
            run(like.new_zeros(1, like.shape[1], side, side))
        except _ERRORS:
            return False
        return True

    with torch.no_grad(), evaluation_mode(model):
        if not takes(largest):
            return None
        below, least = 0, largest
        while least - below > 1:
            middle = (below + least) // 2
            below, least = (below, middle) if takes(middle) else (middle, least)
    return least
