"""A context in which a model is in evaluation mode."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["evaluation_mode"]


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Puts all modules of a model in evaluation mode, and restores the mode of each module at the end.

    The modes are restored after an exception too. Calling ``model.train()`` at the end would be wrong: it would put
    modules in training mode that the user keeps in evaluation mode, such as frozen batch norms in fine-tuning.

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
