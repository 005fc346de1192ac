"""Tensors that are computed when they are read: writing into one is refused, because the write would be lost."""

from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from csc_nets.functional.checks import is_transformed

__all__ = ["ReadOnly", "read_only"]

# Methods whose names end like those of writes. The first changes no values, the second shares memory as it is.
_HARMLESS = ("requires_grad_", "share_memory_")


class ReadOnly(Tensor):
    """A tensor that refuses to be written into; so do its views, ``.data``, and what ``detach`` and ``numpy`` give.

    All other operations give plain tensors, and are differentiated as usual. Copies (``clone``, ``deepcopy``, a file)
    are plain, too.
    """

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        target = args[0] if args else kwargs.get("tensor", kwargs.get("input"))
        writes = (name.endswith("_") and not name.endswith("__") and name not in _HARMLESS) or (
            name.startswith("__i") and name not in ("__index__", "__invert__", "__int__")
        )
        writes = writes or name == "__setitem__" or bool(kwargs.get("inplace")) or func == Tensor.data.__set__  # type: ignore[attr-defined]
        if (writes and _holds_one(target)) or _holds_one(kwargs.get("out")):
            _refuse()
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **kwargs)
        if name in ("numpy", "__array__"):
            result.flags.writeable = False
        return _guarded(result, target) if isinstance(target, ReadOnly) else result

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_is_param":  # nn.Parameter(atoms) owns its memory from now on, and is trained
            self.__class__ = nn.Parameter  # type: ignore[assignment]
        else:
            super().__setattr__(name, value)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        return self.detach().clone()

    def __reduce_ex__(self, protocol: Any) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            return self.as_subclass(Tensor).__reduce_ex__(protocol)


def read_only(tensor: Tensor) -> Tensor:
    """The tensor as one that refuses writes; itself where a compiler or ``torch.func`` looks on."""
    if is_transformed() or torch.jit.is_tracing() or type(tensor) is not Tensor:
        return tensor
    return tensor.as_subclass(ReadOnly)


def _guarded(result: Any, source: Tensor) -> Any:
    """Views of what is read only are so, too."""
    if isinstance(result, (tuple, list)) and any(isinstance(r, Tensor) for r in result):
        parts = [_guarded(r, source) for r in result]
        return type(result)(*parts) if hasattr(result, "_fields") else type(result)(parts)
    if type(result) is not Tensor or result.layout != torch.strided or result.is_meta:
        return result
    with torch._C.DisableTorchFunctionSubclass():
        shares = result.untyped_storage().data_ptr() == source.untyped_storage().data_ptr() and result.numel() > 0
    return result.as_subclass(ReadOnly) if shares else result


def _holds_one(target: Any) -> bool:
    several = target if isinstance(target, (tuple, list)) else (target,)
    return any(isinstance(t, ReadOnly) for t in several)


def _refuse() -> NoReturn:
    raise RuntimeError(
        "atoms are computed when they are read, so what is written into them is lost: set them with "
        "layer.atoms = W or dictionary.set_atoms(W), or change a copy: atoms.clone()"
    )
