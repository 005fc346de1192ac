"""Where the package and its configurations are."""

import sys
from pathlib import Path

__all__ = ["config_folder", "package_folder", "package_version"]

_PACKAGE = __name__.partition(".")[0]


def package_folder() -> Path:
    """Folder of the package."""
    return Path(__file__).parents[1]


def package_version() -> str:
    """Version of the code that runs; that of the metadata may be of an older installation."""
    return str(sys.modules[_PACKAGE].__version__)


def config_folder() -> Path:
    """The tree of ``train.yaml`` and ``evaluate.yaml``: inside an installed package, beside it in a clone.

    Raises:
        FileNotFoundError: the package was copied without it.
    """
    package = package_folder()
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / "train.yaml").is_file():
            return folder
    raise FileNotFoundError(f"there are no configurations in {package} or beside it: install csc-nets again")
