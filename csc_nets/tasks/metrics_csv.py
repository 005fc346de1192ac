"""The run's numbers as a plain table."""

import csv
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

__all__ = ["MetricsCSV"]


class MetricsCSV(Logger):
    """Writes ``metrics.csv`` in the run folder: one row for each training step at which something was logged.

    In a run of ``train.py`` that is a row an epoch, and a last one with the numbers of the test.

    Rows of an earlier session of the same run are kept, and overwritten where a resumed run repeats their steps. (The
    CSV logger of Lightning deletes them.)

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path = Path(folder) / "metrics.csv"
        self._rows: dict[int, dict[str, Any]] = {}
        if self.path.is_file():
            with self.path.open(newline="") as file:
                self._rows = {int(row["step"]): row for row in csv.DictReader(file)}

    @property
    def name(self) -> str:
        """Name of the table."""
        return "metrics"

    @property
    def version(self) -> None:
        """None: the progress bar would show it."""
        return None

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: ``config.yaml`` holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Merges ``metrics`` into the row of ``step`` and rewrites the table."""
        step = step or 0
        self._rows.setdefault(step, {"step": step}).update(metrics)
        columns = dict.fromkeys(["epoch", "step", *(key for row in self._rows.values() for key in row)])
        with self.path.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(self._rows[key] for key in sorted(self._rows))
