"""The folders of a sweep: one for the sweep, and in it one for each job."""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback

from csc_nets.tasks.run_folder import free_names

__all__ = ["SweepFolder", "execution_whitelist", "job_folder", "job_name", "short_value"]

_FOLDER, _VARIED = "CSC_NETS_SWEEP_FOLDER", "CSC_NETS_SWEEP_VARIED"
_LONGEST = 80
_HYDRA_PLUGINS = ("hydra._internal.core_plugins.*", "hydra_plugins.*", "optuna.samplers.*", "optuna.pruners.*")


class SweepFolder(Callback):
    """Gives a sweep a folder of its own before its first job, and says what its jobs differ in.

    ``configs/train.yaml`` names it; ``hydra.sweep.dir`` there reads the folder from the environment, which jobs in
    other processes share. Without it, jobs whose options decide on ``run_dir`` would scatter over several folders, and
    two sweeps that start in one second would share one.
    """

    def on_multirun_start(self, config: Any, **kwargs: Any) -> None:
        """Makes the folder; where the time names it and another sweep was faster, the next name."""
        self.forget()
        for folder in free_names(Path(str(config.hydra.sweep.dir)).absolute()):
            folder.parent.mkdir(parents=True, exist_ok=True)
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            break
        os.environ[_FOLDER] = str(folder)
        varied = varied_options(config.hydra.overrides.task) + list(config.hydra.sweeper.get("params") or {})
        os.environ[_VARIED] = json.dumps(list(dict.fromkeys(varied)))

    def on_multirun_end(self, config: Any, **kwargs: Any) -> None:
        """Forgets the sweep: the process may run another one."""
        self.forget()

    @staticmethod
    def forget() -> None:
        """Takes the sweep out of the environment."""
        for name in (_FOLDER, _VARIED):
            os.environ.pop(name, None)


def varied_options(overrides: Sequence[str]) -> list[str]:
    """Options of a command line that take several values."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return [override.key_or_group for override in parsed if override.is_sweep_override()]


def execution_whitelist() -> dict[str, Any]:
    """Arguments of ``hydra.main``: what a configuration may have called; versions of Hydra before 1.4 call anything."""
    if "execution_whitelist" not in signature(hydra.main).parameters:
        return {}
    return {"execution_whitelist": [f"{__name__}.{SweepFolder.__name__}", *_HYDRA_PLUGINS]}


def job_folder(hydra_config: Any) -> str:
    """Where a job of a sweep goes: to a folder of its own name, unless ``hydra.sweep.subdir`` asks for another."""
    folder = Path(hydra_config.runtime.output_dir)
    if hydra_config.sweep.subdir == ".":
        folder /= job_name(hydra_config.job.num, hydra_config.overrides.task)
    return str(folder)


def job_name(number: int, overrides: Sequence[str]) -> str:
    """The folder of a job of a sweep, such as ``3_model.lam-0.1_seed-2``: its number, and the options that vary.

    The number makes it the job's alone. The name can stand on a command line without quotes, and is at most 80
    characters long: options that do not fit are replaced by eight digits that follow from them.

    Args:
        number: of the job in its sweep.
        overrides: all options of the job, those of the command line that do not vary among them.
    """
    varied = json.loads(os.environ.get(_VARIED, "null"))
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    values: Mapping[str, Any] = {
        override.key_or_group: override.get_value_string()
        for override in parsed
        if varied is None or override.key_or_group in varied
    }
    name = "_".join([str(number), *(f"{_short_key(key, values)}-{short_value(v)}" for key, v in values.items())])
    if len(name) > _LONGEST:
        digits = hashlib.sha256(repr(sorted(values.items())).encode()).hexdigest()[:8]
        name = f"{name[: _LONGEST - 9].rstrip('._-')}_{digits}"
    return name


def short_value(value: Any) -> str:
    """A value as part of a file name: what a shell or Hydra would read as grammar becomes ``-``."""
    text = re.sub(r"[^A-Za-z0-9_.+-]+", "-", str(value)).strip("-") or "none"
    return f"-{text}" if str(value).startswith("-") else text


def _short_key(key: str, keys: Mapping[str, Any]) -> str:
    """The last part of an option's name, where no other option ends alike."""
    last = re.split(r"[./@]", key)[-1]
    alone = sum(re.split(r"[./@]", other)[-1] == last for other in keys) == 1
    return short_value(last if alone else key.replace("/", "."))
