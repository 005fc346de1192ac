import torch
from torchvision.io import read_image

from csc_nets.models import create_model
from csc_nets.tasks.pictures import save_pictures


def test_a_denoiser_has_its_atoms_and_a_row_an_image(tmp_path):
    model = create_model("cdlnet", steps=2, atoms=4).eval()
    save_pictures(model, torch.rand(3, 1, 40, 52), lambda x: x, tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["atoms.png", "denoising.png"]
    _, height, width = read_image(str(tmp_path / "denoising.png")).shape
    assert height >= 3 * 40 and width >= 4 * 52
