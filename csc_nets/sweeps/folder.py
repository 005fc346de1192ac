"""The folders of a sweep: one for the sweep, and in it one for each job."""

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback

from csc_nets.tasks.file_names import SWEEP_RECORD, short_value
from csc_nets.tasks.run_folder import free_names, is_time
from csc_nets.tasks.run_lock import run_lock
from csc_nets.tasks.safe_files import write_whole

__all__ = ["SweepFolder", "execution_whitelist", "job_folder", "job_name", "sweep_record"]

_FOLDER, _VARIED = "CSC_NETS_SWEEP_FOLDER", "CSC_NETS_SWEEP_VARIED"
_LONGEST = 80
_HYDRA_PLUGINS = ("hydra._internal.core_plugins.*", "hydra_plugins.*", "optuna.samplers.*", "optuna.pruners.*")


class SweepFolder(Callback):
    """Gives a sweep its folder before its first job, and says what its jobs differ in.

    The same command finds the folder of its earlier call again: what that one has finished is not repeated. Several
    processes may work on one sweep at the same time.

    ``configs/train.yaml`` names the folder; ``hydra.sweep.dir`` there reads it from the environment, which jobs in
    other processes share. Without it, jobs whose options decide on ``run_dir`` would scatter over several folders, and
    two sweeps that start in one second would share one.
    """

    def on_multirun_start(self, config: Any, **kwargs: Any) -> None:
        """Finds or makes the folder; where the time names it and another sweep was faster, the next name."""
        self.forget()
        wanted = Path(str(config.hydra.sweep.dir)).absolute()
        params = {str(key): str(value) for key, value in (config.hydra.sweeper.get("params") or {}).items()}
        overrides = [str(override) for override in config.hydra.overrides.task]
        command: dict[str, Any] = {"overrides": overrides, "params": params}
        wanted.parent.mkdir(parents=True, exist_ok=True)
        with _turn(wanted.parent):
            earlier = _earlier(wanted, command)
            folder = earlier or _new(wanted)
            trials = config.hydra.sweeper.get("n_trials")
            jobs = number_of_jobs(command) if trials is None else int(trials)
            write_whole(folder / SWEEP_RECORD, json.dumps({**command, "jobs": jobs}, indent=2) + "\n")
        if earlier is not None:
            print(f"going on with the sweep of this command in {folder} (run_dir=NAME would begin another)")
        os.environ[_FOLDER] = str(folder)
        varied = varied_options(overrides) + list(params)
        os.environ[_VARIED] = json.dumps(list(dict.fromkeys(varied)))

    def on_multirun_end(self, config: Any, **kwargs: Any) -> None:
        """Nothing: the program reads the folder once more, for its table, and then forgets it."""

    @staticmethod
    def current() -> Path | None:
        """Folder of the sweep that this process runs; None outside of one."""
        return Path(os.environ[_FOLDER]) if _FOLDER in os.environ else None

    @staticmethod
    def forget() -> None:
        """Takes the sweep out of the environment: the process may run another one."""
        for name in (_FOLDER, _VARIED):
            os.environ.pop(name, None)


def sweep_record(folder: Path) -> dict[str, Any]:
    """What the sweep in a folder was asked for: ``overrides``, ``params`` and ``jobs``; {} where nobody wrote it."""
    try:
        record = json.loads((folder / SWEEP_RECORD).read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def varied_options(overrides: Sequence[str]) -> list[str]:
    """Options of a command line that take several values."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return [override.key_or_group for override in parsed if override.is_sweep_override()]


def number_of_jobs(command: Mapping[str, Any]) -> int | None:
    """Jobs of a sweep over all combinations; None where an option has no list of values."""
    given = [f"{key}={value}" for key, value in command["params"].items()] + list(command["overrides"])
    sizes: dict[str, int] = {}
    for override in OverridesParser.create().parse_overrides(given):
        if override.is_sweep_override() and not override.is_discrete_sweep():
            return None
        try:
            size = sum(1 for _ in override.sweep_string_iterator()) if override.is_sweep_override() else 1
        except Exception:  # a glob, which only the search path of configurations answers
            return None
        sizes[override.get_key_element()] = size
    total = 1
    for size in sizes.values():
        total *= size
    return total


def execution_whitelist() -> dict[str, Any]:
    """Arguments of ``hydra.main``: what a configuration may have called."""
    return {"execution_whitelist": [f"{__name__}.{SweepFolder.__name__}", *_HYDRA_PLUGINS]}


def job_folder(hydra_config: Any) -> str:
    """Where a job of a sweep goes: to a folder of its own name, unless ``hydra.sweep.subdir`` asks for another.

    What ``hydra_config`` says of the job decides.
    """
    folder = Path(hydra_config.runtime.output_dir)
    if hydra_config.sweep.subdir == ".":
        folder /= job_name(hydra_config.overrides.task)
    return str(folder)


def job_options(overrides: Sequence[str]) -> dict[str, str]:
    """Options of a job that its sweep varies, with the values of this job.

    Args:
        overrides: all options of the job, those of the command line that do not vary among them.
    """
    varied = json.loads(os.environ.get(_VARIED, "null"))
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return {
        override.key_or_group: override.get_value_string()
        for override in parsed
        if varied is None or override.key_or_group in varied
    }


def job_name(overrides: Sequence[str]) -> str:
    """The folder of a job of a sweep, such as ``lam-0.1_seed-2``: the options that vary, and nothing else.

    The same options give the same name whenever they come, so that a job finds its folder again. The name can stand on
    a command line without quotes, and is at most 80 characters long: options that do not fit are replaced by eight
    digits that follow from them.

    Args:
        overrides: all options of the job, those of the command line that do not vary among them.
    """
    values = job_options(overrides)
    name = "_".join(f"{_short_key(key, values)}-{short_value(value)}" for key, value in values.items()) or "job"
    if len(name) > _LONGEST:
        digits = hashlib.sha256(repr(sorted(values.items())).encode()).hexdigest()[:8]
        name = f"{name[: _LONGEST - 9].rstrip('._-')}_{digits}"
    return name


def _short_key(key: str, keys: Mapping[str, Any]) -> str:
    """The last part of an option's name, where no other option ends alike."""
    last = re.split(r"[./@]", key)[-1]
    alone = sum(re.split(r"[./@]", other)[-1] == last for other in keys) == 1
    return short_value(last if alone else key.replace("/", "."))


def _earlier(wanted: Path, command: Mapping[str, Any]) -> Path | None:
    """The latest folder of the same command, among those beside a folder that a time would name."""
    if not is_time(wanted):
        return None
    folders = sorted((file.parent for file in wanted.parent.glob(f"*/{SWEEP_RECORD}")), reverse=True)
    same = (folder for folder in folders if _answers(sweep_record(folder), command))
    return next(same, None)


def _answers(record: Mapping[str, Any], command: Mapping[str, Any]) -> bool:
    return all(record.get(key) == value for key, value in command.items())


def _new(wanted: Path) -> Path:
    for folder in free_names(wanted):
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    return wanted  # a name that somebody chose: the sweep goes on there, or grows


@contextmanager
def _turn(folder: Path, seconds: float = 60) -> Iterator[None]:
    """Waits until nobody else is choosing a name in a folder."""
    with ExitStack() as stack:
        for last in (False,) * int(seconds * 20) + (True,):
            try:
                stack.enter_context(run_lock(folder))
                break
            except BlockingIOError:
                if last:
                    raise
                time.sleep(0.05)
        yield
