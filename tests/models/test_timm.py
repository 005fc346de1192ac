"""timm's API, with timm itself as the reference."""

import inspect

import lightning as L
import pytest
import torch

import csc_nets
from csc_nets.data import create_datamodule
from csc_nets.tasks import create_task

timm = pytest.importorskip("timm")


@pytest.fixture(scope="module")
def theirs():
    return timm.create_model("resnet18", num_classes=10).eval()


@pytest.fixture(scope="module")
def ours():
    return csc_nets.create_model("resnet18", num_classes=10, stem="imagenet").eval()


@pytest.mark.parametrize("method", ["forward_intermediates", "forward_head", "reset_classifier", "get_classifier"])
def test_methods_take_the_same_arguments_in_the_same_order(theirs, ours, method):
    names = [list(inspect.signature(getattr(model, method)).parameters) for model in (theirs, ours)]
    if method == "forward_head":
        names = [n[1:] for n in names]  # the features, which have another name
    assert names[0] == names[1]


def test_functions_take_the_same_arguments():
    for name in ("filter", "pretrained", "exclude_filters"):
        assert name in inspect.signature(timm.list_models).parameters
        assert name in inspect.signature(csc_nets.list_models).parameters
    for model in (timm.create_model, csc_nets.create_model):
        assert list(inspect.signature(model).parameters)[1] == "pretrained"
    assert csc_nets.is_model("sdnet18") and not csc_nets.is_model("sdnet")
    with pytest.raises(ValueError, match="no pretrained weights are known for resnet18"):
        csc_nets.create_model("resnet18", True)


def test_lists_of_filters():
    """As timm's with globs; a filter without one is a part of the name here, and the whole of it there."""
    names = csc_nets.list_models()
    assert csc_nets.list_models(["sdnet*", "resnet*"]) == sorted(n for n in names if n.startswith(("sdnet", "resnet")))
    assert csc_nets.list_models("sdnet*", exclude_filters="*_all") == ["sdnet18", "sdnet20", "sdnet34"]
    assert csc_nets.list_models(["sdnet*"], exclude_filters=["*18*", "*_all"]) == ["sdnet20", "sdnet34"]
    for package in (timm, csc_nets):
        assert package.list_models(["resnet1?", "resnet3?"], exclude_filters=["*34", "*32"]) == ["resnet18"]
    known = csc_nets.list_models(pretrained=True)
    assert all(csc_nets.create_model(name, pretrained=True).pretrained_cfg["sha256"] for name in known)
    with torch.device("meta"):
        others = [csc_nets.create_model(name) for name in names if name not in known]
    assert not any("sha256" in model.pretrained_cfg for model in others)


def test_feature_info(theirs, ours):
    reference = timm.create_model("resnet18", features_only=True, out_indices=(1, 2, 3, 4)).feature_info
    part = csc_nets.create_model("resnet18", stem="imagenet", features_only=True, out_indices=[1, 2, 3, 4])
    found = part.feature_info
    assert found.channels() == reference.channels() and found.reduction() == reference.reduction()
    keys = ["num_chs", "reduction"]
    assert found.get_dicts(keys) == reference.get_dicts(keys)
    info = ours.feature_info
    assert info.get_dicts(keys, 1) == {key: theirs.feature_info[1][key] for key in keys}
    assert info.get_dicts(keys, [0, 4]) == [info.get_dicts(keys)[0], info.get_dicts(keys)[4]]
    assert info.channels(2) == 128 and info.module_name([1]) == ["stages.1"] and info.get("index", -1) == 4
    assert set(reference.get_dicts()[0]) <= set(found.get_dicts()[0])


def test_intermediates(theirs, ours):
    x = torch.randn(1, 3, 64, 64)
    for model in (theirs, ours):
        features, maps = model.forward_intermediates(x, 2)
        assert [m.shape[1] for m in maps] == [256, 512] and torch.equal(features, model.forward_features(x))
        early, maps = model.forward_intermediates(x, indices=[1], norm=True, stop_early=True, output_fmt="NCHW")
        assert early.shape == maps[0].shape == (1, 64, 16, 16)
        (only,) = model.forward_intermediates(x, [1], intermediates_only=True)
        assert torch.equal(only, maps[0])
    (last,) = ours.forward_intermediates(x, [1], output_fmt="NHWC", intermediates_only=True)
    assert torch.equal(last, only.permute(0, 2, 3, 1))
    with pytest.raises(ValueError, match="output_fmt must be 'NCHW' or 'NHWC', got 'NLC'"):
        ours.forward_intermediates(x, output_fmt="NLC")


def test_the_classifier(theirs, ours):
    x = torch.randn(2, 512, 2, 2)
    for model in (theirs, ours):
        model.reset_classifier(7, "avg")
        assert model.forward_head(x).shape == (2, 7) and model.num_classes == 7
        assert model.forward_head(x, pre_logits=True).shape == (2, 512)
        model.reset_classifier(num_classes=0)
        assert model.forward_head(x).shape == (2, 512)
    with pytest.raises(ValueError, match="global_pool: resnet18 has global_pool='avg', always, got 'max'"):
        ours.reset_classifier(3, "max")
    with pytest.raises(ValueError, match="global_pool must be 'avg' or 'max', got 'mean'"):
        ours.reset_classifier(3, "mean")
    parts = csc_nets.create_model("invertible_cnn", grid=2)
    parts.reset_classifier(5, "avg")
    again = csc_nets.create_model("invertible_cnn", **parts.model_args)
    again.load_state_dict(parts.state_dict())
    with pytest.raises(ValueError, match="global_pool: scattering has grid=8, always, got 'avg'"):
        csc_nets.create_model("scattering").reset_classifier(5, "avg")


def test_data_config_of_a_run(tmp_path):
    """``timm.data.resolve_data_config`` gives what the network was trained with."""
    data_config = pytest.importorskip("timm.data").resolve_data_config
    data = create_datamodule("digits")
    task = create_task("classification", csc_nets.create_model("csc_small", in_chans=1, widths=[4, 4, 4]))
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = L.Trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=0, enable_checkpointing=False, **quiet)
    trainer.fit(task, datamodule=data)
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    found = data_config(model=csc_nets.load(tmp_path / "run.ckpt"))
    assert (found["mean"], found["std"]) == (data.mean, data.std) and found["input_size"] == (1, 8, 8)
    assert found["interpolation"] == "bilinear" and found["crop_pct"] == 1.0


@pytest.mark.parametrize("images", [None, 3, {"mean": "x"}, {"mean": [0.1], "std": [True], "input_size": [1, 8, 8]}])
def test_what_is_no_data_config_is_left_out(tmp_path, images):
    model = csc_nets.create_model("csc_small", in_chans=1, widths=[4, 4, 4])
    state = {f"model.{key}": value for key, value in model.state_dict().items()}
    facts = {"model_name": "csc_small", "model_args": model.model_args, "images": images}
    torch.save({"state_dict": state, "hyper_parameters": facts}, tmp_path / "a.ckpt")
    assert "mean" not in csc_nets.load(tmp_path / "a.ckpt").pretrained_cfg
