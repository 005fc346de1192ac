"""Filters of any norm, a step size of one's own, and learned thresholds of either sign."""

import pytest
import torch

from csc_nets import create_model
from csc_nets.functional import HardThreshold, Problem, Step, run
from csc_nets.layers import CSC1d, CSC2d, CSC3d, Dictionary2d, MultiLayerCSC, SparseCoding

PLAIN = {
    "1-D": (lambda **options: CSC1d(3, 8, 3, **options), (2, 3, 9)),
    "2-D": (lambda **options: CSC2d(3, 8, 3, padding=1, **options), (2, 3, 6, 6)),
    "3-D": (lambda **options: CSC3d(2, 6, 3, padding=1, **options), (2, 2, 5, 5, 5)),
    "vectors": (lambda **options: SparseCoding(7, 12, **options), (4, 7)),
}


@pytest.mark.parametrize("kind", PLAIN)
def test_filters_of_any_norm(kind):
    build, shape = PLAIN[kind]
    layer, x = build(unit_norm=False, steps=3, pursuit="ista"), torch.randn(shape)
    assert "dictionary.weight" in layer.state_dict()
    filters = 3 * torch.rand_like(layer.atoms)
    with torch.no_grad():
        layer.dictionary.weight.copy_(filters)
    layer.dictionary.refresh()
    layer.eval()
    assert torch.equal(layer.atoms, filters)
    eta, z = 0.9 / layer.dictionary.lipschitz, torch.zeros_like(layer(x))
    for _ in range(3):
        residual = x - layer.dictionary.synthesis(z, x.shape[2:])
        z = torch.relu(z + eta * layer.dictionary.analysis(residual) - eta * 0.1)
    torch.testing.assert_close(layer(x), z, rtol=1e-4, atol=1e-5)
    assert layer.objective(x, z).max() < x.flatten(1).square().sum(1).max()
    layer.train()(x).sum().backward()
    assert layer.dictionary.weight.grad.any()


@pytest.mark.parametrize("pursuit", ["ista", "fista", "sdnet"])
def test_a_given_step_size_is_the_one_that_is_taken(pursuit):
    layer, x = CSC2d(3, 8, 3, padding=1, steps=1, pursuit=pursuit, step_size=0.05), torch.randn(2, 3, 6, 6)
    expected = torch.relu(0.05 * layer.dictionary.analysis(x) - 0.05 * 0.1)
    torch.testing.assert_close(layer(x), expected)
    layer.step_size = 0.1
    torch.testing.assert_close(layer(x), torch.relu(0.1 * layer.dictionary.analysis(x) - 0.1 * 0.1))
    assert "step_size=0.1" in repr(layer)
    layer.step_size = None
    usual = CSC2d(3, 8, 3, padding=1, steps=1, pursuit=pursuit)
    usual.load_state_dict(layer.state_dict())
    assert torch.equal(usual.eval()(x), layer.eval()(x))


def test_a_state_dict_holds_the_step_size():
    layer, x = CSC2d(3, 8, 3, padding=1, step_size=0.05).eval(), torch.randn(2, 3, 6, 6)
    usual = CSC2d(3, 8, 3, padding=1).eval()
    kept = {key: value.clone() for key, value in usual.state_dict().items()}
    usual.load_state_dict(layer.state_dict())
    assert torch.equal(usual(x), layer(x))
    layer.load_state_dict(kept)  # of a layer that has none
    assert layer.step_size == torch.tensor(0.05)
    with pytest.raises(RuntimeError, match="given_step_size"):
        CSC2d(3, 8, 3, padding=1, pursuit="threshold").load_state_dict(usual.state_dict())


@pytest.mark.parametrize("size", [0, -0.1, float("nan"), float("inf"), True, "0.1"])
def test_bad_step_sizes_are_refused(size):
    with pytest.raises(ValueError, match=r"CSC2d: step_size must be a finite number > 0 or None, got"):
        CSC2d(3, 8, 3, step_size=size)
    layer = CSC2d(3, 8, 3)
    with pytest.raises(ValueError, match=r"CSC2d: step_size must be a finite number > 0 or None, got"):
        layer.step_size = size
    assert layer.step_size is None


@pytest.mark.parametrize("pursuit", ["threshold", "lista", "calibrated", "whitened"])
def test_pursuits_with_steps_of_their_own_take_no_step_size(pursuit):
    with pytest.raises(ValueError, match="takes no step_size"):
        CSC2d(3, 8, 3, pursuit=pursuit, step_size=0.1)
    layer = CSC2d(3, 8, 3, pursuit=pursuit)
    with pytest.raises(ValueError, match="takes no step_size"):
        layer.step_size = 0.1
    layer = CSC2d(3, 8, 3, step_size=0.1)
    with pytest.raises(ValueError, match="takes no step_size"):
        layer.pursuit = pursuit


def test_models_hand_the_step_size_on():
    model = create_model("csc_small", widths=[4, 6, 8], step_size=0.05)
    layers = [module for module in model.modules() if isinstance(module, CSC2d)]
    assert layers and all(layer.step_size == torch.tensor(0.05) for layer in layers)
    assert model.model_args["step_size"] == 0.05


def soft(v, t):
    return v.sign() * torch.relu(v.abs() - t.clamp_min(0).view(-1, 1, 1))


@pytest.mark.parametrize("pursuit", ["layered_thresholding", "layered_basis_pursuit", "ml_ista"])
def test_learned_thresholds_of_signed_codes(pursuit):
    dictionary, x = Dictionary2d(1, 6, 3), torch.randn(2, 1, 8, 8)
    layer = MultiLayerCSC([dictionary], pursuit=pursuit, prox="soft", bias=True, steps=2, step_size=0.1, lam=0.5)
    with torch.no_grad():
        layer.biases[0].copy_(torch.linspace(-0.2, 0.2, 6))  # thresholds 0.25 to -0.15
    t, z = 0.05 - layer.biases[0], None
    for _ in range(1 if pursuit == "layered_thresholding" else 3):
        start = 0 if z is None else z
        residual = x if z is None else x - dictionary.synthesis(z, x.shape[2:])
        z = soft(start + 0.1 * dictionary.analysis(residual), t)
    torch.testing.assert_close(layer(x), z)
    assert (layer(x) < 0).any() and (t < 0).any()
    layer(x).square().sum().backward()
    gradient = layer.biases[0].grad
    assert gradient[t > 0].all() and not gradient[t < 0].any()
    with pytest.raises(ValueError, match="bias=True needs prox='nonneg' or 'soft', got 'hard'"):
        MultiLayerCSC([dictionary], pursuit="layered_thresholding", prox="hard", bias=True)


def test_a_negative_threshold_of_a_step_counts_as_none_but_for_the_relu():
    x, dictionary = torch.randn(2, 1, 8, 8), Dictionary2d(1, 6, 3).eval()
    with torch.no_grad():
        v = 0.1 * dictionary.analysis(x)
        for shift in (-1.0, torch.full((6,), -1.0)):
            row = [Step(0.1, shift=shift)]
            assert torch.equal(run(Problem(x, dictionary, 0.5, penalty=HardThreshold()), row), v)
            torch.testing.assert_close(run(Problem(x, dictionary, 0.5, nonneg=False), row), v)
            torch.testing.assert_close(run(Problem(x, dictionary, 0.5, nonneg=True), row), torch.relu(v + 0.95))
