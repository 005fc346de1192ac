"""Weights that look ahead: slow ones that follow the fast ones of the optimiser, and pull them back."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

__all__ = ["Lookahead"]

_STAYS = 0.95
"""Share of the slow weights that a step leaves at the end of the training."""


class Lookahead(Callback):
    r"""Every k steps the weights become their slow average, and training goes on from there.

    .. math:: s \leftarrow \alpha s + (1 - \alpha) w, \qquad w \leftarrow s, \qquad \alpha = 0.95^k (n / N)^3

    after n of N steps; the training ends with s. Zhang et al., `Lookahead Optimizer
    <https://arxiv.org/abs/1907.08610>`_, 2019, with the schedule of airbench94 (Keller Jordan, arXiv 2404.00498):
    :math:`\alpha` grows from 0. Buffers are no weights. The running statistics of batch norm are those of the fast
    weights, so that ``task.precise_batch_norm`` belongs to it.

    Args:
        every: k, steps from one pull to the next.
    """

    def __init__(self, every: int) -> None:
        if not isinstance(every, int) or every < 1:
            raise ValueError(f"callbacks.lookahead must be a whole number of steps >= 1, got {every!r}")
        self.every = every
        self.slow: list[Tensor] = []

    @torch.no_grad()
    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any, **kwargs: Any) -> None:
        """Pulls, after every k-th step and the last one."""
        step, total = trainer.global_step, int(trainer.estimated_stepping_batches)
        fast: list[Tensor] = list(pl_module.parameters())
        if not self.slow:
            self.slow = [weight.detach().clone() for weight in fast]
        elif step >= total:
            torch._foreach_copy_(fast, self.slow)
        elif step % self.every == 0:
            stays = _STAYS**self.every * (step / total) ** 3
            torch._foreach_lerp_(self.slow, fast, 1 - stays)
            torch._foreach_copy_(fast, self.slow)

    def state_dict(self) -> dict[str, Any]:
        """The slow weights."""
        return {"slow": self.slow}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with the slow weights of a checkpoint."""
        self.slow = list(state_dict["slow"])

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Brings them to the device of the weights."""
        self.slow = [weight.to(pl_module.device) for weight in self.slow]
