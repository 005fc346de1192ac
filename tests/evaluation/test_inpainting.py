import json

import pytest
import torch

from csc_nets.data import create_datamodule
from csc_nets.evaluation import save_report
from csc_nets.models import create_model


def test_table_rows_and_picture(tmp_path):
    torch.manual_seed(0)
    model = create_model("sparse_autoencoder", in_chans=1, sizes=[8, 4], steps=5).eval()
    text = save_report("inpainting", model, create_datamodule("digits"), tmp_path, images=3)
    rows = json.loads((tmp_path / "inpainting.json").read_text())
    assert (tmp_path / "inpainting.png").is_file() and "interpolation" in text
    random = [row["lam x 1"] for row in rows if row["size"] == 1]
    assert random == sorted(random, reverse=True)  # the fewer pixels are seen, the worse


def test_another_network(tmp_path):
    with pytest.raises(ValueError, match="needs a sparse_autoencoder"):
        save_report(
            "inpainting", create_model("csc_autoencoder", in_chans=1, widths=[4]), create_datamodule("digits"), tmp_path
        )
