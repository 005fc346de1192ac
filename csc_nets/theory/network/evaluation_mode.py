"""A model in evaluation mode for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["evaluation_mode"]


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for all modules of a model; at the end, after an exception too, each has its own mode again.

    ``model.train()`` would not do: it also wakes what was frozen, such as the batch norms of a network that is tuned.

    Example:
        >>> model = nn.Sequential(nn.BatchNorm1d(3).eval(), nn.Dropout())
        >>> with evaluation_mode(model):
        ...     [module.training for module in model]
        [False, False]
        >>> [module.training for module in model]
        [False, True]
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training
