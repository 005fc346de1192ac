"""Folders of images become files of codes."""

import numpy as np
import pytest
import torch
from PIL import Image

from csc_nets import create_model
from csc_nets.evaluation.encoding import encode_folder, read_codes
from csc_nets.layers import CSC2d

SIZES = [(40, 31), (64, 64), (30, 52)]


@pytest.fixture
def folder(tmp_path):
    """Three images of different sizes in two sub-folders."""
    draw = np.random.default_rng(0)
    for i, (width, height) in enumerate(SIZES):
        file = tmp_path / "images" / f"class{i % 2}" / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(file)
    return tmp_path / "images"


def pixels(folder, name):
    return torch.tensor(np.asarray(Image.open(folder / name))).permute(2, 0, 1)[None] / 255


@pytest.mark.parametrize("num_workers", [0, 1])
def test_codes_of_images_as_they_are(folder, tmp_path, num_workers):
    layer = CSC2d(3, 8, 5, stride=2, padding=2, lam=0.5, steps=3).eval()
    written = list(encode_folder(layer, folder, tmp_path / "codes", num_workers=num_workers, budget=2e5))
    assert [file.name for file in written] == ["00000.pt", "00001.pt", "00002.pt"]
    for file in written:
        (name,), code = read_codes(file)
        torch.testing.assert_close(code.dense(), layer(pixels(folder, name)).detach(), rtol=1e-4, atol=1e-5)
    assert len(code.parts) > 1  # in tiles


@torch.no_grad()
def test_codes_in_half_precision(folder, tmp_path):
    layer = CSC2d(3, 8, 5, stride=2, lam=0.5).eval().bfloat16()
    for file in encode_folder(layer, folder, tmp_path / "codes", num_workers=0):
        (name,), code = read_codes(file)
        assert torch.equal(code.dense(), layer(pixels(folder, name).bfloat16()).detach())


def test_batches_of_squares_by_a_network(folder, tmp_path):
    model = create_model("csc_small", in_chans=3).eval()
    options = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "image_size": 24, "batch_size": 2, "num_workers": 0}
    first, second = map(read_codes, encode_folder(model.stages, folder, tmp_path / "codes", **options))
    assert first.files == ["class0/0.png", "class0/2.png"] and second.files == ["class1/1.png"]
    picture = Image.open(folder / second.files[0]).resize((24, 24), Image.Resampling.BILINEAR)
    x = (torch.tensor(np.asarray(picture)).permute(2, 0, 1)[None] / 255 - 0.5) / 0.25
    with torch.no_grad():
        code = model.stages[2][0](model.stages[1](model.stages[0](x)))
    torch.testing.assert_close(second.code.dense(), code, rtol=1e-4, atol=1e-5)


def test_refusals(folder, tmp_path):
    layer = CSC2d(3, 8, 5).eval()
    with pytest.raises(FileNotFoundError, match="is missing"):
        next(encode_folder(layer, folder / "nowhere", tmp_path))
    with pytest.raises(ValueError, match="in_chans must be 1 or 3, got 2"):
        next(encode_folder(layer, folder, tmp_path, in_chans=2))
    with pytest.raises(ValueError, match="batch_size must be an int >= 1, got 0"):
        next(encode_folder(layer, folder, tmp_path, batch_size=0))
    with pytest.raises(ValueError, match="evaluation mode"):
        next(encode_folder(layer.train(), folder, tmp_path))
    (folder / "class0" / "broken.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"cannot read the image .*broken\.png"):
        list(encode_folder(layer.eval(), folder, tmp_path / "codes", num_workers=0))
