import json

import pytest
import torch

from csc_nets.data import create_datamodule
from csc_nets.evaluation import save_report
from csc_nets.evaluation.rate_distortion_report import coarsest_step
from csc_nets.models import create_model


def test_the_coarsest_quantiser():
    code = torch.linspace(-1, 1, 101)
    assert coarsest_step(code, lambda z: 40 - 100 * (z - code).abs().max().item(), loss=0.3) == 2.0**-8
    assert coarsest_step(code, lambda z: 0.0) == 0.5


@pytest.mark.parametrize("name", ["csc_autoencoder", "csc_dictionary", "csc_ctrl_32"])
def test_table_rows_and_pictures(name, tmp_path):
    torch.manual_seed(0)
    extra = {"input_size": 8, "features": 8} if name == "csc_ctrl_32" else {"kernel_size": 3}
    model = create_model(name, in_chans=1, widths=[6], **extra).eval()
    text = save_report("rate_distortion", model, create_datamodule("digits"), tmp_path, images=4)
    rows = json.loads((tmp_path / "rate_distortion.json").read_text())
    assert (tmp_path / "rate_distortion.png").is_file() and (tmp_path / "rate_distortion_images.png").is_file()
    assert "DCT 8x8, one threshold" in text and "JPEG" in text
    network = [row for row in rows if row["of"] == "network"]
    assert [row["factor"] for row in network] == sorted(row["factor"] for row in network)
    for row in rows:
        assert row["psnr_of_all"] <= row["psnr_mean"] + 1e-6
        if row["name"].endswith(("threshold", "image")):
            beside = next(r for r in network if r["factor"] == row["factor"])
            assert row["nonzeros"] <= beside["nonzeros"] + 1 / 64
        if row["name"].endswith("quantised"):
            assert row["bits"] <= next(r for r in network if r["factor"] == row["factor"])["bits"]


def test_a_network_without_a_code_is_refused(tmp_path):
    model = create_model("cdlnet", steps=1, atoms=2)
    with pytest.raises(
        ValueError, match=r"report=rate_distortion needs a network with encode and decode, .* got CDLNet"
    ):
        save_report("rate_distortion", model, create_datamodule("digits"), tmp_path)
