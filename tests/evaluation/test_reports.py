import json

import pytest
import torch
from PIL import Image
from torch import nn

from csc_nets.evaluation import list_reports, save_report
from csc_nets.models import create_model


@pytest.fixture
def images():
    return torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("model", ["csc_small", "invertible_cnn"])
@pytest.mark.parametrize("name", list_reports())
def test_text_numbers_and_picture(name, model, images, tmp_path):
    torch.manual_seed(0)
    network = create_model(model, in_chans=1, widths=[6, 8]).eval()
    text = save_report(name, network, images, lambda x: x, tmp_path / "reports")
    assert (tmp_path / "reports" / f"{name}.txt").read_text() == text + "\n"
    rows = json.loads((tmp_path / "reports" / f"{name}.json").read_text(), parse_constant=pytest.fail)
    assert len(rows) >= 2 and all(row["name"] in text for row in rows)
    picture = tmp_path / "reports" / f"{name}.png"
    assert picture.exists() == (name != "theory")
    if name == "inversion":  # three images, each with what came back of two layers in three ways
        assert Image.open(picture).size == (7 * 68 + 4, 3 * 68 + 4)


def test_an_unknown_report_is_refused(images, tmp_path):
    with pytest.raises(ValueError, match="report must be one of theory, energy, inversion, got 'speed'"):
        save_report("speed", nn.Identity(), images, lambda x: x, tmp_path)
