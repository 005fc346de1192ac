"""Checks that every room uses: of numbers, and of what runs the code (eager torch, a compiler, ``torch.func``)."""

import math
import operator
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeGuard

import torch

__all__ = [
    "as_count",
    "autocast_dtype",
    "check_flag",
    "check_step_size",
    "check_tol",
    "errors_of",
    "full_precision",
    "is_exporting",
    "is_functional",
    "is_number",
    "is_transformed",
]


def full_precision(like: torch.Tensor) -> AbstractContextManager[Any]:
    """Without autocast on the device of a tensor. Some devices, such as meta, have no autocast."""
    device = like.device.type
    return torch.autocast(device, enabled=False) if _has_autocast(device) else nullcontext()


def _has_autocast(device: str) -> bool:
    """Any device that the compiler works for has it; torch 2.6 cannot compile the question."""
    return torch.compiler.is_dynamo_compiling() or torch.amp.is_autocast_available(device)


def autocast_dtype(like: torch.Tensor) -> torch.dtype | None:
    """The type that autocast rounds to on the device of a tensor; None where it is off."""
    device = like.device.type
    on = _has_autocast(device) and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if on else None


def is_transformed() -> bool:
    """Whether a compiler or ``torch.jit`` traces the code, or ``torch.func`` or forward mode transforms it."""
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or is_functional()
        or torch.autograd.forward_ad._current_level >= 0
    )


def is_exporting() -> bool:
    """Whether ``torch.export`` traces the code. Torch 2.6 does not say; there it is any tracer but the compiler."""
    if hasattr(torch.compiler, "is_exporting"):
        return torch.compiler.is_exporting()
    return torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()


def is_functional() -> bool:
    """Whether a transform of ``torch.func`` is active, such as ``vmap`` or ``grad``."""
    return torch._C._are_functorch_transforms_active()


def as_count(value: Any, name: str = "steps", least: int = 1) -> int:
    """A whole number as an ``int``; integers of numpy are accepted.

    Raises:
        ValueError: a boolean, no whole number, or one below ``least``.
    """
    try:
        count = -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        count = -1
    if isinstance(value, bool) or count < least:
        raise ValueError(f"{name} must be an int >= {least}, got {value!r}")
    return count


def check_flag(value: Any, name: str) -> bool:
    """Refuses what is neither True nor False, such as the text "no", which counts as true.

    Raises:
        ValueError: anything else.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {value!r}")
    return value


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value is a float or an int, and no boolean."""
    # A tuple of types: the compiler of torch 2.6 refuses a union of types here.
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def check_tol(tol: Any) -> Any:
    """Refuses a tolerance that is not a number above 0. None is allowed and means no tolerance.

    Raises:
        ValueError: a bad tolerance.
    """
    if tol is not None and not (is_number(tol) and tol > 0):
        raise ValueError(f"tol must be greater than 0, got {tol!r}")
    return tol


def check_step_size(size: Any) -> Any:
    """Refuses a step size that is not a finite number above 0. None is allowed and means the usual one.

    Raises:
        ValueError: a bad step size.
    """
    if size is not None and not (is_number(size) and 0 < size < math.inf):
        raise ValueError(f"step_size must be a finite number > 0 or None, got {size!r}")
    return size


@contextmanager
def errors_of(owner: str) -> Iterator[None]:
    """Puts the name of an owner before the message of a ValueError."""
    try:
        yield
    except ValueError as error:
        raise error if str(error).startswith(f"{owner}: ") else ValueError(f"{owner}: {error}") from error
