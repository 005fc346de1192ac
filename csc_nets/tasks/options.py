"""The configuration of a program as plain values; options that nobody reads are typing errors, and refused."""

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

__all__ = ["known_options", "options_alike", "plain", "refuse_unknown", "resolved"]


def plain(node: Any) -> Any:
    """A configuration as dicts, lists and values, with all references resolved."""
    if isinstance(node, Mapping):
        return {str(key): plain(value) for key, value in node.items()}
    if isinstance(node, Sequence) and not isinstance(node, str | bytes):
        return [plain(value) for value in node]
    return node


def resolved(cfg: Any) -> dict[str, Any]:
    """A configuration of Hydra as :func:`plain` values.

    Raises:
        ValueError: a value that must be given is missing, or a reference leads nowhere.
    """
    try:
        return plain(cfg)
    except Exception as error:  # of many types
        text = str(error).splitlines()[0]
        missing = re.fullmatch(r"Missing mandatory value: (.+)", text)
        raise ValueError(f"{text}; give it as {missing[1]}=..." if missing else text) from error


def known_options(config_dir: Path, config_name: str) -> set[str]:
    """Names at the top of a configuration: those in its file, and its groups.

    A group that is a whole recipe (``@package _global_``, such as ``experiment``) has no values under its own name.

    Args:
        config_dir: folder of the tree.
        config_name: its root, without ``.yaml``.
    """
    root = yaml.safe_load((config_dir / f"{config_name}.yaml").read_text())
    known = set(root) - {"defaults", "hydra"}
    for default in root.get("defaults", []):
        for group in default if isinstance(default, Mapping) else ():
            files = sorted((config_dir / group).glob("*.yaml"))
            if files and not any("@package _global_" in file.read_text() for file in files):
                known.add(group)
    return known


def refuse_unknown(config: Mapping[str, Any], known: Iterable[str]) -> None:
    """Refuses a configuration with names at its top that no program reads.

    Raises:
        ValueError: names one, and the options that may be meant.
    """
    names = set(known)
    unknown = sorted(set(config) - names)
    if unknown:
        meant = options_alike(unknown[0], {key: value for key, value in config.items() if key in names})
        hint = f", did you mean {' or '.join(meant)}?" if meant else f" (known: {', '.join(sorted(names))})"
        raise ValueError(f"unknown option {unknown[0]}{hint}")


def options_alike(name: str, config: Mapping[str, Any]) -> list[str]:
    """Options anywhere in the tree that bear the name, have it behind another word (``max_epochs``), or are alike."""
    paths = list(_paths(config))
    last = {path: path.rpartition(".")[2] for path in paths}
    same = [path for path in paths if last[path] == name]
    longer = [path for path in paths if f"_{name}" in last[path]]
    close = get_close_matches(name, set(last.values()), n=2)
    return same or longer[:3] or [path for path in paths if last[path] in close][:3]


def _paths(config: Mapping[str, Any], above: str = "") -> Iterable[str]:
    for key, value in config.items():
        yield f"{above}{key}"
        if isinstance(value, Mapping):
            yield from _paths(value, f"{above}{key}.")
