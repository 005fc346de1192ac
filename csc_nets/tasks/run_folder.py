"""The folder that a run leaves behind."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

__all__ = ["RunFolder"]


@dataclass(frozen=True)
class RunFolder:
    """Names of the files of a run.

    ``config.yaml`` holds everything that was chosen, ``metrics.csv`` a row an epoch and one for the test,
    ``checkpoints/`` the best and the last state, ``pictures/`` atoms, codes and reconstructions, and ``metrics.json``
    the numbers of the test.

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

    def checkpoint(self, which: str) -> Path:
        """File of the ``"best"`` or the ``"last"`` state.

        Raises:
            ValueError: another word.
        """
        if which not in ("best", "last"):
            raise ValueError(f"which must be 'best' or 'last', got {which!r}")
        return self.path / "checkpoints" / f"{which}.ckpt"

    def create(self, config: dict[str, Any]) -> None:
        """Makes the folder of a new run and writes ``config.yaml``.

        Raises:
            FileExistsError: it holds a run already.
        """
        if (self.path / "config.yaml").exists():
            raise FileExistsError(f"run_dir: {self.path} already holds a run; to go on with it: resume={self.path}")
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))

    def config(self) -> dict[str, Any]:
        """What was chosen for the run.

        Raises:
            FileNotFoundError: this is no run folder.
            ValueError: ``config.yaml`` is damaged.
        """
        file = self.path / "config.yaml"
        if not file.is_file():
            raise FileNotFoundError(f"{self.path} is no run folder: it holds no config.yaml")
        try:
            config = yaml.safe_load(file.read_text())
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{file} is damaged: {' '.join(str(error).split())}") from error
        if not isinstance(config, dict) or not {"data", "model", "task"} <= set(config):
            raise ValueError(f"{file} is damaged: it lacks data, model or task")
        return config
