"""Weights in the package: every one is loaded, and gives a number of its card."""

import shutil

import pytest
import torch

import csc_nets
from csc_nets.evaluation.weights_check import check_of
from csc_nets.models import shelf
from csc_nets.models.shelf import SHELF, card, shelved

NAMES = sorted(file.stem for file in SHELF.glob("*.safetensors"))


def test_the_shelf_is_what_list_models_says():
    assert NAMES and csc_nets.list_models(pretrained=True) == NAMES
    assert sorted(file.stem for file in SHELF.glob("*.json")) == NAMES
    assert sum(file.stat().st_size for file in SHELF.iterdir()) < 5e6


@pytest.mark.parametrize("name", NAMES)
def test_weights_give_the_number_of_their_card(name):
    model, known = csc_nets.create_model(name, pretrained=True), card(name)
    assert check_of(model) == pytest.approx(known["check"], abs=0.011)
    assert {"data", "command", "seed", "figures", "limits", "license", "machine"} <= set(known)
    assert model.pretrained_cfg["mean"] == known["mean"] and model.pretrained_cfg["figures"] == known["figures"]
    assert not torch.equal(next(csc_nets.create_model(name).parameters()), next(model.parameters()))


def test_a_network_that_was_built_otherwise_has_no_card(monkeypatch):
    known = {**card("cdlnet"), "model_args": {"atoms": 64}}
    monkeypatch.setattr("csc_nets.models.staged_encoder.card", lambda name: known)
    assert "sha256" in csc_nets.create_model("cdlnet", atoms=64).pretrained_cfg
    assert "sha256" not in csc_nets.create_model("cdlnet", atoms=32).pretrained_cfg


def test_timm_finds_what_the_weights_were_trained_with():
    data = pytest.importorskip("timm.data")
    found = data.resolve_data_config(model=csc_nets.create_model("cdlnet", pretrained=True))
    assert found["mean"] == (0.0,) and found["std"] == (1.0,) and found["input_size"] == (1, 128, 128)
    digits = data.resolve_data_config(model=csc_nets.create_model("csc_small", pretrained=True))
    assert digits["input_size"] == (1, 8, 8) and digits["mean"] != (0.0,)


def test_a_damaged_file_is_refused(tmp_path, monkeypatch):
    for file in SHELF.glob("cdlnet.*"):
        shutil.copy(file, tmp_path)
    monkeypatch.setattr(shelf, "SHELF", tmp_path)
    content = bytearray((tmp_path / "cdlnet.safetensors").read_bytes())
    content[-5] ^= 1
    (tmp_path / "cdlnet.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"cdlnet\.safetensors is damaged"):
        csc_nets.create_model("cdlnet", pretrained=True)
    assert shelved("resnet18") is None and card("resnet18") == {}


def test_weights_of_another_network_are_refused():
    with pytest.raises(ValueError, match="the trained weights of cdlnet are for in_chans=1, got in_chans=3"):
        csc_nets.create_model("cdlnet", pretrained=True, in_chans=3)
    with pytest.raises(ValueError, match="no pretrained weights are known for dncnn"):
        csc_nets.create_model("dncnn", pretrained=True)
