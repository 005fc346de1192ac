"""The noise level of an image, on noise that is known."""

import pytest
import torch

from csc_nets.functional import estimate_noise_level
from csc_nets.functional.wavelets.noise_level import BIOR44


@pytest.mark.parametrize("sigma", [0.02, 0.1, 0.2])
def test_pure_noise(sigma):
    x = 0.4 + sigma * torch.randn(4, 3, 128, 128)
    torch.testing.assert_close(estimate_noise_level(x), torch.full((4,), sigma), rtol=0.02, atol=0)


@pytest.mark.parametrize("sigma", [5, 15, 25, 50])
def test_photographs(sigma):
    from sklearn.datasets import load_sample_images

    x = torch.stack([torch.from_numpy(i.copy()).permute(2, 0, 1) for i in load_sample_images().images]) / 255
    level = 255 * estimate_noise_level(x + sigma / 255 * torch.randn_like(x))
    # The roof of the first photograph is finer than the band: it counts as noise of some ten grey levels.
    assert (level > 0.97 * sigma).all() and (level[0].square() - sigma**2).sqrt() < 16
    assert level[1].item() == pytest.approx(sigma, rel=0.1 if sigma == 5 else 0.04)


def test_what_the_filter_does_not_see():
    ramp = torch.linspace(0, 1, 64).view(1, 1, 1, 64) + torch.linspace(0, 2, 64).view(1, 1, 64, 1)
    assert estimate_noise_level(ramp).item() < 1e-6
    assert abs(sum(BIOR44)) < 1e-10
    assert abs(sum(k * k * h for k, h in zip(range(-3, 4), BIOR44, strict=True))) < 1e-9  # four vanishing moments


def test_images_are_alone_and_scale_with_their_noise():
    x = torch.randn(3, 1, 40, 40) * torch.tensor([0.1, 1.0, 10.0]).view(3, 1, 1, 1)
    levels = estimate_noise_level(x)
    torch.testing.assert_close(levels[1:2], estimate_noise_level(x[1:2]))
    torch.testing.assert_close(estimate_noise_level(7 * x), 7 * levels)


def test_missing_pixels_do_not_count():
    x = 0.1 * torch.randn(2, 1, 96, 96)
    mask = torch.ones(96, 96)
    torch.testing.assert_close(estimate_noise_level(x, mask), estimate_noise_level(x))
    mask[20:60, 30:50] = 0
    level = estimate_noise_level(torch.where(mask == 0, torch.nan, x), mask)
    torch.testing.assert_close(level, torch.full((2,), 0.1), rtol=0.05, atol=0)
    with pytest.raises(ValueError, match="give sigma"):
        estimate_noise_level(x, torch.arange(96) % 2)


def test_small_images():
    assert estimate_noise_level(torch.randn(1, 1, 2, 5)).isfinite().all()
    with pytest.raises(ValueError, match=r"2 x 2 pixels at least, got \(1, 1, 1, 5\)"):
        estimate_noise_level(torch.randn(1, 1, 1, 5))


@pytest.mark.parametrize("size", [(8, 9), (7, 7), (5, 6)])
def test_it_is_the_lower_median_of_torch(size):
    x = torch.randn(3, 2, *size, dtype=torch.float64, requires_grad=True)
    line = torch.tensor(BIOR44 if min(size) > 6 else (1.0, -1.0), dtype=torch.float64)
    line = line / line.norm()
    kernel = (line[:, None] * line).expand(2, 1, -1, -1)
    band = torch.nn.functional.conv2d(x, kernel, groups=2).abs()
    expected = band.flatten(1).median(1).values / 0.6745
    found = estimate_noise_level(x, differentiable=True)
    torch.testing.assert_close(found, expected)
    gradients = (torch.autograd.grad(level.sum(), x)[0] for level in (found, expected))
    torch.testing.assert_close(*gradients)
    mask = torch.ones(3, 2, *size)
    mask[0, 0] = mask[1, :, 0] = mask[2, :, :, -1] = 0
    whole = torch.nn.functional.conv2d(mask.to(x), torch.ones_like(kernel), groups=2).flatten(1) == kernel[0].numel()
    expected = [b[w].median() / 0.6745 if w.any() else None for b, w in zip(band.flatten(1), whole, strict=True)]
    for i, level in enumerate(expected):
        if level is not None:
            torch.testing.assert_close(estimate_noise_level(x[i : i + 1], mask[i : i + 1])[0], level)
    x = x.detach()
    x[1, 0, 0, 0] = torch.nan
    assert estimate_noise_level(x).isnan().tolist() == [False, True, False]
