"""How near images are to others, one number an image, for pixels in [0, 1]."""

import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

__all__ = ["psnr", "ssim"]


def psnr(images: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio ``(N,)`` in dB of images ``(N, C, H, W)``; white is 1. Infinite for equal images."""
    return -10 * torch.log10((images - reference).square().flatten(1).mean(1))


def ssim(images: Tensor, reference: Tensor) -> Tensor:
    """Structural similarity ``(N,)`` of images ``(N, C, H, W)``; white is 1.

    Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to structural similarity", 2004,
    with a Gaussian window of 1.5 pixels; 0.5 for images under 16 pixels, where the usual one would not fit. Under 3
    pixels, where none would, the whole image is one window.
    """
    if min(reference.shape[2:]) < 3:
        return _ssim_of_one_window(images, reference)
    sigma = 1.5 if min(reference.shape[2:]) >= 16 else 0.5  # torchmetrics' window spans 7 sigma
    value = structural_similarity_index_measure(images, reference, sigma=sigma, data_range=1.0, reduction="none")
    assert isinstance(value, Tensor)
    return value.view(len(reference))  # of a single image torchmetrics returns ()


def _ssim_of_one_window(images: Tensor, reference: Tensor) -> Tensor:
    """The formula of the paper, equation 13, with the means and variances of each channel of the whole image."""
    c1, c2 = 0.01**2, 0.03**2
    x, y = images.flatten(2), reference.flatten(2)
    mean_x, mean_y = x.mean(2), y.mean(2)
    variances = x.var(2, correction=0) + y.var(2, correction=0)
    covariance = ((x - mean_x[..., None]) * (y - mean_y[..., None])).mean(2)
    value = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return (value / ((mean_x**2 + mean_y**2 + c1) * (variances + c2))).mean(1)
