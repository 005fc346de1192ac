"""The folder that a run leaves behind."""

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import yaml

from csc_nets.signature import shown
from csc_nets.tasks.config_file import read_config
from csc_nets.tasks.safe_files import sweep_temporary, write_whole

__all__ = ["RunFolder", "folder_option", "free_names", "is_time"]

_EXAMPLE = "runs/csc_small-digits/2025-01-31_12-00-00"
_TIME = re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d")


@dataclass(frozen=True)
class RunFolder:
    """Names of the files of a run.

    ``config.yaml`` holds everything that was chosen, ``metrics.csv`` a row an epoch and one for the test,
    ``checkpoints/`` the best and the last state, ``pictures/`` atoms, codes and reconstructions, ``metrics.json`` the
    numbers of the test, and ``split.json`` the images held out, where the data do not say which these are.

    Args:
        path: the folder, absolute.
    """

    path: Path

    @property
    def pictures(self) -> Path:
        """Folder of the pictures."""
        return self.path / "pictures"

    @property
    def metrics(self) -> Path:
        """File with the numbers of the test."""
        return self.path / "metrics.json"

    @property
    def split(self) -> Path:
        """File that says which images were held out."""
        return self.path / "split.json"

    def checkpoint(self, which: str) -> Path:
        """File of the ``"best"`` or the ``"last"`` state.

        Raises:
            ValueError: another word.
        """
        if which not in ("best", "last"):
            raise ValueError(f"which must be 'best' or 'last', got {which!r}")
        return self.path / "checkpoints" / f"{which}.ckpt"

    def create(self, config: dict[str, Any]) -> None:
        """Makes the folder of a new run and writes ``config.yaml``; of several processes one succeeds.

        Raises:
            FileExistsError: it holds a run already, or parts of one.
            OSError: it cannot be written. A folder that this call made is gone again.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.path.mkdir()
            made = True
        except FileExistsError:
            made = False
            self._refuse_a_run()
        try:
            write_whole(self._config_file, yaml.safe_dump(config, sort_keys=False), exclusive=True)
        except FileExistsError:
            self._refuse_a_run()
            raise
        except OSError:
            if made:
                with contextlib.suppress(OSError):
                    self.path.rmdir()
            raise

    def config(self) -> dict[str, Any]:
        """What was chosen for the run, less what would reach out, see :func:`~csc_nets.tasks.config_file.read_config`.

        Raises:
            FileNotFoundError: this is no run folder.
            ValueError: ``config.yaml`` is damaged.
        """
        file = self._config_file
        if not file.is_file():
            raise FileNotFoundError(f"{self.path} is no run folder: it holds no config.yaml")
        config = read_config(file)
        if not {"data", "model", "task"} <= set(config):
            raise ValueError(f"{file} is damaged: it lacks data, model or task")
        if nameless := [group for group in ("data", "model", "task") if "name" not in config[group]]:
            raise ValueError(f"{file} is damaged: {nameless[0]} has no name")
        return config

    def sweep(self) -> None:
        """Removes the temporary files of killed writers."""
        for folder in (self.path, self.path / "checkpoints"):
            sweep_temporary(folder)

    @property
    def _config_file(self) -> Path:
        return self.path / "config.yaml"

    def _refuse_a_run(self) -> None:
        """Raises FileExistsError where the folder, which exists, may not be that of a new run."""
        if not self.path.is_dir():
            raise FileExistsError(f"run_dir: {self.path} is a file")
        parts = [self.metrics, self.path / "metrics.csv", *sorted((self.path / "checkpoints").glob("*.ckpt"))]
        found = [part for part in parts if part.exists()]
        if self._config_file.exists():
            # A full disk may have left the empty file of a run that never began.
            if found or self._config_file.stat().st_size:
                raise FileExistsError(f"run_dir: {self.path} already holds a run; to go on with it: resume={self.path}")
            self._config_file.unlink(missing_ok=True)
        elif found:
            raise FileExistsError(
                f"run_dir: {self.path} holds {found[0].relative_to(self.path)} of another run: take another folder"
            )


def folder_option(option: str, value: Any) -> Path:
    """The absolute path that an option of the command line names.

    Args:
        option: its name, for the message.
        value: what was given.

    Raises:
        ValueError: nothing was given, or a name that libraries take for an address.
    """
    text = str(value) if isinstance(value, str | int | float | os.PathLike) and not isinstance(value, bool) else ""
    if not text.strip():
        raise ValueError(f"{option} must be the name of a folder such as {_EXAMPLE}, got {shown(value)}")
    path = Path(text).expanduser().absolute()
    # Lightning opens paths through fsspec, to which "::" is a chain of file systems and "://" a remote one.
    if bad := [part for part in ("::", "://", "\0", "\n") if part in text or part in str(path)]:
        raise ValueError(f"{option} must be the name of a folder without {bad[0]!r}, got {text!r} ({path})")
    return path


def is_time(path: Path) -> bool:
    """Whether the name of a folder is a time, so that nobody chose it."""
    return _TIME.fullmatch(path.name) is not None


def free_names(path: Path) -> Iterator[Path]:
    """Names to try for a new folder, one after another.

    A name that is a time, as those that nobody chose are, goes on with ``_2``, ``_3`` and so on: two programs may start
    in one second. Another name is the only one.
    """
    yield path
    if is_time(path):
        for number in count(2):
            yield path.with_name(f"{path.name}_{number}")
