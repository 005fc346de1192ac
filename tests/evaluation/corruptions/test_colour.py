"""Formulas of light and colour against Python's own conversion to HSV."""

import colorsys

import pytest
import torch

from csc_nets.evaluation import corrupt

PIXELS = torch.rand(1, 3, 9, 8, generator=torch.Generator().manual_seed(0))
PIXELS[..., 0, 0], PIXELS[..., 0, 1], PIXELS[..., 0, 2] = 0, 0.5, 1  # without a hue


def each_pixel(function):
    flat = PIXELS[0].flatten(1).T.tolist()
    return torch.tensor([function(*colorsys.rgb_to_hsv(*pixel)) for pixel in flat]).T.view_as(PIXELS[0])


@pytest.mark.parametrize(("severity", "shift"), enumerate((0.1, 0.2, 0.3, 0.4, 0.5), 1))
def test_brightness_adds_to_the_value(severity, shift):
    wanted = each_pixel(lambda h, s, v: colorsys.hsv_to_rgb(h, s, min(v + shift, 1)))
    torch.testing.assert_close(corrupt(PIXELS[0], "brightness", severity, size=224), wanted)


def test_brightness_of_grey_images_adds():
    grey = torch.linspace(0, 1, 11).view(1, 1, 11)
    torch.testing.assert_close(corrupt(grey, "brightness", 3, size=32), (grey + 0.15).clamp(max=1))


@pytest.mark.parametrize(
    ("severity", "gain", "shift"), [(1, 0.3, 0), (2, 0.1, 0), (3, 2, 0), (4, 5, 0.1), (5, 20, 0.2)]
)
def test_saturate_changes_the_saturation(severity, gain, shift):
    wanted = each_pixel(lambda h, s, v: colorsys.hsv_to_rgb(h, min(gain * s + shift, 1), v))
    torch.testing.assert_close(corrupt(PIXELS[0], "saturate", severity, size=224), wanted, atol=1e-5, rtol=0)


def test_saturate_needs_colours():
    with pytest.raises(ValueError, match=r"saturate needs images with 3 colours, got \(1, 8, 8\)"):
        corrupt(torch.rand(1, 8, 8), "saturate")


@pytest.mark.parametrize(("severity", "gain"), enumerate((0.75, 0.5, 0.4, 0.3, 0.15), 1))
def test_contrast_keeps_the_mean_of_each_colour_and_scales_the_rest(severity, gain):
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    changed = corrupt(images, "contrast", severity, size=32)
    mean = images.mean((2, 3), keepdim=True)
    torch.testing.assert_close(changed, mean + gain * (images - mean))
