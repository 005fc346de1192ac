"""What sets the numbers and reports of one evaluation apart from those of others, in the names of their files."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from csc_nets.data.facts import FACTS
from csc_nets.tasks.file_names import short_value

__all__ = ["LabelPart", "evaluation_label", "folder_part", "value_part"]

# What changes no number of a test, or only its rounding: where the images lie, and how they are read.
_PLAIN_DATA = ("root", "download", "num_workers", "worker_timeout", "device")
_BATCHES = ("batch_size", "eval_batch_size")
_TEST_TRAINER = {"limit_test_batches": "all", "precision": "32-true"}
_LONGEST = 120


class LabelPart(NamedTuple):
    """An option in a label.

    Attributes:
        name: of the option.
        text: a short form of its value.
        rest: what the short form does not say; None where it says everything.
    """

    name: str
    text: str
    rest: Any = None


def value_part(name: str, value: Any) -> LabelPart:
    """An option with a plain value."""
    values = value if isinstance(value, list) and value else [value]
    told = all(_is_told(item) for item in values)
    return LabelPart(name, ",".join(map(short_value, values)), None if told else value)


def folder_part(name: str, folder: str | Path, of: str = "") -> LabelPart:
    """An option that names a folder: its last part, because whole paths are long. ``of`` says more of it."""
    path = Path(folder).expanduser().resolve()
    return LabelPart(name, short_value(path.name), [str(path), of])


def evaluation_label(
    options: Mapping[str, Any], config: Mapping[str, Any], *, other: bool = False, more: Sequence[LabelPart] = ()
) -> str:
    """What sets an evaluation apart from the test of the run itself; "" where nothing does.

    Evaluations that differ have labels that differ. What the short forms of the values leave out, such as the path of a
    folder, is told by eight digits at the end.

    Args:
        options: the tree of ``configs/evaluate.yaml``.
        config: the run's ``config.yaml``.
        other: whether the images under ``data.root`` are not the run's own.
        more: what a report was asked for.
    """
    data, report = dict(options["data"]), options.get("report") is not None
    root, name = data.get("root"), data.get("name")
    parts: list[LabelPart] = []
    if name is not None or (root is not None and (other or config["data"].get("root") is None)):
        # A published set is the same wherever it lies.
        published = root is None or name in FACTS
        parts.append(value_part("data", name) if published else folder_part("data", str(root), str(name)))
    plain = _PLAIN_DATA if report else (*_PLAIN_DATA, *_BATCHES)  # a report may show images of the first batch
    for key, value in data.items():
        if key not in (*plain, "name") and (key not in config["data"] or config["data"][key] != value):
            parts.append(value_part(key, value))
    if options["which"] != "best":
        parts.append(value_part("which", options["which"]))
    parts += [value_part(key, options[key]) for key in ("lam", "steps", "test_views") if options[key] is not None]
    for key, default in _TEST_TRAINER.items() if not report else ():
        asked, own = (tree.get("trainer", {}).get(key) for tree in (options, config))
        asked, own = (default if value is None else value for value in (asked, own))
        if str(asked) != str(own):  # 1 is one batch, 1.0 all of them
            parts.append(value_part(key, asked))
    return _joined([*parts, *more])


def _joined(parts: Sequence[LabelPart]) -> str:
    text = "-".join(f"{part.name}={part.text}" for part in parts)
    told = all(part.rest is None for part in parts) and len({part.name for part in parts}) == len(parts)
    if told and len(text) <= _LONGEST:
        return text
    everything = json.dumps(parts, sort_keys=True, default=str)
    return f"{text[:_LONGEST]}-{hashlib.sha256(everything.encode()).hexdigest()[:8]}"


def _is_told(value: Any) -> bool:
    """Whether no other value has this short form."""
    if isinstance(value, str):  # "1" is not 1
        return value == short_value(value) and yaml.safe_load(value) == value
    return value is None or isinstance(value, bool | int | float)
