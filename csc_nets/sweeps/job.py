"""One job of a sweep: begun, gone on with, or done already."""

import math
import os
import signal
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from csc_nets.sweeps.folder import job_folder, job_options
from csc_nets.sweeps.jobs import begin_job, finished_numbers, note_failure
from csc_nets.tasks.messages import complain
from csc_nets.tasks.run_folder import RunFolder
from csc_nets.tasks.safe_files import note

__all__ = ["IN_USE", "JOB_PROCESS", "killed_by", "run_job"]

IN_USE = 75
"""Exit status of a job's process whose folder another process writes: a temporary failure, in ``sysexits.h``."""
JOB_PROCESS = "CSC_NETS_JOB_PROCESS"
"""Set in the environment of a process that runs one job and nothing else."""

Objective = float | list[float]


def run_job(
    program: Callable[[Mapping[str, Any]], dict[str, Any]], config: dict[str, Any], hydra_config: Any
) -> Objective:
    """Runs a job, and hands a failure on as a number, so that the sweep goes on.

    A job that is finished is not run again. One that was stopped goes on from its last checkpoint. One that failed
    is tried again, from where it came to. A folder with a run of other options is refused.

    Args:
        program: :func:`csc_nets.cli.train`.
        config: the options of the job; ``objective`` names what the sweeper optimises.
        hydra_config: of the job.

    Returns:
        The numbers that ``objective`` names: one, or a list. Of a job that collapsed the worst there are, of one that
        failed or that another process runs NaN, which is no result to a sweeper.

    Raises:
        SystemExit: the job was told to stop; in a process of its own also: another process runs the job.
    """
    folder = Path(job_folder(hydra_config))
    config = {**config, "run_dir": str(folder)}
    names = config.get("objective", "val/best")
    single = isinstance(names, str)
    names = [names] if single else list(names)

    def objective(values: list[float]) -> Objective:
        return values[0] if single else values

    try:
        again = _same_options(folder, config)
        begin_job(folder, job_options(hydra_config.overrides.task))
        numbers = finished_numbers(folder)
        if numbers is None or not again:
            numbers = program({**config, "resume": str(folder)} if again else config)
    except FloatingPointError as error:
        complain(error, f" (in {folder}; the sweep goes on)")
        return objective(_worst(hydra_config, len(names)))
    except Exception as error:
        if isinstance(error, BlockingIOError) or (isinstance(error, FileExistsError) and _is_begun(folder)):
            if os.environ.get(JOB_PROCESS):
                raise SystemExit(IN_USE) from None
            note(f"passed over: {error}")
            return objective([math.nan] * len(names))
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            traceback.print_exc()
        complain(error, f" (in {folder}; the sweep goes on)")
        note_failure(folder, " ".join(f"{type(error).__name__}: {error}".split()))
        return objective([math.nan] * len(names))
    if numbers.get("collapsed"):
        return objective(_worst(hydra_config, len(names)))
    return objective([_number(numbers, name, folder) for name in names])


def killed_by(exitcode: int) -> str | None:
    """What ended a process that did not end by itself; None for any other exit status.

    Args:
        exitcode: of ``multiprocessing.Process``: the number of a signal below zero, or the status that a program
            gives itself after one, 128 above.
    """
    number = -exitcode if exitcode < 0 else exitcode - 128
    try:
        return signal.Signals(number).name if number > 0 else None
    except ValueError:
        return None


def _same_options(folder: Path, config: dict[str, Any]) -> bool:
    """Whether a folder holds a run of these options; False where it holds none.

    Raises:
        ValueError: it holds one with others.
    """
    if not _is_begun(folder):
        return False
    theirs = RunFolder(folder).config()
    for key in sorted(set(theirs) & set(config) - {"run_dir", "resume", "plugins", "objective"}):
        if different := _difference(key, theirs[key], config[key]):
            option, old, new = different
            raise ValueError(
                f"{folder} holds a run with {option}={old}, and now it is {new}: choose another run_dir, or delete it"
            )
    return True


def _is_begun(folder: Path) -> bool:
    """Whether a folder holds a run; another process may have begun it a moment ago."""
    file = folder / "config.yaml"
    return file.is_file() and file.stat().st_size > 0  # a full disk leaves an empty one


def _difference(key: str, old: Any, new: Any) -> tuple[str, Any, Any] | None:
    """The first option that both have, and that differs; options that one of them lacks are of another version."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for part in sorted(set(old) & set(new)):
            if different := _difference(f"{key}.{part}", old[part], new[part]):
                return different
        return None
    return None if old == new else (key, old, new)


def _number(numbers: Mapping[str, Any], name: str, folder: Path) -> float:
    if name not in numbers:
        note(f"{folder} has no {name} for objective (there are: {', '.join(sorted(numbers))})")
    value = numbers.get(name)
    return float(value) if isinstance(value, int | float) else math.nan


def _worst(hydra_config: Any, count: int) -> list[float]:
    """The worst values that a sweeper can be told; where it names no direction, more is better."""
    named: Any = getattr(hydra_config.sweeper, "direction", None)
    directions = list(named) if isinstance(named, Sequence) and not isinstance(named, str) else [named] * count
    return [math.inf if str(d).endswith("minimize") else -math.inf for d in directions]
