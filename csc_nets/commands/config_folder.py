"""Where the configurations are."""

from pathlib import Path

import csc_nets

__all__ = ["config_folder"]


def config_folder() -> Path:
    """The tree of ``train.yaml`` and ``evaluate.yaml``: inside an installed package, beside it in a clone.

    Raises:
        FileNotFoundError: the package was copied without it.
    """
    package = Path(csc_nets.__file__).parent
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / "train.yaml").is_file():
            return folder
    raise FileNotFoundError(f"there are no configurations in {package} or beside it: install csc-nets again")
