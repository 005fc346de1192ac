"""One line that says how far a training is."""

import sys
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from torch import Tensor
from tqdm import tqdm

__all__ = ["RunProgress"]

REFRESH = 0.2
"""Seconds between two looks of the line."""
LINES = 6
"""Lines of a whole training, at most, where the output is a file and no line can be written over."""


class RunProgress(ProgressBar):
    """The whole training as one bar: epoch, time left, images a second, loss, and the best validation score so far.

    Where the output is no terminal, such as a file, a few lines at the ends of epochs say the same.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_shown = True
        self._bar: Any = None
        self._begin, self._images, self._first = 0.0, 0, 0

    def disable(self) -> None:
        """Shows nothing: Lightning calls it in all processes but the first."""
        self.is_shown = False

    def enable(self) -> None:
        """Shows the bar again."""
        self.is_shown = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begins the bar, where a resumed run stands."""
        self._begin, self._images = time.monotonic(), 0
        self._first = trainer.fit_loop.total_batch_idx + 1
        if self.is_shown and sys.stderr.isatty():
            # The bar takes what the text leaves of the line, so that 80 columns hold the best score.
            look = "{desc} {percentage:3.0f}%|{bar}| {remaining} left{postfix}"
            total = self._total(trainer)
            options: dict[str, Any] = {"mininterval": REFRESH, "dynamic_ncols": True, "leave": True, "file": sys.stderr}
            self._bar = tqdm(total=total, initial=self._first, bar_format=look, **options)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Moves on by a batch."""
        images = batch[0] if isinstance(batch, tuple | list) and batch else batch
        self._images += len(images) if isinstance(images, Tensor) else 0
        if self._bar is not None:
            self._bar.set_description_str(self._epoch(trainer), refresh=False)
            self._bar.set_postfix_str(self._says(trainer, pl_module), refresh=False)
            self._bar.update()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Prints one of the few lines of a file."""
        if not self.is_shown or self._bar is not None or trainer.sanity_checking:
            return
        last = trainer.max_epochs or 1
        every = -(-last // LINES)
        if (trainer.current_epoch + 1) % every == 0 or trainer.current_epoch + 1 == last:
            print(f"{self._epoch(trainer)}, {self._left(trainer)} left, {self._says(trainer, pl_module)}", flush=True)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leaves the bar as it ended."""
        self._close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Leaves the line before an error is printed."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.refresh()
            self._bar.close()
            self._bar = None

    def _total(self, trainer: L.Trainer) -> int | None:
        batches, epochs = trainer.num_training_batches, trainer.max_epochs
        return int(batches * epochs) if epochs and epochs > 0 and batches != float("inf") else None

    def _epoch(self, trainer: L.Trainer) -> str:
        return f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"

    def _left(self, trainer: L.Trainer) -> str:
        done, total = trainer.fit_loop.total_batch_idx + 1, self._total(trainer)
        if total is None or done <= self._first:
            return "?"
        seconds = (time.monotonic() - self._begin) / (done - self._first) * max(0, total - done)
        return str(tqdm.format_interval(seconds))

    def _says(self, trainer: L.Trainer, pl_module: L.LightningModule) -> str:
        speed = self._images / max(1e-9, time.monotonic() - self._begin)
        parts = [f"{speed:.0f} images/s"]
        loss = self.get_metrics(trainer, pl_module).get("loss")
        parts += [] if loss is None else [f"loss {float(loss):.4g}"]  # type: ignore[arg-type]
        best = getattr(trainer.checkpoint_callback, "best_model_score", None)
        if best is not None:
            parts.append(f"best {getattr(trainer.checkpoint_callback, 'monitor', '')} {float(best):.4g}")
        return ", ".join(parts)
