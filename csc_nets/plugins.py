"""A user's own code: files, modules and installed packages that are imported before a program builds anything.

A plugin registers models, data sets, tasks or reports when it is imported. Only the user names plugins, on a command
line or in a call. Plugins that a checkpoint or a run folder names are never imported for that: data are never code.
"""

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

__all__ = ["ENTRY_POINTS", "import_installed", "import_plugins", "installed_plugins", "named_plugins"]

ENTRY_POINTS = "csc_nets.plugins"
"""Group of the entry points by which an installed package offers its plugins."""


def import_plugins(names: str | Sequence[str]) -> list[str]:
    """Imports plugins; those that are imported already stay as they are.

    A file is imported as the module of its stem. Its folder is searched for modules from then on, after all others, so
    that worker processes find it and it can import its neighbours.

    Args:
        names: files (they end in ``.py``) and modules; one alone may stand without a list.

    Returns:
        The names, with absolute paths of files.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: ``names`` is something else, a file has the name of another module, or a plugin fails on import.

    Example:
        >>> import_plugins("csc_nets.models")
        ['csc_nets.models']
    """
    found = [os.path.abspath(Path(name).expanduser()) if _is_file(name) else name for name in named_plugins(names)]
    for name in found:
        if _is_file(name):
            _import(name, _module_of(Path(name)))
        else:
            _import(name, name)
    return found


def import_installed() -> None:
    """Imports the plugins of installed packages.

    Raises:
        ValueError: one fails on import.
    """
    for name in installed_plugins():
        _import(name, name)


def installed_plugins() -> list[str]:
    """Modules that installed packages offer as plugins, sorted."""
    return sorted({point.module for point in entry_points(group=ENTRY_POINTS)})


def named_plugins(value: object) -> list[str]:
    """``value`` as a list of names; nothing is imported.

    Raises:
        ValueError: it is neither a name nor a list of names.
    """
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, Sequence) or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"plugins must be a list of files that end in .py and of modules, got {value!r}")
    return list(names)


def _is_file(name: str) -> bool:
    return name.endswith(".py")


def _module_of(file: Path) -> str:
    """The module name under which the import system finds ``file``."""
    if not file.is_file():
        raise FileNotFoundError(f"plugins: there is no file {file}")
    if "." in file.stem:
        raise ValueError(f"plugins: the name of {file} must have no dot before .py; rename the file")
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    importlib.invalidate_caches()
    spec = find_spec(file.stem)
    origin = spec.origin if spec else None
    if origin is None or not Path(origin).is_file() or not file.samefile(origin):
        raise ValueError(f"plugins: {file} has the name of another module ({origin or file.stem}); rename the file")
    return file.stem


def _import(plugin: str, module: str) -> None:
    try:
        importlib.import_module(module)
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        line = next((f" in line {frame.lineno}" for frame in frames if frame.name == "<module>"), "")
        reason = " ".join(str(error).split())
        raise ValueError(f"plugins: {plugin} fails on import{line}: {type(error).__name__}: {reason}") from error
