import math

import pytest
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from csc_nets.tasks.image_quality import psnr, ssim


@pytest.mark.parametrize("size", [8, 28])
@pytest.mark.parametrize("count", [1, 3])
def test_one_number_an_image_and_its_limits(size, count):
    torch.manual_seed(0)
    x = torch.rand(count, 3, size, size)
    assert (psnr(x, x) == math.inf).all()
    torch.testing.assert_close(psnr(x * 0, x * 0 + 0.1), torch.full((count,), 20.0))  # 10 log10(1 / 0.01)
    torch.testing.assert_close(ssim(x, x), torch.ones(count))


def test_means_are_those_of_torchmetrics():
    torch.manual_seed(0)
    x = torch.rand(5, 1, 20, 20)
    y = (x + 0.1 * torch.randn_like(x)).clamp(0, 1)
    torch.testing.assert_close(psnr(y, x).mean(), peak_signal_noise_ratio(y, x, data_range=1.0, dim=(1, 2, 3)))
    torch.testing.assert_close(ssim(y, x).mean(), structural_similarity_index_measure(y, x, data_range=1.0))


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (2, 9)])
def test_images_without_room_for_a_window(size):
    torch.manual_seed(0)
    x, y = torch.rand(4, 3, *size), torch.rand(4, 3, *size)
    torch.testing.assert_close(ssim(x, x), torch.ones(4))
    a, b = x[0, 0].double().flatten(), y[0, 0].double().flatten()
    c1, c2, covariance = 0.01**2, 0.03**2, ((a - a.mean()) * (b - b.mean())).mean()
    luminance = (2 * a.mean() * b.mean() + c1) / (a.mean() ** 2 + b.mean() ** 2 + c1)
    structure = (2 * covariance + c2) / (a.var(correction=0) + b.var(correction=0) + c2)
    torch.testing.assert_close(ssim(y[:1, :1], x[:1, :1])[0].double(), luminance * structure, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("size", "sigma", "radius"), [(24, 1.5, 5), (12, 0.5, 2)])
def test_the_interior_mean_is_that_of_the_paper(size, sigma, radius):
    """Equations 13 to 16 of Wang et al. by hand, over the windows that lie in the image."""
    torch.manual_seed(0)
    x = torch.rand(2, 3, size, size + 3)
    y = (x + 0.1 * torch.randn_like(x)).clamp(0, 1)
    places = torch.arange(-radius, radius + 1.0)
    line = torch.exp(-places.square() / (2 * sigma**2))
    window = (torch.outer(line, line) / line.sum() ** 2)[None, None]

    def mean(image):
        return torch.nn.functional.conv2d(image.flatten(0, 1)[:, None], window)

    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    both = (2 * mx * my + 1e-4) * (2 * cov + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
    expected = both.view(2, -1).mean(1)
    torch.testing.assert_close(ssim(y, x, interior=True), expected, rtol=1e-4, atol=1e-5)
    assert (ssim(y, x) - expected).abs().max() > 1e-4  # mirrored borders are something else
    torch.testing.assert_close(ssim(x, x, interior=True), torch.ones(2))


def test_half_precision_around_it_changes_nothing():
    """A training in bfloat16 logged an SSIM of 0.45 where it was 0.85."""
    images = torch.rand(3, 1, 40, 30)
    noisy = (images + 0.05 * torch.randn_like(images)).clamp(0, 1)
    expected = [(ssim(noisy, images, interior=interior), psnr(noisy, images)) for interior in (False, True)]
    with torch.autocast("cpu", torch.bfloat16):
        found = [(ssim(noisy, images, interior=interior), psnr(noisy, images)) for interior in (False, True)]
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    half = noisy.bfloat16()
    assert ssim(half, images).dtype == psnr(half, images).dtype == torch.float32
    torch.testing.assert_close(ssim(half, images), expected[0][0], rtol=0, atol=1e-3)
