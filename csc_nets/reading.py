"""Files of weights that somebody else may have written: read as plain values and tensors, and as nothing more.

What is read here calls nothing, opens no other file and no address, and takes no more memory than its file has bytes.
docs/security.md says against whom that stands.
"""

import json
import math
import pickletools
import re
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["read_safetensors", "read_torch_file"]

_LONGEST_HEADER = 100_000_000  # as in the format
_KINDS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_DEEPEST = 64
_VIEWS = 4  # times the size of the file that all tensors together may have, since several may be views of one
_SCALARS = (type(None), bool, int, float, complex, str, bytes, torch.device, torch.dtype)
# What torch.save writes for tensors and plain values. torch.load has a longer list, with calls that take memory.
_NAMES = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor_v2|parameter)|torch (Size|device|[A-Z]\w+Storage)|"
    r"torch (b?float|complex|u?int)\d+\w*|torch bool|_codecs encode|(builtins|__builtin__) (set|complex)"
)


def read_torch_file(file: str | Path) -> Any:
    """The content of a file of ``torch.save``, on the CPU.

    Args:
        file: path of a file that exists.

    Returns:
        Dicts, lists, tuples, sets, numbers, text, and dense tensors, which have memory of their own.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged, names anything that would be called, or would take more memory than it has bytes.
            The message is the reason and does not name the file.
    """
    file = Path(file)
    size = file.stat().st_size
    try:
        _check_archive(file, size)
        with warnings.catch_warnings(action="ignore"):  # torch muses about foreign pickles
            # Mapped memory ends where the file does, whatever length a tensor claims to have.
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, _RefusedError):
        raise
    except Exception as error:  # zipfile, pickletools and torch raise many types for damaged bytes
        raise ValueError(f"it cannot be read ({type(error).__name__})") from error
    return _Copy(size).of(content)


def read_safetensors(file: str | Path) -> dict[str, Tensor]:
    """The tensors of a `safetensors <https://github.com/huggingface/safetensors#format>`_ file, on the CPU.

    Args:
        file: path of a file that exists.

    Raises:
        OSError: the file cannot be read.
        ValueError: its header is not that of its content. The message is the reason and does not name the file.
    """
    file = Path(file)
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, _LONGEST_HEADER):
            raise ValueError(f"its header would have {length} bytes, and the file has {size}")
        try:
            header = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            places = sorted((_place(name, entry), name) for name, entry in header.items())
        except (AttributeError, KeyError, TypeError, RecursionError, ValueError) as error:
            raise ValueError(f"its header is damaged ({' '.join(str(error).split())})") from error
        # The parts of the content follow one another, without gap or overlap.
        ends = [0, *(last for (_, last), _ in places)]
        if [first for (first, _), _ in places] != ends[:-1] or ends[-1] != size - 8 - length:
            raise ValueError("its tensors overlap, leave gaps or end elsewhere than the file")
        content = bytearray(stream.read())
    read = {}
    for (first, last), name in places:
        kind, shape = _KINDS[header[name]["dtype"]], header[name]["shape"]
        data = torch.frombuffer(content, dtype=torch.uint8, count=last - first, offset=first) if last > first else None
        read[name] = torch.empty(shape, dtype=kind) if data is None else data.clone().view(kind).view(shape)
    return read


def _place(name: str, entry: Any) -> tuple[int, int]:
    """Where the content of a tensor begins and ends."""
    kind, shape, (first, last) = entry["dtype"], entry["shape"], entry["data_offsets"]
    if kind not in _KINDS:
        raise ValueError(f"{name!r} is of the type {kind!r}")
    if not all(type(number) is int and number >= 0 for number in (*shape, first, last)):
        raise ValueError(f"{name!r} has sizes that are none")
    if last - first != math.prod(shape) * _KINDS[kind].itemsize:
        raise ValueError(f"{name!r} of shape {shape} and type {kind} cannot have {last - first} bytes")
    return first, last


class _RefusedError(ValueError):
    """A file that is readable, and asks for what it must not have."""


def _check_archive(file: Path, size: int) -> None:
    """Refuses what would unpack to more than the file, and names of things to call."""
    if not zipfile.is_zipfile(file):
        raise _RefusedError("it is no archive of torch.save")
    with zipfile.ZipFile(file) as archive:
        parts = archive.infolist()
        if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
            raise _RefusedError("its parts are compressed, as torch.save never does")
        if len({part.filename.casefold() for part in parts}) < len(parts):
            raise _RefusedError("two of its parts have one name")
        if sum(part.file_size for part in parts) > size:
            raise _RefusedError("its parts are larger than the file")
        for part in parts:
            if part.filename.casefold().endswith(".pkl"):
                _check_pickle(archive.read(part))


def _check_pickle(content: bytes) -> None:
    for operation, argument, _ in pickletools.genops(content):
        if operation.name in ("GLOBAL", "INST", "STACK_GLOBAL") and not _NAMES.fullmatch(str(argument)):
            name = str(argument).replace(" ", ".") if operation.name == "GLOBAL" else "something"
            raise _RefusedError(f"it would call {name[:80]}, and data are never code")


class _Copy:
    """Copies what was read and counts it: a small file can name one thing many times, or stretch one number over all.

    Args:
        size: of the file in bytes.
    """

    def __init__(self, size: int) -> None:
        self.size, self.items, self.bytes, self.stored = size, 0, 0, 0
        self.copies: dict[tuple[Any, ...], Tensor] = {}
        self.storages: dict[tuple[int, int], torch.UntypedStorage] = {}

    def of(self, value: Any, depth: int = 0) -> Any:
        self.items += 1
        if self.items > self.size or depth > _DEEPEST:
            raise ValueError("it is nested without end")
        if isinstance(value, Tensor):
            return self.of_tensor(value)
        if type(value) in (dict, OrderedDict):
            if strange := [key for key in value if not isinstance(key, _SCALARS)]:
                raise ValueError(f"it holds a key of type {type(strange[0]).__name__}")
            for key, inside in value.items():
                value[key] = self.of(inside, depth + 1)
            return value
        if type(value) in (list, tuple, set):
            return type(value)([self.of(inside, depth + 1) for inside in value])
        if isinstance(value, (torch.Size, *_SCALARS)):
            return value
        raise ValueError(f"it holds a {type(value).__name__}")

    def of_tensor(self, value: Tensor) -> Tensor:
        plain = type(value) in (Tensor, nn.Parameter) and value.layout is torch.strided and not value.is_quantized
        if not plain or value.device.type != "cpu":
            raise ValueError("it holds a tensor that is not a plain one")
        storage = value.untyped_storage()
        key = (storage.data_ptr(), value.storage_offset(), value.dtype, value.shape, value.stride())
        if key in self.copies:
            return self.copies[key]
        needed = value.numel() * value.element_size()
        self.bytes += needed
        place = (storage.data_ptr(), storage.nbytes())
        self.stored += storage.nbytes() if place not in self.storages else 0
        if needed > storage.nbytes() or self.stored > self.size or self.bytes > _VIEWS * self.size:
            raise ValueError(f"a tensor of shape {tuple(value.shape)} is larger than what the file holds of it")
        if place not in self.storages:
            self.storages[place] = storage.clone()
        copy = torch.empty(0, dtype=value.dtype)
        copy.set_(self.storages[place], value.storage_offset(), value.shape, value.stride())  # type: ignore[call-overload]
        self.copies[key] = copy
        return copy
