"""Filters against scipy's, with every border, also where they are longer than the image."""

import numpy as np
import pytest
import torch

from csc_nets.evaluation.corruptions.filters import blur, convolve, gaussian_taps, pad

BORDERS = {"edge": ("nearest", "edge"), "reflect": ("reflect", "symmetric"), "mirror": ("mirror", "reflect")}
"""What scipy and numpy call them."""


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize(("size", "sigma", "truncate"), [((40, 50), 0.7, 4), ((9, 40), 1.5, 4), ((8, 10), 6.0, 3)])
def test_blur_is_that_of_scipy(border, size, sigma, truncate):
    ndimage = pytest.importorskip("scipy.ndimage")
    image = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    wanted = ndimage.gaussian_filter(image.numpy(), (0, 0, sigma, sigma), mode=BORDERS[border][0], truncate=truncate)
    np.testing.assert_allclose(blur(image, sigma, border, truncate), wanted, atol=2e-6)


@pytest.mark.parametrize("border", BORDERS)
def test_images_are_continued_as_numpy_does(border):
    image = torch.arange(12.0).view(1, 1, 3, 4)
    wanted = np.pad(image.numpy(), ((0, 0), (0, 0), (7, 7), (7, 7)), mode=BORDERS[border][1])
    np.testing.assert_array_equal(pad(image, 7, border), wanted)


def test_taps_sum_to_one_and_no_radius_is_no_filter():
    assert gaussian_taps(1.5, 6).sum().item() == pytest.approx(1, abs=1e-12)
    assert gaussian_taps(0.0, 0).tolist() == [1]
    x = torch.rand(1, 1, 5, 5)
    assert torch.equal(blur(x, 0.05), x)


def test_convolve_has_a_kernel_for_each_image():
    generator = torch.Generator().manual_seed(0)
    images, kernels = torch.rand(3, 2, 14, 17, generator=generator), torch.rand(3, 4, 5, generator=generator)
    found = convolve(images, kernels)
    for image, kernel, one in zip(images, kernels, found, strict=True):
        wanted = torch.nn.functional.conv2d(image[:, None], kernel[None, None])[:, 0]
        torch.testing.assert_close(one, wanted, atol=1e-5, rtol=1e-5)
