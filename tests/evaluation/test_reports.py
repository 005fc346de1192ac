import json

import pytest
import torch
from PIL import Image

from csc_nets.data import create_datamodule
from csc_nets.evaluation import list_reports, save_report
from csc_nets.models import create_model


@pytest.fixture(scope="module")
def data():
    return create_datamodule("digits")


@pytest.mark.parametrize("model", ["csc_small", "invertible_cnn"])
@pytest.mark.parametrize("name", list_reports())
def test_text_numbers_and_picture(name, model, data, tmp_path):
    torch.manual_seed(0)
    network = create_model(model, in_chans=1, widths=[6, 8]).eval()
    text = save_report(name, network, data, tmp_path / "reports", images=3)
    assert (tmp_path / "reports" / f"{name}.txt").read_text() == text + "\n"
    rows = json.loads((tmp_path / "reports" / f"{name}.json").read_text(), parse_constant=pytest.fail)
    assert len(rows) >= 2 and all(row["name"] in text for row in rows)
    picture = tmp_path / "reports" / f"{name}.png"
    assert picture.exists() == (name in ("energy", "inversion"))
    if name == "inversion":  # three images, each with what came back of two layers in three ways
        assert Image.open(picture).size == (7 * 68 + 4, 3 * 68 + 4)
    if name == "features":  # even random filters tell digits apart better than chance
        assert all(0.2 < row["value"] <= 1 for row in rows[:3]) and 1 <= rows[3]["value"] <= 8


def test_bad_arguments_are_refused(data, tmp_path):
    model = create_model("csc_small", in_chans=1)
    with pytest.raises(ValueError, match="report must be one of theory, energy, inversion, features, got 'speed'"):
        save_report("speed", model, data, tmp_path)
    with pytest.raises(ValueError, match="images must be an int >= 1, got 0"):
        save_report("energy", model, data, tmp_path, images=0)
