r"""What an attack drives up: a number for each sample from logits ``(N, K)`` and labels ``(N,)``.

:math:`z` are the logits, y the label, :math:`z_{\pi_1} \ge z_{\pi_2} \ge \dots` the logits in order.
"""

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from csc_nets.registry import Registry

__all__ = ["Loss", "as_loss", "cross_entropy", "dlr", "list_losses", "margin", "register_loss", "targeted_dlr"]

Loss = Callable[[Tensor, Tensor], Tensor]

_LOSSES: Registry[Any] = Registry("loss")
_TINY = 1e-12
register_loss = _LOSSES.decorator


def as_loss(loss: str | Loss) -> Loss:
    """A loss from a function or a registered name.

    Raises:
        ValueError: an unknown name.
    """
    found: Loss = _LOSSES[loss] if isinstance(loss, str) else loss
    return found


def list_losses() -> list[str]:
    """Sorted names of the losses."""
    return _LOSSES.names()


@register_loss
def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The negative log likelihood of the label.

    Its gradient vanishes in float32 where the network is very sure: multiplied logits hide a network from it.
    """
    return F.cross_entropy(logits, labels, reduction="none")


@register_loss
def margin(logits: Tensor, labels: Tensor) -> Tensor:
    r""":math:`\max_{i \ne y} z_i - z_y`, above 0 for another class than the label.

    Source: Carlini and Wagner, `Towards Evaluating the Robustness of Neural Networks
    <https://arxiv.org/abs/1608.04644>`_, 2017, objective f6.
    """
    own = logits.gather(1, labels[:, None])
    return (logits.scatter(1, labels[:, None], -math.inf).amax(1, keepdim=True) - own)[:, 0]


@register_loss
def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    r"""The difference of logits ratio: the margin, over a difference that a factor of the logits scales as well.

    .. math:: - \frac{z_y - \max_{i \ne y} z_i}{z_{\pi_1} - z_{\pi_3}}

    Source: Croce and Hein, `Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
    attacks <https://arxiv.org/abs/2003.01690>`_, 2020, the DLR loss.

    Raises:
        ValueError: fewer than three classes.
    """
    if logits.shape[1] < 3:
        raise ValueError(f"loss='dlr' needs at least 3 classes, got {logits.shape[1]}: take loss='margin'")
    top = logits.topk(3, dim=1).values
    return margin(logits, labels) / (top[:, 0] - top[:, 2]).clamp_min(_TINY)


def targeted_dlr(targets: Tensor) -> Loss:
    r"""The difference of logits ratio towards one class for each sample.

    .. math:: - \frac{z_y - z_t}{z_{\pi_1} - \frac12 (z_{\pi_3} + z_{\pi_4})}

    Source: Croce and Hein, 2020, the targeted DLR loss.

    Args:
        targets: the classes t, ``(N,)``.

    Raises:
        ValueError: fewer than four classes, when it is called.
    """

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        if logits.shape[1] < 4:
            raise ValueError(
                f"the targeted DLR loss needs at least 4 classes, got {logits.shape[1]}: use loss='margin'"
            )
        top = logits.topk(4, dim=1).values
        towards = (logits.gather(1, targets[:, None]) - logits.gather(1, labels[:, None]))[:, 0]
        return towards / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2).clamp_min(_TINY)

    return loss
