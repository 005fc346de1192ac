"""Networks in folders and at the hub; the hub is a folder here."""

import json
import shutil

import pytest
import torch

import csc_nets
from csc_nets.models import CSCSmall, ResNet, StagedEncoder
from csc_nets.models.hub import packed

pytest.importorskip("safetensors")
pytest.importorskip("huggingface_hub")


@pytest.fixture
def model():
    model = csc_nets.create_model("csc_small", widths=[4, 6], in_chans=1, num_classes=3, lam=0.2)
    model(torch.randn(8, 1, 8, 8))  # moves statistics and bounds
    model.trained_on = {"mean": [0.5], "std": [0.25], "license": "MIT", "figures": {"test/acc": 0.9}}
    return model.eval()


def test_a_folder_gives_the_same_network_bit_for_bit(model, tmp_path):
    model.save_pretrained(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    x = torch.randn(2, 1, 8, 8)
    for again in (
        csc_nets.create_model(f"local-dir:{tmp_path}", pretrained=True).eval(),
        CSCSmall.from_pretrained(tmp_path),
        StagedEncoder.from_pretrained(str(tmp_path)),
    ):
        assert torch.equal(again(x), model(x)) and not again.training
        assert again.model_name == "csc_small" and again.model_args == model.model_args
        assert again.pretrained_cfg["mean"] == [0.5] and again.pretrained_cfg["figures"] == {"test/acc": 0.9}
        assert again.pretrained_cfg["num_classes"] == 3
    fresh = csc_nets.create_model(f"local-dir:{tmp_path}")
    assert fresh.model_args == model.model_args and not torch.equal(fresh.eval()(x), model(x))


def test_a_folder_with_another_classifier_or_as_features(model, tmp_path):
    model.save_pretrained(tmp_path)
    other = csc_nets.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=7).eval()
    x = torch.randn(2, 1, 8, 8)
    assert other(x).shape == (2, 7)
    torch.testing.assert_close(other.forward_features(x), model.forward_features(x))
    (last,) = csc_nets.create_model(f"local-dir:{tmp_path}", True, features_only=True, out_indices=[-1]).eval()(x)
    torch.testing.assert_close(last, model.forward_features(x))


def test_half_precision_is_half_the_size_and_bounds_are_those_of_the_rounded_atoms(model, tmp_path):
    model.save_pretrained(tmp_path, half=True)
    again = CSCSmall.from_pretrained(tmp_path)
    expected = {name: p.half().float() for name, p in model.named_parameters()}
    for name, parameter in again.named_parameters():
        assert parameter.dtype == torch.float32 and torch.equal(parameter, expected[name])
    layer = again.stages[0][0]
    kept = layer.dictionary.lipschitz.clone()
    layer.dictionary.refresh()
    torch.testing.assert_close(layer.dictionary.lipschitz, kept)
    x = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(again(x), model(x), atol=0.02, rtol=0.02)
    with torch.no_grad():
        model.fc.weight[0, 0] = 1e6
    with pytest.raises(ValueError, match=r"fc\.weight is beyond the range of half precision"):
        packed(model, half=True)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Repositories as folders."""
    import huggingface_hub
    from huggingface_hub import HfApi

    root = tmp_path / "hub"

    class Made:
        def __init__(self, repo_id):
            self.repo_id = repo_id

    def upload_folder(self, *, repo_id, folder_path, **options):
        shutil.copytree(folder_path, root / repo_id, dirs_exist_ok=True)
        return f"https://huggingface.co/{repo_id}/commit/1"

    def download(repo_id, filename, *, revision=None, **options):
        assert revision in (None, "v1")
        return str(root / repo_id / filename)

    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo_id, **options: Made(repo_id))
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return root


def test_to_the_hub_and_back(model, hub):
    address = model.push_to_hub("somebody/digits", commit_message="first")
    assert address == "https://huggingface.co/somebody/digits/commit/1"
    x = torch.randn(2, 1, 8, 8)
    for again in (
        csc_nets.create_model("hf-hub:somebody/digits", pretrained=True).eval(),
        csc_nets.create_model("hf-hub:somebody/digits@v1", pretrained=True).eval(),
        CSCSmall.from_pretrained("somebody/digits", revision="v1"),
    ):
        assert torch.equal(again(x), model(x))
    card = (hub / "somebody" / "digits" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: csc_nets\nlicense: mit\n") and "test/acc" in card


def test_the_class_is_that_of_the_network(model, tmp_path):
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds a CSCSmall, expected a ResNet"):
        ResNet.from_pretrained(tmp_path)


def test_what_was_not_built_by_its_name_is_not_saved(model, tmp_path):
    part = csc_nets.create_model("csc_small", widths=[4], features_only=True)
    for network in (part, CSCSmall(3, 1, widths=[4])):
        with pytest.raises(ValueError, match="only a whole network of create_model"):
            network.save_pretrained(tmp_path / "no")
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"architecture": "csc_smal"}, "did you mean|csc_small"),
        ({"architecture": 3}, "wrong type"),
        ({"model_args": {"widths": [4, 600000]}}, "widths|shape|larger"),
        ({"model_args": {"widths": [4, 6], "in_chans": 1, "checkpoint_path": "/etc/passwd"}}, "is not built from"),
        ({"model_args": []}, "wrong type"),
    ],
)
def test_a_config_that_may_be_anything_is_refused(model, tmp_path, change, message):
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ValueError, match=rf"create_model: local-dir:{tmp_path} is refused: .*({message})"):
        csc_nets.create_model(f"local-dir:{tmp_path}", pretrained=True)


def test_errors_name_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
        csc_nets.create_model(f"local-dir:{tmp_path}")
    with pytest.raises(ValueError, match="the source of 'timm:resnet18' must be one of hf-hub, local-dir"):
        csc_nets.create_model("timm:resnet18")


def test_the_shelf_sets_the_defaults_of_the_network():
    """Trained weights say how the network was built; what the caller says counts more."""
    from csc_nets.models.shelf import card

    for name in csc_nets.list_models(pretrained=True):
        known = card(name).get("model_args", {})
        model = csc_nets.create_model(name, pretrained=True)
        assert {key: model.model_args[key] for key in known} == known
