"""The Lightning trainer of a run: what it writes, and where."""

import os
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    EMAWeightAveraging,
    ModelCheckpoint,
    Timer,
    TQDMProgressBar,
)
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from csc_nets.layers.dictionary import Dictionary
from csc_nets.tasks.metrics_csv import MetricsCSV
from csc_nets.tasks.run_folder import RunFolder
from csc_nets.tasks.task import Task
from csc_nets.tasks.training_pictures import TrainingPictures

__all__ = ["build_trainer"]


def build_trainer(
    run_dir: Path, task: Task, trainer: dict[str, Any], callbacks: dict[str, Any], logger: dict[str, Any]
) -> L.Trainer:
    """The trainer that fills a run folder.

    Args:
        run_dir: absolute path of the run folder; gets ``checkpoints/`` and ``metrics.csv``, and ``pictures/`` where
            they are wanted in training.
        task: names the number that decides which checkpoint is best.
        trainer: arguments of ``lightning.Trainer``.
        callbacks: ``ema_decay`` (None for no weight averaging), ``patience`` (epochs without progress after which
            training stops, None for never), ``pictures_every`` (epochs from one set of pictures to the next, None for
            none in training), ``progress_bar``.
        logger: ``name`` and the arguments of that logger, see :func:`build_loggers`.

    Raises:
        ValueError: unknown logger, or a bad value.
    """
    epochs = trainer["max_epochs"]
    if not isinstance(epochs, int) or epochs < 1:
        raise ValueError(f"trainer.max_epochs must be an int >= 1, got {epochs!r}")
    chosen, loggers = build_callbacks(run_dir, task, **callbacks), build_loggers(run_dir, **logger)
    progress_bar = callbacks["progress_bar"]
    try:
        return L.Trainer(
            default_root_dir=run_dir, callbacks=chosen, logger=loggers, enable_progress_bar=progress_bar, **trainer
        )
    except (MisconfigurationException, TypeError, ValueError) as error:
        raise ValueError(f"trainer: {error}") from error


def build_callbacks(
    run_dir: Path,
    task: Task,
    *,
    ema_decay: float | None,
    patience: int | None,
    progress_bar: bool,
    pictures_every: int | None = None,
) -> list[Callback]:
    """The best checkpoint, then the last one (which records what the best one is), and what else was asked for."""
    folder = run_dir / "checkpoints"
    chosen: list[Callback] = [
        Timer(interval="epoch", verbose=False),
        MovableCheckpoint(
            dirpath=folder,
            filename="best",
            monitor=task.monitor,
            mode=task.monitor_mode,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        ),
        MovableCheckpoint(dirpath=folder, filename="last", save_on_train_epoch_end=True, enable_version_counter=False),
    ]
    if progress_bar:
        chosen.append(TQDMProgressBar(refresh_rate=5))
    if ema_decay is not None:
        if not 0 <= ema_decay < 1:
            raise ValueError(f"callbacks.ema_decay must be in [0, 1), got {ema_decay}")
        chosen.append(AveragedWeights(ema_decay))
    if patience is not None:
        if patience < 1:
            raise ValueError(f"callbacks.patience must be >= 1, got {patience}")
        chosen.append(EarlyStopping(task.monitor, mode=task.monitor_mode, patience=patience))
    if pictures_every is not None:
        chosen.append(TrainingPictures(RunFolder(run_dir).pictures, pictures_every))
    return chosen


def build_loggers(run_dir: Path, *, name: str, **options: Any) -> list[Logger]:
    """The loggers of a run.

    Args:
        run_dir: the run folder.
        name: ``"csv"``, ``"wandb"`` (beside the table) or ``"none"``.
        **options: of Weights & Biases, such as ``project`` and ``offline``; it is imported only when chosen.

    Raises:
        ValueError: unknown ``name``.
    """
    if name == "none":
        return []
    if name == "csv":
        return [MetricsCSV(run_dir)]
    if name == "wandb":
        label = f"{run_dir.parent.name}-{run_dir.name}"
        wandb = WandbLogger(name=label, id=label.replace("=", "-"), save_dir=run_dir, resume="allow", **options)
        return [MetricsCSV(run_dir), wandb]
    raise ValueError(f"logger must be 'csv', 'wandb' or 'none', got {name!r}")


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


class MovableCheckpoint(ModelCheckpoint):
    """Remembers the best score of an earlier session even where the run folder has moved since."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the state, with paths in the folder of this session."""
        folder = str(self.dirpath)

        def here(path: str) -> str:
            return os.path.join(folder, os.path.basename(path)) if path else path

        moved = {key: here(state_dict[key]) for key in ("best_model_path", "kth_best_model_path", "last_model_path")}
        models = {here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **moved, "best_k_models": models, "dirpath": self.dirpath})
