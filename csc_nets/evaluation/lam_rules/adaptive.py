"""A network whose lam a rule chooses for each image."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from torch import Tensor, nn

from csc_nets.evaluation.lam_rules.base import LamRule, as_lam_rule, own_lam, scaled_to
from csc_nets.layers import given_lam
from csc_nets.tasks import csc_layers

__all__ = ["AdaptiveLam", "Layers", "coding_layers", "lam_rule", "weighted_layers"]

Layers = Literal["first", "all"]


def weighted_layers(model: nn.Module) -> list[Any]:
    """The coding layers of a network that have one sparsity weight, in the order of registration.

    That is each :class:`~csc_nets.layers.Coder` with a tensor ``lam``. A layer of several dictionaries has a weight for
    each.
    """
    return [layer for layer in csc_layers(model).values() if isinstance(layer.lam, Tensor)]


def coding_layers(model: nn.Module, layers: Layers = "first") -> list[Any]:
    """As :func:`weighted_layers`, or the first of them.

    Raises:
        ValueError: there are none, or ``layers`` is something else.
    """
    if layers not in ("first", "all"):
        raise ValueError(f"layers must be first or all, got {layers!r}")
    found = weighted_layers(model)
    if not found:
        raise ValueError(f"{type(model).__name__} has no coding layer, whose lam a rule could choose")
    return found if layers == "all" else found[:1]


@contextmanager
def lam_rule(model: nn.Module, rule: str | Mapping[str, Any] | LamRule, *, layers: Layers = "first") -> Iterator[None]:
    """Inside, a rule chooses lam for each image; the network is as before afterwards.

    The rule looks at the input of the first coding layer. Noise is white there, and nowhere behind it.

    Args:
        model: a network with coding layers.
        rule: an object, a name of :func:`~csc_nets.evaluation.list_lam_rules`, or a mapping with a name and arguments.
        layers: ``"first"``; or ``"all"``, which multiplies lam of the others by the same factor.

    Raises:
        ValueError: no coding layer, an unknown rule.

    Example:
        >>> import torch
        >>> from csc_nets.models import create_model
        >>> model = create_model("csc_small", in_chans=1, widths=[8]).eval()
        >>> with lam_rule(model, "discrepancy"):
        ...     logits = model(torch.randn(4, 1, 16, 16))
    """
    chosen, rule = coding_layers(model, layers), as_lam_rule(rule)
    factor: Tensor | None = None

    def choose(layer: Any, x: Tensor, mask: Tensor | None) -> Tensor:
        nonlocal factor
        if layer is chosen[0]:
            factor = rule(layer, x, mask) / own_lam(layer)
        if factor is None:
            raise ValueError("layers='all': the first coding layer must be called before the others")
        return scaled_to(layer, factor * own_lam(layer), x.ndim).to(x)

    with given_lam(chosen, choose):
        yield


class AdaptiveLam(nn.Module):
    """A network with a rule for lam as one module, for whoever calls or attacks it.

    The gradient with respect to the image goes through the rule, too: an attacker who knows the rule uses it.

    Args:
        model: a network with coding layers, which is shared, not copied.
        rule, layers: see :func:`lam_rule`.

    Shape:
        those of the model.
    """

    def __init__(self, model: nn.Module, rule: str | Mapping[str, Any] | LamRule, *, layers: Layers = "first") -> None:
        super().__init__()
        coding_layers(model, layers)
        self.model, self.rule, self.layers = model, as_lam_rule(rule), layers

    def forward(self, x: Tensor) -> Tensor:
        with lam_rule(self.model, self.rule, layers=self.layers):
            return self.model(x)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        return f"rule={self.rule!r}, layers={self.layers!r}"
