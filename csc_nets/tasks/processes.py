"""The processes of one training on several devices: what they do, and what one says when another is gone."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_only

from csc_nets.data import ImageDataModule
from csc_nets.tasks.safe_files import note

__all__ = ["LostProcessError", "keep_global_batch", "processes_of", "shared_config"]

_CONFIG = "CSC_NETS_CONFIG"
_LAUNCHED = ("LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "WORLD_SIZE")
_MOMENT, _GRACE, _PATIENCE = 2.0, 10.0, 60.0  # seconds
# What gloo, NCCL, the store and torch.multiprocessing say of a process that is gone.
_GONE = re.compile(
    r"connection (reset|closed|refused)|broken pipe|remote (worker|process|error)|ncclRemoteError|heartbeat|"
    r"terminated with signal|recvValue failed|sendBytes failed",
    re.IGNORECASE,
)


class LostProcessError(ConnectionError):
    """Another process of the same training has ended."""


def shared_config() -> dict[str, Any] | None:
    """The configuration that another process has left to this one; None in a process that a user has started."""
    if _CONFIG not in os.environ or os.environ.get("LOCAL_RANK", "0") == "0":
        return None
    config: dict[str, Any] = json.loads(os.environ[_CONFIG])
    return config


@contextmanager
def processes_of(trainer: L.Trainer, config: Mapping[str, Any], to_go_on: str) -> Iterator[None]:
    """Inside this context, a trainer may start processes; at its end none is left, nor what they had in common.

    They are started with the command of this process. That may be a sweep, or hold the time: each of them would run all
    jobs, or choose values of its own. So they get the configuration itself.

    Args:
        trainer: of a training or a test.
        config: plain values.
        to_go_on: what a user can do when a process is lost.

    Raises:
        LostProcessError: another process has ended. What libraries say of that differs, and names no reason.
    """
    command, outside = sys.argv, {name: os.environ.get(name) for name in _LAUNCHED}
    connected, failed = dist.is_initialized(), True
    os.environ[_CONFIG], sys.argv = json.dumps(config), _command(command)
    watch = _Watch(trainer, to_go_on)
    launcher = trainer.strategy.launcher
    if trainer.world_size > 1 and launcher is not None and not launcher.is_interactive_compatible:  # others fork
        watch.start()
    try:
        yield
        failed = False
    except Exception as error:
        if trainer.world_size > 1 and (found := _GONE.search(" ".join(str(error).split()))):
            raise LostProcessError(_lost(trainer, found[0].lower(), to_go_on)) from error
        raise
    finally:
        watch.over.set()
        sys.argv = command
        os.environ.pop(_CONFIG, None)
        if outside["LOCAL_RANK"] is None and not connected:
            _end(trainer, failed)
            for name, value in outside.items():
                os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def _command(given: list[str]) -> list[str]:
    """The command of this process as a file and its arguments."""
    program, _, name = given[0].partition(" ")
    return [str(Path(__file__).parents[1] / "__main__.py"), name, *given[1:]] if program == "csc-nets" else given


def _lost(trainer: L.Trainer, how: str, to_go_on: str) -> str:
    return f"another of the {trainer.world_size} processes has ended ({how}); to go on: {to_go_on}"


class _Watch(threading.Thread):
    """Ends this process where another one has ended and this one waits for it for ever, as on GPUs.

    Lightning does so without a word, by SIGKILL, and in a sweep to all jobs that are left. So its watch is taken over.
    """

    def __init__(self, trainer: L.Trainer, to_go_on: str) -> None:
        super().__init__(daemon=True)
        self.trainer, self.to_go_on, self.over = trainer, to_go_on, threading.Event()

    def run(self) -> None:
        """Looks twice a second."""
        while not self.over.wait(0.5):
            for thread in threading.enumerate():
                if hasattr(thread, "_child_processes"):
                    thread._child_processes = []
            started = [p for p in getattr(self.trainer.strategy.launcher, "procs", []) if _is_program(p)]
            if any(process.poll() for process in started) and not self.over.wait(_GRACE):
                print(f"error: {_lost(self.trainer, 'no answer', self.to_go_on)}", file=sys.stderr, flush=True)
                for process in started:
                    process.kill()
                os._exit(1)


def _is_program(process: Any) -> bool:
    return isinstance(process, subprocess.Popen)


def _end(trainer: L.Trainer, failed: bool) -> None:
    """Waits for the processes that a trainer has started, or ends them."""
    started = getattr(trainer.strategy.launcher, "procs", [])
    for process in started:
        if _is_program(process):
            try:
                process.wait(_MOMENT if failed else _PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    started.clear()
    if dist.is_initialized():
        dist.destroy_process_group()


def keep_global_batch(data: ImageDataModule, trained: Mapping[str, Any], processes: int) -> None:
    """Lets a run that goes on with another number of processes take the same images in each step.

    Rates, the order of images and the steps of an epoch stay what they were then. What has changed is said on stderr.

    Args:
        data: gets another ``batch_size``, unless a user has given it one since.
        trained: what the checkpoint says of the session before: ``processes``, ``batch_size`` of each of them, and the
            one in ``config.yaml``, ``configured``.
        processes: now.

    Raises:
        ValueError: the images of a step cannot be shared evenly.
    """
    before, size, configured = (trained.get(key) for key in ("processes", "batch_size", "configured"))
    if not isinstance(before, int) or not isinstance(size, int):
        return
    number = f"{processes} process{'es' if processes > 1 else ''}"
    images, changed = before * size, f"the run goes on with {number} in place of {before}"
    if data.batch_size == configured:
        if images % processes:
            raise ValueError(
                f"{changed}, which cannot share the {images} images of a step evenly: choose another trainer.devices, "
                "or another data.batch_size in its config.yaml"
            )
        data.batch_size = images // processes
    if (now := processes * data.batch_size) != images:
        rank_zero_only(note)(f"{changed}: a step sees {now} images in place of {images}")
    elif processes != before:
        same = f"data.batch_size is {data.batch_size} in place of {size}, so that a step sees the same {images} images"
        rank_zero_only(note)(f"{changed}: {same}")
