import pytest
import torch
from torch import nn

from csc_nets.layers import CSC2d
from csc_nets.models import create_model

IMAGENET = {"stem": "imagenet", "num_classes": 1000}


def coded(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, CSC2d)]


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


# Parameters in millions as measured on the published networks; the exact differences to the baseline are derived:
# shortcuts are three 1 x 1 convolutions with batch norm, the coded ImageNet stem has one layer 64 -> 64 more.
@pytest.mark.parametrize(
    "name, arguments, millions, layers, baseline, difference",
    [
        ("sdnet18", {}, 11.174, 1, "resnet18", 0),
        ("sdnet34", {}, 21.282, 1, "resnet34", 0),
        ("sdnet18", IMAGENET, 11.690, 1, "resnet18", 0),
        ("sdnet34", IMAGENET, 21.798, 1, "resnet34", 0),
        ("sdnet18_all", {}, 11.174, 17, "resnet18", 0),
        ("sdnet18_all", {"shortcut": False}, 11.000, 17, "resnet18", -173_824),
        ("sdnet18_all", IMAGENET, 11.726, 18, "resnet18", 64 * 64 * 9),
        ("sdnet18_all", {**IMAGENET, "shortcut": False}, 11.553, 18, "resnet18", 64 * 64 * 9 - 173_824),
        ("sdnet34_all", {}, 21.282, 33, "resnet34", 0),
        ("sdnet20", {}, 0.272, 1, "resnet20", 0),
        ("sdnet20_all", {}, 0.272, 19, "resnet20", 0),
        ("sdnet32_all", {}, 0.467, 31, "resnet32", 0),
    ],
)
def test_parameters_and_coded_layers_are_the_published_ones(name, arguments, millions, layers, baseline, difference):
    model = create_model(name, **arguments)
    assert round(count(model) / 1e6, 3) == millions
    assert len(coded(model)) == layers
    plain = create_model(baseline, **{k: v for k, v in arguments.items() if k != "shortcut"})
    assert count(model) - count(plain) == difference


def test_no_shortcut_means_no_relu_and_only_coded_convolutions(narrow, images):
    model = narrow("sdnet18_all", shortcut=False)
    kinds = {type(m) for m in model.modules()}
    assert not kinds & {nn.ReLU, nn.MaxPool2d, nn.Conv2d}
    assert model(images()).shape == (2, 10)
    with_shortcut = narrow("sdnet18_all")
    assert sum(isinstance(m, nn.ReLU) for m in with_shortcut.modules()) == 5  # one a block
    assert {m.kernel_size for m in with_shortcut.modules() if isinstance(m, nn.Conv2d)} == {(1, 1)}


@pytest.mark.parametrize(
    "name, kinds",
    [
        ("sdnet18", ["CSC2d", "BatchNorm2d", "Identity", "MaxPool2d"]),
        ("sdnet18_all", ["CSC2d", "BatchNorm2d", "Identity", "CSC2d"]),
        ("resnet18", ["Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d"]),
    ],
)
def test_imagenet_stem_quarters_the_image(name, kinds, narrow, images):
    model = narrow(name, stem="imagenet").eval()
    assert [type(m).__name__ for m in model.stages[0]] == kinds
    assert model.stages[0](images(size=(64, 50))).shape[2:] == (16, 13)
    assert [info["reduction"] for info in model.feature_info] == [4, 4, 8, 16, 32]


def test_stem_code_is_the_layers_own(narrow, images):
    """The first stage is batch norm of the code, with no ReLU: it is negative somewhere."""
    model, x = narrow("sdnet18").eval(), images()
    layer, norm = model.stages[0][0], model.stages[0][1]
    out = model.forward_intermediates(x, [0], intermediates_only=True)[0]
    torch.testing.assert_close(out, norm(layer(x)))
    norm.bias.data.fill_(-1.0)
    assert (model.forward_intermediates(x, [0], intermediates_only=True)[0] < 0).any()


@pytest.mark.parametrize("arguments", [{"lam": 0.3}, {"steps": 1}, {"steps": 5}, {"pursuit": "threshold"}])
def test_coding_arguments_reach_every_layer(arguments, narrow, images):
    base, model, x = narrow("sdnet18_all").eval(), narrow("sdnet18_all", **arguments).eval(), images()
    model.load_state_dict(base.state_dict() | {k: v for k, v in model.state_dict().items() if k.endswith("lam")})
    for ours, theirs in zip(coded(model), coded(base), strict=True):
        assert repr(ours) != repr(theirs)
    assert not torch.allclose(model(x), base(x))


def test_two_steps_of_fista_are_ista(narrow, images):
    fista, ista = narrow("sdnet18_all").eval(), narrow("sdnet18_all", pursuit="ista").eval()
    ista.load_state_dict(fista.state_dict())
    torch.testing.assert_close(fista(images()), ista(images()))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"coding": "none"}, "coding must be 'stem' or 'all', got 'none'"),
        ({"stem": "mnist"}, "stem must be 'cifar' or 'imagenet', got 'mnist'"),
        ({"widths": [4, 8]}, r"widths and depths must be positive and equally many, got \[4, 8\] and \[1, 2, 1, 1\]"),
        ({"depths": [1, 0, 1, 1]}, r"got \[4, 6, 8, 10\] and \[1, 0, 1, 1\]"),
        ({"coding": "stem", "shortcut": False}, "shortcut=False needs coding='all', got coding='stem'"),
        ({"steps": 0}, "steps"),
        ({"lam": -1.0}, "lam"),
        ({"pursuit": "newton"}, "pursuit.*newton"),
    ],
)
def test_bad_arguments_are_refused(arguments, message, narrow):
    with pytest.raises(ValueError, match=message):
        narrow("sdnet18_all", **arguments)
