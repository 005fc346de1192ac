"""How near images are to others, one number an image, for pixels in [0, 1]."""

import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

__all__ = ["psnr", "ssim"]


def psnr(images: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio ``(N,)`` in dB of images ``(N, C, H, W)``; white is 1. Infinite for equal images."""
    return -10 * torch.log10((images - reference).square().flatten(1).mean(1))


def ssim(images: Tensor, reference: Tensor, *, interior: bool = False) -> Tensor:
    """Structural similarity ``(N,)`` of images ``(N, C, H, W)``; white is 1.

    Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to structural similarity", 2004,
    with a Gaussian window of 1.5 pixels; 0.5 for images under 16 pixels, where the usual one would not fit.

    Args:
        images: what is compared.
        reference: with what.
        interior: the mean over windows that lie in the image, as in the paper and in scikit-image. Else over one window
            a pixel, with images that are mirrored at their border, as in torchmetrics. Errors at the border then count
            as much as others; the two differ by some thousandths.
    """
    sigma = 1.5 if min(reference.shape[2:]) >= 16 else 0.5  # torchmetrics' window spans 7 sigma
    _, places = structural_similarity_index_measure(
        images, reference, sigma=sigma, data_range=1.0, reduction="none", return_full_image=True
    )
    assert isinstance(places, Tensor)
    margin = int(3.5 * sigma + 0.5)  # of a window
    height, width = reference.shape[2:]
    rows, columns = places.shape[2:]
    assert (rows, columns) == (height, width)
    if interior:
        places = places[..., margin : height - margin, margin : width - margin]
    return places.flatten(1).mean(1)
