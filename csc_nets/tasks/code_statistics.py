"""What the codes of a network look like while it runs: how dense they are, how well they explain their inputs."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from csc_nets.layers import Coder
from csc_nets.tasks.precision import exact

__all__ = ["CodeStatistics", "csc_layers", "keep_codes", "observe_codes", "prior_layers"]


@dataclass(frozen=True)
class CodeStatistics:
    """Numbers about one call of one CSC layer, means over its batch, 0-d tensors.

    Attributes:
        density: share of non-zero coefficients of the code z.
        reconstruction_error: ``||x - D z||^2 / ||x||^2`` for the layer's input x.
    """

    density: Tensor
    reconstruction_error: Tensor


def csc_layers(model: nn.Module) -> dict[str, Any]:
    """The layers of ``model`` that compute a sparse code, by name, in the order of registration."""
    return {name: m for name, m in model.named_modules() if isinstance(m, Coder) and hasattr(m, "lam")}


def prior_layers(model: nn.Module) -> list[Any]:
    """The layers of ``model`` with a sparse prior, in the order of registration."""
    return [m for m in model.modules() if hasattr(m, "negative_log_prior")]


@contextmanager
def keep_codes(layers: Iterable[nn.Module]) -> Iterator[list[tuple[Any, Tensor]]]:
    """Inside this context, each call of one of these layers adds itself and its code, with its gradient, to the list.

    A compiled model runs uncompiled here, because compiled code may skip the hooks.
    """
    kept: list[tuple[Any, Tensor]] = []
    with _hooked(layers, lambda layer, args, code: kept.append((layer, code))):
        yield kept


@contextmanager
def _hooked(layers: Iterable[nn.Module], hook: Callable[..., None]) -> Iterator[None]:
    handles = [layer.register_forward_hook(hook) for layer in layers]
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def observe_codes(model: nn.Module) -> Iterator[list[CodeStatistics]]:
    """Inside this context, each call of a CSC layer of ``model`` adds its numbers to the list.

    A compiled model runs uncompiled here, because compiled code may skip the hooks.
    """
    observed: list[CodeStatistics] = []

    @torch.no_grad()
    def observe(layer: Any, args: tuple[Tensor, ...], code: Tensor) -> None:
        # The dictionary has the precision that the trainer gave the network.
        dtype = next((p.dtype for p in layer.parameters() if p.is_floating_point()), torch.float32)
        x, z = exact(args[0]), code.to(dtype)
        with torch.autocast(x.device.type, enabled=False):
            residual = x - exact(layer.synthesize(z, x.shape[2:]))
        energy = x.square().flatten(1).sum(1).clamp_min(torch.finfo(x.dtype).tiny)
        error = residual.square().flatten(1).sum(1) / energy
        observed.append(CodeStatistics((code != 0).float().mean(), error.mean()))

    with _hooked(csc_layers(model).values(), observe):
        yield observed
