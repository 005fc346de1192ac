r"""The end of a step, after its convolutions, in one pass over the code on an accelerator.

.. math:: z = \mathrm{prox}_t(v + \kappa y), \qquad y' = z + \beta (z - z_\text{before})

torch starts four kernels for it (bias, sum, threshold, extrapolation), which read or write a code ten times. Here one
kernel reads or writes a code five times. With the gradients g of z and g' of y', the gradient is

.. math:: \partial v = h = 1_{z \ne 0} \odot (g + (1 + \beta) g'), \quad \partial y = \kappa h, \quad
          \partial z_\text{before} = -\beta g', \quad \partial t = - h \odot \mathrm{sign}(z)

and one kernel as well. The operators are registered with torch, so that compilers and ``torch.library.opcheck`` know
them. On an accelerator they are Triton kernels (:mod:`csc_nets.functional.kernels.triton_kernels`), elsewhere torch
operations.
"""

import functools
import importlib.util
from typing import Any

import torch
from torch import Tensor

from csc_nets.functional.checks import is_transformed

__all__ = ["applies", "serves", "shrink"]

# For smaller codes torch's four kernels end before Python has started this one: some 50 us at 4 TB/s (computed, not
# measured). Where a graph of kernels is recorded, the time of the host does not matter.
FEWEST = 1 << 23
_FORMATS = {4: (torch.channels_last,), 5: (torch.channels_last_3d,)}


def serves(device: torch.device) -> bool:
    """Whether steps on this device are finished by :func:`shrink` where it :func:`applies`.

    A compiler makes such a kernel by itself, and ``torch.func`` cannot differentiate this one.
    """
    return device.type == "cuda" and has_triton() and not is_transformed()


def applies(v: Tensor, threshold: Tensor) -> bool:
    """Whether :func:`shrink` takes these, where it serves: at most 32 bits, many entries, no threshold per position."""
    return bool(
        v.dtype in (torch.float32, torch.bfloat16, torch.float16)
        and type(v) is Tensor
        and (threshold.ndim < v.ndim or threshold.shape[2:].numel() == 1)
        and (v.numel() >= FEWEST or torch.cuda.is_current_stream_capturing())
    )


@functools.cache
def has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def shrink(
    v: Tensor,
    threshold: Tensor,
    *,
    y: Tensor | None = None,
    shrinkage: Tensor | None = None,
    before: Tensor | None = None,
    inertia: float = 0.0,
    nonneg: bool = True,
) -> tuple[Tensor, Tensor]:
    """The code and its extrapolation; see the top of this file.

    Args:
        v: what the step adds to the code, ``(N, M, *S')`` or ``(N, M)``.
        threshold: t, 0-d, per atom ``(M, 1, ...)``, per sample ``(N, 1, 1, ...)``, or both ``(N, M, 1, ...)``.
        y: point that the step starts from; None for the zero code.
        shrinkage: :math:`\\kappa`, 0-d; None for 1.
        before: the code before, for an extrapolation; None for none.
        inertia: :math:`\\beta`.
        nonneg: non-negative threshold, where t may be negative; False is the signed one.

    Returns:
        z in the type and memory format of ``v``, and y' likewise, or a tensor without entries where ``before`` is None.

    Raises:
        ValueError: a threshold per position.
    """
    shape = (1,) * (v.ndim - threshold.ndim) + tuple(threshold.shape)
    if any(n != 1 for n in shape[2:]):
        raise ValueError(f"threshold must be one number per atom or sample, got shape {tuple(threshold.shape)}")
    v = v.expand(torch.broadcast_shapes(v.shape, shape))  # one signal may have several weights
    formats = (torch.contiguous_format, *_FORMATS.get(v.ndim, ()))
    if not any(v.is_contiguous(memory_format=f) for f in formats):
        v = v.contiguous()
    y, before = (t if t is None else t.expand_as(v) for t in (y, before))
    threshold, shrinkage = threshold.to(v.device), None if shrinkage is None or y is None else shrinkage.to(v.device)
    z, ahead = torch.ops.csc_nets.shrink(v, threshold.reshape(shape[:2]), y, before, shrinkage, inertia, nonneg)
    return z, ahead


@torch.library.custom_op("csc_nets::shrink", mutates_args=())
def _shrink(
    v: Tensor,
    threshold: Tensor,
    y: Tensor | None,
    before: Tensor | None,
    shrinkage: Tensor | None,
    inertia: float,
    nonneg: bool,
) -> tuple[Tensor, Tensor]:
    wide = torch.promote_types(v.dtype, torch.float32)
    w, t = v.to(wide), threshold.view(*threshold.shape, *(1,) * (v.ndim - 2))
    if y is not None:
        w = w + (y.to(wide) if shrinkage is None else shrinkage * y.to(wide))
    z = torch.empty_like(v).copy_((w - t).relu() if nonneg else w - torch.clamp(w, -t, t))
    if before is None:
        return z, v.new_empty(0)
    return z, torch.empty_like(v).copy_(torch.lerp(before.to(wide), z.to(wide), 1 + inertia))


@torch.library.custom_op("csc_nets::shrink_gradients", mutates_args=())
def _shrink_gradients(of_z: Tensor | None, of_ahead: Tensor | None, z: Tensor, inertia: float) -> tuple[Tensor, Tensor]:
    h, of_before = _gradients(of_z, of_ahead, z, inertia)
    empty = z.new_empty(0)
    return torch.empty_like(z).copy_(h), empty if of_before is None else torch.empty_like(z).copy_(of_before)


def _gradients(of_z: Tensor | None, of_ahead: Tensor | None, z: Tensor, inertia: float) -> tuple[Tensor, Tensor | None]:
    """Gradients at ``v``, and at ``before`` where there was an extrapolation."""
    wide = torch.promote_types(z.dtype, torch.float32)
    g = of_z.to(wide) if of_z is not None else torch.zeros_like(z, dtype=wide)
    of_before = None
    if of_ahead is not None:
        g, of_before = g + (1 + inertia) * of_ahead.to(wide), -inertia * of_ahead
    return torch.where(z != 0, g, 0), of_before


@_shrink.register_kernel("cuda")
def _(*arguments: Any) -> tuple[Tensor, Tensor]:
    from csc_nets.functional.kernels import triton_kernels

    return triton_kernels.shrink(*arguments)


@_shrink_gradients.register_kernel("cuda")
def _(*arguments: Any) -> tuple[Tensor, Tensor]:
    from csc_nets.functional.kernels import triton_kernels

    return triton_kernels.shrink_gradients(*arguments)


@_shrink.register_fake
def _(v: Tensor, threshold: Tensor, y: Any, before: Any, shrinkage: Any, inertia: float, nonneg: bool) -> Any:
    return torch.empty_like(v), v.new_empty(0) if before is None else torch.empty_like(v)


@_shrink_gradients.register_fake
def _(of_z: Any, of_ahead: Any, z: Tensor, inertia: float) -> Any:
    return torch.empty_like(z), z.new_empty(0) if of_ahead is None else torch.empty_like(z)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _, threshold, _, before, shrinkage, inertia, nonneg = inputs
    ctx.save_for_backward(output[0], shrinkage)
    ctx.shape, ctx.extrapolates, ctx.inertia, ctx.nonneg = threshold.shape, before is not None, inertia, nonneg
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, of_z: Tensor | None, of_ahead: Tensor | None) -> tuple[Any, ...]:
    z, shrinkage = ctx.saved_tensors
    of_ahead = of_ahead if ctx.extrapolates else None
    if of_z is None and of_ahead is None:
        return (None,) * 7
    # For a second derivative: operations of torch, which can be differentiated.
    operator = _gradients if torch.is_grad_enabled() else torch.ops.csc_nets.shrink_gradients
    h, of_before = operator(of_z, of_ahead, z, ctx.inertia)
    _, wants_threshold, wants_y, wants_before, *_ = ctx.needs_input_grad
    of_y = (h if shrinkage is None else h * shrinkage) if wants_y else None
    of_threshold = None
    if wants_threshold:
        wide = torch.promote_types(h.dtype, torch.float32)
        of_t = h if ctx.nonneg else h * z.sign()
        of_threshold = -of_t.unsqueeze(-1).flatten(2).sum(2, dtype=wide).sum_to_size(ctx.shape)
    of_before = of_before if wants_before and of_ahead is not None else None
    return h, of_threshold, of_y, of_before, None, None, None


_shrink.register_autograd(_differentiate, setup_context=_remember)
