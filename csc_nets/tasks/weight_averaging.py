"""Averages of weights over a training."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import Tensor

from csc_nets.layers.dictionary import Dictionary


class AveragedWeights(EMAWeightAveraging):
    """Exponential moving average of the weights. It validates, is saved, and is what training ends with.

    Buffers are no weights. The statistics of batch norms and the numbers of dictionaries start far from what they come
    to, and are averages themselves: an average of them from their start would test at chance after a short run. They
    are those of the network that is trained; bounds of dictionaries are computed for the averaged atoms.

    Args:
        decay: share of the average that stays in a step; less at first, :math:`(1 + n) / (10 + n)` after n steps, so
            that the start is forgotten.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(decay=decay, use_buffers=False)

        def average(old: Tensor, new: Tensor, count: Any) -> Tensor:
            count = float(count)
            return torch.lerp(old, new, 1 - min(decay, (1 + count) / (10 + count)))

        self._kwargs["avg_fn"] = average

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._renew_bounds()
        super().on_validation_epoch_start(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        self._renew_bounds()  # the checkpoint is written next

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._renew_bounds()
        super().on_train_end(trainer, pl_module)

    def _renew_bounds(self) -> None:
        for module in self._average_model.modules() if self._average_model is not None else ():
            if isinstance(module, Dictionary):
                module.refresh()
