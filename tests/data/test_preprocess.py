import pytest
import torch

from csc_nets.data.preprocess import DRAWS, Preprocess, crop_and_flip, cutout


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_crop_and_flip_agrees_with_padding_slicing_and_flipping_one_image_at_a_time(mode, dtype):
    padding, height, width = 3, 7, 6
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(1, 256, (49, 2, height, width), generator=generator).to(dtype)
    top, left = torch.arange(49) // 7, torch.arange(49) % 7  # every offset there is
    mirror = torch.arange(49) % 3 == 0
    result = crop_and_flip(images, top, left, mirror, padding, mode)
    pad_mode = "constant" if mode == "zeros" else "reflect"
    for image, got, t, l, m in zip(images, result, top, left, mirror, strict=True):
        padded = torch.nn.functional.pad(image.float()[None], (padding,) * 4, mode=pad_mode)[0]
        expected = padded[:, t : t + height, l : l + width]
        assert torch.equal(got, (expected.flip(-1) if m else expected).to(dtype))


def test_cutout_clears_exactly_the_square_also_over_the_border():
    images = torch.ones(3, 2, 6, 8)
    result = cutout(images, torch.tensor([3, 0, 5]), torch.tensor([4, 0, 7]), size=4)
    expected = torch.ones(3, 2, 6, 8)
    expected[0, :, 1:5, 2:6] = 0
    expected[1, :, 0:2, 0:2] = 0
    expected[2, :, 3:6, 5:8] = 0
    assert torch.equal(result, expected)


def test_without_augmentation_only_normalises():
    images = torch.randint(0, 256, (4, 3, 5, 5), dtype=torch.uint8)
    mean, std = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1), torch.tensor([0.5, 0.6, 0.7]).view(3, 1, 1)
    result = Preprocess(mean.flatten().tolist(), std.flatten().tolist())(images, torch.rand(4, DRAWS))
    torch.testing.assert_close(result, (images.float() / 255 - mean) / std)
    floats = Preprocess(mean.flatten().tolist(), std.flatten().tolist(), white=1.0)(images / 255, torch.rand(4, DRAWS))
    torch.testing.assert_close(floats, result)


def test_draws_reach_every_crop_and_both_mirror_images_and_nothing_beyond():
    image = torch.arange(1, 17, dtype=torch.uint8).view(1, 1, 4, 4)
    just_below_one = 1 - 2.0**-24
    grid = torch.tensor([0.0, 0.35, just_below_one])
    draws = torch.cartesian_prod(grid, grid, torch.tensor([0.0, just_below_one]))
    draws = torch.cat([draws, torch.zeros(len(draws), 2)], 1)
    views = Preprocess([0.0], [1.0], crop_padding=1, flip=True)(image.expand(len(draws), -1, -1, -1), draws)
    assert len({tuple(view.flatten().tolist()) for view in views}) == 18
    unmoved = Preprocess([0.0], [1 / 255], crop_padding=1)(image, torch.tensor([[0.35, 0.35, 0.0, 0, 0]]))
    torch.testing.assert_close(unmoved, image.float())


def test_padding_is_black_and_cutout_is_the_mean_colour():
    images = torch.full((1, 1, 4, 4), 255, dtype=torch.uint8)
    shifted = Preprocess([0.5], [0.25], crop_padding=2)(images, torch.zeros(1, DRAWS))
    assert shifted[0, 0, 0, 0].item() == pytest.approx(-2) and shifted[0, 0, 3, 3].item() == pytest.approx(2)
    holed = Preprocess([0.5], [0.25], cutout=2)(images, torch.full((1, DRAWS), 0.5))
    assert holed[0, 0, 2, 2].item() == 0 and holed[0, 0, 0, 0].item() == pytest.approx(2)


def test_channels_last_changes_the_memory_and_not_the_values():
    images, draws = torch.randint(0, 256, (2, 3, 6, 6), dtype=torch.uint8), torch.rand(2, DRAWS)
    options = {"crop_padding": 1, "flip": True, "cutout": 2}
    plain = Preprocess([0.5] * 3, [0.5] * 3, **options)(images, draws)
    last = Preprocess([0.5] * 3, [0.5] * 3, channels_last=True, **options)(images, draws)
    assert last.is_contiguous(memory_format=torch.channels_last) and not last.is_contiguous()
    assert plain.is_contiguous() and torch.equal(plain, last)
