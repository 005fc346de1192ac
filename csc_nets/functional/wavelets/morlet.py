"""Morlet wavelets in the Fourier domain, the filters of the classical scattering networks for images."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["morlet_bank"]

REACH = 8  # standard deviations at which a Gaussian has ended


def morlet_bank(size: Sequence[int], scales: int, angles: int) -> tuple[list[Tensor], Tensor]:
    r"""Fourier transforms of Morlet wavelets at dyadic scales, and of a Gaussian low-pass.

    .. math:: \hat\psi_{j, \theta}(\omega) = \hat g_j(\omega - \xi_{j, \theta})
              - \frac{\hat g_j(-\xi_{j, \theta})}{\hat g_j(0)}\, \hat g_j(\omega), \qquad
              \hat g_j(\omega) = \exp\bigl(-\tfrac12 \sigma_j^2 (\omega_\parallel^2 + \omega_\perp^2 / \gamma^2)\bigr)

    with :math:`\sigma_j = 0.8 \cdot 2^j`, :math:`|\xi_{j, \theta}| = \tfrac{3 \pi}{4} 2^{-j}` and slant
    :math:`\gamma = 4 / L`; the low-pass is the round Gaussian of :math:`\sigma = 0.8 \cdot 2^{J - 1}`. These are the
    filters of Bruna and Mallat, `Invariant Scattering Convolution Networks <https://arxiv.org/abs/1203.1513>`_, with
    the numbers that kymatio uses; sampled, so that spectra are sums over their periods. The second term makes the mean
    of a wavelet zero. They are no tight frame: their Littlewood-Paley sum for real signals lies between about 0.1 (in
    the corners of the spectrum) and 1.05.

    Args:
        size: height and width of the sampling grid.
        scales: J.
        angles: L, over half a turn: the other half is the conjugate for real signals.

    Returns:
        For each scale, from the finest, ``(L, H, W)``, and the low-pass ``(H, W)``, real, float64, zero frequency
        first.

    Raises:
        ValueError: a size, ``scales`` or ``angles`` below 1.
    """
    if len(size) != 2 or min(size) < 1 or scales < 1 or angles < 1:
        raise ValueError(
            f"morlet_bank: expected a height and a width, scales and angles >= 1, got size={tuple(size)}, "
            f"scales={scales}, angles={angles}"
        )
    slant = 4 / angles
    wavelets = []
    for j in range(scales):
        sigma, centre = 0.8 * 2**j, 0.75 * math.pi / 2**j
        turned = []
        for i in range(angles):
            theta = (int(angles / 2 - 1) - i) * math.pi / angles
            carrier = (centre * math.cos(theta), centre * math.sin(theta))
            bump, envelope = (_gaussian(size, sigma, slant, theta, at) for at in (carrier, (0.0, 0.0)))
            turned.append(bump - bump[0, 0] / envelope[0, 0] * envelope)
        wavelets.append(torch.stack(turned))
    return wavelets, _gaussian(size, 0.8 * 2 ** (scales - 1), 1.0, 0.0, (0.0, 0.0))


def _gaussian(size: Sequence[int], sigma: float, slant: float, theta: float, centre: tuple[float, float]) -> Tensor:
    """Sum over the periods of a Gaussian at a frequency, 1 at its peak; narrow along ``theta``."""
    total = torch.zeros(*size, dtype=torch.float64)
    rows, columns = (2 * math.pi * torch.fft.fftfreq(n, dtype=torch.float64) for n in size)
    # Periods to each side that reach into the sampled one. The sampled frequencies and the centre lie up to 1.75 pi
    # apart.
    periods = max(2, math.ceil((REACH * max(1.0, slant) / sigma + 1.75 * math.pi) / (2 * math.pi)) - 1)
    turns = [2 * math.pi * k for k in range(-periods, periods + 1)]
    for vertical in turns:
        for horizontal in turns:
            y, x = (rows + vertical - centre[0])[:, None], (columns + horizontal - centre[1])[None]
            along = y * math.cos(theta) + x * math.sin(theta)
            across = x * math.cos(theta) - y * math.sin(theta)
            total += torch.exp(-(sigma**2) / 2 * (along.square() + (across / slant).square()))
    return total
