import pytest
import torch
from PIL import Image

from csc_nets.models import create_model
from csc_nets.tasks.pictures import interpolate_on_sphere, save_pictures


def sizes(folder):
    return {path.name: Image.open(path).size for path in folder.iterdir()}


@pytest.mark.parametrize(("channels", "name"), [(1, "csc_small"), (3, "csc_autoencoder"), (2, "csc_small")])
def test_a_grid_for_each_picture(tmp_path, channels, name):
    model = create_model(name, in_chans=channels, widths=[16, 4]).eval()
    save_pictures(model, torch.randn(3, channels, 32, 32), lambda x: x.sigmoid(), tmp_path / "pictures")
    rows = {1: 2, 2: 4, 3: 2}[channels]  # 16 atoms in rows of eight; with two channels each channel is a picture
    side, tile, gap = 66, 64, 4
    assert sizes(tmp_path / "pictures") == {
        "atoms.png": (8 * (side + gap) + gap, rows * (side + gap) + gap),
        "codes.png": (9 * (tile + gap) + gap, 3 * (tile + gap) + gap),
        "reconstructions.png": (2 * (tile + gap) + gap, 3 * (tile + gap) + gap),
    }


def test_reconstructions_show_the_image_beside_what_the_first_layer_keeps(tmp_path):
    torch.manual_seed(0)
    model = create_model("csc_small", in_chans=1, widths=[8], lam=1e3).eval()  # so sparse that nothing is left
    save_pictures(model, torch.ones(1, 1, 64, 64), lambda x: x.clamp(0, 1), tmp_path)
    picture = torch.tensor(list(Image.open(tmp_path / "reconstructions.png").convert("L").tobytes())).view(72, 140)
    assert picture[4:68, 4:68].eq(255).all()
    assert picture[4:68, 72:136].eq(0).all()


def test_a_network_without_codes_leaves_no_pictures(tmp_path):
    model = create_model("resnet18", in_chans=1, widths=[4, 4, 4, 4]).eval()
    save_pictures(model, torch.randn(2, 1, 16, 16), lambda x: x, tmp_path / "pictures")
    assert sizes(tmp_path / "pictures") == {}


def test_an_invertible_network_shows_its_inversion(tmp_path):
    model = create_model("invertible_cnn", in_chans=1, widths=[4, 6]).eval()
    save_pictures(model, torch.rand(3, 1, 64, 64), lambda x: x.clamp(0, 1), tmp_path)
    assert sizes(tmp_path) == {"reconstructions.png": (140, 3 * 68 + 4)}


def test_a_closed_loop_shows_its_stages_and_the_way_between_images(tmp_path):
    model = create_model("csc_ctrl_32", in_chans=1, widths=[4, 6], features=8, input_size=64).eval()
    save_pictures(model, torch.rand(3, 1, 64, 64), lambda x: x.clamp(0, 1), tmp_path)
    found = sizes(tmp_path)
    assert found["stages.png"] == (4 * 68 + 4, 2 * 68 + 4)  # two rows, as many as there are ways between three images
    assert found["interpolations.png"] == (7 * 68 + 4, 2 * 68 + 4)
    assert {"atoms.png", "codes.png", "reconstructions.png"} < set(found)


def test_points_on_an_arc():
    a, b = torch.nn.functional.normalize(torch.randn(2, 5, 6, dtype=torch.float64), dim=2)
    points = interpolate_on_sphere(a, b, 5)
    torch.testing.assert_close(points.norm(dim=2), torch.ones(5, 5, dtype=torch.float64))
    torch.testing.assert_close(points[0], a)
    torch.testing.assert_close(points[-1], b)
    steps = (points[1:] * points[:-1]).sum(2).acos()  # equal angles, a quarter of the whole
    torch.testing.assert_close(steps, ((a * b).sum(1).acos() / 4).expand(4, 5))
    torch.testing.assert_close(interpolate_on_sphere(a, a, 3), a.expand(3, 5, 6))
