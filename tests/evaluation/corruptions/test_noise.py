"""Noise has the mean, the variance and the share that its formula says, before and after clipping."""

import pytest
import torch

from csc_nets.evaluation import corrupt

GREY = torch.full((4, 3, 64, 64), 0.5)
VALUES = GREY[0].numel() * len(GREY)  # independent draws: a mean is known to its deviation over the root of these


@pytest.mark.parametrize(
    ("size", "scales"),
    [
        (32, (0.04, 0.06, 0.08, 0.09, 0.10)),
        (64, (0.04, 0.08, 0.12, 0.15)),
        (224, (0.08, 0.12)),  # above, the variance feels the clipping to [0, 1]
    ],
)
def test_gaussian_noise_has_its_deviation(size, scales):
    for severity, scale in enumerate(scales, 1):
        change = corrupt(GREY, "gaussian_noise", severity, size=size) - GREY
        assert abs(change.mean()) < 5 * scale / VALUES**0.5
        assert change.std().item() == pytest.approx(scale, rel=0.02)
        if scale <= 0.12:  # above, the fourth moment feels the clipping
            assert (change / scale).pow(4).mean().item() == pytest.approx(3, rel=0.05)


def test_gaussian_noise_is_clipped():
    scale = 0.38
    change = corrupt(GREY, "gaussian_noise", 5, size=224) - GREY
    normal = torch.distributions.Normal(0, 1)
    outside = 2 * normal.cdf(torch.tensor(-0.5 / scale)).item()
    assert (change.abs() == 0.5).float().mean().item() == pytest.approx(outside, rel=0.05)


@pytest.mark.parametrize("size", [32, 64, 224])
def test_shot_noise_has_the_mean_and_variance_of_a_poisson_number(size):
    light = 0.25  # far enough from white that clipping does not matter at these severities
    photons = {32: (500, 250, 100, 75, 50), 64: (250, 100, 50, 30), 224: (60, 25)}[size]
    for severity, count in enumerate(photons, 1):
        noisy = corrupt(GREY * light / 0.5, "shot_noise", severity, size=size)
        assert noisy.mean().item() == pytest.approx(light, abs=5 * (light / count / VALUES) ** 0.5)
        assert noisy.var().item() == pytest.approx(light / count, rel=0.05)
        assert (noisy * count - (noisy * count).round()).abs().max() < 1e-3  # whole photons


@pytest.mark.parametrize(("severity", "share"), enumerate((0.03, 0.06, 0.09, 0.17, 0.27), 1))
def test_impulse_noise_changes_its_share_half_of_it_to_white(severity, share):
    noisy = corrupt(GREY, "impulse_noise", severity, size=224)
    for value in (0, 1):
        seen = (noisy == value).float().mean().item()
        assert seen == pytest.approx(share / 2, abs=5 * (share / 2 / VALUES) ** 0.5)
    assert ((noisy == 0) | (noisy == 1) | (noisy == 0.5)).all()


def test_speckle_noise_grows_with_the_light():
    for light in (0.1, 0.4):
        noisy = corrupt(torch.full_like(GREY, light), "speckle_noise", 1, size=224)
        assert (noisy - light).std().item() == pytest.approx(0.15 * light, rel=0.02)
    assert corrupt(torch.zeros(3, 8, 8), "speckle_noise", 5).eq(0).all()
