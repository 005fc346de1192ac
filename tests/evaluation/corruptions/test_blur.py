"""Blurs keep constants, and each is its formula, pixel by pixel."""

import math

import pytest
import torch

from csc_nets.evaluation import corrupt
from csc_nets.evaluation.corruptions.blur import disk, glass_blur, streak, zoom
from csc_nets.evaluation.corruptions.draws import Draws

BLURS = ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "gaussian_blur")


@pytest.mark.parametrize("severity", range(1, 6))
@pytest.mark.parametrize("size", [32, 64, 224])
@pytest.mark.parametrize("name", BLURS)
def test_constants_are_kept(name, size, severity):
    grey = torch.full((1, 3, 60, 50), 0.3)
    torch.testing.assert_close(corrupt(grey, name, severity, size=size), grey, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", BLURS)
def test_images_become_smoother(name):
    noise = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    assert corrupt(noise, name, 5, size=64).std() < 0.8 * noise.std()


@pytest.mark.parametrize(("radius", "sigma"), [(0.3, 0.4), (1.5, 0.1), (8, 0.5), (10, 0.5)])
def test_a_disk_has_sum_one_and_the_area_of_a_disk(radius, sigma):
    kernel = disk(radius, sigma)
    assert kernel.sum().item() == pytest.approx(1, abs=1e-12)
    torch.testing.assert_close(kernel, kernel.T)
    torch.testing.assert_close(kernel, kernel.flip(0))
    if radius >= 8:  # where an area is more than a few pixels
        assert 1 / kernel.max().item() == pytest.approx(math.pi * radius**2, rel=0.03)


@pytest.mark.parametrize(("reach", "rounds"), [(1, 1), (2, 1), (1, 3), (3, 2)])
def test_glass_overwrites_one_pixel_after_the_other(reach, rounds):
    height, width = 13, 17
    image = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    draws, wanted = Draws(4, 1, image.device), image.clone()
    for _ in range(rounds):
        offsets = draws.uniform(2, height, width, low=-reach, high=reach)[0].floor().long()
        for h in range(height - reach, reach, -1):
            for w in range(width - reach, reach, -1):
                down, right = offsets[:, h, w].tolist()
                wanted[..., h, w] = wanted[..., h + down, w + right]
    assert torch.equal(glass_blur(image, Draws(4, 1, image.device), 0.0, reach, rounds), wanted)
    assert not torch.equal(wanted, image)


@pytest.mark.parametrize(("degrees", "step"), [(0, (0, 1)), (90, (1, 0)), (-90, (-1, 0)), (45, (1, 1)), (-45, (-1, 1))])
def test_a_streak_is_a_weighted_sum_along_its_line(degrees, step):
    radius, sigma, size = 2, 1.5, 30
    image = torch.rand(1, 2, size, size, generator=torch.Generator().manual_seed(0))
    weights = [math.exp(-(i**2) / (2 * sigma**2)) for i in range(2 * radius + 1)]
    along = [math.floor(i * abs(math.cos(math.radians(45))) + 0.5) if degrees % 90 else i for i in range(len(weights))]
    wanted = torch.zeros_like(image)
    for weight, length in zip(weights, along, strict=True):
        rows = (torch.arange(size) + step[0] * length).clamp(0, size - 1)
        columns = (torch.arange(size) + step[1] * length).clamp(0, size - 1)
        wanted += weight / sum(weights) * image[..., rows[:, None], columns]
    torch.testing.assert_close(streak(image, torch.tensor([float(degrees)]), radius, sigma), wanted, atol=1e-5, rtol=0)


def test_zoom_enlarges_about_the_middle():
    y, x = torch.meshgrid(torch.arange(41.0) - 20, torch.arange(41.0) - 20, indexing="ij")
    large = zoom(torch.stack([y, x])[None], 41 / 21)  # 21 pixels become 41, a half of the slope
    torch.testing.assert_close(large[0, 0], y / 2, atol=1e-4, rtol=0)
    torch.testing.assert_close(large[0, 1], x / 2, atol=1e-4, rtol=0)
    assert torch.equal(zoom(x[None, None], 1.0)[0, 0], x)


@pytest.mark.parametrize("factor", [1.01, 1.26, 2.5, 4.5])
@pytest.mark.parametrize("size", [(32, 32), (224, 224), (57, 90)])
def test_zoom_keeps_the_size(size, factor):
    assert zoom(torch.rand(1, 1, *size), factor).shape[2:] == size
