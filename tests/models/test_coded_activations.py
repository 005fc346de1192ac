import pytest
import torch

from csc_nets.layers import PursuitSAE, PursuitSAE2d
from csc_nets.models import create_model

SMALL = {"source": "csc_nets/csc_small", "source_args": {"widths": [4, 6, 8]}, "atoms": 12, "k": 3, "look_size": 16}


def build(**options):
    torch.manual_seed(0)
    return create_model("coded_activations", **{**SMALL, **options})


def source_state():
    torch.manual_seed(5)
    source = create_model("csc_small", widths=[4, 6, 8])
    source(torch.randn(8, 3, 16, 16))  # running statistics
    return source.eval()


def test_weights_of_the_source_give_its_outputs_and_its_activations(tmp_path):
    source, x = source_state(), torch.randn(2, 3, 16, 16)
    torch.save(source.state_dict(), tmp_path / "source.pth")
    model = build(checkpoint_path=tmp_path / "source.pth").eval()
    torch.testing.assert_close(model.unpatched(x), source(x))
    _, maps = source.forward_intermediates(x)
    torch.testing.assert_close(model.activations(x), maps[1])
    assert (model(x) - source(x)).abs().max() > 1e-3  # an autoencoder that was not trained
    again = build().eval()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(x), model(x))


def test_the_reconstruction_stands_in_the_place_of_the_activations(tmp_path):
    source, x = source_state(), torch.randn(2, 3, 16, 16)
    torch.save(source.state_dict(), tmp_path / "source.pth")
    model = build(checkpoint_path=tmp_path / "source.pth", pursuit="fista", steps=2).eval()
    said = model.sae.reconstruct(model.activations(x))
    expected = source.forward_head(source.stages[2](said))
    torch.testing.assert_close(model(x), expected)


def test_a_frozen_source_stays_and_keeps_its_mode():
    model = build().train()
    assert model.sae.training and not any(m.training for m in model.stages[0].network.stages[0].modules())
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained and all(".sae." in name for name in trained)
    assert all(p.requires_grad for p in build(freeze=False).parameters())


def test_tokens_of_a_transformer():
    args = {"width": 12, "depth": 2, "heads": 2, "patch_size": 4, "input_size": 16}
    model = build(source="csc_nets/crate_cifar", source_args=args, layer="stages.1.coder")
    seen = model.activations(torch.randn(2, 3, 16, 16))
    assert seen.shape == (2, 17, 12) and model.sae(seen).shape == (2, 17, 12)
    assert model(torch.randn(2, 3, 16, 16)).shape == (2, 10)


def test_a_network_of_torchvision():
    pytest.importorskip("torchvision")
    model = build(source="torchvision/resnet18", source_args=None, layer="layer1.0", look_size=32)
    assert model.activations(torch.randn(1, 3, 32, 32)).shape == (1, 64, 8, 8)


@pytest.mark.parametrize(
    "bad, message",
    [
        ({"layer": "stages.9"}, r"layer must name a part of csc_nets/csc_small, such as \['stages'"),
        ({"layer": "fc"}, r"must return maps or tokens, got the shape \(1, 8\)"),
        ({"encoder": "topk"}, "did you mean 'top_k'"),
        ({"k": 0}, "k must be"),
    ],
)
def test_bad_arguments_are_named(bad, message):
    with pytest.raises(ValueError, match=message):
        build(**bad)


@pytest.mark.parametrize("look_size", [32, 384])
def test_maps_with_the_channels_behind_are_coded_position_by_position(look_size):
    # At 384 pixels the first stage of this network has 96 x 96 positions of 96 channels.
    source = {"source": "torchvision/swin_t", "source_args": {}}
    model = build(**source, layer="features.1", look_size=look_size).eval()
    assert isinstance(model.sae, PursuitSAE) and len(model.sae.bias) == 96
    assert model(torch.randn(1, 3, 64, 64)).shape == (1, 10)


def test_maps_with_the_channels_in_front_stay_maps_where_all_sides_are_alike():
    model = build(source_args={"widths": [16, 6, 8]}, layer="stages.0", look_size=16)
    assert isinstance(model.sae, PursuitSAE2d) and len(model.sae.bias) == 16


@pytest.mark.parametrize("name", ["coded_activations", "converted"])
def test_arguments_of_a_source_are_a_mapping(name):
    with pytest.raises(ValueError, match="source_args must be a mapping or null, got 3"):
        create_model(name, source="csc_nets/csc_small", source_args=3)
