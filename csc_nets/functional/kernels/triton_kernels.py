"""Triton kernels of :mod:`csc_nets.functional.kernels.shrink`; imported only with an accelerator.

Codes are read in the order of memory, so that accesses are wide. The entry ``at`` belongs to the sample ``at // size``
and the atom ``at // inner % ATOMS``, with ``inner`` the distance of two atoms: 1 in channels_last, else the number of
positions. Arithmetic is in float32; comparisons are written so that NaN stays NaN.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["shrink", "shrink_gradients"]

BLOCK = 1024


@triton.jit
def shrink_kernel(
    v, y, before, threshold, shrinkage, z, ahead, count, inertia, size, inner, of_sample, of_atom,
    ATOMS: tl.constexpr, PER_SAMPLE: tl.constexpr, PER_ATOM: tl.constexpr, HAS_Y: tl.constexpr,
    HAS_SHRINKAGE: tl.constexpr, HAS_BEFORE: tl.constexpr, NONNEG: tl.constexpr,
    BLOCK: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(INDEX) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    w = tl.load(v + at, mask=inside).to(tl.float32)
    if HAS_Y:
        point = tl.load(y + at, mask=inside).to(tl.float32)
        if HAS_SHRINKAGE:
            point *= tl.load(shrinkage).to(tl.float32)
        w += point
    weights = threshold
    if PER_SAMPLE:
        weights += at // size * of_sample
    if PER_ATOM:
        weights += at // inner % ATOMS * of_atom
    if PER_SAMPLE or PER_ATOM:  # noqa: SIM108 (the other is a scalar)
        t = tl.load(weights, mask=inside).to(tl.float32)
    else:
        t = tl.load(weights).to(tl.float32)
    if NONNEG:
        code = w - t
        code = tl.where(code < 0, 0.0, code)
    else:
        code = w - tl.where(w > t, t, tl.where(w < -t, -t, w))
    tl.store(z + at, code.to(z.dtype.element_ty), mask=inside)
    if HAS_BEFORE:
        # From the rounded code, because the gradient is that of the rounded code.
        code = code.to(z.dtype.element_ty).to(tl.float32)
        code += inertia * (code - tl.load(before + at, mask=inside).to(tl.float32))
        tl.store(ahead + at, code.to(ahead.dtype.element_ty), mask=inside)


@triton.jit
def gradients_kernel(
    of_z, of_ahead, z, h, of_before, count, inertia,
    HAS_Z: tl.constexpr, HAS_AHEAD: tl.constexpr, BLOCK: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(INDEX) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    g = tl.zeros([BLOCK], tl.float32)
    if HAS_Z:
        g += tl.load(of_z + at, mask=inside).to(tl.float32)
    if HAS_AHEAD:
        later = tl.load(of_ahead + at, mask=inside).to(tl.float32)
        g += (1 + inertia) * later
        tl.store(of_before + at, (-inertia * later).to(of_before.dtype.element_ty), mask=inside)
    active = tl.load(z + at, mask=inside) != 0
    tl.store(h + at, tl.where(active, g, 0.0).to(h.dtype.element_ty), mask=inside)


def shrink(
    v: Tensor,
    threshold: Tensor,
    y: Tensor | None,
    before: Tensor | None,
    shrinkage: Tensor | None,
    inertia: float,
    nonneg: bool,
) -> tuple[Tensor, Tensor]:
    """See :func:`~csc_nets.functional.kernels.shrink.shrink`; thresholds ``(1 or N, 1 or M)``."""
    z = torch.empty_like(v)
    ahead = v.new_empty(0) if before is None else torch.empty_like(v)
    y, before = _laid_out(y, v), _laid_out(before, v)
    if not v.numel():
        return z, ahead
    with torch.cuda.device_of(v):
        shrink_kernel[_grid(v)](
            *(v, _or(y, v), _or(before, v), threshold, _or(shrinkage, v), z, ahead),
            v.numel(),
            inertia,
            v.numel() // len(v),
            v.stride(1),
            *threshold.stride(),
            ATOMS=v.shape[1],
            PER_SAMPLE=threshold.shape[0] > 1,
            PER_ATOM=threshold.shape[1] > 1,
            HAS_Y=y is not None,
            HAS_SHRINKAGE=shrinkage is not None,
            HAS_BEFORE=before is not None,
            NONNEG=nonneg,
            BLOCK=BLOCK,
            INDEX=_index(v),
        )
    return z, ahead


def shrink_gradients(of_z: Tensor | None, of_ahead: Tensor | None, z: Tensor, inertia: float) -> tuple[Tensor, Tensor]:
    """Gradients h at ``v``, and at the code before, which has no entries without ``of_ahead``."""
    h = torch.empty_like(z)
    of_before = z.new_empty(0) if of_ahead is None else torch.empty_like(z)
    of_z, of_ahead = _laid_out(of_z, z), _laid_out(of_ahead, z)
    if not z.numel():
        return h, of_before
    with torch.cuda.device_of(z):
        gradients_kernel[_grid(z)](
            *(_or(of_z, z), _or(of_ahead, z), z, h, of_before),
            z.numel(),
            inertia,
            HAS_Z=of_z is not None,
            HAS_AHEAD=of_ahead is not None,
            BLOCK=BLOCK,
            INDEX=_index(z),
        )
    return h, of_before


def _grid(code: Tensor) -> tuple[int]:
    return (triton.cdiv(code.numel(), BLOCK),)


def _index(code: Tensor) -> tl.dtype:
    """Type of the index: 64 bits only where they are needed, because their divisions are slow."""
    return tl.int32 if code.numel() + BLOCK < 2**31 else tl.int64


def _or(t: Tensor | None, unread: Tensor) -> Tensor:
    """The tensor, or a valid address for an argument that the kernel does not read."""
    return unread if t is None else t


def _laid_out(t: Tensor | None, like: Tensor) -> Tensor | None:
    """The tensor in the memory layout of ``like``."""
    return t if t is None or t.stride() == like.stride() else torch.empty_like(like, dtype=t.dtype).copy_(t)
