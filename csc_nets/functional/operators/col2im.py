"""Analysis and synthesis for signals of few channels on a CPU, where torch's transposed convolution is slow.

oneDNN computes a synthesis, and the gradient of an analysis, for at least 16 channels. With three channels it takes
five times as long as the analysis. Here one product of matrices, ``(C K, M)`` by ``(M, N S')``, multiplies the samples
of the atoms by the code. Each plane of the product is then added to the signal at its offset. The rows of the atoms are
treated one after another, so that the planes take no more memory than the code. With one channel this takes a fifth to
a third of oneDNN's time, with three channels half.
"""

from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor

from csc_nets.functional.checks import is_transformed
from csc_nets.functional.operators.geometry import ConvGeometry

__all__ = ["analysis", "applies", "synthesis"]

# Measured with 3 x 3 to 8 x 8 atoms: with six channels both ways take the same time. With fewer coefficients the calls
# cost more than the work.
MOST_CHANNELS, FEWEST_COEFFICIENTS = 4, 1 << 16
# Memory of all planes over memory of the code. Few large atoms make it large: 9 for 16 atoms of 3 x 7 x 7, where both
# ways take the same time; 64 for 16 atoms of 4 x 16 x 16, where this one is five times slower than torch.
MOST_PLANES = 8


def applies(z: Tensor, weight: Tensor, geometry: ConvGeometry, signal_size: Sequence[int]) -> bool:
    """Whether :func:`synthesis` may be called, and is faster than the synthesis of the geometry."""
    return bool(
        not is_transformed()
        and geometry.dims == 2
        and geometry.groups == 1
        and weight.shape[1] <= MOST_CHANNELS
        and weight[0].numel() <= MOST_PLANES * weight.shape[0]
        and z.numel() >= FEWEST_COEFFICIENTS
        and z.device.type == "cpu"
        and type(z) is Tensor
        and z.dtype == weight.dtype
        and (z.is_contiguous(memory_format=torch.channels_last) or (z.is_contiguous() and not _recorded(z, weight)))
        and geometry.native_padding is not None
        and not geometry.is_matrix(signal_size)
    )


def _recorded(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def synthesis(z: Tensor, weight: Tensor, geometry: ConvGeometry, signal_size: Sequence[int]) -> Tensor:
    """:math:`D z`, summed in float32 at least.

    Args:
        z: code ``(N, M, H', W')``, channels_last; it may be contiguous instead where no gradient is recorded.
        weight: atoms ``(M, C, kh, kw)``.
        geometry: with plain zero padding.
        signal_size: ``(H, W)``.

    Returns:
        Signal ``(N, C, H, W)``.
    """
    signal: Tensor = _Synthesis.apply(z, weight, geometry, tuple(signal_size))
    return signal


def analysis(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: ConvGeometry) -> Tensor:
    """:math:`D^T x` plus a bias. The value is that of the geometry; the gradient at ``x`` is :func:`synthesis`."""
    bias = None if bias is None else bias.to(weight.dtype)
    code: Tensor = _Analysis.apply(x.to(weight.dtype), weight, bias, geometry)
    return code


class _Synthesis(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, weight: Tensor, geometry: ConvGeometry, signal_size: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(z, weight)
        ctx.geometry = geometry
        (atoms, channels, *kernel), (samples, _, *code_size) = weight.shape, z.shape
        last = z.is_contiguous(memory_format=torch.channels_last)
        codes = z.permute(0, 2, 3, 1).reshape(-1, atoms).T if last else z.flatten(2)
        at_once = max(1, atoms // (channels * kernel[1]))
        spans = [s * (n - 1) + 1 for s, n in zip(geometry.stride, code_size, strict=True)]
        pads = geometry.native_padding or (0, 0)
        size = [
            max(n + 2 * pad, span + d * (k - 1))
            for n, pad, span, d, k in zip(signal_size, pads, spans, geometry.dilation, kernel, strict=True)
        ]
        signal = z.new_zeros(channels, samples, *size, dtype=torch.promote_types(z.dtype, torch.float32))
        for first in range(0, kernel[0], at_once):
            part = weight[:, :, first : first + at_once].permute(1, 2, 3, 0)
            planes = part.reshape(-1, atoms) @ codes
            planes = (planes if last else planes.transpose(0, 1)).view(*part.shape[:3], samples, *code_size)
            for row, column in product(*map(range, part.shape[1:3])):
                rows_at, columns_at = (
                    slice(i * d, i * d + span, s)
                    for i, d, span, s in zip(
                        (first + row, column), geometry.dilation, spans, geometry.stride, strict=True
                    )
                )
                signal[:, :, rows_at, columns_at] += planes[:, row, column]
            del planes  # before those of the next rows are made
        (top, left), (height, width) = pads, signal_size
        return signal[:, :, top : top + height, left : left + width].transpose(0, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        z, weight = ctx.saved_tensors
        gradient = gradient.to(z.dtype).contiguous(memory_format=torch.channels_last)
        return *ctx.geometry.synthesis_gradients(gradient, z, weight, atoms=ctx.needs_input_grad[1]), None, None


class _Analysis(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: ConvGeometry) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        return geometry.analysis(x, weight, bias, exact=False)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias, _ = ctx.needs_input_grad
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_x = synthesis(gradient, weight, ctx.geometry, x.shape[2:]).to(x.dtype) if wants_x else None
        of_weight = ctx.geometry.analysis_gradients(gradient, x, weight, signal=False)[1] if wants_weight else None
        return of_x, of_weight, gradient.sum((0, 2, 3)) if wants_bias else None, None
