"""Every data set gives one channel or three, whichever is asked for."""

import numpy as np
import pytest
import torch
from PIL import Image

from csc_nets.data import TensorDataModule, create_datamodule
from csc_nets.data.channels import to_channels, to_channels_of


def test_colours_are_grey_as_pil_has_them():
    images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    grey = to_channels("data", images, 1)
    by_pil = [np.asarray(Image.fromarray(image.permute(1, 2, 0).numpy()).convert("L")) for image in images]
    assert grey.dtype == torch.uint8 and np.array_equal(grey[:, 0].numpy(), np.stack(by_pil))
    floats = to_channels("data", images / 255, 1)
    assert (255 * floats - grey).abs().max() <= 0.5 + 1e-3
    assert torch.equal(to_channels("data", grey, 3), grey.expand(-1, 3, -1, -1))


def test_numbers_of_channels():
    assert to_channels_of((0.3,), 1, 3) == (0.3, 0.3, 0.3)
    assert to_channels_of((0.1, 0.2, 0.6), 3, 1) == (pytest.approx(0.3),)
    assert to_channels_of([0.1, 0.2, 0.6], 1, 3) == (0.1, 0.2, 0.6)  # given for what networks get


@pytest.mark.parametrize("statistics", ["train", "all"])
@pytest.mark.parametrize(("name", "own"), [("digits", 1), ("sample_images", 3)])
def test_embedded_sets(name, own, statistics):
    plain = create_datamodule(name, statistics=statistics)
    data = create_datamodule(name, in_chans=4 - own, statistics=statistics)
    assert (plain.in_chans, data.in_chans, len(data.mean)) == (own, 4 - own, 4 - own)
    for part in ("train", "val", "test"):
        assert torch.equal(data.split(part).images, to_channels(name, plain.split(part).images, 4 - own))
    if own == 1:
        assert torch.equal(data.test_images(4), plain.test_images(4).expand(-1, 3, -1, -1))
    elif statistics == "train":
        pixels = data.split("train").images / 255
        assert data.mean[0] == pytest.approx(pixels.mean().item()) and data.std[0] == pytest.approx(pixels.std().item())


def test_photographs():
    assert create_datamodule("photographs", in_chans=3).test_images(1).shape[1] == 3


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("digits", {"in_chans": 2}, "digits: in_chans must be 1 or 3, its images have 1, got 2"),
        ("sample_images", {"in_chans": 4}, "sample_images: in_chans must be 1 or 3, its images have 3, got 4"),
        ("cifar10", {"in_chans": 2}, "cifar10: in_chans must be 1 or 3, got 2"),
        ("photographs", {"in_chans": 2}, "photographs: in_chans must be 1 or 3, got 2"),
        ("digits", {"image_size": 16}, "digits: image_size must be 8, that of its images, got 16"),
        ("mnist", {"image_size": 32}, "mnist: image_size must be 28, that of its images, got 32"),
    ],
)
def test_what_a_set_cannot_give_is_refused(name, options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        create_datamodule(name, **options)


def test_images_of_ones_own_of_other_channels():
    x, y = torch.rand(10, 2, 4, 4), torch.arange(10) % 2
    with pytest.raises(ValueError, match="mine: in_chans must be 2, its images have 2, got 3"):
        TensorDataModule(x, y, in_chans=3, name="mine")
    grey = TensorDataModule(x[:, :1], y, test=(x[:2, :1], y[:2]), in_chans=3, mean=[0.5], std=[0.2], val_fraction=0.5)
    assert grey.test_images(2).shape == (2, 3, 4, 4) and grey.std == (0.2,) * 3
    with pytest.raises(ValueError, match="mean must be one finite number for each of the 1 channels"):
        TensorDataModule(x[:, :1], y, mean=[0.5, 0.5, 0.5])
