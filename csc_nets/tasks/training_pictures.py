"""Pictures of a network while it trains."""

from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor

from csc_nets.tasks.pictures import save_pictures

__all__ = ["TrainingPictures"]

_IMAGES = 8


class TrainingPictures(Callback):
    """Writes the pictures of :func:`~csc_nets.tasks.pictures.save_pictures` every so many epochs.

    They show test images, as those after training do, and go to ``epoch_0010`` and so on in ``folder``; to Weights &
    Biases too, where that is a logger. Training is the same, bit by bit, with and without them. Where weights are
    averaged, the network is the one that trains, not the average.

    Args:
        folder: of the pictures of a run.
        every: epochs from one set to the next; the first is that of epoch ``every``.

    Raises:
        ValueError: ``every`` is no whole number above 0.
    """

    def __init__(self, folder: Path, every: int) -> None:
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"callbacks.pictures_every must be null or an int >= 1, got {every!r}")
        self.folder, self.every = folder, every
        self.images: Tensor | None = None

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes the pictures of this epoch, if it is one that has them, in the first process."""
        epoch = trainer.current_epoch + 1
        if epoch % self.every or not trainer.is_global_zero:
            return
        model: Any = pl_module.model
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        folder = self.folder / f"epoch_{epoch:04}"
        modes = [(module, module.training) for module in model.modules()]
        device, model_dtype = pl_module.device, next(model.parameters()).dtype
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            if self.images is None:
                self.images = data.test_images(_IMAGES).to(device)
            try:
                # Compiled code may skip the hooks that look at codes.
                with torch.compiler.set_stance("force_eager"):
                    save_pictures(model.eval(), self.images.to(model_dtype), data.denormalize, folder)
            finally:
                for module, training in modes:
                    module.training = training
        step = trainer.fit_loop.epoch_loop._batches_that_stepped - 1  # that of the numbers of this epoch
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                for file in sorted(folder.glob("*.png")):
                    logger.log_image(f"pictures/{file.stem}", [str(file)], step=step)
