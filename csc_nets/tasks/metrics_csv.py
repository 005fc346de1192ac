"""The run's numbers as a plain table."""

import csv
import io
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from csc_nets.tasks.resuming import note
from csc_nets.tasks.safe_files import write_whole

__all__ = ["MetricsCSV"]


class MetricsCSV(Logger):
    """Writes ``metrics.csv`` in the run folder: one row for each training step at which something was logged.

    In a run of ``train.py`` that is a row an epoch, and a last one with the numbers of the test.

    Rows of an earlier session of the same run are kept, and overwritten where a resumed run repeats their steps. (The
    CSV logger of Lightning deletes them.) A reader sees the whole table at every moment. A row that a crash of an older
    version has torn is left out, and said on stderr.

    Args:
        folder: the run folder.

    Raises:
        ValueError: the file is no such table.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path = Path(folder) / "metrics.csv"
        self._rows: dict[int, dict[str, Any]] = {}
        if self.path.is_file() and self.path.stat().st_size:
            self._read()

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
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, columns)
        writer.writeheader()
        writer.writerows(self._rows[key] for key in sorted(self._rows))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.path, table.getvalue())

    def _read(self) -> None:
        try:
            text = self.path.read_bytes().decode()
            header, *rows = csv.reader(io.StringIO(text, newline=""))
        except (csv.Error, UnicodeDecodeError, ValueError) as error:
            raise ValueError(f"{self.path} is damaged ({error}): delete it, or move it away") from error
        if "step" not in header:
            raise ValueError(f"{self.path} is damaged (it has no column step): delete it, or move it away")
        for number, row in enumerate(rows, 1):
            cells = dict(zip(header, row, strict=False))
            whole = len(row) == len(header) and (number < len(rows) or text.endswith("\n"))
            if whole and cells["step"].isdigit():
                self._rows[int(cells["step"])] = {"step": int(cells["step"]), **_numbers(cells)}
            elif row:
                note(f"{self.path}: a torn row is left out: {','.join(row)[:80]}")


def _numbers(cells: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in cells.items() if key != "step"}
