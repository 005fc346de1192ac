"""How near images are to others, one number an image, for pixels in [0, 1]."""

import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from csc_nets.functional.checks import full_precision

__all__ = ["psnr", "ssim"]


def psnr(images: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio ``(N,)`` in dB of images ``(N, C, H, W)``; white is 1. Infinite for equal images."""
    images, reference = _wide(images), _wide(reference)
    return -10 * torch.log10((images - reference).square().flatten(1).mean(1))


def ssim(images: Tensor, reference: Tensor, *, interior: bool = False) -> Tensor:
    """Structural similarity ``(N,)`` of images ``(N, C, H, W)``; white is 1.

    Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to structural similarity", 2004,
    with a Gaussian window of 1.5 pixels; 0.5 for images under 16 pixels, where the usual one would not fit. Under 3
    pixels, where none would, the whole image is one window.

    Args:
        images: what is compared.
        reference: with what.
        interior: the mean over windows that lie in the image, as in the paper and in scikit-image. Else over one window
            a pixel, with images that are mirrored at their border, as in torchmetrics. Errors at the border then count
            as much as others; the two differ by some thousandths.
    """
    images, reference = _wide(images), _wide(reference)
    with full_precision(images):  # a variance is a small difference of large numbers, which bfloat16 has not
        return _ssim(images, reference, interior)


def _ssim(images: Tensor, reference: Tensor, interior: bool) -> Tensor:
    if min(reference.shape[2:]) < 3:
        return _ssim_of_one_window(images, reference)
    sigma = 1.5 if min(reference.shape[2:]) >= 16 else 0.5  # torchmetrics' window spans 7 sigma
    _, places = structural_similarity_index_measure(
        images, reference, sigma=sigma, data_range=1.0, reduction="none", return_full_image=True
    )
    assert isinstance(places, Tensor)
    margin = int(3.5 * sigma + 0.5)  # of a window
    height, width = reference.shape[2:]
    if interior and min(height, width) > 2 * margin:
        places = places[..., margin : height - margin, margin : width - margin]
    return places.flatten(1).mean(1)


def _wide(images: Tensor) -> Tensor:
    return images.to(torch.promote_types(images.dtype, torch.float32))


def _ssim_of_one_window(images: Tensor, reference: Tensor) -> Tensor:
    """The formula of the paper, equation 13, with the means and variances of each channel of the whole image."""
    c1, c2 = 0.01**2, 0.03**2
    x, y = images.flatten(2), reference.flatten(2)
    mean_x, mean_y = x.mean(2), y.mean(2)
    variances = x.var(2, correction=0) + y.var(2, correction=0)
    covariance = ((x - mean_x[..., None]) * (y - mean_y[..., None])).mean(2)
    value = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return (value / ((mean_x**2 + mean_y**2 + c1) * (variances + c2))).mean(1)
