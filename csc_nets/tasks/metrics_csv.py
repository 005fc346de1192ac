"""The run's numbers as a plain table."""

import csv
import io
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from csc_nets.tasks.safe_files import note, set_aside, write_whole

__all__ = ["MetricsCSV"]


class MetricsCSV(Logger):
    """Writes ``metrics.csv`` in the run folder: one row for each training step at which something was logged.

    In a run of ``train.py`` that is a row an epoch, and a last one with the numbers of the test.

    Rows of an earlier session of the same run are kept, and overwritten where a resumed run repeats their steps. (The
    CSV logger of Lightning deletes them.) A reader sees the whole table at every moment. A row that a crash of an older
    version has torn is left out, and a file that is no such table set aside; both are said on stderr.

    Args:
        folder: the run folder.

    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path = Path(folder) / "metrics.csv"
        self._rows: dict[int, dict[str, Any]] | None = None  # read at the first number, when the folder is this run's

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
        rows = self._rows = self._read() if self._rows is None else self._rows
        rows.setdefault(step, {"step": step}).update(metrics)
        columns = dict.fromkeys(["epoch", "step", *(key for row in rows.values() for key in row)])
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, columns)
        writer.writeheader()
        writer.writerows(rows[key] for key in sorted(rows))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.path, table.getvalue())

    def _read(self) -> dict[int, dict[str, Any]]:
        kept: dict[int, dict[str, Any]] = {}
        if not self.path.is_file() or not self.path.stat().st_size:
            return kept
        try:
            text = self.path.read_bytes().decode()
            header, *rows = csv.reader(io.StringIO(text, newline=""))
        except (csv.Error, ValueError) as error:
            set_aside(self.path, str(error))
            return kept
        if "step" not in header:
            set_aside(self.path, "no column step")
            return kept
        for number, row in enumerate(rows, 1):
            cells = dict(zip(header, row, strict=False))
            whole = len(row) == len(header) and (number < len(rows) or text.endswith("\n"))
            if whole and cells["step"].isdigit():
                kept[int(cells["step"])] = {**cells, "step": int(cells["step"])}
            elif row:
                note(f"{self.path}: a torn row is left out: {','.join(row)[:80]}")
        return kept
