"""The largest factor by which an operation can change the energy of a signal, from its arguments."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from csc_nets.functional import largest_eigenpair

__all__ = [
    "averages_positions",
    "centred_share",
    "overlap_of_adaptive",
    "overlap_of_windows",
    "per_axis",
    "slope",
    "squared_norm",
]


def squared_norm(linear: Callable[[Tensor], Tensor], like: Tensor) -> float:
    """Square of the largest singular value of a linear map of signals of the shape of ``like``.

    It is computed in float32 or better and without autocast, for networks of any precision.
    """
    dtype = torch.promote_types(like.dtype, torch.float32)
    start = torch.randn(like.shape, generator=torch.Generator().manual_seed(0)).to(like.device, dtype)

    def gram(u: Tensor) -> Tensor:
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            output = linear(u)
            return torch.autograd.grad(output, u, output.detach())[0]

    with torch.autocast(like.device.type, enabled=False):
        return largest_eigenpair(gram, start)[1].item()


def averages_positions(x: Tensor, dim: Any = None, *_: Any, **kwargs: Any) -> bool:
    """Whether a mean of ``(N, C, *S)`` is taken over spatial axes only."""
    dim = kwargs.get("dim", dim)
    axes = [dim] if isinstance(dim, int) else list(dim or ())
    return x.ndim > 2 and bool(axes) and all(axis % x.ndim >= 2 for axis in axes)


def per_axis(value: int | Sequence[int], dims: int) -> list[int]:
    """One number per axis; a single number is repeated."""
    values = [value] if isinstance(value, int) else list(value)
    return values * dims if len(values) == 1 else values


def overlap_of_windows(
    dims: int, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, *_: Any, **__: Any
) -> float:
    """Largest number of windows of a maximum pooling that one number can belong to.

    Derivation: window i has the number at p if p = s i + d j with 0 <= j < k. Such j are s / gcd(s, d) apart.
    """
    axes = zip(*(per_axis(n, dims) for n in (kernel_size, stride or kernel_size, dilation)), strict=True)
    return float(math.prod(-(-k * math.gcd(s, d) // s) for k, s, d in axes))


def overlap_of_adaptive(sizes: Sequence[int], output_size: Any, *_: Any, **__: Any) -> float:
    """The same for m windows on n positions, where window i reaches from floor(i n / m) to ceil((i + 1) n / m)."""
    wanted = [output_size] * len(sizes) if output_size is None or isinstance(output_size, int) else list(output_size)
    overlap = 1
    for n, m in zip(sizes, (n if m is None else m for n, m in zip(sizes, wanted, strict=True)), strict=True):
        held = [0] * n
        for i in range(m):
            for p in range(i * n // m, -(-(i + 1) * n // m)):
                held[p] += 1
        overlap *= max(held)
    return float(overlap)


def slope(func: Any, *args: Any, **kwargs: Any) -> float:
    """Supremum of ``|f(t)| / |t|`` of a rectifier, from its arguments after the input.

    It is infinite for a clamp to an interval without 0.
    """
    if func in (F.leaky_relu, F.leaky_relu_):
        return max(1.0, abs(args[0] if args else kwargs.get("negative_slope", 0.01)))
    if func is F.elu:
        return max(1.0, abs(args[0] if args else kwargs.get("alpha", 1.0)))
    if func in (torch.clamp, Tensor.clamp, Tensor.clamp_, F.hardtanh):
        low, high = ("min_val", "max_val") if func is F.hardtanh else ("min", "max")
        default = (-1.0, 1.0) if func is F.hardtanh else (None, None)
        given = dict(zip((low, high), default, strict=True)) | dict(zip((low, high), args, strict=False)) | kwargs
        below, above = given[low], given[high]
        holds_zero = (below is None or bool(torch.as_tensor(below <= 0).all())) and (
            above is None or bool(torch.as_tensor(above >= 0).all())
        )
        return 1.0 if holds_zero else math.inf
    return 1.0


def centred_share(func: Any, x: Tensor, *args: Any, **kwargs: Any) -> float | None:
    """Share of the energy that a normalisation keeps when it subtracts the means of its groups.

    None if the normalisation subtracts no mean, or a constant that does not depend on the input.
    """
    if func is F.layer_norm:
        groups = x.flatten(x.ndim - len(args[0] if args else kwargs["normalized_shape"]))
    elif func is F.group_norm:
        groups = x.reshape(len(x), args[0] if args else kwargs["num_groups"], -1)
    elif func is F.instance_norm and kwargs.get("use_input_stats", args[4] if len(args) > 4 else True):
        groups = x.flatten(2)
    else:
        return None
    groups = groups.double()
    energy = groups.square().sum().item()
    return (groups - groups.mean(-1, keepdim=True)).square().sum().item() / energy if energy else 0.0
