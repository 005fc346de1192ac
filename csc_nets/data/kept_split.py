"""The images that a run holds out, kept by name and content: later images never change sides of the others."""

import contextlib
import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from csc_nets.data.files import FileList

__all__ = ["apply_split", "fingerprint", "read_split", "taken", "write_split"]

_HEAD = 65536
_Entries = dict[str, dict[str, str]]


def fingerprint(file: Path) -> str:
    """What tells image files apart whatever their names: a hash of the size and the first 64 kB."""
    digest = hashlib.sha256(str(file.stat().st_size).encode())
    with file.open("rb") as stream:
        digest.update(stream.read(_HEAD))
    return digest.hexdigest()[:32]


def write_split(root: Path, train: Iterable[Path], val: Iterable[Path]) -> str:
    """The text of a split file.

    Args:
        root: the folder that names are relative to.
        train: files to train on.
        val: files held out.
    """
    sides = {
        side: {file.relative_to(root).as_posix(): fingerprint(file) for file in sorted(files)}
        for side, files in (("train", train), ("val", val))
    }
    return json.dumps(sides, indent=0) + "\n"


def read_split(file: Path) -> _Entries:
    """The names and fingerprints of both sides.

    Raises:
        ValueError: the file is damaged.
    """
    with contextlib.suppress(ValueError, RecursionError):
        sides = json.loads(file.read_text())
        if isinstance(sides, dict) and set(sides) == {"train", "val"} and all(map(_names_images, sides.values())):
            return sides
    raise ValueError(f"{file} is damaged: it must name the images in train and in val")


def apply_split(root: Path, files: FileList, sides: _Entries) -> tuple[list[int], list[int]]:
    """Which of the images that are there now are trained on, and which are held out.

    An image is on the side that it was on, also under a new name; where two images have the same content, the name
    decides. A file with new content under an old name stays on the side of the name. All others are trained on.

    Args:
        root: the folder that names are relative to.
        files: what is there now.
        sides: from :func:`read_split`.

    Returns:
        Indices into ``files``.
    """
    by_name = {name: side for side, entries in sides.items() for name in entries}
    content = {side: set(entries.values()) for side, entries in sides.items()}
    only_in = {
        mark: side for side, other in (("train", "val"), ("val", "train")) for mark in content[side] - content[other]
    }
    kept: dict[str, list[int]] = {"train": [], "val": []}
    for index, file in enumerate(files.paths):
        name = file.relative_to(root).as_posix()
        mark = fingerprint(file)
        side = by_name.get(name)
        if side is None or sides[side][name] != mark:
            side = only_in.get(mark, side or "train")
        kept[side].append(index)
    return kept["train"], kept["val"]


def taken(files: FileList, index: Sequence[int]) -> FileList:
    """Part of a file list."""
    return FileList([files.paths[i] for i in index], [files.labels[i] for i in index])


def _names_images(entries: object) -> bool:
    return isinstance(entries, dict) and all(isinstance(mark, str) for mark in entries.values())
