import re
import subprocess
import sys
from typing import Any

import pytest
import torch

from csc_nets.functional import GroupL1
from csc_nets.models import CSCSmall, create_model, list_models, register_model
from csc_nets.models import registry as registry_module


def test_list_is_sorted_and_filtered_by_part_or_glob():
    names = list_models()
    assert names == sorted(names) and {"csc_small", "resnet18", "sdnet18_all"} <= set(names)
    assert list_models("_all") == ["fastnet_all", "sdnet18_all", "sdnet20_all", "sdnet32_all", "sdnet34_all"]
    assert list_models("sdnet3*_all") == ["sdnet32_all", "sdnet34_all"]
    assert list_models("sdnet??") == ["sdnet18", "sdnet20", "sdnet34"]
    assert list_models("nothing") == []


def test_unknown_name_suggests_near_ones():
    with pytest.raises(ValueError, match=r"^create_model: unknown model 'sdnet81'; did you mean .*sdnet18"):
        create_model("sdnet81")
    with pytest.raises(ValueError, match=r"known: .*csc_small, .*resnet18"):
        create_model("%%%")


def test_unknown_override_names_the_accepted_ones():
    with pytest.raises(ValueError, match=r"^create_model: csc_small does not accept lamb; accepted: .*lam, .*widths$"):
        create_model("csc_small", lamb=0.2)
    with pytest.raises(ValueError, match=r"resnet18 does not accept lam;"):
        create_model("resnet18", lam=0.2)


def test_no_known_weights_is_said():
    with pytest.raises(ValueError, match=r"no pretrained weights are known for resnet34"):
        create_model("resnet34", pretrained=True)


def test_out_indices_need_features_only():
    with pytest.raises(ValueError, match=r"out_indices=\[0\] needs features_only=True"):
        create_model("csc_small", out_indices=[0])


def test_arguments_are_kept_as_plain_values():
    model = create_model("csc_small", num_classes=3, widths=(4, 5), lam=0.25, steps=3)
    assert model.model_name == "csc_small"
    assert model.model_args == {"num_classes": 3, "in_chans": 3, "widths": [4, 5], "lam": 0.25, "steps": 3}
    model.reset_classifier(6)
    assert model.model_args["num_classes"] == 6
    with pytest.raises(ValueError, match=r"widths must be a number, string, list or dict, got Tensor"):
        create_model("csc_small", widths=torch.tensor([4, 5]))


def test_arguments_of_a_part_are_plain_values_too():
    with pytest.raises(ValueError, match="penalty must be a number, string, list or dict, got Tensor"):
        create_model("csc_small", penalty=GroupL1(torch.tensor(2)))


def test_registering_an_own_network(monkeypatch, tmp_path):
    monkeypatch.setattr(registry_module, "ENTRIES", dict(registry_module.ENTRIES))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    trained = create_model("csc_small", num_classes=4, widths=[4, 6])
    torch.save(trained.state_dict(), tmp_path / "weights.pt")

    @register_model(url=(tmp_path / "weights.pt").as_uri())
    def csc_tiny(**overrides: Any) -> CSCSmall:
        """Two narrow stages."""
        return CSCSmall(**{"widths": [4, 6], **overrides})

    assert "csc_tiny" in list_models()
    x = torch.randn(2, 3, 8, 8)
    model = create_model("csc_tiny", num_classes=4, pretrained=True)
    torch.testing.assert_close(model.eval()(x), trained.eval()(x), rtol=0, atol=0)
    assert model.pretrained_cfg["url"].startswith("file:")
    other = create_model("csc_tiny", num_classes=9, pretrained=True).eval()
    torch.testing.assert_close(other.forward_features(x), trained.forward_features(x), rtol=0, atol=0)
    assert other(x).shape == (2, 9)


def test_a_name_of_another_module_is_taken():
    with pytest.raises(ValueError, match=r"'csc_small' is taken by csc_nets.models.csc_small"):

        @register_model
        def csc_small(**overrides: Any) -> CSCSmall:
            return CSCSmall(**overrides)


def test_import_leaves_heavy_packages_out():
    code = (
        "import sys, csc_nets.models; print(sorted({'lightning', 'hydra', 'wandb', 'torchvision'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


@pytest.mark.parametrize(
    "name, arguments, message",
    [
        ("cdlnet", {"atoms": 0}, "atoms must be an int >= 1, got 0"),
        ("gdlnet", {"atoms": 0}, "atoms must be an int >= 1, got 0"),
        ("cscnet", {"atoms": -1}, "atoms must be an int >= 1, got -1"),
        ("cdlnet", {"kernel_size": -3}, "kernel_size must be an int >= 1, got -3"),
        ("csc_dictionary", {"kernel_size": [3, 0]}, "kernel_size must be an int >= 1, got 0"),
        ("cdlnet", {"atoms": "8"}, "atoms must be a whole number, got '8'"),
        ("cdlnet", {"in_chans": -1}, "in_chans must be an int >= 1, got -1"),
        ("csc_small", {"in_chans": 0}, "in_chans must be an int >= 1, got 0"),
        ("proximal_denoiser", {"weight": "a"}, "weight must be a number, got 'a'"),
        ("analysis_denoiser", {"weight": "a"}, "weight must be a number, got 'a'"),
        ("sparse_autoencoder", {"tied": "no"}, "tied must be true or false, got 'no'"),
    ],
)
def test_arguments_are_held_against_their_types_and_sizes(name, arguments, message):
    with pytest.raises(ValueError, match=f"create_model: {name}: {re.escape(message)}"):
        create_model(name, **arguments)


@pytest.mark.parametrize(
    "arguments, message",
    [({"above": -4}, "above must be an int >= 0, got -4"), ({"above": 2, "reach": 0}, "reach must be an int >= 1")],
)
def test_a_second_stage_has_atoms(arguments, message):
    with pytest.raises(ValueError, match=message):
        create_model("sparse_autoencoder", **arguments)


def test_trained_weights_name_the_arguments_that_they_are_for():
    message = "the trained weights of cdlnet are for in_chans=1, atoms=32, got in_chans=3, atoms=4"
    with pytest.raises(ValueError, match=message):
        create_model("cdlnet", pretrained=True, in_chans=3, atoms=4)
    with pytest.raises(ValueError, match=r"of csc_small are for widths=\[48, 96, 128\], got widths=\[8\]"):
        create_model("csc_small", pretrained=True, widths=[8], num_classes=3)
    create_model("cdlnet", pretrained=True, gradient="recompute")
    with pytest.raises(ValueError, match="pretrained must be True or False, got 'yes'"):
        create_model("cdlnet", pretrained="yes")
