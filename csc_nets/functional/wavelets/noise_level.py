r"""How strong the noise of an image is, from the image alone."""

import torch
import torch.nn.functional as F
from torch import Tensor

from csc_nets.functional.checks import is_transformed
from csc_nets.functional.inputs import check_mask
from csc_nets.functional.problem import observed as is_observed

__all__ = ["estimate_noise_level"]

# High-pass analysis filter of the wavelet "bior4.4" (Cohen, Daubechies, Feauveau 1992, the 9/7 pair of JPEG 2000).
BIOR44 = (
    -0.06453888262869706,
    0.04068941760916406,
    0.41809227322161724,
    -0.7884856164055829,
    0.41809227322161724,
    0.04068941760916406,
    -0.06453888262869706,
)
_HAAR = (1.0, -1.0)
# Median of the modulus of a standard normal variable.
_MEDIAN = 0.6745


def estimate_noise_level(images: Tensor, mask: Tensor | None = None, *, differentiable: bool = False) -> Tensor:
    r"""Standard deviation of white Gaussian noise in each image, ``(N,)``, in the units of the image.

    .. math:: \hat\sigma = \mathrm{median}(|h * x|) / 0.6745

    where h is the finest diagonal wavelet filter, bior4.4 in both directions, scaled to unit norm. Photographs have
    few edges in this band, and the median does not see a few large values. Donoho, Johnstone, "Ideal spatial adaptation
    by wavelet shrinkage", 1994, section 3.1. All positions count, not every second one as in a wavelet transform: that
    halves the variance. Images of less than seven pixels a side are filtered with Haar's wavelet.

    Texture as fine as a pixel counts as noise. Of scikit-learn's photographs with noise of 25 grey levels the one with
    the tiled roof is estimated at 28, the other at 25; with noise of 5 at 8 and 5.4.

    Args:
        images: ``(N, C, H, W)``, at least 2 x 2 pixels.
        mask: 0 or NaN where an image is missing; broadcasts against the images. Windows with a missing pixel do not
            count.
        differentiable: whether the estimate has a gradient, which is that of one value, the median. It is a constant to
            automatic differentiation otherwise.

    Raises:
        ValueError: too few pixels, or no window of an image is observed as a whole.

    Example:
        >>> noise = 0.1 * torch.randn(1, 1, 256, 256)
        >>> bool((estimate_noise_level(noise) - 0.1).abs() < 0.003)
        True
    """
    if mask is not None:
        mask = check_mask("estimate_noise_level", mask, images)
    if images.ndim != 4 or min(images.shape[2:]) < 2:
        raise ValueError(f"images must be (N, C, H, W) of 2 x 2 pixels at least, got {tuple(images.shape)}")
    gradient = torch.set_grad_enabled(differentiable and torch.is_grad_enabled())
    with gradient, torch.autocast(images.device.type, enabled=False):
        x = images.to(torch.promote_types(images.dtype, torch.float32))
        taps = BIOR44 if min(x.shape[2:]) >= len(BIOR44) else _HAAR
        line = x.new_tensor(taps)
        line = line / line.norm()
        observed = None if mask is None else is_observed(mask).to(x).expand_as(x)
        if observed is not None:
            x = x.masked_fill(observed == 0, 0)
        band = _separable(x, line).abs().flatten(1)
        if observed is None:
            return _median(band) / _MEDIAN
        whole = _separable(observed, torch.ones_like(line)).flatten(1) > len(taps) ** 2 - 0.5
        level = _median(torch.where(whole, band, torch.inf), whole.sum(1, keepdim=True)) / _MEDIAN
        if not is_transformed() and not bool(whole.any(1).all()):
            raise ValueError("no window of an image is observed as a whole, so its noise level is unknown: give sigma")
        return level


def _median(rows: Tensor, count: Tensor | None = None) -> Tensor:
    """The lower median of the ``count`` least values of each row, NaN where one is. ONNX knows no median, but sorts."""
    values = rows.sort(1).values
    if count is None:
        found = values[:, (rows.shape[1] - 1) // 2]
    else:
        found = values.gather(1, (count - 1).clamp_min(0) // 2)[:, 0]
    return torch.where(rows.isnan().any(1), torch.nan, found)


def _separable(x: Tensor, line: Tensor) -> Tensor:
    """Each channel filtered along columns and rows, without a border."""
    n, channels = x.shape[:2]
    x = x.reshape(n * channels, 1, *x.shape[2:])
    x = F.conv2d(F.conv2d(x, line.view(1, 1, -1, 1)), line.view(1, 1, 1, -1))
    return x.reshape(n, channels, *x.shape[2:])
