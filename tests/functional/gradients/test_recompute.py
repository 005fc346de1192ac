"""The gradient from kept codes against automatic differentiation, for every dictionary, prox and kind of weight."""

import copy

import pytest
import torch

from csc_nets.layers import CSC1d, CSC2d, CSC3d, SparseCoding

LAYERS = {
    "1d stride": (CSC1d, (3, 8, 5), {"padding": 2, "stride": 2}, (2, 3, 17)),
    "2d": (CSC2d, (3, 10, 3), {"padding": 1}, (2, 3, 7, 6)),
    "2d even, stride": (CSC2d, (2, 10, 4), {"padding": 1, "stride": 2}, (2, 2, 9, 8)),
    "2d even, same": (CSC2d, (2, 10, 4), {"padding": "same"}, (2, 2, 7, 6)),
    "2d reflect": (CSC2d, (2, 10, 3), {"padding": "same", "padding_mode": "reflect"}, (2, 2, 6, 7)),
    "2d circular, dilation, strides": (
        CSC2d,
        (2, 10, 3),
        {"padding": 2, "dilation": 2, "stride": (2, 1), "padding_mode": "circular"},
        (2, 2, 9, 8),
    ),
    "2d, atoms as large as the signal": (CSC2d, (2, 10, (6, 5)), {}, (2, 2, 6, 5)),
    "3d circular": (CSC3d, (2, 6, 3), {"padding": 1, "padding_mode": "circular"}, (2, 2, 5, 6, 4)),
    "matrix": (SparseCoding, (7, 12), {}, (6, 7)),
}


@pytest.fixture(params=LAYERS)
def case(request):
    """A function that builds a layer in double precision with given options, and an input."""
    cls, args, kwargs, shape = LAYERS[request.param]
    build = lambda **options: cls(*args, **{"gradient": "recompute", **kwargs, **options}).double().eval()  # noqa: E731
    return build, torch.randn(shape, dtype=torch.float64, requires_grad=True)


def gradients(layer, backward, x, inputs, create_graph=False, **options):
    layer.gradient = backward
    z = layer(x, **options)
    weights = torch.linspace(-1, 2, z.numel(), dtype=z.dtype).view_as(z)
    return z, *torch.autograd.grad(z, inputs, weights, create_graph=create_graph)


@pytest.mark.parametrize("nonneg", [True, False])
@pytest.mark.parametrize("pursuit", ["fista", "ista"])
def test_equals_automatic_differentiation(case, pursuit, nonneg):
    build, x = case
    options = zip((0.0, 0.3, 0.0, 0.3), (False, True, True, False), (False, True, False, True), range(4), strict=True)
    for ridge, masked, warm, kind in options:
        layer = build(steps=11, pursuit=pursuit, nonneg=nonneg, ridge=ridge, learn_lam=kind == 0)
        lam = [None, torch.tensor(0.2), torch.rand(len(layer.atoms)), torch.rand(len(x), *(1,) * (x.ndim - 1))][kind]
        lam = lam if lam is None else lam.double().requires_grad_()
        init = torch.rand_like(layer(x).detach()).requires_grad_() if warm else None
        mask = torch.rand_like(x) > 0.3 if masked else None
        inputs = [t for t in (x, lam, init, *layer.parameters()) if t is not None]
        results = [gradients(layer, b, x, inputs, lam=lam, init=init, mask=mask) for b in ("unroll", "recompute")]
        for expected, found in zip(*results, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def test_gradcheck(case):
    build, x = case
    torch.manual_seed(1)  # a code may have a kink between two evaluations
    layer = build(steps=9, lam=0.05, nonneg=False, learn_lam=True, ridge=0.1)
    init = torch.rand_like(layer(x).detach()).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, init, *parameters: layer(x, init=init), (x, init, *layer.parameters()), fast_mode=True
    )


def test_only_what_is_asked_for(case):
    build, x = case
    layer = build(steps=9, learn_lam=True)
    init = torch.rand_like(layer(x).detach()).requires_grad_()
    atoms, lam = layer.dictionary.parametrizations.weight.original, layer.parametrizations.lam.original
    for wanted in (x, atoms, lam, init):
        for t in (x, atoms, lam, init):
            t.requires_grad_(t is wanted)
        for warm in (init, None) if wanted is not init else (init,):
            expected, found = (gradients(layer, b, x, [wanted], init=warm)[1] for b in ("unroll", "recompute"))
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("nonneg", [True, False])
def test_second_derivatives(case, nonneg):
    build, x = case
    layer, found = build(steps=4, nonneg=nonneg), []
    for backward in ("unroll", "recompute"):
        (first,) = gradients(layer, backward, x, [x], create_graph=True)[1:]
        # With the signed threshold the gradient does not depend on x: the code is piecewise linear.
        wanted = [x, *layer.parameters()]
        found.append(torch.autograd.grad(first.square().sum(), wanted, materialize_grads=True))
    for expected, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("warm", [True, False])
def test_several_weights_for_one_signal(case, warm):
    """And one warm start for all of them."""
    build, x = case
    layer, x = build(steps=5), x.detach()[:1].requires_grad_()
    lam = torch.linspace(0.05, 0.5, 3, dtype=x.dtype).view(-1, *(1,) * (x.ndim - 1)).requires_grad_()
    if x.ndim == 2:  # a matrix takes a weight a row
        x = x.detach().expand(3, -1).clone().requires_grad_()
    init = torch.rand_like(layer(x).detach()).requires_grad_() if warm else None
    mask = torch.rand_like(x) > 0.3
    inputs = [t for t in (x, lam, init, *layer.parameters()) if t is not None]
    results = [gradients(layer, b, x, inputs, lam=lam, init=init, mask=mask) for b in ("unroll", "recompute")]
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("channels", "share"), [(3, 0.3), (64, 0.44)])
def test_keeps_less_than_half_of_what_unrolling_keeps(channels, share):
    layer, x = CSC2d(channels, 64, 3, padding=1, steps=64), torch.randn(1, channels, 16, 16, requires_grad=True)
    held = []
    for layer.gradient in ("unroll", "recompute"):
        storages = {}

        def pack(t, storages=storages):
            storages[t.untyped_storage().data_ptr()] = (t, t.untyped_storage().nbytes())
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            layer(x)
        held.append(sum(size for _, size in storages.values()))
    assert held[1] < share * held[0], held


def test_autocast_keeps_half_precision_and_full_gradients(case):
    build, x = case
    layer, x = build(steps=10, lam=0.05).float(), x.detach().float().requires_grad_()
    parameters = [x, *layer.parameters()]
    full = gradients(layer, "unroll", x, parameters)
    with torch.autocast("cpu", torch.bfloat16):
        z, *found = gradients(layer, "recompute", x, parameters)
        _, *unrolled = gradients(layer, "unroll", x, parameters)
    assert z.dtype == torch.bfloat16
    for exact, mixed, automatic in zip(full[1:], found, unrolled, strict=True):
        assert mixed.dtype == torch.float32
        error, allowed = (mixed - exact).norm(), (automatic - exact).norm()
        assert error < 1.25 * allowed + 0.01 * exact.norm()


def test_half_precision_weights():
    layer, x = CSC2d(3, 8, 3, padding=1, steps=10, gradient="recompute").bfloat16(), torch.randn(2, 3, 6, 6).bfloat16()
    layer(x).sum().backward()
    assert all(p.grad.dtype == torch.bfloat16 and p.grad.isfinite().all() for p in layer.parameters())


def test_channels_last_and_fused_steps():
    layer = CSC2d(3, 16, 3, padding=1, steps=20, lam=0.05).to(memory_format=torch.channels_last).eval()
    x = torch.randn(2, 3, 9, 8).to(memory_format=torch.channels_last).requires_grad_()
    inputs = [x, *layer.parameters()]
    expected, found = (gradients(layer, backward, x, inputs) for backward in ("unroll", "recompute"))
    assert found[0].is_contiguous(memory_format=torch.channels_last)
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-3)


def test_what_a_user_does_with_a_layer():
    layer, x = CSC2d(2, 6, 3, padding=1, steps=10, gradient="recompute").eval(), torch.randn(2, 2, 6, 5)
    expected = layer(x).detach()
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected)
    twin = copy.deepcopy(layer)
    assert torch.equal(twin(x), expected)
    torch.testing.assert_close(torch.func.vmap(lambda one: layer(one[None])[0])(x), expected)
    one = lambda x: layer(x).square().sum()  # noqa: E731
    leaf = x.clone().requires_grad_()
    one(leaf).backward()
    torch.testing.assert_close(torch.func.grad(one)(x), leaf.grad)
    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), expected)
    assert layer(x[:0]).shape == (0, 6, 6, 5)


def test_spoiling_the_code_is_noticed():
    layer, x = CSC2d(2, 6, 3, steps=10, gradient="recompute"), torch.randn(1, 2, 6, 5)
    z = layer(x)
    z.detach().add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.sum().backward()


def test_refused():
    with pytest.raises(ValueError, match=r"gradient must be one of .*recompute.*, got 'adjoint'"):
        CSC2d(3, 8, 3, gradient="adjoint")
    with pytest.raises(
        ValueError, match=r"gradient='recompute' takes a fixed number of steps, got FISTA\(2, tol=0\.1\)"
    ):
        CSC2d(3, 8, 3, gradient="recompute", tol=0.1)
    layer = CSC2d(3, 8, 3, gradient="recompute")
    with pytest.raises(
        ValueError, match=r"gradient='recompute' takes a fixed number of steps, got FISTA\(2, tol=0\.1\)"
    ):
        layer.tol = 0.1
    assert layer.tol is None
