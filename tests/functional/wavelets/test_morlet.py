import math

import pytest
import torch

from csc_nets.functional import morlet_bank


@pytest.mark.parametrize("size", [(24, 24), (20, 28)])
def test_a_wavelet_is_a_sampled_gaussian_wave_without_mean(size):
    wavelets, low = morlet_bank(size, 2, 4)
    assert [w.shape for w in wavelets] == [(4, *size)] * 2 and low.shape == size
    assert all(w[:, 0, 0].abs().max() < 1e-12 for w in wavelets)
    # In space, by its formula, summed over periods of the grid.
    sigma, centre, slant, theta = 1.6, 0.75 * math.pi / 2, 1.0, math.pi / 4
    axes = [torch.arange(-3 * n, 3 * n, dtype=torch.float64) for n in size]
    y, x = torch.meshgrid(*axes, indexing="ij")
    along, across = y * math.cos(theta) + x * math.sin(theta), x * math.cos(theta) - y * math.sin(theta)
    envelope = (
        torch.exp(-(along.square() + (slant * across).square()) / (2 * sigma**2)) * slant / (2 * math.pi * sigma**2)
    )
    wave = envelope * torch.exp(1j * centre * along)
    wave = wave - wave.sum() / envelope.sum() * envelope
    periodic = wave.view(6, size[0], 6, size[1]).sum((0, 2))
    torch.testing.assert_close(torch.fft.fft2(periodic).real, wavelets[1][0], rtol=0, atol=1e-9)


def test_the_average_has_mean_one_and_separates():
    _, low = morlet_bank((16, 16), 2, 4)
    assert low[0, 0].item() == pytest.approx(1, abs=1e-6) and low.min() >= 0
    torch.testing.assert_close(low, torch.outer(low[:, 0], low[0]) / low[0, 0])


def test_these_are_the_filters_of_kymatio():
    filter_bank = pytest.importorskip("kymatio.scattering2d.filter_bank").filter_bank
    theirs = filter_bank(32, 32, 3, 8)
    wavelets, low = morlet_bank((32, 32), 3, 8)
    # It takes 3.1415 for pi in the norm of a Gaussian.
    torch.testing.assert_close(
        low * math.pi / 3.1415, torch.tensor(theirs["phi"]["levels"][0]).double().view(32, 32), rtol=0, atol=2e-6
    )
    for wavelet in theirs["psi"]:
        ours = wavelets[wavelet["j"]][wavelet["theta"]] * math.pi / 3.1415
        torch.testing.assert_close(ours, torch.tensor(wavelet["levels"][0]).double().view(32, 32), rtol=0, atol=2e-6)


@pytest.mark.parametrize("size, scales, angles", [((8,), 1, 1), ((8, 8), 0, 1), ((8, 8), 1, 0), ((0, 8), 1, 1)])
def test_bad_numbers_are_refused(size, scales, angles):
    with pytest.raises(ValueError, match="morlet_bank: expected"):
        morlet_bank(size, scales, angles)
