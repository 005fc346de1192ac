"""Noise: every value of every pixel is drawn by itself."""

import torch
from torch import Tensor

from csc_nets.evaluation.corruptions.draws import Draws
from csc_nets.evaluation.corruptions.registry import register_corruption

__all__ = ["gaussian_noise", "impulse_noise", "shot_noise", "speckle_noise"]


@register_corruption(
    {32: (0.04, 0.06, 0.08, 0.09, 0.10), 64: (0.04, 0.08, 0.12, 0.15, 0.18), 224: (0.08, 0.12, 0.18, 0.26, 0.38)}
)
def gaussian_noise(images: Tensor, draws: Draws, scale: float) -> Tensor:
    """``x + scale n`` with standard normal n, as of a sensor in poor light."""
    return draws.normal(*images.shape[1:]).mul_(scale).add_(images)


@register_corruption({32: (500, 250, 100, 75, 50), 64: (250, 100, 50, 30, 15), 224: (60, 25, 12, 5, 3)})
def shot_noise(images: Tensor, draws: Draws, photons: float) -> Tensor:
    """``Poisson(photons x) / photons``: white is so many photons on average."""
    return draws.poisson(images * photons) / photons


@register_corruption(
    {32: (0.01, 0.02, 0.03, 0.05, 0.07), 64: (0.01, 0.02, 0.05, 0.08, 0.14), 224: (0.03, 0.06, 0.09, 0.17, 0.27)}
)
def impulse_noise(images: Tensor, draws: Draws, share: float) -> Tensor:
    """Salt and pepper: a share of the values is 0 or 1, one as likely as the other."""
    drawn = draws.uniform(*images.shape[1:])
    return torch.where(drawn < share, (drawn < share / 2).to(images.dtype), images)


@register_corruption(
    {32: (0.06, 0.1, 0.12, 0.16, 0.2), 64: (0.15, 0.2, 0.25, 0.3, 0.35), 224: (0.15, 0.2, 0.35, 0.45, 0.6)}
)
def speckle_noise(images: Tensor, draws: Draws, scale: float) -> Tensor:
    """``x (1 + scale n)`` with standard normal n: the noise grows with the light."""
    return draws.normal(*images.shape[1:]).mul_(scale).add_(1).mul_(images)
