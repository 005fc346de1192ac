"""What a pursuit or a layer is given, checked at the door: an error names the argument, its value and what is allowed.

Only shapes, types and devices are looked at: nothing waits for an accelerator or breaks a graph that is traced.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from csc_nets.functional.operators.protocol import Operator
from csc_nets.functional.problem import as_weight

__all__ = [
    "Inputs",
    "as_batch",
    "broadcasts",
    "check_code",
    "check_inputs",
    "check_lam",
    "check_like",
    "check_mask",
    "code_shape",
    "known_shape",
]

_AXES = ("D", "H", "W")
_AUTOCAST = (torch.float32, torch.float16, torch.bfloat16)


class Inputs(NamedTuple):
    """Checked arguments of a pursuit, with a batch axis.

    Attributes:
        x: signals ``(N, C, *S)``.
        lam: sparsity weight that broadcasts against the code, or None.
        init: warm start ``(N, M, *S')``, or None.
        mask: broadcasts against ``x``, or None.
        single: the signal came without a batch axis, so its code goes without one.
    """

    x: Tensor
    lam: float | Tensor | None
    init: Tensor | None
    mask: Tensor | None
    single: bool

    def result(self, value: Tensor) -> Tensor:
        """A batch of results; the result itself for a signal that came without a batch axis."""
        return value[0] if self.single else value


def broadcasts(own: Sequence[int], shape: Sequence[int]) -> bool:
    """Whether a tensor of one shape can be expanded to another."""
    missing = len(shape) - len(own)
    # Not ``n in (1, m)``: the compiler of torch 2.6 says no where both are the same free size.
    return missing >= 0 and all(n == 1 or m == n for n, m in zip(own, shape[missing:], strict=True))


def check_like(
    owner: str, name: str, t: Any, like: Tensor, whose: str = "the dictionary", *, real: bool = False
) -> None:
    """Refuses a tensor of another type or on another device than a given one; autocast takes lower precision, too.

    Args:
        owner: who asks, for the message.
        name: the argument.
        t: what was given.
        like: the other one.
        whose: what the other one belongs to.
        real: the type is the real one that belongs to a complex ``like``.

    Raises:
        ValueError: for the others.
    """
    if not isinstance(t, Tensor):
        raise ValueError(f"{owner}: {name} must be a tensor, got {type(t).__name__}")
    dtype = like.dtype.to_real() if real and like.is_complex() else like.dtype
    lower = t.dtype in _AUTOCAST and dtype in _AUTOCAST and not like.is_meta
    if t.dtype != dtype and not (lower and torch.is_autocast_enabled(like.device.type)):
        raise ValueError(f"{owner}: {name} must be of type {dtype} as {whose} is, got {t.dtype}")
    if t.device != like.device:
        raise ValueError(f"{owner}: {name} must be on {like.device} as {whose} is, got {t.device}")


def as_batch(
    owner: str, x: Any, channels: int, dims: int, like: Tensor, name: str = "x", what: str = "input channels"
) -> tuple[Tensor, bool]:
    """Signals or codes with a batch axis, and whether they are one that came without.

    Args:
        owner: who asks, for the message.
        x: ``(N, C, *S)`` or ``(C, *S)``.
        channels: C.
        dims: spatial axes; 0 for vectors.
        like: a tensor of the type and on the device that they must have.
        name: the argument.
        what: what its channels are called.

    Raises:
        ValueError: another number of axes or channels, another type or device.
    """
    if not isinstance(x, Tensor):
        raise ValueError(f"{owner}: {name} must be a tensor, got {type(x).__name__}")
    single = x.ndim == dims + 1
    if not (single or x.ndim == dims + 2) or x.shape[0 if single else 1] != channels:
        what = what if dims else "features"
        wanted = ", ".join(["N", str(channels), *_AXES[3 - dims :]])
        raise ValueError(f"{owner}: expected {channels} {what} ({wanted}), got {tuple(x.shape)}")
    check_like(owner, name, x, like)
    return (x[None] if single else x), single


def _filters(operator: Any) -> Tensor | None:
    """The filters ``(M, C, *K)`` of an operator that says what they are; others may call anything their weight."""
    return operator.weight if hasattr(operator, "scaled") else None


def known_shape(operator: Operator, x: Tensor) -> tuple[int, ...] | None:
    """Shape ``(N, M, *S')`` of the code of signals; None where nothing but an analysis tells it."""
    geometry, weight = getattr(operator, "geometry", None), _filters(operator)
    if weight is None or (geometry is None and (weight.ndim, x.ndim) != (2, 2)):
        return None
    return (x.shape[0], weight.shape[0], *(() if geometry is None else geometry.code_size(x.shape[2:])))


def code_shape(operator: Operator, x: Tensor) -> tuple[int, ...]:
    """Shape ``(N, M, *S')`` of the code of signals, by an analysis where it takes one."""
    known = known_shape(operator, x)
    if known is not None:
        return known
    with torch.no_grad():
        return tuple(operator.analysis(x).shape)


def check_inputs(
    owner: str,
    operator: Any,
    x: Tensor,
    lam: float | Tensor | None = None,
    init: Tensor | None = None,
    mask: Tensor | None = None,
) -> Inputs:
    """Arguments of a pursuit.

    Args:
        owner: who asks, for the message.
        operator: the dictionary with its atoms read. Channels, sizes and types are those of its ``geometry`` and
            ``weight``, where it has them.
        x: signals ``(N, C, *S)``, or one signal ``(C, *S)``.
        lam: sparsity weight, as for :func:`~csc_nets.functional.as_weight`; it must broadcast against the code.
        init: warm start ``(N, M, *S')``; one for all signals where N is 1.
        mask: broadcasts against ``x``.

    Raises:
        ValueError: an argument of another shape, type or device, a signal that is too small, a bad number.
    """
    weight, single = _filters(operator), False
    if weight is not None:
        if weight.is_complex():
            raise ValueError(
                f"{owner}: atoms of a convolution or a matrix must be real, got {weight.dtype}: give an object with "
                "analysis and synthesis, which conjugates the atoms in one of the two"
            )
        groups = getattr(getattr(operator, "geometry", None), "groups", 1)
        x, single = as_batch(owner, x, weight.shape[1] * groups, weight.ndim - 2, weight)
    elif not isinstance(x, Tensor) or not (x.is_floating_point() or x.is_complex()) or x.ndim < 2:
        seen = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"{owner}: signals must be (N, F) or (N, C, *S) of floats, got {seen}")
    geometry = getattr(operator, "geometry", None)
    if geometry is not None:
        geometry.code_size(x.shape[2:])  # refuses a signal smaller than an atom
    mask = None if mask is None else check_mask(owner, mask, x)
    shape = code_shape(operator, x) if init is not None or (isinstance(lam, Tensor) and lam.ndim) else ()
    lam = None if lam is None else check_lam(owner, lam, x, shape, single)
    if init is not None:
        count = shape[0]
        if isinstance(lam, Tensor) and lam.ndim == x.ndim and count == 1:
            count = lam.shape[0]  # one signal with the weights of several samples
        init = check_code(owner, "init", init, (count, *shape[1:]), x if weight is None else weight, single)
    return Inputs(x, lam, init, mask, single)


def check_code(
    owner: str, name: str, z: Any, shape: Sequence[int], like: Tensor, single: bool = False, *, many: bool = False
) -> Tensor:
    """A code of a given shape, with a batch axis.

    Args:
        owner: who asks, for the message.
        name: the argument.
        z: what was given.
        shape: ``(N, M, *S')``; one code for all N samples is repeated.
        like: a tensor of the type and on the device that codes must have.
        single: codes come without the batch axis.
        many: any number of codes will do.

    Raises:
        ValueError: another shape, type or device.
    """
    if not isinstance(z, Tensor):
        raise ValueError(f"{owner}: {name} must be a tensor, got {type(z).__name__}")
    given = z[None] if single else z
    count, *rest = shape
    count = given.shape[0] if many and given.ndim == len(shape) else count
    fits = given.ndim != len(shape) or broadcasts(given.shape[:1], [count])
    if given.ndim != len(shape) or tuple(given.shape[1:]) != tuple(rest) or not fits:
        axes = [] if single else ["N" if fits else str(count)]
        wanted = ", ".join([*axes, *map(str, rest)]) + ("," if len(axes) + len(rest) == 1 else "")
        raise ValueError(f"{owner}: {name} must be ({wanted}), got {tuple(z.shape)}")
    check_like(owner, name, z, like)
    return given if given.shape[0] == count else given.expand(count, *rest)


def check_lam(owner: str, lam: Any, x: Tensor, shape: Sequence[int], single: bool = False) -> float | Tensor:
    """A sparsity weight that broadcasts against a code.

    Args:
        owner: who asks, for the message.
        lam: a number or a tensor, as for :func:`~csc_nets.functional.as_weight`.
        x: signals with a batch axis, of the type and on the device that a tensor must have.
        shape: of the code, ``(N, M, *S')``. One signal may have the weights of several samples.
        single: signal and code come without the batch axis.

    Raises:
        ValueError: another shape, type or device, or a bad number.
    """
    if isinstance(lam, Tensor):
        if lam.is_complex() or lam.dtype == torch.bool:
            raise ValueError(f"{owner}: lam must be real numbers, got {lam.dtype}")
        if single and lam.ndim == x.ndim - 1 and lam.ndim > 1:
            lam = lam[None]
    aligned = as_weight(lam, x.ndim, f"{owner}: lam")
    # A tensor without axes counts as a number, which has no type and no device of its own.
    if isinstance(aligned, Tensor) and aligned.ndim:
        check_like(owner, "lam", aligned, x, "the signal", real=True)
        count, atoms, *size = shape
        first = int(aligned.ndim == x.ndim and count == 1 and not single)  # one signal with the weights of several
        if not broadcasts(aligned.shape[first:], shape[first:]):
            code = ", ".join([*([] if single else ["N"]), str(atoms), *map(str, size)])
            batch = "" if single else f" with N = {count}"
            raise ValueError(
                f"{owner}: lam must be a number, one per atom ({atoms},), or broadcast against the code ({code})"
                f"{batch}, got shape {tuple(lam.shape)}"
            )
    return aligned


def check_mask(owner: str, mask: Any, x: Tensor) -> Tensor:
    """A mask that broadcasts against signals.

    Args:
        owner: who asks, for the message.
        mask: 0 or NaN where a signal is missing.
        x: the signals.

    Raises:
        ValueError: no tensor of real numbers, another shape or device.
    """
    if not isinstance(mask, Tensor) or mask.is_complex():
        seen = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(f"{owner}: mask must be a tensor of booleans or real numbers, got {seen}")
    if mask.device != x.device:
        raise ValueError(f"{owner}: mask must be on {x.device} as the signal is, got {mask.device}")
    if not broadcasts(mask.shape, x.shape):
        raise ValueError(
            f"{owner}: mask must broadcast against the signal {tuple(x.shape)}, got shape {tuple(mask.shape)}"
        )
    return mask
