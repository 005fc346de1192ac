"""Convolution, addition and ReLU in one pass over the code, where torch's CPU backend offers it (inference only)."""

import functools

import torch
from torch import Tensor

from csc_nets.functional.checks import autocast_dtype, is_transformed
from csc_nets.functional.operators.geometry import ConvGeometry

__all__ = ["analysis_relu", "can_fuse", "has_bfloat16"]

# These operators of torch are private and may be missing, so every caller asks can_fuse first.
AVAILABLE = torch.backends.mkldnn.is_available() and all(
    hasattr(torch.ops.mkldnn, name) for name in ("_convolution_pointwise", "_convolution_pointwise_")
)


@functools.cache
def has_bfloat16() -> bool:
    """Whether the processor has bfloat16 products."""
    ask = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return bool(ask and ask())


def _takes_bfloat16(x: Tensor, weight: Tensor) -> bool:
    # A signal whose order of memory is either one (one channel, or one pixel) is given to an operator without bfloat16.
    return weight.dtype == torch.bfloat16 and has_bfloat16() and not x.is_contiguous()


def can_fuse(x: Tensor, weight: Tensor, geometry: ConvGeometry) -> bool:
    """Whether :func:`analysis_relu` may be called: channels_last, on the CPU, no gradient, no tracing.

    In float32, or in bfloat16 where the processor has such products, also for atoms that autocast rounded.
    """
    return bool(
        AVAILABLE
        and not is_transformed()
        and not torch.is_grad_enabled()
        and torch.backends.mkldnn.enabled
        and x.device.type == "cpu"
        and weight.dtype == (autocast_dtype(x) or x.dtype)
        and (weight.dtype == torch.float32 or _takes_bfloat16(x, weight))
        and type(x) is Tensor
        and x.ndim == 4
        and x.is_contiguous(memory_format=torch.channels_last)
        and geometry.native_padding is not None
    )


def analysis_relu(
    x: Tensor, weight: Tensor, bias: Tensor, geometry: ConvGeometry, onto: Tensor | None = None
) -> Tensor:
    r""":math:`\max(D^T x + b, 0)`, or :math:`\max(y + D^T x + b, 0)` overwriting the code ``onto`` = y.

    Args:
        x: signal ``(N, C, H, W)``.
        weight: ``(M, C, kh, kw)``.
        bias: ``(M,)``.
        geometry: with plain zero padding.
        onto: ``(N, M, H', W')``, channels_last; overwritten and returned.
    """
    settings = (list(geometry.native_padding or ()), list(geometry.stride), list(geometry.dilation), geometry.groups)
    fused = torch.ops.mkldnn
    x, bias = x.to(weight.dtype), bias.to(weight.dtype)
    code: Tensor
    if onto is None:
        code = fused._convolution_pointwise(x, weight, bias, *settings, "relu", [], "")
    else:
        code = fused._convolution_pointwise_.binary(onto, x, weight, bias, *settings, "add", 1.0, "relu", [], "")
    return code
