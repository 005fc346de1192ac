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


@pytest.mark.parametrize("angles", [1, 2, 3, 4, 5, 6, 7, 8, 9])
def test_these_are_the_filters_of_kymatio(angles):
    filter_bank = pytest.importorskip("kymatio.scattering2d.filter_bank").filter_bank
    theirs = filter_bank(32, 32, 3, angles)
    wavelets, low = morlet_bank((32, 32), 3, angles)
    # It takes 3.1415 for pi in the norm of a Gaussian.
    torch.testing.assert_close(
        low * math.pi / 3.1415, torch.tensor(theirs["phi"]["levels"][0]).double().view(32, 32), rtol=0, atol=2e-6
    )
    for wavelet in theirs["psi"]:
        ours = wavelets[wavelet["j"]][wavelet["theta"]] * math.pi / 3.1415
        torch.testing.assert_close(ours, torch.tensor(wavelet["levels"][0]).double().view(32, 32), rtol=0, atol=2e-6)


@pytest.mark.parametrize(("angles", "first"), [(1, 0), (2, 0), (3, 0), (4, 1), (5, 1), (7, 2), (8, 3), (9, 3)])
def test_angles_are_in_the_published_order(angles, first):
    wavelets, _ = morlet_bank((64, 64), 1, angles)
    for i, wavelet in enumerate(wavelets[0]):
        theta = (first - i) * math.pi / angles
        # The carrier of the next scale lies on the grid: the bump is largest along its direction.
        place = torch.tensor([math.cos(theta), math.sin(theta)]) * 0.75 * 64 / 2
        peak = wavelet.flatten().argmax().item()
        found = torch.tensor([(peak // 64 + 32) % 64 - 32, (peak % 64 + 32) % 64 - 32]).double()
        apart = torch.minimum((found - place).abs(), 64 - (found - place).abs())
        assert apart.max() <= 2


@pytest.mark.parametrize("angles", [1, 2, 3])
def test_wide_wavelets_are_not_cut(angles):
    """By their formula in space, where they are narrow."""
    size, sigma, centre, slant = 24, 0.8, 0.75 * math.pi, 4 / angles
    wavelets, _ = morlet_bank((size, size), 1, angles)
    for i, wavelet in enumerate(wavelets[0]):
        theta = (int(angles / 2 - 1) - i) * math.pi / angles
        axis = torch.arange(-3 * size, 3 * size, dtype=torch.float64)
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        along, across = y * math.cos(theta) + x * math.sin(theta), x * math.cos(theta) - y * math.sin(theta)
        envelope = torch.exp(-(along.square() + (slant * across).square()) / (2 * sigma**2))
        envelope = envelope * slant / (2 * math.pi * sigma**2)
        wave = envelope * torch.exp(1j * centre * along)
        wave = wave - wave.sum() / envelope.sum() * envelope
        periodic = wave.view(6, size, 6, size).sum((0, 2))
        torch.testing.assert_close(torch.fft.fft2(periodic).real, wavelet, rtol=0, atol=1e-9)


@pytest.mark.parametrize("size, scales, angles", [((8,), 1, 1), ((8, 8), 0, 1), ((8, 8), 1, 0), ((0, 8), 1, 1)])
def test_bad_numbers_are_refused(size, scales, angles):
    with pytest.raises(ValueError, match="morlet_bank: expected"):
        morlet_bank(size, scales, angles)
