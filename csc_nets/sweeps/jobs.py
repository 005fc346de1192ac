"""The jobs of a sweep, as their folders tell of them."""

import json
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from csc_nets.tasks.run_folder import RunFolder
from csc_nets.tasks.safe_files import is_alive, write_whole

__all__ = ["Job", "State", "begin_job", "finished_numbers", "note_failure", "read_job", "read_jobs"]

State = Literal["finished", "collapsed", "running", "failed", "stopped"]
_FILE = "job.json"


@dataclass(frozen=True)
class Job:
    """A job of a sweep.

    Args:
        folder: where it writes.
        state: ``"finished"``, ``"collapsed"`` (finished too: the loss or the game went astray), ``"running"``,
            ``"failed"`` with an error, or ``"stopped"`` by somebody who killed it.
        options: what the sweep varies, with the values of this job; {} where nobody wrote them.
        config: its ``config.yaml``; {} where it has none.
        numbers: its ``metrics.json``, of a job that is finished.
        error: why it failed.
    """

    folder: Path
    state: State
    options: dict[str, str]
    config: dict[str, Any]
    numbers: dict[str, Any]
    error: str | None = None


def begin_job(folder: Path, options: dict[str, str]) -> None:
    """Writes down that a job begins, and what it varies; an error of an earlier attempt is forgotten."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / _FILE, json.dumps({"options": options}, indent=2) + "\n")


def note_failure(folder: Path, error: str) -> None:
    """Writes down why a job has failed."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / _FILE, json.dumps({**_table(folder / _FILE), "error": error}, indent=2) + "\n")


def finished_numbers(folder: Path) -> dict[str, Any] | None:
    """The numbers of a run that has come to its end; None where it has not."""
    numbers = _table(RunFolder(folder).metrics)
    return numbers if numbers.get("collapsed") or "training_seconds" in numbers else None


def read_job(folder: Path) -> Job:
    """A job of which a folder holds at least a part."""
    table = _table(folder / _FILE)
    options = table.get("options")
    error = table.get("error")
    numbers = finished_numbers(folder)
    state: State
    if error:
        state = "failed"
    elif numbers is not None:
        state = "collapsed" if numbers.get("collapsed") else "finished"
    else:
        state = "running" if _is_running(folder) else "stopped"
    return Job(folder, state, options if isinstance(options, dict) else {}, _config(folder), numbers or {}, error)


def read_jobs(folder: Path) -> list[Job]:
    """The jobs in the ``folder`` of a sweep, by name; those of a sweep of an older version too.

    Raises:
        FileNotFoundError: there is none.
    """
    parts = [child for child in sorted(folder.glob("*")) if child.is_dir()]
    jobs = [read_job(child) for child in parts if (child / _FILE).is_file() or (child / "config.yaml").is_file()]
    if not jobs:
        raise FileNotFoundError(f"{folder} is no folder of a sweep: it holds no jobs")
    return jobs


def _is_running(folder: Path) -> bool:
    """Whether the holder of the lock lives; of a holder on another machine nobody here knows, so it counts as alive."""
    try:
        holder = re.match(r"process (\d+) on (\S+),", (folder / "lock").read_text())
    except OSError:
        return False
    return holder is not None and (holder[2] != socket.gethostname() or is_alive(int(holder[1])))


def _config(folder: Path) -> dict[str, Any]:
    try:
        return RunFolder(folder).config()
    except (OSError, ValueError):
        return {}


def _table(file: Path) -> dict[str, Any]:
    try:
        table = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return table if isinstance(table, dict) else {}
