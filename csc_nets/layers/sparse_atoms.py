"""Atoms with few non-zeros, for the deeper dictionaries of a multi-layer model."""

import torch
from torch import Tensor, nn

from csc_nets.layers.dictionary import Dictionary, UnitNorm

__all__ = ["LargestEntries", "sparsify_atoms"]


class LargestEntries(nn.Module):
    """Parametrization of atoms ``(M, ...)`` by dense ones, of which only the largest entries are used.

    The gradient goes to all entries of the dense atoms as if they were used: what is zero is pulled by its own gradient
    and enters when it has outgrown an entry that is used. Thresholding the trained tensor itself would forget, after
    each step, what the last one said about the zeros, and freeze the support. The sum of gradients under a threshold
    is the scheme of L. Xiao, "Dual Averaging Methods for Regularized Stochastic Learning and Online Optimization",
    2010, with a hard threshold.

    A start with few entries finds poor ones. In training mode as many are used as the buffer ``used`` says, which
    whoever trains may set higher and let fall; in evaluation mode never more than ``count``.

    Args:
        count: entries of an atom that are used, at least 1; of equal ones the first.
        device: of the buffer ``used``: that of the atoms.
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
        # Ranks and no level: entries of equal size, such as signs, would all pass it.
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
