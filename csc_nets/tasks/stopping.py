"""What a program that was told to stop says, to its user and to a scheduler."""

import signal
import threading
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.exceptions import SIGTERMException

__all__ = ["AgreedStop", "exit_status"]


class AgreedStop(Callback):
    """Ends training on several devices after the same batch in all processes, whichever of them SIGTERM reaches.

    Lightning sends a message to the others as soon as the signal comes. In the middle of another exchange that message
    is taken for a part of it, and all wait for ever.
    """

    def __init__(self) -> None:
        self.asked = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Takes the signal from Lightning, which puts its first handler back after training."""
        if trainer.world_size > 1 and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._ask)

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        """Asks the other processes.

        Raises:
            SIGTERMException: one of them was told to stop.
        """
        if trainer.world_size > 1 and trainer.strategy.reduce_boolean_decision(self.asked, all=False):
            raise SIGTERMException

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True


def exit_status(stop: BaseException) -> int:
    """The exit status of a program that a signal has ended, as a shell gives it: 128 and the number of the signal.

    130 after Ctrl-C (SIGINT) and 143 after SIGTERM. A scheduler that stops a job must not take it for a finished one.

    Args:
        stop: what ended the program. Lightning raises an exception of its own after SIGTERM, and exits with status 1
            after Ctrl-C.
    """
    if isinstance(stop, SIGTERMException):
        return 143
    if isinstance(stop, KeyboardInterrupt) or isinstance(stop.__context__, KeyboardInterrupt):
        return 130
    code = getattr(stop, "code", 1)
    return code if isinstance(code, int) else 1
