"""A converted layer: one step is the layer as it was, many steps solve its problem."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from csc_nets.conversion import ConvertedConv, ConvertedLinear
from csc_nets.functional import FISTA, Recompute
from csc_nets.layers import Coder


def filled(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    nn.init.normal_(norm.weight)  # of both signs
    nn.init.normal_(norm.bias)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    return norm


CASES = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "stride": 2, "padding": 1, "groups": 2},
    {"kernel_size": 3, "groups": 4, "padding": "same", "dilation": 2},
    {"kernel_size": 1, "bias": False, "padding_mode": "reflect"},
]


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("with_norm", [False, True], ids=["plain", "norm"])
@pytest.mark.parametrize("options", CASES)
def test_one_step_is_the_layer_of_the_network(options, with_norm, training):
    conv = nn.Conv2d(4, 8, **options)
    norm = filled(nn.BatchNorm2d(8)) if with_norm else None
    plain = nn.Sequential(conv, norm or nn.Identity(), nn.ReLU()).train(training)
    layer = ConvertedConv.of(conv, copy.deepcopy(norm), rectified=True, lam=0.0, steps=1).train(training)
    x = torch.randn(2, 4, 9, 9)
    torch.testing.assert_close(layer(x), plain(x), atol=1e-5, rtol=1e-5)
    if norm is not None:
        torch.testing.assert_close(layer.norm.running_var, norm.running_var)
        torch.testing.assert_close(layer.eval()(x), plain.eval()(x), atol=1e-5, rtol=1e-5)


def test_more_steps_solve_the_problem_with_thresholds_of_any_sign():
    """Against projected gradient steps on F(z) = 1/2 |x - D z|^2 + (lam - q / p) z, z >= 0, in float64."""
    linear = nn.Linear(8, 5).double()
    layer = ConvertedLinear.of(linear, rectified=True, lam=0.02, pursuit=FISTA(3000))
    x = torch.randn(3, 8, dtype=torch.float64)
    assert (layer.thresholds()[""] < 0).any()
    norms = linear.weight.norm(dim=1)
    atoms, weights = linear.weight / norms[:, None], 0.02 - linear.bias / norms
    z = torch.zeros(3, 5, dtype=torch.float64)
    for _ in range(20000):
        z = (z + 0.3 * ((x - z @ atoms) @ atoms.T - weights)).relu()
    torch.testing.assert_close(layer(x), (z * norms).detach(), atol=1e-6, rtol=0)
    torch.testing.assert_close(layer.code(layer(x)), z.detach(), atol=1e-6, rtol=0)


def test_orthonormal_filters_are_done_after_one_step():
    conv = nn.Conv2d(4, 4, 1)
    conv.weight.data.copy_(torch.linalg.qr(torch.randn(4, 4))[0][:, :, None, None])
    layer = ConvertedConv.of(conv, None, rectified=True, lam=0.1, steps=1)
    x, one = torch.randn(2, 4, 5, 5), None
    one = layer(x)
    layer.steps = 30
    torch.testing.assert_close(layer(x), one, atol=1e-5, rtol=0)


def test_signed_codes_keep_the_bias_and_shrink():
    linear = nn.Linear(6, 9)
    layer = ConvertedLinear.of(linear, rectified=False, lam=0.0, steps=1)
    x = torch.randn(2, 3, 6)
    assert torch.allclose(layer(x), linear(x), atol=1e-6)
    layer.lam = 0.3
    norms = linear.weight.norm(dim=1)
    wanted = F.softshrink((x @ linear.weight.T) / norms, 0.3) * norms + linear.bias
    torch.testing.assert_close(layer(x), wanted, atol=1e-5, rtol=1e-5)
    layer.lam = 100.0
    torch.testing.assert_close(layer(x), linear.bias.expand(2, 3, 9), atol=1e-5, rtol=0)
    layer.steps = 5
    torch.testing.assert_close(layer(x), linear.bias.expand(2, 3, 9), atol=1e-5, rtol=0)


def test_filters_without_a_scale_give_a_constant():
    conv = nn.Conv2d(2, 3, 3)
    conv.weight.data[0] = 0
    norm = nn.BatchNorm2d(3)
    norm.weight.data[1] = 0
    norm.bias.data.copy_(torch.tensor([0.5, 0.7, -0.1]))
    plain = nn.Sequential(conv, norm, nn.ReLU()).eval()
    layer = ConvertedConv.of(conv, copy.deepcopy(norm), rectified=True, lam=0.0, steps=1).eval()
    x = torch.randn(1, 2, 6, 6)
    torch.testing.assert_close(layer(x), plain(x), atol=1e-5, rtol=1e-5)
    layer.steps = 6
    torch.testing.assert_close(layer(x)[:, 1], plain(x)[:, 1], atol=1e-5, rtol=1e-5)
    assert layer(x).isfinite().all()
    layer(x).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("training", [False, True])
def test_all_parts_train_and_gradients_agree(steps, training):
    conv, norm = nn.Conv2d(3, 4, 3).double(), filled(nn.BatchNorm2d(4)).double()
    layer = ConvertedConv.of(conv, norm, rectified=True, lam=0.01, steps=steps).train(training)
    other = copy.deepcopy(layer)
    other.gradient = Recompute()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    for net in (layer, other):
        nn.ReLU(inplace=True)(net(x)).square().sum().backward()
    for one, two in zip(layer.parameters(), other.parameters(), strict=True):
        assert one.grad.abs().max() > 0
        torch.testing.assert_close(one.grad, two.grad, atol=1e-8, rtol=1e-6)


def test_the_gradient_of_one_step_is_that_of_the_plain_layer():
    conv = nn.Conv2d(3, 4, 3)
    layer = ConvertedConv.of(conv, None, rectified=True, lam=0.0, steps=1)
    x = torch.randn(2, 3, 8, 8)
    y, z = x.clone().requires_grad_(), x.clone().requires_grad_()
    conv(y).relu().square().sum().backward()
    layer(z).square().sum().backward()
    torch.testing.assert_close(y.grad, z.grad, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(conv.bias.grad, layer.bias.grad, atol=1e-4, rtol=1e-4)


def test_reports_see_a_coder():
    conv = nn.Conv2d(3, 6, 3, padding=1)
    x = torch.randn(2, 3, 8, 8)
    for steps in (1, 20):
        layer = ConvertedConv.of(conv, None, rectified=True, lam=0.05, steps=steps)
        assert isinstance(layer, Coder)
        (step,) = layer.coded(x, layer(x))
        # One step has the filters of the network; more steps synthesise with what the output is the code of.
        if steps == 1:
            torch.testing.assert_close(step.weight, conv.weight, atol=1e-6, rtol=1e-5)
        else:
            torch.testing.assert_close(step.synthesis(step.code), layer.synthesize(layer(x), (8, 8)))
            assert layer.objective(x, layer(x)).sum() < layer.objective(x, 0 * layer(x)).sum()
    assert torch.equal(layer.thresholds()[""], 0.05 - conv.bias / conv.weight.flatten(1).norm(dim=1))


def test_a_state_dict_and_a_pickle_hold_the_layer():
    conv, norm = nn.Conv2d(3, 4, 3), filled(nn.BatchNorm2d(4))
    layer = ConvertedConv.of(conv, norm, rectified=True, lam=0.01, steps=3).eval()
    x = torch.randn(1, 3, 8, 8)
    fresh = ConvertedConv.of(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), rectified=True, lam=0.5, steps=3).eval()
    fresh.load_state_dict(layer.state_dict())
    assert torch.equal(fresh(x), layer(x))
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(x), layer(x))
