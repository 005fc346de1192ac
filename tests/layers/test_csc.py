"""Every sparse coding layer through the same checks: limits in closed form, and what a PyTorch user does."""

import copy
import io
import itertools

import pytest
import torch

import csc_nets.functional as functional
from csc_nets.functional import Unroll
from csc_nets.layers import CSC1d, CSC2d, CSC3d, SparseCoding

LAYERS = {
    "CSC1d": (CSC1d, (3, 8, 5), {"padding": 2, "stride": 2}, (2, 3, 17)),
    "CSC2d": (CSC2d, (3, 10, 3), {"padding": 1}, (2, 3, 9, 8)),
    "CSC2d even": (CSC2d, (2, 10, 4), {"padding": 1, "stride": 2}, (2, 2, 9, 8)),
    "CSC2d same": (CSC2d, (2, 10, 4), {"padding": "same"}, (2, 2, 9, 8)),
    "CSC2d reflect": (CSC2d, (2, 10, 3), {"padding": "same", "padding_mode": "reflect"}, (2, 2, 9, 8)),
    "CSC3d": (CSC3d, (2, 6, 3), {"padding": 1, "padding_mode": "circular"}, (2, 2, 5, 6, 4)),
    "SparseCoding": (SparseCoding, (7, 12), {}, (6, 7)),
}


@pytest.fixture(params=LAYERS)
def case(request):
    """A function that builds the layer with given options, and an input."""
    cls, args, kwargs, shape = LAYERS[request.param]
    return (lambda **options: cls(*args, **{**kwargs, **options})), torch.randn(shape)


def solved(layer, x, lam, **options):
    """The same problem by the functional pursuit, which shares neither the folded filters nor the bias."""
    return functional.fista(x, layer.dictionary, lam, steps=layer.steps, nonneg=layer.nonneg, **options)


@pytest.mark.parametrize("nonneg", [True, False])
@pytest.mark.parametrize("grad", [True, False])
def test_layer_runs_the_pursuit(case, nonneg, grad):
    build, x = case
    layer = build(lam=0.2, steps=5, nonneg=nonneg).eval()
    kept = x.clone()
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(layer(x), solved(layer, x, 0.2), rtol=1e-4, atol=1e-5)
    assert torch.equal(x, kept)


@pytest.mark.parametrize("kind", ["number", "atoms", "samples"])
def test_tolerance_with_every_kind_of_weight(case, kind):
    build, x = case
    layer = build(steps=3000, tol=1e-3).eval()
    lam = {
        "number": 0.3,
        "atoms": torch.rand(layer.atoms.shape[0]) + 0.1,
        "samples": torch.rand(len(x), *(1,) * (x.ndim - 1)) + 0.1,
    }[kind]
    z = layer(x, lam=lam)
    energy = x.square().flatten(1).sum(1) / 2
    assert (layer.problem(x, lam).duality_gap(z) <= 1.1e-3 * energy).all()
    if kind == "atoms":
        layer.lam = lam
        assert torch.equal(layer(x), z)


def test_missing_samples_may_hold_anything(case):
    build, x = case
    layer = build(steps=4).eval()
    mask = (torch.rand_like(x) > 0.3).float()
    spoiled = torch.where(mask == 0, torch.nan, x)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            z = layer(spoiled, mask=mask)
            torch.testing.assert_close(z, layer(x, mask=mask))
            torch.testing.assert_close(z, solved(layer, spoiled, 0.1, mask=mask), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer(x, mask=3 * mask), layer(x, mask=mask))  # not zero means observed


def test_users_tensors_are_copied():
    lam, atoms = torch.tensor(0.2), torch.randn(8, 3, 3, 3)
    kept = atoms.clone()
    layer, other = CSC2d(3, 8, 3, lam=lam), CSC2d(3, 8, 3, lam=lam)
    layer.dictionary.weight = atoms
    layer.lam.fill_(9.0)
    with torch.no_grad():
        layer.dictionary.get_parameter("parametrizations.weight.original").zero_()
    assert torch.equal(atoms, kept) and lam == 0.2 and other.lam.item() == pytest.approx(0.2)


def test_a_number_for_a_layer_with_a_weight_per_atom_is_for_every_atom():
    layer = CSC2d(3, 8, 3, lam=torch.rand(8))
    layer.lam = 0.4
    assert torch.equal(layer.lam, torch.full((8,), 0.4))


def test_transforms_of_torch_func_and_forward_mode():
    layer = CSC2d(3, 8, 3, padding=1, steps=4).eval()
    x = torch.randn(2, 3, 6, 6).to(memory_format=torch.channels_last)
    tangent = torch.randn_like(x)
    step = 1e-3
    numeric = (layer.double()(x.double() + step * tangent) - layer(x.double() - step * tangent)) / (2 * step)
    layer.float()
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            _, forward = torch.func.jvp(layer, (x,), (tangent,))
            torch.testing.assert_close(forward, numeric.float(), rtol=1e-2, atol=1e-2)
            each = torch.func.vmap(lambda one: layer(one[None])[0])(x)
            torch.testing.assert_close(each, layer(x), rtol=1e-4, atol=1e-5)
            weights = torch.tensor([0.05, 0.2])
            many = torch.func.vmap(lambda lam: layer(x, lam=lam))(weights)
            torch.testing.assert_close(many[1], layer(x, lam=0.2), rtol=1e-4, atol=1e-5)


def test_a_pursuit_to_tolerance_compiles_too():
    torch.compiler.reset()
    layer, x = CSC2d(1, 6, 3, padding=1, steps=12, tol=1e-2).eval(), torch.randn(2, 1, 6, 6)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for gradient in (True, False):
        with torch.set_grad_enabled(gradient):
            torch.testing.assert_close(compiled(x), layer(x), rtol=1e-4, atol=1e-5)


def test_settings_that_are_assigned_reach_a_compiled_layer():
    torch.compiler.reset()
    layer, x = CSC2d(1, 6, 3, padding=1, steps=2).eval(), torch.randn(2, 1, 6, 6)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    seen = [compiled(x)]
    for name, value in (("steps", 6), ("pursuit", "ista"), ("tol", 10.0), ("tol", None), ("pursuit", "threshold")):
        setattr(layer, name, value)
        seen.append(compiled(x))
        torch.testing.assert_close(seen[-1], layer(x), rtol=1e-4, atol=1e-5)
        assert not torch.equal(seen[-1], seen[-2])


def test_ridge_mask_and_warm_start(case):
    build, x = case
    layer = build(lam=0.1, steps=4, ridge=0.3).eval()
    mask, init = (torch.rand_like(x) > 0.3).float(), layer(x).detach() + 0.1
    kept = init.clone()
    with torch.no_grad():
        ours = layer(x, mask=mask, init=init)
    assert torch.equal(init, kept)
    torch.testing.assert_close(ours, solved(layer, x, 0.1, ridge=0.3, mask=mask, init=init), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("nonneg", [True, False])
def test_weights_per_atom_and_per_sample(case, nonneg):
    build, x = case
    layer = build(steps=3, nonneg=nonneg).eval()
    atoms, samples = layer.atoms.shape[0], len(x)
    for lam in (torch.rand(atoms), torch.rand(samples, *(1,) * (x.ndim - 1)), 0.0, torch.tensor(0.3)):
        torch.testing.assert_close(layer(x, lam=lam), solved(layer, x, lam), rtol=1e-4, atol=1e-5)
        if not isinstance(lam, torch.Tensor) or lam.ndim < 2:
            layer.lam = lam  # takes effect at once
            torch.testing.assert_close(layer(x), layer(x, lam=lam))


def test_weight_per_sample_when_there_are_as_many_samples_as_atoms():
    layer, x = CSC2d(1, 4, 3, steps=3).eval(), torch.randn(4, 1, 6, 6)
    lam = torch.rand(4, 1, 1, 1)
    for i in range(4):
        torch.testing.assert_close(layer(x, lam=lam)[i : i + 1], layer(x[i : i + 1], lam=lam[i].item()))


def test_limits(case):
    build, x = case
    layer = build(steps=1, lam=0.3).eval()
    eta = 0.9 / layer.dictionary.lipschitz
    one_step = torch.relu(eta * layer.dictionary.analysis(x) - eta * 0.3)
    torch.testing.assert_close(layer(x), one_step, rtol=1e-4, atol=1e-6)
    convolution = build(pursuit="threshold", lam=0.3).eval()
    torch.testing.assert_close(convolution(x), torch.relu(convolution.dictionary.analysis(x) - 0.3))
    # At lam_max the code is zero; two steps of FISTA and of ISTA agree, three do not.
    layer = build(steps=20).eval()
    assert not layer(x, lam=layer.lam_max(x)).any()
    ista = build(steps=3, pursuit="ista").eval()
    ista.load_state_dict(layer.state_dict())
    for steps, same in ((2, True), (3, False)):
        layer.steps = ista.steps = steps
        assert torch.allclose(layer(x), ista(x), atol=1e-6) == same


def test_many_steps_reach_the_optimum(case):
    build, x = case
    layer = build(lam=0.2, steps=3000, tol=1e-5).eval()
    with torch.no_grad():
        z = layer(x)
    problem = layer.problem(x)
    assert (problem.duality_gap(z) <= 1.1e-5 * x.square().flatten(1).sum(1) / 2).all()
    layer, x = layer.double().requires_grad_(False), x.double()
    best = layer.objective(x, functional.solve(x, layer.dictionary, 0.2, tol=1e-9, nonneg=True))
    assert (layer.objective(x, z.double()) - best <= 1.2e-5 * x.square().flatten(1).sum(1) / 2).all()


def test_objective_descends_over_steps(case):
    build, x = case
    layer = build(lam=0.1, pursuit="ista").eval()
    values = []
    for steps in (1, 2, 4, 8, 16):
        layer.steps = steps
        values.append(layer.objective(x, layer(x)))
    assert all((b <= a + 1e-5).all() for a, b in itertools.pairwise(values))


def test_gradients_in_double_precision(case):
    build, x = case
    layer = build(steps=3, lam=0.05, nonneg=False).double().eval()
    x = x.double()[:2].requires_grad_()
    weight = layer.dictionary.get_parameter("parametrizations.weight.original")
    assert torch.autograd.gradcheck(lambda x, w: layer(x), (x, weight), nondet_tol=0, fast_mode=True)


def test_learned_weight_is_positive_and_trained(case):
    build, x = case
    layer = build(lam=0.2, learn_lam=True, steps=2)
    torch.testing.assert_close(layer.lam, torch.tensor(0.2))
    layer(x).sum().backward()
    gradient = layer.get_parameter("parametrizations.lam.original").grad
    assert gradient < 0  # a larger weight gives a smaller code
    layer.lam = torch.tensor(0.7)
    torch.testing.assert_close(layer.lam, torch.tensor(0.7))
    layer.lam = 0.4
    torch.testing.assert_close(layer.lam, torch.tensor(0.4))
    for bad in (0.0, -1.0, torch.tensor(-1.0)):
        with pytest.raises(ValueError, match="lam"):
            layer.lam = bad
    with pytest.raises(ValueError, match="must start above 0"):
        build(lam=0.0, learn_lam=True)


def test_training_follows_the_spectral_norm_and_evaluation_leaves_everything_alone(case):
    build, x = case
    layer = build()
    weight = layer.dictionary.get_parameter("parametrizations.weight.original")
    with torch.no_grad():
        weight += 0.05 * torch.randn_like(weight) + 0.3 * weight.mean()
    for _ in range(60):
        layer.train()(x)
    tracked = layer.dictionary.lipschitz.clone()
    layer.dictionary.refresh()
    torch.testing.assert_close(tracked, layer.dictionary.lipschitz, rtol=0.02, atol=0)
    state = copy.deepcopy(layer.state_dict())
    layer.eval()(x)
    assert all(torch.equal(state[k], v) for k, v in layer.state_dict().items())


def test_state_dict_and_deepcopy_hold_everything(case):
    build, x = case
    layer = build(lam=0.3, steps=3)
    for _ in range(3):
        layer(x)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = build(steps=3)
    other.load_state_dict(torch.load(file, weights_only=True))
    for twin in (other, copy.deepcopy(layer)):
        assert torch.equal(twin.eval()(x), layer.eval()(x))
    for name, tensor in vars(layer).items():
        assert not isinstance(tensor, torch.Tensor), name


def test_compile_without_graph_breaks(case):
    torch.compiler.reset()  # every case is a recompilation of the same code
    build, x = case
    layer = build(steps=3)
    reference = copy.deepcopy(layer)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for mode in (True, False):
        layer.train(mode), reference.train(mode)
        torch.testing.assert_close(compiled(x), reference(x), rtol=1e-4, atol=1e-5)
    layer.train(), reference.train()
    compiled(x).sum().backward(), reference(x).sum().backward()
    for a, b in zip(layer.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(layer.dictionary.lipschitz, reference.dictionary.lipschitz)


def test_export(case):
    build, x = case
    layer = build(steps=3).eval()
    torch.testing.assert_close(torch.export.export(layer, (x,)).module()(x), layer(x))


def test_autocast_and_half_precision(case):
    build, x = case
    layer = build(steps=4, lam=0.05).eval()
    full = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = layer(x)
    assert mixed.dtype == torch.bfloat16
    assert (mixed.float() - full).norm() < 0.03 * full.norm()
    with torch.autocast("cpu", torch.bfloat16):
        layer.train()(x).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters())
    half = copy.deepcopy(layer).eval().bfloat16()
    assert (half(x.bfloat16()).float() - full).norm() < 0.05 * full.norm()


def test_double_backward(case):
    build, x = case
    layer = build(steps=3).eval()
    x = x.requires_grad_()
    (gradient,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    gradient.square().sum().backward()
    assert torch.isfinite(x.grad).all() and x.grad.any()


def test_repr_shows_the_defining_numbers():
    assert repr(CSC2d(3, 8, 3, 2, 1, lam=0.2, steps=4)) == (
        "CSC2d(3, 8, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), lam=0.2, pursuit=FISTA(4))"
    )
    assert repr(SparseCoding(7, 12, learn_lam=True)) == "SparseCoding(7, 12, lam=0.1, pursuit=FISTA(2))"


def test_repr_of_a_layer_with_a_tolerance_or_another_gradient():
    assert repr(CSC2d(3, 8, 3, steps=None, tol=1e-3)).endswith("pursuit=ToTolerance(tol=0.001))")
    assert repr(CSC2d(3, 8, 3, gradient="recompute")).endswith("pursuit=FISTA(2), gradient=Recompute())")
    assert repr(CSC2d(3, 8, 3, tol=1e-2, gradient="implicit")).endswith(
        "FISTA(2, tol=0.01), gradient=Implicit(steps=200))"
    )


@pytest.mark.parametrize(
    ("options", "change", "message"),
    [
        ({}, ("pursuit", "lars"), "pursuit must be one of"),
        ({}, ("gradient", "none"), "gradient must be one of"),
        ({}, ("steps", 0), "steps must be an int >= 1, got 0"),
        ({}, ("steps", None), "steps=None solves to a tolerance"),
        ({}, ("tol", -1.0), "tol must be greater than 0"),
        ({}, ("tol", "small"), "tol must be greater than 0"),
        ({"steps": None, "tol": 1e-3}, ("tol", None), "solves to a tolerance: give tol"),
        ({"steps": None, "tol": 1e-3}, ("gradient", "unroll"), "differentiates a number of steps"),
        ({"steps": None, "tol": 1e-3}, ("pursuit", "threshold"), "is one step, not a solution"),
        ({"gradient": "recompute"}, ("tol", 1e-3), "'recompute' takes a fixed number of steps"),
        ({"tol": 1e-3}, ("pursuit", "calibrated"), "'calibrated' is a fixed number of steps"),
        ({"pursuit": "calibrated"}, ("gradient", "recompute"), "does more than that with its codes"),
        ({"pursuit": "calibrated"}, ("steps", None), "steps=None solves to a tolerance"),
    ],
)
def test_settings_are_checked_when_they_are_assigned(options, change, message):
    layer = CSC2d(3, 8, 3, **options)
    kept = repr(layer)
    with pytest.raises(ValueError, match=message):
        setattr(layer, *change)
    assert repr(layer) == kept


def test_settings_that_are_assigned_are_those_of_a_layer_built_with_them():
    layer, x = CSC2d(3, 8, 3, padding=1, lam=0.3).eval(), torch.randn(2, 3, 8, 8)
    for settings in (
        {"steps": 5, "pursuit": "ista", "gradient": "recompute"},
        {"gradient": "implicit", "tol": 1e-4, "steps": None},
        {"steps": 400, "gradient": None},
        {"tol": None, "steps": 2, "pursuit": "whitened"},
        {"pursuit": "calibrated"},
        {"pursuit": "threshold"},
    ):
        for name, value in settings.items():
            setattr(layer, name, value)
        options = {"pursuit": layer.pursuit, "gradient": layer.gradient}
        twin = CSC2d(3, 8, 3, padding=1, lam=0.3, **options).eval()
        twin.load_state_dict(layer.state_dict())
        assert repr(twin) == repr(layer)
        torch.testing.assert_close(copy.deepcopy(layer)(x), twin(x))
        gradients = [torch.autograd.grad(one(x).square().sum(), list(one.parameters()))[0] for one in (layer, twin)]
        torch.testing.assert_close(*gradients)


def test_an_equilibrium_layer_that_is_given_steps_unrolls_them():
    layer, x = CSC2d(3, 8, 3, padding=1, lam=0.1, steps=None, tol=1e-4).eval(), torch.randn(2, 3, 8, 8)
    layer.steps = 2
    assert layer.gradient == Unroll()
    twin = CSC2d(3, 8, 3, padding=1, lam=0.1, steps=2).eval()
    twin.load_state_dict(layer.state_dict())
    expected = torch.autograd.grad(twin(x).sum(), list(twin.parameters()))[0]
    torch.testing.assert_close(torch.autograd.grad(layer(x).sum(), list(layer.parameters()))[0], expected)


def test_channels_last_is_kept_and_any_size_runs():
    layer = CSC2d(3, 8, 3, 2, 1, steps=3).eval().to(memory_format=torch.channels_last)
    for size in ((9, 8), (16, 5), (3, 3)):
        x = torch.randn(2, 3, *size)
        z = layer(x.to(memory_format=torch.channels_last))
        assert z.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(z, layer(x), rtol=1e-4, atol=1e-5)
        assert layer.synthesize(z, size).shape == x.shape


def test_drop_in_for_a_convolution_and_relu():
    for kwargs in (
        {"padding": 2, "stride": 2},
        {"padding": "same", "dilation": 2},
        {"padding": (1, 0), "kernel_size": (3, 2)},
    ):
        options = {"kernel_size": 3, **kwargs}
        conv, csc = torch.nn.Conv2d(3, 8, **options), CSC2d(3, 8, **options)
        x = torch.randn(2, 3, 11, 12)
        assert csc(x).shape == conv(x).shape
        # One thresholding with the atoms as filters is that layer exactly.
        layer = CSC2d(3, 8, **options, pursuit="threshold", lam=torch.rand(8))
        conv.weight.data, conv.bias.data = layer.atoms.detach(), -layer.lam
        torch.testing.assert_close(layer(x), conv(x).relu())


def test_tokens_keep_their_leading_axes():
    layer, x = SparseCoding(7, 12, steps=4).eval(), torch.randn(2, 5, 7)
    z = layer(x)
    assert z.shape == (2, 5, 12)
    torch.testing.assert_close(z[1, 3], layer(x[1, 3]))
    assert layer(x[:0]).shape == (0, 5, 12)
    lam = torch.rand(2, 1, 1)
    for weight in (lam, torch.rand(12), 0.1):
        values = layer.objective(x, z, lam=weight)
        assert values.shape == (2, 5)
        one = weight[1] if isinstance(weight, torch.Tensor) and weight.ndim > 1 else weight
        torch.testing.assert_close(values[1], layer.objective(x[1], z[1], lam=one))
    assert layer.lam_max(x).shape == (2, 5, 1) and not layer(x, lam=layer.lam_max(x)).any()
    torch.testing.assert_close(layer(x, lam=lam)[1], layer(x[1], lam=lam[1].item()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lam": -0.1}, r"CSC2d: lam must be a finite number >= 0 or a tensor, got -0.1"),
        ({"lam": float("nan")}, "lam"),
        ({"lam": torch.ones(7)}, r"one per atom \(8,\), got shape \(7,\)"),
        ({"steps": 0}, "steps must be an int >= 1, got 0"),
        ({"steps": 2.0}, "steps"),
        ({"pursuit": "lars"}, "pursuit must be one of .*calibrated, .*fista, ista, .*, got 'lars'"),
        ({"ridge": -1}, "ridge"),
        ({"tol": 0}, "tol"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        CSC2d(3, 8, 3, **options)


def test_bad_input_is_refused():
    layer = CSC2d(3, 8, 3)
    with pytest.raises(ValueError, match=r"CSC2d: expected 3 input channels \(N, 3, H, W\), got \(8, 1, 28, 28\)"):
        layer(torch.zeros(8, 1, 28, 28))
    with pytest.raises(ValueError, match="too small: axis 1 must be at least 3"):
        layer(torch.zeros(1, 3, 5, 2))
    with pytest.raises(ValueError, match=r"\(N, 1, 1, 1\), got shape \(2, 1\)"):
        layer(torch.zeros(2, 3, 5, 5), lam=torch.ones(2, 1))
    with pytest.raises(ValueError, match="finite and not negative"):
        layer(torch.zeros(2, 3, 5, 5), lam=torch.tensor(-1.0))
    with pytest.raises(ValueError, match="lam"):
        layer.lam = -1.0
    with pytest.raises(ValueError, match=r"expected 7 features \(\.\.\., 7\), got \(2, 6\)"):
        SparseCoding(7, 3)(torch.zeros(2, 6))
    with pytest.raises(ValueError, match="must be positive"):
        CSC2d(0, 8, 3)


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "SparseCoding"])
def test_attributes_are_those_of_a_convolution(name):
    cls, args, kwargs, shape = LAYERS[name]
    convolution = getattr(torch.nn, cls.__name__.replace("CSC", "Conv"))(*args, **kwargs)
    for layer in (cls(*args, **kwargs), cls(*args, **kwargs).dictionary):
        for attribute in ("in_channels", "out_channels", "kernel_size", "stride", "dilation", "padding_mode"):
            assert getattr(layer, attribute) == getattr(convolution, attribute)
        assert layer.padding == (convolution.padding if args[2] % 2 == 0 or convolution.padding != "same" else (1, 1))
        assert layer.weight.shape == convolution.weight.shape
    with torch.no_grad():  # a layer with the convolution's filters is that convolution
        layer = cls(*args, **kwargs, unit_norm=False, pursuit="threshold", lam=0.0)
        layer.weight = convolution.weight
        convolution.bias.zero_()
        x = torch.randn(shape)
        torch.testing.assert_close(layer(x), torch.relu(convolution(x)), rtol=1e-5, atol=1e-5)


def test_attributes_are_those_of_a_linear_layer():
    layer, linear = SparseCoding(7, 12), torch.nn.Linear(7, 12)
    assert (layer.in_features, layer.out_features) == (linear.in_features, linear.out_features)
    assert layer.weight.shape == linear.weight.shape
