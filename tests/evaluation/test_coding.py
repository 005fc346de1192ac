"""How far a layer's codes are from solutions."""

import json

import pytest
import torch

from csc_nets import create_model
from csc_nets.data import create_datamodule
from csc_nets.evaluation import save_report
from csc_nets.evaluation.coding import coding_rows
from csc_nets.layers import CSC2d


def test_a_solved_layer_has_no_excess_and_the_published_one_that_of_two_steps():
    x = torch.randn(3, 2, 12, 12)
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        CSC2d(2, 8, 3, padding=1, lam=0.3, steps=400), CSC2d(8, 8, 3, padding=1, lam=0.2, steps=2)
    ).eval()
    first, second = coding_rows(model, x)
    assert abs(first["excess"]) < 1e-3 < 0.05 < first["two_steps"]
    assert abs(second["excess"] - second["two_steps"]) < 1e-4 and second["excess"] > 0.05
    with torch.no_grad():
        z = model[0](x)
    assert abs(first["density"] - float((z > 0).double().mean())) < 1e-6
    assert first["silent"] == 1 - float((z > 0).transpose(0, 1).flatten(1).any(1).double().mean())
    assert [row["name"] for row in (first, second)] == ["0", "1"]
    assert not model[0]._forward_hooks


def test_report(tmp_path):
    model = create_model("csc_small", in_chans=1, num_classes=10, pursuit="calibrated", steps=1).eval()
    text = save_report("coding", model, create_datamodule("digits", batch_size=16), tmp_path, images=4)
    rows = json.loads((tmp_path / "coding.json").read_text())
    assert len(rows) == 3 and rows[0]["name"] == "stages.0.0" and "calibrated     1" in text
    assert rows[0]["excess"] > rows[0]["two_steps"] > 0  # not yet calibrated: one step of ISTA, behind two
    assert all(row["excess"] >= row["two_steps"] >= 0 for row in rows)  # and codes of zeros further on


def test_networks_without_such_layers_are_refused():
    with pytest.raises(ValueError, match="expected a network with CSC layers, got ResNet"):
        coding_rows(create_model("resnet18", widths=(4, 4, 4, 4)).eval(), torch.randn(1, 3, 32, 32))
