"""Sparsity weights that a network's layers are given from outside, without a change to the network."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["given_lam"]


@contextmanager
def given_lam(
    layers: Iterable[nn.Module], choose: Callable[[Any, Tensor, Tensor | None], float | Tensor]
) -> Iterator[None]:
    """Inside, each call ``layer(x)`` of one of these layers is ``layer(x, lam=choose(layer, x, mask))``.

    A call that names its own ``lam`` keeps it. A compiled model runs uncompiled here, because compiled code may skip
    the hooks.

    Args:
        layers: that take ``lam``, such as :class:`~csc_nets.layers.CSC2d`.
        choose: from a layer, its input ``(N, C, *S)`` and its mask (mostly None) to a weight in any form that the layer
            takes. It is differentiated with the network.

    Example:
        >>> from csc_nets.layers import CSC2d
        >>> layer = CSC2d(3, 16, 3, padding=1, lam=0.1)
        >>> x = torch.randn(2, 3, 8, 8)
        >>> with given_lam([layer], lambda layer, x, mask: torch.tensor([0.1, 0.3]).view(-1, 1, 1, 1)):
        ...     z = layer(x)
        >>> torch.allclose(z[1], layer(x, lam=0.3)[1], atol=1e-6)
        True
    """

    def give(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if kwargs.get("lam") is not None:
            return None
        x = args[0] if args else kwargs["x"]
        return args, {**kwargs, "lam": choose(layer, x, kwargs.get("mask"))}

    with ExitStack() as stack:
        for layer in layers:
            stack.callback(layer.register_forward_pre_hook(give, with_kwargs=True).remove)
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield
