"""Atoms with few non-zeros, for the deeper dictionaries of a multi-layer model."""

import torch
from torch import Tensor, nn

from csc_nets.layers.dictionary import Dictionary, UnitNorm

__all__ = ["LargestEntries", "sparsify_atoms"]


class LargestEntries(nn.Module):
    """Parametrization of atoms ``(M, ...)`` by dense atoms. Only the largest entries are used.

    All entries of the dense atoms get the gradient that they would have if they were used. So an unused entry moves,
    and is used when it becomes larger than a used one. If the trained tensor itself were thresholded after each step,
    the unused entries would start from zero each time, and the support would never change. The sum of gradients under a
    threshold is the scheme of L. Xiao, "Dual Averaging Methods for Regularized Stochastic Learning and Online
    Optimization", 2010, with a hard threshold.

    Training with few entries from the start finds poor ones. So in training mode the buffer ``used`` is the number of
    used entries: a training loop may set it above ``count`` and lower it step by step. In evaluation mode at most
    ``count`` entries are used.

    Args:
        count: number of used entries of an atom, at least 1; of equal entries the first ones.
        device: device of the buffer ``used``, which is that of the atoms.
    """

    used: Tensor

    def __init__(self, count: int, device: torch.device | str | None = None) -> None:
        super().__init__()
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"nonzeros must be an int >= 1, got {count!r}")
        self.count = count
        self.register_buffer("used", torch.tensor(count, device=device))

    def forward(self, weight: Tensor) -> Tensor:
        magnitude = weight.detach().abs().flatten(1)
        order = magnitude.argsort(dim=1, descending=True, stable=True)
        # Ranks instead of a level: entries of equal size, such as signs, would all pass a level.
        places = torch.arange(order.shape[1], device=order.device).expand_as(order)
        rank = torch.empty_like(order).scatter(1, order, places).view_as(weight)
        if not self.training:
            return weight.masked_fill(rank >= self.count, 0)
        unused = weight.masked_fill(rank < self.used.clamp_min(1), 0)
        return weight - unused.detach()

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight


def sparsify_atoms(dictionary: Dictionary, count: int) -> None:
    """Gives every atom of a dictionary at most ``count`` non-zeros, and unit norm, from now on and in training.

    Raises:
        ValueError: ``count`` is no int >= 1.

    Example:
        >>> from csc_nets.layers import Dictionary2d
        >>> dictionary = Dictionary2d(8, 16, 3)
        >>> sparsify_atoms(dictionary, 4)
        >>> (dictionary.weight != 0).flatten(1).sum(1).unique()
        tensor([4])
    """
    dictionary.parametrize_weight(LargestEntries(count, dictionary.lipschitz.device))
    dictionary.parametrize_weight(UnitNorm())
    dictionary.refresh()
