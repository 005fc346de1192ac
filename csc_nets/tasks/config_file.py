"""The configuration of a run, read from a file that may have come from somebody else."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

__all__ = ["read_config"]

_LARGEST = 1_000_000
_DEEPEST = 20
_GROUPS = ("data", "model", "task", "trainer", "callbacks", "logger")
_WEIGHTS = ("checkpoint_path", "pretrained")
_LOGGER = ("id", "name", "project", "entity", "offline", "group", "job_type", "tags", "notes", "prefix", "log_model")


def read_config(file: Path) -> dict[str, Any]:
    """A configuration as plain values: text stays text, also where Hydra would look something up or YAML build it.

    What a new run may do at the word of its user, a file may not:

    - ``model.checkpoint_path`` and ``model.pretrained`` are left out: the weights of a run are in its checkpoints.
    - ``data.download`` is off.
    - ``logger`` has no options that say where numbers are sent.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged, asks for objects, or grows without end. The message names it.
    """
    if (size := file.stat().st_size) > _LARGEST:
        raise ValueError(f"{file} is no configuration: it has {size} bytes")
    try:
        config = yaml.load(file.read_text(), _Loader)  # a safe one
        _check(config, [size + 1])  # an empty file holds one value, null
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} is damaged: {' '.join(str(error).split())}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{file} is damaged: it holds no options")
    for group in _GROUPS:
        if not isinstance(config.get(group, {}), dict):
            raise ValueError(f"{file} is damaged: {group} has no options")
        if not isinstance(config.get(group, {}).get("name", ""), str):
            raise ValueError(f"{file} is damaged: {group}.name is no name")
    for option in _WEIGHTS:
        config.get("model", {}).pop(option, None)
    if "download" in config.get("data", {}):
        config["data"]["download"] = False
    if strange := sorted(set(config.get("logger", {})) - set(_LOGGER)):
        raise ValueError(f"{file} names logger.{strange[0]}: a run folder does not decide where numbers are sent")
    return config


class _Loader(yaml.SafeLoader):
    """Plain values only, and no merge of mappings, which can copy them without end."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            raise yaml.YAMLError("it merges mappings")


def _check(value: Any, left: list[int], depth: int = 0) -> None:
    """Refuses more values than the file has bytes, which are references to each other, and objects."""
    left[0] -= 1
    if left[0] < 0 or depth > _DEEPEST:
        raise ValueError("it is nested without end")
    if isinstance(value, Mapping):
        if strange := [key for key in value if not isinstance(key, str | int | float)]:
            raise ValueError(f"it has an option {strange[0]!r}")
        for inside in value.values():
            _check(inside, left, depth + 1)
    elif isinstance(value, list):
        for inside in value:
            _check(inside, left, depth + 1)
    elif not isinstance(value, str | int | float | None):
        raise ValueError(f"it holds a {type(value).__name__}")
