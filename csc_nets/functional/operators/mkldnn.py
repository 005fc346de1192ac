"""Convolution, addition and ReLU in one pass over the code, where torch's CPU backend offers it (inference only)."""

import torch
from torch import Tensor

from csc_nets.functional.checks import is_transformed
from csc_nets.functional.operators.geometry import ConvGeometry

__all__ = ["analysis_relu", "can_fuse"]

# These operators of torch are private and may be missing, so every caller asks can_fuse first.
AVAILABLE = torch.backends.mkldnn.is_available() and all(
    hasattr(torch.ops.mkldnn, name) for name in ("_convolution_pointwise", "_convolution_pointwise_")
)


def can_fuse(x: Tensor, weight: Tensor, geometry: ConvGeometry) -> bool:
    """Whether :func:`analysis_relu` may be called: float32, channels_last, on the CPU, no gradient, no tracing."""
    return bool(
        AVAILABLE
        and not is_transformed()
        and not torch.is_grad_enabled()
        and torch.backends.mkldnn.enabled
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
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
    code: Tensor
    if onto is None:
        code = fused._convolution_pointwise(x, weight, bias, *settings, "relu", [], "")
    else:
        code = fused._convolution_pointwise_.binary(onto, x, weight, bias, *settings, "add", 1.0, "relu", [], "")
    return code
