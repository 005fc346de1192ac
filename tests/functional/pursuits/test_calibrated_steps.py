"""The calibrated pursuits of the layers: the functional steps, coefficients that follow training, limits."""

import copy
import math

import pytest
import torch

import csc_nets.functional as functional
from csc_nets.functional.problem import SAFETY
from csc_nets.functional.pursuits.calibration import calibrated
from csc_nets.layers import CSC1d, CSC2d, CSC3d, SparseCoding

LAYERS = {
    "CSC1d": (CSC1d, (3, 8, 5), {"padding": 2, "stride": 2}, (16, 3, 17)),
    "CSC2d": (CSC2d, (3, 12, 3), {"padding": 1}, (4, 3, 12, 11)),
    "CSC2d whitened": (CSC2d, (3, 12, 3), {"padding": 1, "pursuit": "whitened"}, (4, 3, 12, 11)),
    "CSC3d circular": (
        CSC3d,
        (2, 6, 3),
        {"padding": 1, "padding_mode": "circular", "pursuit": "whitened"},
        (2, 2, 5, 6, 4),
    ),
    "SparseCoding": (SparseCoding, (7, 12), {}, (200, 7)),
}


@pytest.fixture(params=LAYERS)
def case(request):
    """A function that builds the layer with given options, and an input."""
    cls, args, kwargs, shape = LAYERS[request.param]
    return (lambda **options: cls(*args, **{"pursuit": "calibrated", "lam": 0.2, **kwargs, **options})), torch.randn(
        shape
    )


def reference(layer, x, lam=0.2, **options):
    """The functional pursuit with the layer's coefficients."""
    coefficients = layer.pursuit.coefficients.clone()
    coefficients[:, 0] *= SAFETY / (layer.dictionary.bound(x.shape[2:]) + layer.ridge)
    metric = layer.pursuit.metric(layer.problem(x)) if layer.pursuit.whitens else None
    return calibrated(x, layer.dictionary, lam, coefficients, metric=metric, nonneg=layer.nonneg, **options)


@pytest.mark.parametrize("nonneg", [True, False])
@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_layer_runs_the_calibrated_steps(case, nonneg, ridge):
    build, x = case
    layer = build(steps=3, nonneg=nonneg, ridge=ridge)
    for _ in range(5):
        layer(x)
    layer.eval()
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            kept = x.clone()
            torch.testing.assert_close(layer(x), reference(layer, x, ridge=ridge), rtol=1e-4, atol=1e-5)
            assert torch.equal(x, kept)
    mask = torch.rand(len(x), *(1,) * (x.ndim - 2), x.shape[-1]) > 0.3
    z = layer(x.masked_fill(~mask, math.nan), mask=mask)
    torch.testing.assert_close(z, reference(layer, x, ridge=ridge, mask=mask), rtol=1e-4, atol=1e-5)
    lam = torch.rand(len(x), *(1,) * (x.ndim - 1))
    torch.testing.assert_close(layer(x, lam=lam), reference(layer, x, lam, ridge=ridge), rtol=1e-4, atol=1e-5)


def test_before_any_training_it_is_ista(case):
    build, x = case
    layer = build(steps=3).eval()
    if not layer.pursuit.whitens:
        expected = functional.ista(x, layer.dictionary, 0.2, steps=3, nonneg=True)
        torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)
    else:
        ista = functional.ista(x, layer.dictionary, 0.2, steps=3, nonneg=True)
        assert (layer.objective(x, layer(x)).sum() < layer.objective(x, ista).sum()).item()


def test_training_brings_the_objective_below_that_of_fista(case):
    build, x = case
    layer, steps = build(steps=2), 4
    fista = functional.fista(x, layer.dictionary, 0.2, steps=steps, nonneg=True)
    for _ in range(40):
        layer(x)
    layer.eval()
    assert (layer.objective(x, layer(x)).sum() < layer.objective(x, fista).sum()).item()


def test_calibrate_is_the_functional_one_and_eval_changes_nothing(case):
    build, x = case
    layer = build(steps=2).eval()
    layer.calibrate(x, updates=10)
    kept = layer.pursuit.coefficients.clone()
    layer(x)
    assert torch.equal(layer.pursuit.coefficients, kept)
    metric = layer.pursuit.metric(layer.problem(x)) if layer.pursuit.whitens else None
    options = {"nonneg": True, "metric": metric, "updates": 10}
    expected = functional.calibrate(x, layer.dictionary, 0.2, 2, **options).detach()
    kept[:, 0] *= SAFETY / layer.dictionary.bound(x.shape[2:])
    torch.testing.assert_close(kept, expected, rtol=1e-4, atol=1e-6)


def test_steps_beyond_the_calibrated_ones_go_on_to_the_optimum(case):
    build, x = case
    layer = build(steps=2)
    for _ in range(20):
        layer(x)
    layer.eval()
    layer.steps = 3000
    with torch.no_grad():
        gap = layer.problem(x).duality_gap(layer(x))
    assert (gap <= 1e-3 * x.square().flatten(1).sum(1) / 2).all()


def test_lam_takes_effect_at_once_and_learns(case):
    build, x = case
    layer = build(steps=2, learn_lam=True)
    for _ in range(10):
        layer(x)
    layer.eval()
    first = layer(x)
    first.sum().backward()
    assert layer.parametrizations.lam.original.grad.item() != 0
    assert layer.dictionary.parametrizations.weight.original.grad.norm() > 0
    layer.lam = 1.0
    assert (layer(x) > 0).float().mean() < (first > 0).float().mean()


def test_coefficients_are_in_the_checkpoint(case):
    build, x = case
    layer, other = build(steps=2), build(steps=2).eval()
    for _ in range(3):
        layer(x)
    layer.eval()
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), layer(x)) and torch.equal(copy.deepcopy(layer)(x), layer(x))


def test_gradient_is_that_of_the_steps():
    """Coefficients count as constants, whitening does not."""
    for pursuit in ("calibrated", "whitened"):
        layer = CSC2d(2, 5, 3, padding=1, lam=0.1, steps=3, pursuit=pursuit, dtype=torch.float64).double()
        x = torch.randn(2, 2, 6, 5, dtype=torch.float64, requires_grad=True)
        for _ in range(5):
            layer(x)
        layer.eval()
        assert torch.autograd.gradcheck(layer, (x,))
        parameters = dict(layer.named_parameters())
        weight = parameters["dictionary.parametrizations.weight.original"]

        def code(w, layer=layer, x=x):
            name = "dictionary.parametrizations.weight.original"
            return torch.func.functional_call(layer, {name: w}, (x.detach(),))

        assert torch.autograd.gradcheck(code, (weight,))


@pytest.mark.parametrize("pursuit", ["calibrated", "whitened"])
def test_in_the_hands_of_a_pytorch_user(pursuit):
    layer = CSC2d(3, 12, 3, padding=1, steps=2, pursuit=pursuit)
    x = torch.randn(4, 3, 16, 16)
    for _ in range(5):
        layer(x)
    kept = layer.pursuit.coefficients.clone()
    each = torch.func.vmap(lambda image: layer(image[None])[0])(x)  # in training, where no coefficient can follow
    assert torch.equal(layer.pursuit.coefficients, kept)
    layer.eval()
    torch.testing.assert_close(each, layer(x), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        plain, last = layer(x), layer(x.to(memory_format=torch.channels_last))
        torch.testing.assert_close(last, plain, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="eager")(x), plain)
        exported = torch.export.export(layer, (x,)).module()
        torch.testing.assert_close(exported(x), plain, rtol=1e-4, atol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            half = layer(x)
        assert half.dtype == torch.bfloat16 and (half - plain).norm() < 0.02 * plain.norm()
    layer.train()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    compiled(x).sum().backward()
    assert not torch.equal(layer.pursuit.coefficients, kept)
    with torch.autocast("cpu", torch.bfloat16):
        layer(x).sum().backward()
    assert bool(layer.pursuit.coefficients.isfinite().all())
    layer(x, init=layer(x).detach())


@pytest.mark.parametrize("pursuit", ["calibrated", "whitened"])
def test_two_forward_passes_before_one_backward(pursuit):
    """As in the closed loop of an image and its reconstruction: the second moves the buffers that the first read."""
    layer, x = CSC2d(3, 12, 3, padding=1, pursuit=pursuit, lam=0.2), torch.randn(2, 3, 8, 8)
    for _ in range(3):
        layer(x)
    once, y = copy.deepcopy(layer), torch.randn(2, 3, 8, 8)
    once(x).square().sum().backward()
    first = layer(x)
    layer(y)
    first.square().sum().backward()
    for one, other in zip(once.parameters(), layer.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_layer_in_half_precision(case, dtype):
    build, x = case
    layer = build(steps=2).to(dtype)
    x = x.to(dtype)
    start = layer.objective(x, layer.eval()(x)).sum()
    layer.train()
    for _ in range(20):
        layer(x)
    layer(x).sum().backward()
    z = layer.eval()(x)
    assert z.dtype == dtype and bool(layer.pursuit.coefficients.isfinite().all())
    assert layer.objective(x, z).sum() < start


def test_an_empty_batch_teaches_nothing(case):
    build, x = case
    layer = build(steps=2)
    for _ in range(5):
        layer(x)
    kept = layer.pursuit.coefficients.clone()
    assert len(layer(x[:0])) == 0
    assert torch.equal(layer.pursuit.coefficients, kept)


def test_ista_is_safe_with_a_ridge_above_the_bound(case):
    build, x = case
    layer = build(steps=40, nonneg=False, ridge=100.0, lam=0.01).eval()
    best = functional.solve(x, layer.dictionary, 0.01, ridge=100.0)
    assert layer.objective(x, layer(x)).sum() < 1.01 * layer.objective(x, best).sum()


def test_one_warm_start_for_all_samples_is_left_as_it_is():
    layer = CSC2d(3, 12, 3, padding=1, steps=3, pursuit="calibrated").to(memory_format=torch.channels_last).eval()
    x, init = torch.randn(4, 3, 8, 8).to(memory_format=torch.channels_last), torch.rand(1, 12, 8, 8)
    kept = init.clone()
    with torch.no_grad():
        torch.testing.assert_close(layer(x, init=init), layer(x, init=init.expand(4, -1, -1, -1).contiguous()))
    assert torch.equal(init, kept)


def test_bad_settings_are_refused():
    for options, message in (
        ({"steps": None, "tol": 1e-3}, "'calibrated' is a fixed number of steps: it takes no tol"),
        ({"tol": 1e-3}, "'calibrated' is a fixed number of steps: it takes no tol"),
        ({"gradient": "recompute"}, r"Calibrated\(2\) does more than that with its codes"),
        ({"gradient": "implicit"}, r"steps of Calibrated\(2\) do not end at one"),
        ({"penalty": "group_l1"}, r"Calibrated\(2\) is derived for the l1 norms"),
    ):
        with pytest.raises(ValueError, match=message):
            CSC2d(3, 8, 3, pursuit="calibrated", **options)
    for args in ((9, 8, 3), (3, 8, 3, 2), (3, 8, 3, 1, 0, 2)):
        with pytest.raises(ValueError, match="stride 1, dilation 1 and at most 8 channels, got Dictionary2d"):
            CSC2d(*args, pursuit="whitened")
    with pytest.raises(ValueError, match="pursuit='whitened' takes convolutions"):
        SparseCoding(7, 8, pursuit="whitened")
    with pytest.raises(ValueError, match=r"FISTA\(2\) has nothing to calibrate"):
        CSC2d(3, 8, 3).calibrate(torch.randn(2, 3, 8, 8))
    with pytest.raises(ValueError, match=r"signal of size \(3, 3\) is too small: axis 0 must be at least 4"):
        CSC2d(3, 8, 5, padding=2, padding_mode="circular", pursuit="whitened")(torch.randn(2, 3, 3, 3))


@pytest.mark.parametrize("loud", [1e4, 1e18])
def test_one_loud_batch_does_little(case, loud):
    build, x = case
    layer = build(steps=1)
    for _ in range(60):
        layer(x)

    def value():
        with torch.no_grad():
            return float(layer.objective(x, layer.eval()(x)).sum())

    before = value()
    layer.train()(loud * x)
    assert bool(layer.pursuit.coefficients.isfinite().all())
    after = value()
    for _ in range(10):
        layer.train()(x)
    assert after < 1.2 * before and value() < 1.05 * before


def test_more_and_fewer_steps_than_were_calibrated(case):
    build, x = case
    layer = build(steps=2)
    for steps in (2, 1, 4):
        layer.steps = steps
        for _ in range(10):
            layer.train()(x).sum().backward()
        torch.testing.assert_close(layer.eval()(x)[:1], layer(x[:1]), rtol=1e-4, atol=1e-5)
    assert layer.pursuit.coefficients.shape[0] == 2 and bool((layer.pursuit.coefficients[:, 1] != 0).any())


def test_a_layer_of_more_steps_than_were_calibrated_is_loaded():
    torch.manual_seed(0)
    layer, x = CSC2d(3, 8, 3, lam=0.1, pursuit="calibrated", steps=2), torch.randn(2, 3, 9, 9)
    layer.calibrate(x)
    layer.steps = 4
    other = CSC2d(3, 8, 3, lam=0.1, pursuit="calibrated", steps=4)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.eval()(x), layer.eval()(x))
    with pytest.raises(RuntimeError, match="size mismatch"):
        CSC2d(3, 6, 3, lam=0.1, pursuit="calibrated", steps=2).load_state_dict(layer.state_dict())
