"""Runs of a sweep that end early because the other runs are ahead of them."""

import csv
import statistics
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from csc_nets.tasks.file_names import SWEEP_RECORD

__all__ = ["MedianPruning"]


class MedianPruning(Callback):
    """Ends a run of a sweep whose best score so far is behind the median of the other runs at the same epoch.

    This is the median stopping rule of Golovin et al., "Google Vizier" (2017), with the best score in place of the
    running average. The scores are those in ``metrics.csv`` of the folders beside the run, finished or not. So the rule
    works with every sweeper and across processes. Outside of a sweep nothing happens.

    Args:
        after: epochs that every run may train.
        monitor: the score, such as ``"val/acc"``.
        mode: ``"max"`` or ``"min"``.

    Raises:
        ValueError: ``after`` is below 1.
    """

    fewest_others = 4
    """Runs that must have reached the epoch: the median of fewer says little."""

    def __init__(self, after: int, monitor: str, mode: str) -> None:
        if after < 1:
            raise ValueError(f"callbacks.prune_after must be >= 1, got {after}")
        self.after, self.monitor, self.mode = after, monitor, mode
        self.pruned_at_epoch: int | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Asks the trainer to stop where a run that was pruned is resumed."""
        trainer.should_stop = trainer.should_stop or self.pruned_at_epoch is not None

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compares; the first process decides for all."""
        behind = trainer.is_global_zero and self._is_behind(Path(trainer.default_root_dir), trainer.current_epoch)
        if trainer.strategy.broadcast(behind):
            self.pruned_at_epoch = trainer.current_epoch
            trainer.should_stop = True

    def _is_behind(self, run: Path, epoch: int) -> bool:
        if epoch + 1 < self.after or not (run.parent / SWEEP_RECORD).is_file():
            return False
        tables = {file.parent: _scores(file, self.monitor, epoch) for file in run.parent.glob("*/metrics.csv")}
        own = tables.pop(run, [])
        best = min if self.mode == "min" else max
        others = [best(scores) for scores in tables.values() if len(scores) == len(own)]
        if not own or len(others) < self.fewest_others:
            return False
        median = statistics.median(others)
        return best(own) > median if self.mode == "min" else best(own) < median

    def state_dict(self) -> dict[str, Any]:
        """That the run was pruned."""
        return {"pruned_at_epoch": self.pruned_at_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See :meth:`state_dict`."""
        self.pruned_at_epoch = state_dict["pruned_at_epoch"]


def _scores(file: Path, monitor: str, epoch: int) -> list[float]:
    """The scores of a run up to an epoch; none where the table cannot be read."""
    try:
        with open(file, newline="") as table:
            rows = [row for row in csv.DictReader(table) if row.get(monitor)]
            return [float(row[monitor]) for row in rows if int(row["epoch"]) <= epoch]
    except (OSError, ValueError, KeyError, csv.Error):
        return []
