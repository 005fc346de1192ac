"""A process for each job of a sweep, several at a time: ``hydra/launcher=processes hydra.launcher.n_jobs=2``.

A job that is killed, by a signal or for want of memory, takes no other job with it: it goes on from its last
checkpoint. Hydra's launcher for joblib ends the sweep then.
"""

import contextlib
import math
import os
import pickle
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing import connection, get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.plugins.launcher import Launcher

from csc_nets.sweeps.folder import job_name
from csc_nets.sweeps.job import IN_USE, JOB_PROCESS, killed_by
from csc_nets.sweeps.jobs import note_failure
from csc_nets.tasks.safe_files import note

__all__ = ["ProcessLauncher"]

_PATIENCE = 60.0
"""Seconds from SIGTERM to SIGKILL: a job that stops ends its batch and says where it goes on."""


@dataclass
class _Task:
    index: int
    overrides: Sequence[str]
    kills: int = 0
    earliest: float = 0.0
    process: BaseProcess | None = None
    answer: connection.Connection | None = field(default=None, repr=False)


class ProcessLauncher(Launcher):
    """Runs each job in a process of its own.

    Args:
        n_jobs: processes at a time. Each has its share of the cores, where ``OMP_NUM_THREADS`` does not say more.
        retries: how often a job that was killed goes on, before it counts as failed.
        start_method: of ``multiprocessing``; None for ``"fork"`` on Linux, which needs no second import, and
            ``"spawn"`` elsewhere.

    Raises:
        ValueError: a number out of range.
    """

    def __init__(self, n_jobs: int = 1, retries: int = 3, start_method: str | None = None) -> None:
        if n_jobs < 1 or retries < 0:
            raise ValueError(f"hydra.launcher: n_jobs must be >= 1 and retries >= 0, got {n_jobs} and {retries}")
        self.n_jobs, self.retries = n_jobs, retries
        method = start_method or ("fork" if sys.platform == "linux" else "spawn")
        self._context: Any = get_context(method)

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        """What Hydra hands over before the first launch."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs jobs.

        A job that another process runs waits until that one is done with it.

        Args:
            job_overrides: options of each job.
            initial_job_idx: number of the first one.

        Returns:
            Return values, in the order of ``job_overrides``.
        """
        setup_globals()
        waiting = deque(_Task(initial_job_idx + i, overrides) for i, overrides in enumerate(job_overrides))
        running: list[_Task] = []
        done: dict[int, JobReturn] = {}
        try:
            while waiting or running:
                while len(running) < self.n_jobs and (task := _next(waiting)):
                    self._start(task)
                    running.append(task)
                connection.wait([task.answer for task in running if task.answer], timeout=0.2)
                if not running:
                    time.sleep(0.2)
                for task in list(running):
                    ended = self._ended(task)
                    if ended is None:
                        continue
                    running.remove(task)
                    if isinstance(ended, JobReturn):
                        done[task.index] = ended
                    else:
                        waiting.append(task) if ended == IN_USE else waiting.appendleft(task)
        finally:
            _stop(running)
        return [done[index] for index in sorted(done)]

    def _start(self, task: _Task) -> None:
        task.answer, theirs = self._context.Pipe(duplex=False)
        state = None if self._context.get_start_method() == "fork" else Singleton.get_state()["instances"]
        work = (self.hydra_context, self.task_function, self.config, task.index, list(task.overrides))
        task.process = self._context.Process(target=_run, args=(theirs, os.getpid(), self.n_jobs, state, *work))
        task.process.start()
        theirs.close()

    def _ended(self, task: _Task) -> JobReturn | int | None:
        """The result of a task; the exit status of one that has to run again; None for one that still runs."""
        assert task.process is not None and task.answer is not None
        result: JobReturn | None = None
        ended = task.process.exitcode is not None  # asked first: its answer comes before its end
        with contextlib.suppress(EOFError, OSError, pickle.UnpicklingError):
            if task.answer.poll():
                result = task.answer.recv()
        if result is None and not ended:
            return None
        task.process.join()
        task.answer.close()
        if result is not None:
            return result
        status = task.process.exitcode or 0
        if status == IN_USE:
            task.earliest = time.monotonic() + 1
            return IN_USE
        signal_name = killed_by(status)
        name = job_name(task.overrides)
        reason = f"killed by {signal_name}" if signal_name else f"ended with exit status {status}"
        if signal_name and task.kills < self.retries:
            task.kills += 1
            note(f"{name} was {reason}: it goes on")
            return status
        print(f"error: {name}: {reason}; the sweep goes on", file=sys.stderr)
        if self.config.hydra.sweep.subdir == ".":
            note_failure(Path(str(self.config.hydra.sweep.dir)) / name, reason)
        failed = JobReturn()
        failed.overrides, failed.status, failed.return_value = task.overrides, JobStatus.COMPLETED, math.nan
        return failed


def _next(waiting: deque[_Task]) -> _Task | None:
    """Takes the first task whose time has come."""
    for task in waiting:
        if task.earliest <= time.monotonic():
            waiting.remove(task)
            return task
    return None


def _stop(running: Sequence[_Task]) -> None:
    """Ends the processes of tasks, with time to say where they go on."""
    for task in running:
        if task.process is not None:
            task.process.terminate()
    end = time.monotonic() + _PATIENCE
    for task in running:
        if task.process is not None:
            task.process.join(max(0.0, end - time.monotonic()))
            if task.process.exitcode is None:
                task.process.kill()
                task.process.join()


def _run(
    answer: connection.Connection,
    parent: int,
    n_jobs: int,
    singletons: Any,
    hydra_context: Any,
    task_function: Any,
    config: Any,
    index: int,
    overrides: list[str],
) -> None:
    """What the process of a job does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the sweep says who stops
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()
    os.environ[JOB_PROCESS] = "1"
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // n_jobs))
    if singletons is not None:  # of a process that has inherited nothing
        Singleton.set_state({**Singleton.get_state(), "instances": singletons})  # resolvers are closures: its own
    setup_globals()
    job_config = hydra_context.config_loader.load_sweep_config(config, overrides)
    job_config.hydra.job.id, job_config.hydra.job.num = str(index), index
    done = run_job(
        hydra_context=hydra_context,
        task_function=task_function,
        config=job_config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
    done.cfg = done.hydra_cfg = None  # nobody reads them, and they may hold what cannot be sent
    answer.send(done)


def _follow(parent: int) -> None:
    """Stops this process when the sweep is gone: a later one must not find its jobs in use."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGTERM)
