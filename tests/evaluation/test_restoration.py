import json

import lightning as L
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

from csc_nets.data import create_datamodule
from csc_nets.evaluation import save_report
from csc_nets.models import create_model
from csc_nets.tasks import DenoisingTask
from csc_nets.tasks.image_quality import psnr
from csc_nets.tasks.masks import bayer_masks, fill_by_interpolation


@pytest.fixture
def folder(tmp_path):
    """Three photographs of several sizes, without a folder for the test."""
    y, x = torch.meshgrid(torch.linspace(0, 9, 40), torch.linspace(0, 7, 48), indexing="ij")
    for i, width in enumerate((48, 30, 33)):
        image = torch.stack([y.sin(), (x + i).cos(), (x + y).sin()])[..., :width]
        to_pil_image((image + 1) / 2).save(tmp_path / f"{i}.png")
    return tmp_path / "out", tmp_path


def rows_of(folder, name="restoration"):
    return {row["name"]: row for row in json.loads((folder / f"{name}.json").read_text())}


def test_rows_of_each_noise_and_mask(folder):
    """The numbers of a trained network, against calls of it; interpolation against that of scipy on the grid."""
    out, root = folder
    model, data = create_model("cdlnet", pretrained=True).eval(), create_datamodule("photographs", root=root)
    text = save_report("restoration", model, data, out, images=2, options={"noise": [25], "hidden": 0.5})
    rows = rows_of(out)
    assert list(rows) == ["noise 25", "noise 25, 0.5 hidden"] and "blind" in text
    draw, scores = torch.Generator().manual_seed(0), []
    for i in range(3):
        image = pil_to_tensor(Image.open(root / f"{i}.png").convert("L"))[None] / 255
        noisy = image + 25 / 255 * torch.randn(image.shape, generator=draw)
        with torch.no_grad():
            scores.append([psnr(noisy, image), psnr(model(noisy, 25 / 255), image)])
    plain, restored = torch.tensor(scores).mean(0).tolist()
    row = rows["noise 25"]
    assert (row["plain"], row["restored"]) == (pytest.approx(plain, abs=1e-3), pytest.approx(restored, abs=1e-3))
    assert row["restored"] > row["plain"] + 5 and abs(row["blind"] - row["restored"]) < 1
    assert rows["noise 25, 0.5 hidden"]["blind"] is None
    width, height = Image.open(out / "restoration.png").size
    assert width == 4 * 50 + 2 and height == 4 * 58 + 2  # two images, two tasks, titles of 16 pixels


def test_colours_of_a_mosaic(folder):
    out, root = folder
    model = create_model("cdlnet", in_chans=3, steps=1, atoms=4).eval()
    data = create_datamodule("photographs", root=root, in_chans=3)
    save_report("restoration", model, data, out, options={"noise": [0], "hidden": 0.0})
    rows = rows_of(out)
    assert list(rows) == ["noise 0", "noise 0, mosaic"]
    assert rows["noise 0"]["plain"] is None  # infinite: the image itself
    assert 25 < rows["noise 0, mosaic"]["plain"] < 50


def test_a_bayer_mosaic_has_one_colour_a_pixel_and_twice_as_much_green():
    seen = bayer_masks(torch.zeros(2, 3, 6, 8))
    assert (seen.sum(1) == 1).all() and seen.float().mean((0, 2, 3)).tolist() == [0.25, 0.5, 0.25]


def test_noisy_photographs_of_ones_own(folder):
    out, root = folder
    model, data = create_model("cdlnet", pretrained=True).eval(), create_datamodule("photographs", root=root)
    save_report("restoration", model, data, out, options={"clean": False})
    assert sorted(file.name for file in (out / "restored").iterdir()) == ["0.png", "1.png", "2.png"]
    image = pil_to_tensor(Image.open(root / "1.png").convert("L"))[None] / 255
    with torch.no_grad():
        wanted = model(image).clamp(0, 1)
    found = pil_to_tensor(Image.open(out / "restored" / "1.png").convert("L"))[None] / 255
    assert (found - wanted).abs().max() < 1 / 255


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clean": False, "noise": [25]}, "it takes no options.noise or hidden"),
        ({"hidden": 1.0}, "options.hidden must be a share"),
        ({"noise": []}, "options.noise must be one or more"),
    ],
)
def test_refusals(folder, options, message):
    out, root = folder
    data = create_datamodule("photographs", root=root)
    with pytest.raises(ValueError, match=message):
        save_report("restoration", create_model("cdlnet", steps=1), data, out, options=options)


def test_another_network(folder):
    with pytest.raises(ValueError, match="needs a denoiser"):
        save_report("restoration", create_model("csc_small", in_chans=1), create_datamodule("digits"), folder[0])


def test_almost_nothing_seen(folder):
    """One seen pixel makes no triangle: the nearest one is taken."""
    x = torch.arange(12.0).view(1, 1, 3, 4)
    seen = torch.zeros(1, 1, 3, 4, dtype=torch.bool)
    seen[..., 1, 2] = True
    assert (fill_by_interpolation(x, seen) == x[..., 1, 2]).all()
    with pytest.raises(ValueError, match="an image has no seen pixel"):
        fill_by_interpolation(x, ~seen & seen)


@pytest.mark.parametrize("name", ["cdlnet", "cscnet"])
@pytest.mark.parametrize("options", [{"noise": [25]}, {"clean": False}])
def test_a_photograph_that_is_too_small_is_named(name, options, folder):
    out, root = folder
    Image.new("L", (1, 1)).save(root / "00.png")
    model, data = create_model(name, steps=1, atoms=2).eval(), create_datamodule("photographs", root=root)
    with pytest.raises(ValueError, match=rf"^photographs: {root}/00\.png: .*pixels"):
        save_report("restoration", model, data, out, options=options)


def test_a_photograph_that_is_too_small_for_a_test_is_named(folder):
    _, root = folder
    data, task = create_datamodule("photographs", root=root), DenoisingTask(create_model("cscnet", steps=1, atoms=2))
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    with pytest.raises(ValueError, match=rf"^photographs: {root}/1\.png: cscnet: images must have 33 x 33"):
        L.Trainer(**quiet).test(task, datamodule=data, verbose=False)


def test_photographs_of_validation_are_called_so(folder):
    out, root = folder
    (root / "train").mkdir()
    for file in root.glob("*.png"):
        file.rename(root / "train" / file.name)
    data = create_datamodule("photographs", root=root, val_fraction=0.3)
    model = create_model("cdlnet", steps=1, atoms=2).eval()
    text = save_report("restoration", model, data, out, options={"noise": [25], "hidden": 0.0})
    assert "means over 1 validation photographs of photographs" in text
