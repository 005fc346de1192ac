"""What holds for every corruption, and what is refused."""

import pytest
import torch

from csc_nets.evaluation import corrupt, list_corruptions

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
