"""Converted networks by name: weights of their source, checkpoints, refusals."""

import pytest
import torch
import torchvision

from csc_nets.conversion import ConvertedConv
from csc_nets.models import create_model

NARROW = {"widths": [4, 6, 8, 10], "depths": [1, 1, 1, 1]}


def test_a_file_of_the_source_network_gives_its_function(tmp_path):
    plain = torchvision.models.vgg11_bn(weights=None, num_classes=7, dropout=0.0)
    torch.save(plain.state_dict(), tmp_path / "plain.pth")
    model = create_model(
        "converted",
        num_classes=7,
        source="torchvision/vgg11_bn",
        where="features.*",
        checkpoint_path=tmp_path / "plain.pth",
    )
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        wanted = plain.eval()(x)
        torch.testing.assert_close(model.eval()(x), wanted, atol=1e-5 * wanted.abs().max().item(), rtol=0)


def test_other_classes_and_channels_start_fresh(tmp_path):
    plain = create_model("resnet18", num_classes=10, **NARROW)
    torch.save(plain.state_dict(), tmp_path / "plain.pth")
    options = {"source": "csc_nets/resnet18", "source_args": NARROW, "steps": {"stages.1.*": 3}, "lam": 0.1}
    model = create_model("converted", num_classes=3, checkpoint_path=tmp_path / "plain.pth", **options)
    assert model(torch.randn(2, 3, 16, 16)).shape == (2, 3)
    layers = [m for m in model.modules() if isinstance(m, ConvertedConv)]
    assert {layer.steps for layer in layers} == {1, 3}
    assert create_model("converted", in_chans=1, **options)(torch.randn(2, 1, 16, 16)).shape == (2, 10)
    torch.save(model.state_dict(), tmp_path / "own.pth")
    again = create_model("converted", num_classes=3, checkpoint_path=tmp_path / "own.pth", **options).eval()
    x = torch.randn(1, 3, 16, 16)
    assert torch.equal(again(x), model.eval()(x))


def test_frozen_atoms():
    model = create_model("converted", source_args=NARROW, freeze=True)
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert frozen and all("parametrizations.weight.original" in name for name in frozen)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("resnet18", "source must be LIBRARY/NAME"),
        ("os/system", "source must be LIBRARY/NAME"),
        ("timm/hf-hub:somebody/net", "source must be LIBRARY/NAME"),
        ("torchvision/nothing", "torchvision has no network 'nothing'"),
        ("torchvision/fcn_resnet50", "torchvision has no network 'fcn_resnet50'"),  # it would fetch its backbone
        ("csc_nets/csc_autoencoder", "must end in one linear layer"),
    ],
)
def test_bad_sources_are_refused(source, message):
    with pytest.raises(ValueError, match=message):
        create_model("converted", source=source)


@pytest.mark.parametrize("library", ["csc_nets", "torchvision", "timm"])
@pytest.mark.parametrize("argument", ["checkpoint_path", "pretrained", "weights_backbone", "pretrained_cfg"])
def test_arguments_of_a_source_name_no_file(library, argument):
    """They come from a checkpoint, which may be anybody's."""
    with pytest.raises(ValueError, match=f"source_args must not name files or weights, got {argument}"):
        create_model("converted", source=f"{library}/resnet18", source_args={argument: "http://localhost/weights"})


@pytest.mark.parametrize("channels", [1, 3])
def test_a_source_whose_first_layer_is_sparse_coding(channels):
    """It is told its channels; no later convolution is taken for the stem."""
    model = create_model(
        "converted", num_classes=5, in_chans=channels, source="csc_nets/sdnet18", source_args=NARROW
    ).eval()
    assert model(torch.randn(2, channels, 32, 32)).shape == (2, 5)
