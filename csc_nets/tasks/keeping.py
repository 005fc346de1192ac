"""What a resumed run remembers: its best checkpoint, its numbers so far, and that it had stopped."""

import os
from typing import Any

import lightning as L
from lightning.pytorch import callbacks
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from csc_nets.tasks.metrics_csv import MetricsCSV
from csc_nets.tasks.safe_files import note

__all__ = ["EarlyStopping", "LastValidation", "MovableCheckpoint"]


class MovableCheckpoint(ModelCheckpoint):
    """Remembers the best score of an earlier session, where its checkpoint is there, even if the folder has moved.

    The numbers of an epoch are in the table before the checkpoint says that the epoch is done: a run that is killed
    between the two must not lose them.
    """

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forgets the score of a best checkpoint that is lost: the best of what comes next may be less."""
        if self.monitor is not None and self.best_model_path and not os.path.isfile(self.best_model_path):
            note(f"{self.best_model_path} is lost: its score no longer counts")
            self.best_model_path = self.kth_best_model_path = ""
            self.best_model_score, self.best_k_models = None, {}

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes the epoch's numbers, once and before the first checkpoint, then the checkpoint."""
        if self.monitor is not None:  # the best one, which comes first
            logged = trainer._logger_connector.metrics["log"]  # in all processes, which exchange them
            numbers = {"epoch": trainer.current_epoch, **{name: float(value) for name, value in logged.items()}}
            step = trainer.fit_loop.epoch_loop._batches_that_stepped - 1  # that of all numbers of this epoch
            for logger in trainer.loggers:
                if isinstance(logger, MetricsCSV):
                    logger.log_metrics(numbers, step=step)
        super().on_train_epoch_end(trainer, pl_module)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the state, with paths in the folder of this session.

        A better checkpoint replaces the one that the state names, which is deleted then, with all that is in it. So no
        other name than that of this callback's own file is taken.
        """
        own = f"{self.filename}{self.FILE_EXTENSION}"

        def here(path: object) -> str:
            return os.path.join(str(self.dirpath), own) if os.path.basename(str(path)) == own else ""

        moved = {key: here(state_dict[key]) for key in ("best_model_path", "kth_best_model_path", "last_model_path")}
        models = {here(path): score for path, score in state_dict["best_k_models"].items() if here(path)}
        super().load_state_dict({**state_dict, **moved, "best_k_models": models, "dirpath": self.dirpath})


class LastValidation(Callback):
    """Validates a training that ``trainer.max_steps`` ends inside an epoch: its last weights may be its best."""

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        """Asks the trainer to stop, before which it validates, in the last step."""
        if 0 < trainer.max_steps <= trainer.global_step:
            trainer.should_stop = True


class EarlyStopping(callbacks.EarlyStopping):
    """Stops a run that has stopped before, when it is resumed, without another epoch.

    It bears the name of Lightning's, under which checkpoints keep its state.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores all but the patience, which is that of ``config.yaml``: more of it lets the run go on."""
        super().load_state_dict({**state_dict, "patience": self.patience})

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Asks the trainer to stop where patience had run out."""
        if self.wait_count >= self.patience:
            trainer.should_stop = True
