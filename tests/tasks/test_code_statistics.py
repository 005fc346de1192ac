import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d, conv_transpose2d

from csc_nets.layers import CSC2d, SparseCoding
from csc_nets.models import create_model
from csc_nets.tasks.code_statistics import csc_layers, keep_codes, observe_codes, prior_layers


def test_numbers_agree_with_plain_convolutions():
    torch.manual_seed(0)
    layer = CSC2d(2, 6, 3, padding=1, lam=0.3, pursuit="threshold").eval()
    x = torch.randn(4, 2, 5, 5)
    with observe_codes(nn.Sequential(layer)) as codes:
        layer(x)
    atoms = layer.dictionary.weight.detach()
    z = (conv2d(x, atoms, padding=1) - 0.3).relu()
    error = (x - conv_transpose2d(z, atoms, padding=1)).square().sum((1, 2, 3)) / x.square().sum((1, 2, 3))
    (numbers,) = codes
    assert numbers.density.item() == pytest.approx((z > 0).float().mean().item())
    assert numbers.reconstruction_error.item() == pytest.approx(error.mean().item(), rel=1e-5)


def test_a_dense_layer_with_an_orthonormal_dictionary_and_no_sparsity_loses_nothing():
    layer = SparseCoding(3, 3, lam=0.0, steps=200, nonneg=False).eval()
    layer.dictionary.weight = torch.eye(3)
    layer.dictionary.refresh()
    with observe_codes(layer) as codes:
        layer(torch.randn(5, 3))
    assert codes[0].density == 1
    assert codes[0].reconstruction_error < 1e-6


def test_an_empty_signal_has_an_empty_code_and_no_error():
    layer = CSC2d(1, 2, 3, padding=1).eval()
    with observe_codes(layer) as codes:
        layer(torch.zeros(2, 1, 4, 4))
    assert (codes[0].density, codes[0].reconstruction_error) == (0, 0)


def test_half_precision_is_measured_in_single_precision():
    layer = CSC2d(1, 4, 3, padding=1).eval()
    with observe_codes(layer) as codes, torch.autocast("cpu", torch.bfloat16):
        layer(torch.rand(2, 1, 8, 8))
    assert codes[0].reconstruction_error.dtype == torch.float32


def test_every_layer_is_seen_and_hooks_go_away():
    model = create_model("sdnet18_all", num_classes=2, in_chans=1, widths=[4, 4, 4, 4]).eval()
    assert len(csc_layers(model)) == 17
    x = torch.rand(1, 1, 16, 16)
    with observe_codes(model) as codes:
        model(x)
    assert len(codes) == 17
    model(x)
    assert len(codes) == 17
    assert not csc_layers(create_model("resnet18", widths=[4, 4, 4, 4]))


def test_codes_are_kept_with_their_gradients():
    model = create_model("sparse_prior_cnn", num_classes=2, in_chans=1, widths=[4, 6], kernel_size=3, stride=2).eval()
    layers = prior_layers(model)
    assert layers == list(model.stages) == list(csc_layers(model).values())
    with keep_codes(layers) as kept:
        model(torch.rand(2, 1, 9, 9))
    assert [layer for layer, _ in kept] == layers
    (gradient,) = torch.autograd.grad(kept[1][1].sum(), layers[0].get_parameter("parametrizations.lam.original"))
    assert gradient.any()
    model(torch.rand(2, 1, 9, 9))
    assert len(kept) == 2
    assert not prior_layers(create_model("csc_small", widths=[4]))


def test_a_multi_layer_pursuit_is_measured_by_its_deepest_code():
    model = create_model("ml_csc_mnist", widths=[4, 5, 6], steps=1).eval()
    x = torch.rand(3, 1, 28, 28)
    with observe_codes(model) as observed:
        model(x)
    layer = model.stages[0]
    z = layer(x)
    error = (x - layer.synthesize(z, (28, 28))).square().sum((1, 2, 3)) / x.square().sum((1, 2, 3))
    assert list(csc_layers(model)) == ["stages.0"] and len(observed) == 1
    torch.testing.assert_close(observed[0].density, (z != 0).float().mean())
    torch.testing.assert_close(observed[0].reconstruction_error, error.mean())
