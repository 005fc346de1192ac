"""What holds for every corruption, and what is refused."""

import pytest
import torch

from csc_nets.evaluation import corrupt, list_corruptions
from csc_nets.evaluation.corruptions import registry

NAMES = list_corruptions()
torch.manual_seed(0)
IMAGES = torch.rand(3, 3, 40, 36)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_images_whatever_batch_they_are_in(name):
    whole = corrupt(IMAGES, name, 4, seed=5)
    assert torch.equal(whole, corrupt(IMAGES, name, 4, seed=5))
    # A product of matrices is rounded in another order for another batch.
    torch.testing.assert_close(whole[1:], corrupt(IMAGES[1:], name, 4, seed=6), atol=1e-6, rtol=0)
    torch.testing.assert_close(whole[2], corrupt(IMAGES[2], name, 4, seed=7), atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_shape_type_and_range_are_kept(name, dtype):
    images = IMAGES.to(dtype)
    before = images.clone()
    for given in (images, images[0]):
        changed = corrupt(given, name, 5)
        assert (changed.shape, changed.dtype, changed.device) == (given.shape, dtype, given.device)
        assert changed.min() >= 0 and changed.max() <= 1 and not torch.equal(changed, given)
    assert torch.equal(images, before), "the argument itself is left alone"


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"saturate"}))
def test_grey_images_are_corrupted_too(name):
    grey = IMAGES[:, :1]
    changed = corrupt(grey, name, 4)
    assert changed.shape == grey.shape and not torch.equal(changed, grey)


def test_a_batch_that_is_larger_than_the_cache_is_its_images():
    large = torch.rand(3, 3, 224, 224)
    for name in ("gaussian_noise", "fog"):
        whole = corrupt(large, name, seed=2)
        for index, image in enumerate(large):
            torch.testing.assert_close(whole[index], corrupt(image, name, seed=2 + index), atol=1e-6, rtol=0)


def test_memory_may_lie_as_it_likes():
    images = IMAGES.to(memory_format=torch.channels_last)
    torch.testing.assert_close(corrupt(images, "contrast"), corrupt(IMAGES, "contrast"))
    turned = IMAGES.transpose(2, 3)
    torch.testing.assert_close(corrupt(turned, "contrast"), corrupt(IMAGES, "contrast").transpose(2, 3))


@pytest.mark.parametrize("size", [32, 224])
@pytest.mark.parametrize("name", NAMES)
def test_images_may_be_smaller_than_a_filter(name, size):
    for side in ((1, 1), (5, 8)):
        changed = corrupt(torch.rand(2, 3, *side), name, 5, size=size)
        assert changed.shape == (2, 3, *side) and changed.min() >= 0 and changed.max() <= 1  # and no NaN


@pytest.mark.parametrize("name", ["gaussian_blur", "pixelate", "elastic_transform"])
def test_autocast_takes_no_precision(name):
    with torch.autocast("cpu", torch.bfloat16):
        changed = corrupt(IMAGES, name)
    assert torch.equal(changed, corrupt(IMAGES, name))


def test_a_corruption_of_nothing_new_is_a_copy():
    white = torch.ones(1, 3, 8, 8)
    changed = corrupt(white, "brightness")
    assert torch.equal(changed, white) and changed.data_ptr() != white.data_ptr()


def test_the_list_has_the_order_of_the_paper():
    assert NAMES[:4] == ["gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur"]
    assert NAMES[14:] == ["jpeg_compression", "speckle_noise", "gaussian_blur", "spatter", "saturate"]
    assert len(NAMES) == 19


@pytest.mark.parametrize(
    ("side", "nearest"), [(8, 32), (32, 32), (45, 32), (46, 64), (96, 64), (119, 64), (120, 224), (500, 224)]
)
def test_the_constants_are_those_of_the_nearest_size(side, nearest):
    images = torch.rand(1, 3, side, side + 30)
    assert torch.equal(corrupt(images, "contrast"), corrupt(images, "contrast", size=nearest))


COUPLED = {"glass_blur", "motion_blur", "snow", "frost", "fog", "elastic_transform", "spatter", "saturate"}
"""Their published constants change two things at once, and a severity can change images less than the one before it."""


@pytest.mark.parametrize("size", [32, 64, 224])
@pytest.mark.parametrize("name", sorted(set(NAMES) - COUPLED))
def test_a_higher_severity_changes_more(photographs, name, size):
    images = torch.nn.functional.interpolate(photographs, (size, size), mode="area").clamp(0, 1)
    errors = [(corrupt(images, name, severity) - images).abs().mean().item() for severity in range(1, 6)]
    assert errors == sorted(errors) and errors[0] > 0 and len(set(errors)) == 5


@pytest.mark.parametrize("name", sorted(COUPLED - {"saturate", "elastic_transform", "spatter"}))
def test_the_highest_severity_changes_more_than_the_lowest(photographs, name):
    first, last = (corrupt(photographs, name, severity) - photographs for severity in (1, 5))
    assert last.abs().mean() > first.abs().mean()


def test_a_corruption_of_ones_own(monkeypatch):
    monkeypatch.setattr(registry.CORRUPTIONS, "_entries", dict(registry.CORRUPTIONS._entries))

    @registry.register_corruption({32: (0.1, 0.2, 0.3, 0.4, 0.5)})
    def dimming(images, draws, share):
        return images * (1 - share)

    torch.testing.assert_close(corrupt(IMAGES, "dimming", 5), IMAGES / 2)
    assert list_corruptions() == [*NAMES, "dimming"]
    with pytest.raises(ValueError, match="dimming needs presets of five severities"):
        registry.register_corruption({32: (1, 2)})(dimming)
    with pytest.raises(ValueError, match=r"'fog' is taken by .*corruptions\.weather"):
        dimming.__name__ = "fog"
        registry.register_corruption({32: (1, 2, 3, 4, 5)})(dimming)


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_the_device_is_kept(name):
    images = IMAGES.cuda()
    changed = corrupt(images, name, 3)
    assert changed.device == images.device
    torch.testing.assert_close(changed[1:], corrupt(images[1:], name, 3, seed=1), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "gausian_noise"}, "unknown corruption 'gausian_noise'; did you mean gaussian_noise"),
        ({"severity": 0}, "severity must be a whole number from 1 to 5, got 0"),
        ({"severity": 6}, "severity must be a whole number from 1 to 5, got 6"),
        ({"severity": 2.5}, "severity must be a whole number from 1 to 5, got 2.5"),
        ({"severity": True}, "severity must be a whole number from 1 to 5, got True"),
        ({"seed": -1}, "seed must be an int >= 0, got -1"),
        ({"size": 100}, "size must be one of 32, 64, 224 or None, got 100"),
        ({"images": IMAGES * 2}, r"images must be in \[0, 1\], got values from"),
        ({"images": IMAGES - 1}, r"images must be in \[0, 1\], got values from -0.9"),
        ({"images": IMAGES * float("nan")}, r"images must be in \[0, 1\], got values from nan"),
        ({"images": (IMAGES * 255).byte()}, r"got torch.uint8: use images.float\(\) / 255"),
        ({"images": IMAGES.numpy()}, "images must be a tensor, got ndarray"),
        ({"images": IMAGES[:, :2]}, r"images must be .*, got \(3, 2, 40, 36\)"),
        ({"images": IMAGES[0, 0]}, r"images must be .*, got \(40, 36\)"),
        ({"images": IMAGES[:0]}, r"images must be .*, got \(0, 3, 40, 36\)"),
    ],
)
def test_bad_input_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        corrupt(**{"images": IMAGES, "name": "gaussian_noise", **change})
