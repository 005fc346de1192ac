"""Frost on a window pane. The published images have photographs of frost; this is a drawing of it."""

import math

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from csc_nets.evaluation.corruptions.draws import Draws
from csc_nets.evaluation.corruptions.registry import register_corruption
from csc_nets.evaluation.corruptions.weather import grey

__all__ = ["crystals", "frost"]

_DIRECTIONS = 4
_PATCHES = 6  # along a side, more or less
_TINT = (0.9, 1.0, 1.1)  # of grey: frost is bluish


@register_corruption(
    {
        32: ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
        64: ((1, 0.3), (0.9, 0.4), (0.8, 0.45), (0.75, 0.5), (0.7, 0.55)),
        224: ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
    }
)
def frost(images: Tensor, draws: Draws, share: float, amount: float) -> Tensor:
    """``share x + amount frost``.

    The published program cuts frost from five photographs. Here it is synthesised: needles in a few directions, each in
    patches of its own, with a spectrum, a contrast and a range of brightness near those of the photographs. The images
    are near the published ones in mean and contrast, but this is another corruption. Compare scores on it with scores
    of this function only.
    """
    needles = crystals(draws, images.shape[2], images.shape[3])
    level = draws.uniform(1, 1, 1, low=0.3, high=0.9)
    tint = images.new_tensor(_TINT).view(1, 3, 1, 1)
    pane = (level + 0.11 * needles).clamp(0, 1) * (tint if images.shape[1] == 3 else grey(tint))
    return share * images + amount * pane.clamp(0, 1)


def crystals(draws: Draws, height: int, width: int) -> Tensor:
    """Needles ``(N, 1, H, W)`` of mean 0 and deviation 1 in each image.

    Noise of an amplitude that falls with frequency is kept near one direction, which draws needles across it. There is
    such a field for each direction, and each pixel shows the field whose own slow noise is the largest there.
    """
    noise = torch.fft.rfft2(draws.normal(_DIRECTIONS, height, width))
    y = torch.fft.fftfreq(height, device=noise.device)[:, None]
    x = torch.fft.rfftfreq(width, device=noise.device)
    radius = (x.square() + y.square()).sqrt().clamp(min=1 / max(height, width))
    turns = torch.arange(_DIRECTIONS, device=noise.device)[:, None, None] * (math.pi / _DIRECTIONS)
    turns = turns + draws.uniform(1, 1, 1, high=math.pi)
    aside = torch.sin(torch.atan2(y, x) - turns)
    fields = torch.fft.irfft2(noise * radius**-0.8 * (aside.square() / -0.03).exp(), s=(height, width))
    slow = interpolate(draws.normal(_DIRECTIONS, _PATCHES, _PATCHES), (height, width), mode="bicubic")
    shown = (fields * (slow == slow.amax(1, keepdim=True))).sum(1, keepdim=True)
    shown = shown - shown.mean((-2, -1), keepdim=True)
    return shown / shown.square().mean((-2, -1), keepdim=True).sqrt().clamp(min=1e-6)  # one pixel has no deviation
