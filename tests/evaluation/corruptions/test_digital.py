"""Large pixels against means and Pillow, compression against Pillow, warps against where pixels must go."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from csc_nets.evaluation import corrupt
from csc_nets.evaluation.corruptions.digital import elastic_transform, pixelate
from csc_nets.evaluation.corruptions.draws import Draws

BYTES = torch.randint(0, 256, (3, 56, 72), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
IMAGE = BYTES / 255.0
PICTURE = Image.fromarray(BYTES.permute(1, 2, 0).numpy())


def from_pillow(picture):
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255.0


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_pixelate_is_the_mean_of_blocks_at_whole_factors(factor):
    found = pixelate(IMAGE[None], None, 1 / factor)
    blocks = torch.nn.functional.avg_pool2d(IMAGE[None], factor)
    wanted = blocks.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("share", [0.95, 0.9, 0.85, 0.75, 0.65, 0.6, 0.5, 0.4, 0.3, 0.25])
def test_pixelate_is_that_of_pillow(share):
    small = PICTURE.resize((int(72 * share), int(56 * share)), Image.Resampling.BOX)
    wanted = from_pillow(small.resize((72, 56), Image.Resampling.BOX))
    # Pillow rounds to whole numbers of 255 after each of the two axes.
    torch.testing.assert_close(pixelate(IMAGE[None], None, share)[0], wanted, atol=1.01 / 255, rtol=0)


@pytest.mark.parametrize("severity", range(1, 6))
@pytest.mark.parametrize(("size", "qualities"), [(32, (80, 65, 58, 50, 40)), (224, (25, 18, 15, 10, 7))])
def test_jpeg_is_that_of_pillow(size, qualities, severity):
    file = io.BytesIO()
    PICTURE.save(file, "JPEG", quality=qualities[severity - 1])
    found = corrupt(IMAGE, "jpeg_compression", severity, size=size)
    # Two builds of a decoder may round differently.
    assert (found - from_pillow(Image.open(file))).abs().mean() < 1 / 255


def test_elastic_transform_without_length_is_the_affine_map_of_its_corners():
    height, width, corner = 40, 48, 3.0
    y, x = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    places = torch.stack([y, x])[None]  # linear images: what stands at a pixel says where it came from
    found = elastic_transform(places, Draws(1, 1, places.device), 0.0, 0.0, corner)[0]
    inner = found[:, 10:-10, 10:-10].double()
    # Linear interpolation of linear images is exact, so the result is affine away from the borders.
    design = torch.stack([torch.ones_like(y), y, x], -1)[10:-10, 10:-10].reshape(-1, 3).double()
    for image in inner.reshape(2, -1):
        fit = torch.linalg.lstsq(design, image[:, None]).solution
        torch.testing.assert_close(design @ fit, image[:, None], atol=1e-3, rtol=0)
    # The moved corners show what stood at the corners.
    corners = torch.tensor([[24 + 13, 20 + 13], [24 + 13, 20 - 13], [24 - 13, 20 - 13]])
    moved = corners + Draws(1, 1, places.device).uniform(3, 2, low=-corner, high=corner)[0]
    for (column, row), (to_column, to_row) in zip(corners.tolist(), moved.tolist(), strict=True):
        grid = torch.tensor([2 * to_column / (width - 1) - 1, 2 * to_row / (height - 1) - 1]).view(1, 1, 1, 2)
        seen = torch.nn.functional.grid_sample(found[None], grid, align_corners=True).flatten()
        torch.testing.assert_close(seen, torch.tensor([float(row), float(column)]), atol=0.02, rtol=0)


def test_elastic_transform_moves_pixels_by_blurred_noise():
    size, length, sigma = 96, 12.0, 2.5
    y, x = torch.meshgrid(torch.arange(float(size)), torch.arange(float(size)), indexing="ij")
    places = torch.stack([y, x])[None].expand(8, -1, -1, -1)
    moved = elastic_transform(places, Draws(0, 8, places.device), length, sigma, 0.0)
    shift = (moved - places)[..., 20:-20, 20:-20]
    # Uniform noise in [-1, 1] has the variance 1/3, and a Gaussian filter multiplies it by 1 / (4 pi sigma^2).
    wanted = length * (1 / 3 / (4 * np.pi * sigma**2)) ** 0.5
    assert shift.std().item() == pytest.approx(wanted, rel=0.05)
    assert abs(shift.mean().item()) < 0.1 * wanted


def test_no_elasticity_is_the_identity():
    torch.testing.assert_close(elastic_transform(IMAGE[None], Draws(0, 1, IMAGE.device), 0, 0, 0)[0], IMAGE)
