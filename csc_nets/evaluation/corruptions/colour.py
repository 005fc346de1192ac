"""Light and colour: closed formulas, without random numbers."""

import torch
from torch import Tensor

from csc_nets.evaluation.corruptions.draws import Draws
from csc_nets.evaluation.corruptions.registry import register_corruption

__all__ = ["brightness", "contrast", "saturate"]


@register_corruption(
    {32: (0.05, 0.1, 0.15, 0.2, 0.3), 64: (0.1, 0.2, 0.3, 0.4, 0.5), 224: (0.1, 0.2, 0.3, 0.4, 0.5)},
)
def brightness(images: Tensor, draws: Draws, shift: float) -> Tensor:
    """Adds ``shift`` to the value of HSV, the largest of the three colours, and clips it to 1.

    Hue and saturation are ratios of colours, so they stay where a pixel is multiplied by new over old value. Black has
    no hue and becomes grey.
    """
    value = images.amax(1, keepdim=True)
    raised = (value + shift).clamp(max=1)
    return torch.where(value > 0, images * (raised / value), raised)


@register_corruption(
    {32: (0.75, 0.5, 0.4, 0.3, 0.15), 64: (0.4, 0.3, 0.2, 0.1, 0.05), 224: (0.4, 0.3, 0.2, 0.1, 0.05)},
)
def contrast(images: Tensor, draws: Draws, gain: float) -> Tensor:
    """``mean + gain (x - mean)`` with the mean of each colour of each image."""
    return gain * images + (1 - gain) * images.mean((2, 3), keepdim=True)


@register_corruption(
    {
        32: ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
        64: ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (30, 0.2)),
        224: ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
    },
    channels=(3,),
)
def saturate(images: Tensor, draws: Draws, gain: float, shift: float) -> Tensor:
    """The saturation s of HSV becomes ``gain s + shift``, clipped to [0, 1].

    With value v and the smallest colour m, ``s = (v - m) / v``, and a colour is ``v (1 - s t)`` where t is a ratio that
    the hue fixes: ``t = (v - x) / (v - m)``. Grey has no hue; as in the published program its t is that of red,
    ``(0, 1, 1)``.
    """
    value, least = images.amax(1, keepdim=True), images.amin(1, keepdim=True)
    spread = value - least
    red = images.new_tensor([0.0, 1.0, 1.0]).view(3, 1, 1)
    ratio = torch.where(spread > 0, (value - images) / spread, red)
    saturation = torch.where(value > 0, spread / value, 0)
    return value * (1 - (gain * saturation + shift).clamp(0, 1) * ratio)
