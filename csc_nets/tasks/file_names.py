"""Names of files, on a command line too."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["SWEEP_RECORD", "quote_folders", "short_value"]

SWEEP_RECORD = "sweep.json"
"""The file in the folder of a sweep."""

_FOLDERS = re.compile(r"(?P<option>run|resume|run_dir|network)=(?P<folder>.+)", re.DOTALL)
_PLAIN = re.compile(r"[A-Za-z0-9_./+:%@-]+")


def short_value(value: Any) -> str:
    """A value as part of a file name: what a shell or Hydra would read as grammar becomes ``-``."""
    text = re.sub(r"[^A-Za-z0-9_.+-]+", "-", str(value)).strip("-") or "none"
    return f"-{text}" if str(value).startswith("-") else text


def quote_folders(arguments: Sequence[str]) -> list[str]:
    """A command line in which names of folders have the quotes that Hydra's grammar asks for.

    Folders of older sweeps have names such as ``model.lam=0.1,seed=2``. Only folders that exist are quoted: other
    values may be meant as grammar.

    Args:
        arguments: what a user typed.
    """
    return [_quoted(argument) for argument in arguments]


def _quoted(argument: str) -> str:
    found = _FOLDERS.fullmatch(argument)
    if found is None or _PLAIN.fullmatch(found["folder"]) or not Path(found["folder"]).expanduser().is_dir():
        return argument
    text = re.sub(r"(\\*)'", r"\1\1\\'", found["folder"])
    text = re.sub(r"(\\+)$", r"\1\1", text)  # or the quote at the end would be part of the name
    return f"{found['option']}='{text}'"
