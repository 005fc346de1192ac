"""Multi-layer pursuits against the published iterations written out, single-layer pursuits and a convex solver."""

import copy

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch.nn.functional import conv2d, conv_transpose2d, relu

from csc_nets.functional import fista, thresholding
from csc_nets.layers import CSC2d, DenseDictionary, Dictionary1d, Dictionary2d, Dictionary3d, MultiLayerCSC
from csc_nets.layers.multi_layer_pursuits import MLISTA, multi_layer_pursuits, register_multi_layer_pursuit
from csc_nets.models import create_model

PURSUITS = multi_layer_pursuits()
STRIDES = (2, 2, 1)
LAM = [0.1, 0.05]


def stack(unit_norm=False):
    """The published MNIST shapes with few filters: 28 -> 12 -> 4 -> 1."""
    shapes = [(1, 5, 6, 2), (5, 7, 6, 2), (7, 9, 4, 1)]
    dictionaries = [Dictionary2d(*shape, unit_norm=unit_norm).double() for shape in shapes]
    if not unit_norm:
        for dictionary in dictionaries:
            dictionary.weight.data.mul_(0.5)
    return dictionaries


def free(pursuit, steps):
    """A layer with everything that the published networks train, at values that are none of the initial ones."""
    learn_step = pursuit not in ("ml_lista", "all_free")
    layer = MultiLayerCSC(
        stack(), pursuit=pursuit, steps=steps, lam=0.0, bias=True, step_size=1.0, learn_step=learn_step
    ).double()
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if "bias" in name:
                parameter.normal_().mul_(0.1)
            if "step_size" in name:
                parameter.uniform_(0.7, 1.1)
    return layer


def published(layer, x):
    """The iterations of arXiv 1806.00701 as its authors' networks run them, one operation after the other."""
    pursuit, depth = layer.pursuit, range(3)
    w = [d.weight for d in layer.dictionaries]
    b = [bias.view(-1, 1, 1) for bias in layer.biases]
    c = [getattr(layer, f"step_size_{i}") for i in depth]

    def up(i, v, filters=w):
        return conv2d(v, filters[i], stride=STRIDES[i])

    def down(i, v, filters=w):
        return conv_transpose2d(v, filters[i], stride=STRIDES[i])

    entry = [d.weight for d in layer.feedforward] if pursuit == "ml_lista" else w
    g, below = [], x
    for i in depth:
        below = relu(c[i] * up(i, below, entry) + b[i])
        g.append(below)
        if pursuit == "layered_basis_pursuit":
            for _ in range(layer.steps):
                source = g[i - 1] if i else x
                g[i] = relu(g[i] - c[i] * up(i, down(i, g[i]) - source) + b[i])
            below = g[i]
    if pursuit in ("ml_ista", "ml_fista"):
        t, previous = 1.0, g[2]
        for _ in range(layer.steps):
            t, before = (1 + np.sqrt(1 + 4 * t * t)) / 2, t
            z = g[2] + (before - 1) / t * (g[2] - previous) if pursuit == "ml_fista" else g[2]
            previous = g[2]
            g2 = down(2, z)
            g1 = down(1, g2)
            g1 = relu(g1 - c[0] * up(0, down(0, g1) - x) + b[0])
            g2 = relu(g2 - c[1] * up(1, down(1, g2) - g1) + b[1])
            g = [g1, g2, relu(z - c[2] * up(2, down(2, z) - g2) + b[2])]
    if pursuit == "ml_lista":
        for _ in range(layer.steps):
            g2 = down(2, g[2], entry)
            g1 = down(1, g2, entry)
            g1 = relu(g1 - up(0, down(0, g1)) + up(0, x, entry) + b[0])
            g2 = relu(g2 - up(1, down(1, g2)) + up(1, g1, entry) + b[1])
            g = [g1, g2, relu(g[2] - up(2, down(2, g[2])) + up(2, g2, entry) + b[2])]
    if pursuit == "all_free":
        sets = [w, *([d.weight for d in one] for one in layer.sets)]
        for s in range(1, len(sets)):
            source = x
            for i in depth:
                surplus = down(i, g[i], sets[s - 1]) - source
                source = g[i] = relu(g[i] - up(i, surplus, sets[s]) + b[3 * s + i])
    return g


@pytest.mark.parametrize("steps", [0, 1, 2, 6])
@pytest.mark.parametrize("pursuit", ["layered_basis_pursuit", "ml_ista", "ml_fista", "ml_lista", "all_free"])
def test_iterations_are_the_published_ones(pursuit, steps):
    layer, x = free(pursuit, steps), torch.rand(3, 1, 28, 28, dtype=torch.float64)
    ours, theirs = layer.codes(x), published(layer, x)
    assert all(0 < (z > 0).double().mean() < 1 for z in theirs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    parameters = list(layer.parameters())
    weights = [torch.randn_like(z) for z in ours]
    loss = [sum((w * z).sum() for w, z in zip(weights, codes, strict=True)) for codes in (ours, theirs)]
    for a, b in zip(*(torch.autograd.grad(v, parameters, allow_unused=True) for v in loss), strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("pursuit", [p for p in PURSUITS if p != "layered_iterative_thresholding"])
def test_no_unfoldings_are_the_forward_pass_of_a_cnn_bit_for_bit(pursuit):
    if pursuit in ("ml_lista", "all_free", "layered_thresholding"):
        layer = MultiLayerCSC(stack(), pursuit=pursuit, steps=0, lam=0.0, bias=True, step_size=1.0).float()
    else:
        layer = MultiLayerCSC(
            stack(), pursuit=pursuit, steps=0, lam=0.0, bias=True, step_size=1.0, learn_step=True
        ).float()
    for bias in layer.biases:
        torch.nn.init.normal_(bias, std=0.1)
    x = torch.rand(4, 1, 28, 28)
    filters = layer.feedforward if pursuit == "ml_lista" else layer.dictionaries
    for grad in (True, False):
        for memory_format in (torch.contiguous_format, torch.channels_last):
            with torch.set_grad_enabled(grad):
                z = x.contiguous(memory_format=memory_format)
                codes = layer.codes(z)
                for code, dictionary, bias, stride in zip(codes, filters, layer.biases, STRIDES, strict=True):
                    z = relu(conv2d(z, dictionary.weight, bias, stride))
                    assert torch.equal(code, z)


def test_basis_pursuit_is_one_step_ahead_of_iterative_thresholding():
    for steps in (1, 4):
        a = MultiLayerCSC(stack(True), pursuit="layered_basis_pursuit", steps=steps, lam=0.05, prox="soft").eval()
        b = MultiLayerCSC(
            list(a.dictionaries), pursuit="layered_iterative_thresholding", steps=steps + 1, lam=0.05, prox="soft"
        ).eval()
        x = torch.randn(2, 1, 28, 28, dtype=torch.float64)
        for ours, theirs in zip(a.codes(x), b.codes(x), strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("prox", ["nonneg", "soft", "hard"])
def test_one_step_of_size_one_is_layered_thresholding(prox):
    layer = MultiLayerCSC(stack(True), pursuit="layered_thresholding", lam=0.1, prox=prox).eval()
    x = torch.randn(2, 1, 28, 28, dtype=torch.float64)
    below = x
    for code, dictionary in zip(layer.codes(x), layer.dictionaries, strict=True):
        v = dictionary.analysis(below)
        expected = v * (v.abs() > 0.1) if prox == "hard" else thresholding(below, dictionary, 0.1, prox == "nonneg")
        torch.testing.assert_close(code, expected, rtol=1e-12, atol=1e-14)
        below = code
    if prox != "hard":
        once = MultiLayerCSC(
            list(layer.dictionaries),
            pursuit="layered_iterative_thresholding",
            steps=1,
            lam=0.1,
            prox=prox,
            step_size=1.0,
        )
        torch.testing.assert_close(once.eval()(x), layer(x), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("pursuit", ["ml_ista", "ml_fista", "layered_basis_pursuit", "layered_iterative_thresholding"])
def test_one_layer_is_a_csc_layer(pursuit):
    csc = CSC2d(
        2, 6, 3, 2, 1, lam=0.1, steps=5, pursuit="fista" if pursuit == "ml_fista" else "ista", dtype=torch.float64
    ).eval()
    steps = 5 if pursuit == "layered_iterative_thresholding" else 4
    layer = MultiLayerCSC([csc.dictionary], pursuit=pursuit, steps=steps, lam=0.1).eval()
    x = torch.randn(2, 2, 9, 9, dtype=torch.float64)
    torch.testing.assert_close(layer(x), csc(x), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(layer.objective(x, csc(x)), csc.objective(x, csc(x)))


@pytest.mark.parametrize("prox", ["nonneg", "soft"])
def test_to_tolerance_each_layer_solves_its_problem(prox):
    layer = MultiLayerCSC(
        stack(True), pursuit="layered_basis_pursuit", steps=1000, lam=[0.05, 0.02, 0.01], prox=prox, tol=1e-6
    ).eval()
    below = x = torch.randn(2, 1, 28, 28, dtype=torch.float64)
    for code, dictionary, lam in zip(layer.codes(x), layer.dictionaries, (0.05, 0.02, 0.01), strict=True):
        solved = fista(below, dictionary, lam, steps=3000, nonneg=prox == "nonneg", tol=1e-9)
        assert (code - solved).norm() < 1e-2 * solved.norm()
        below = code


def minimum(layer, x):
    """The minimum of the two-layer basis pursuit objective over signed deepest codes, by a smooth constrained solver.

    z = p - q with p, q >= 0 and slacks s >= |D_2 z|: every term is smooth.
    """
    d1, d2 = (d.weight.detach().numpy() for d in layer.dictionaries)  # rows are atoms
    lam1, lam2 = (float(lam) for lam in layer.lam)
    m2, m1 = d2.shape
    effective = d2 @ d1

    def value(v):
        p, q, s = np.split(v, [m2, 2 * m2])
        r = (p - q) @ effective - x
        gradient = effective @ r
        return r @ r / 2 + lam1 * s.sum() + lam2 * (p + q).sum(), np.concatenate(
            [gradient + lam2, -gradient + lam2, np.full(m1, lam1)]
        )

    above = np.hstack([-d2.T, d2.T, np.eye(m1)])
    below = np.hstack([d2.T, -d2.T, np.eye(m1)])
    rows = np.vstack([above, below])
    found = minimize(
        value,
        np.concatenate([np.full(2 * m2, 0.1), np.full(m1, 1.0)]),
        jac=True,
        method="SLSQP",
        bounds=[(0, None)] * (2 * m2 + m1),
        constraints={"type": "ineq", "fun": lambda v: rows @ v, "jac": lambda v: rows},
        options={"maxiter": 2000, "ftol": 1e-14},
    )
    assert found.success
    return found.fun


@pytest.mark.parametrize("pursuit", ["ml_ista", "ml_fista"])
def test_multi_layer_pursuits_approach_the_minimum_of_their_objective(pursuit):
    torch.manual_seed(3)
    dictionaries = [DenseDictionary(6, 8).double(), DenseDictionary(8, 5).double()]
    x = torch.randn(4, 6, dtype=torch.float64)
    best = torch.tensor([minimum(MultiLayerCSC(dictionaries, lam=LAM), one.numpy()) for one in x])
    deepest = 0.9 / dictionaries[1].lipschitz.item()
    gaps = []
    for step_size in (0.1, 0.01):
        layer = MultiLayerCSC(
            dictionaries,
            pursuit=pursuit,
            steps=int((30 if pursuit == "ml_fista" else 150) / step_size),
            lam=LAM,
            prox="soft",
            step_size=[step_size, deepest],
        ).eval()
        with torch.no_grad():
            gaps.append(((layer.objective(x, layer(x)) - best) / best).max().item())
    # The distance to the minimum is proportional to the step size of the first layer.
    assert -1e-9 < gaps[1] < 0.15 * gaps[0] < 1e-3


@pytest.mark.parametrize("pursuit", PURSUITS)
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_any_number_of_axes_and_strides(pursuit, dims):
    kind = (Dictionary1d, Dictionary2d, Dictionary3d)[dims - 1]
    layer = MultiLayerCSC(
        [kind(2, 4, 3, 2, 1, padding_mode="circular"), kind(4, 6, 3, 1, 1)], pursuit=pursuit, steps=2, lam=[0.05, 0.01]
    )
    x = torch.randn(2, 2, *(8, 10, 6)[:dims])
    z = layer(x)
    assert z.shape == (2, 6, *(n // 2 for n in x.shape[2:]))
    z.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())
    assert layer.synthesize(z, x.shape[2:]).shape == x.shape


@pytest.mark.parametrize("pursuit", PURSUITS)
def test_state_copies_compilers_and_precision(pursuit):
    torch.compiler.reset()
    layer = MultiLayerCSC(
        [Dictionary2d(1, 4, 3, 2, 1), Dictionary2d(4, 6, 3, 2, 1)], pursuit=pursuit, steps=2, lam=0.01, bias=True
    )
    x = torch.randn(2, 1, 12, 12)
    layer(x)
    other = MultiLayerCSC(
        [Dictionary2d(1, 4, 3, 2, 1), Dictionary2d(4, 6, 3, 2, 1)], pursuit=pursuit, steps=2, lam=0.5, bias=True
    )
    other.load_state_dict(layer.state_dict())
    expected = layer.eval()(x)
    assert torch.equal(other.eval()(x), expected) and torch.equal(copy.deepcopy(layer)(x), expected)
    torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="eager")(x), expected)
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: torch.export.Dim("n", min=1, max=64)},))
    torch.testing.assert_close(program.module()(x[:1]), expected[:1])
    with torch.no_grad():
        fast = layer(x.to(memory_format=torch.channels_last))
        torch.testing.assert_close(fast, expected, rtol=1e-4, atol=1e-5)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert (layer(x).float() - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize("pursuit", ["ml_fista", "ml_lista", "all_free", "layered_basis_pursuit"])
def test_gradients_of_signals_and_dictionaries(pursuit):
    layer = MultiLayerCSC(
        [DenseDictionary(4, 5), DenseDictionary(5, 6)], pursuit=pursuit, steps=2, lam=0.01, step_size=0.3, bias=True
    )
    layer = layer.double().eval()
    x = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in layer.named_parameters()]

    def run(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x, *(p.detach().requires_grad_() for p in layer.parameters())))


def test_sparsity_weights_take_effect_at_once():
    layer = MultiLayerCSC(stack(True), pursuit="ml_ista", steps=2, lam=0.01).eval()
    x = torch.rand(2, 1, 28, 28, dtype=torch.float64)
    few, several = [0.03, 0.02, 0.01], layer(x).count_nonzero()
    other = layer(x, lam=few)
    assert other.count_nonzero() > 0 and not torch.equal(other, layer(x))
    layer.lam = few
    assert torch.equal(layer(x), other) and [float(lam) for lam in layer.lam] == few
    layer.lam = 0.0
    assert layer(x).count_nonzero() >= several
    layer.lam = [torch.full((5,), 0.03), 0.02, 0.01]
    torch.testing.assert_close(layer(x), other)
    layer.lam = 100.0
    assert layer(x).count_nonzero() == 0 and layer.lam[0].shape == (5,)
    with pytest.raises(TypeError):
        layer.lam[1] = 0.7
    layer = MultiLayerCSC(stack(True), pursuit="ml_ista", steps=2, lam=0.01).eval()
    each = layer(x, lam=torch.tensor([0.01, 0.03], dtype=torch.float64).view(2, 1, 1, 1))
    assert each[1].count_nonzero() > 0
    torch.testing.assert_close(each[1:], layer(x[1:], lam=0.03))
    torch.testing.assert_close(each[:1], layer(x[:1]))
    weights = torch.tensor([0.01, 0.03], dtype=torch.float64).view(2, 1, 1, 1, 1)
    many = torch.func.vmap(lambda lam: layer(x, lam=lam))(weights)
    torch.testing.assert_close(many[1], layer(x, lam=0.03))


@pytest.mark.parametrize("pursuit", PURSUITS)
def test_bounds_of_all_dictionaries_follow_their_weights_in_training(pursuit):
    fixed = {} if pursuit == "ml_ista" else {"step_size": 0.01}
    layer = MultiLayerCSC(stack(), pursuit=pursuit, steps=1, **fixed).double().train()
    dictionaries = [d for d in layer.modules() if isinstance(d, Dictionary2d)]
    with torch.no_grad():
        for dictionary in dictionaries:
            dictionary.weight.mul_(3)
        for _ in range(60):
            layer(torch.rand(1, 1, 28, 28, dtype=torch.float64))
    for dictionary in dictionaries:
        kept = dictionary.lipschitz.clone()
        dictionary.refresh()
        torch.testing.assert_close(kept, dictionary.lipschitz, rtol=0.02, atol=0)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"pursuit": "omp"}, "MultiLayerCSC: multi-layer pursuit must be one of all_free, .*got 'omp'"),
        ({"steps": -1}, "steps must be an int >= 0 for ml_fista, got -1"),
        ({"pursuit": "layered_iterative_thresholding", "steps": 0}, "steps must be an int >= 1"),
        ({"prox": "relu"}, "prox must be"),
        ({"prox": "hard"}, "prox='hard' is for layered_thresholding"),
        ({"step_size": -1.0}, "step_size must be a finite number > 0"),
        ({"learn_step": True}, "needs a step_size to start from"),
        ({"tol": 1e-3}, "tol is a number > 0 for pursuit='layered_basis_pursuit'"),
        ({"step_size": torch.tensor(0.5)}, "step_size must be a finite number > 0 or None"),
        ({"step_size": [0.1, 0.1, "a"]}, "step_size must be a finite number > 0"),
        ({"lam": None}, "lam must be a finite number >= 0 or a tensor, got None"),
        ({"lam": [0.1]}, "lam must be one weight or 3, one for each layer, got 1"),
        ({"lam": -0.1}, "lam must be a finite number >= 0"),
        ({"lam": torch.rand(4)}, r"lam of a layer must be a number or one per atom \(5,\)"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MultiLayerCSC(stack(), **options)


def test_a_pursuit_of_ones_own():
    """Three lines make ML-FISTA of ML-ISTA; a name makes it usable from networks."""

    @register_multi_layer_pursuit("constant_momentum")
    class ConstantMomentum(MLISTA):
        def extrapolations(self, count):
            return [0.0, 0.0, (5**0.5 - 1) / (1 + 7**0.5)][:count]  # unlike FISTA's third weight

    x, dictionaries = torch.rand(2, 1, 28, 28, dtype=torch.float64), stack(True)
    codes = {
        pursuit: MultiLayerCSC(dictionaries, pursuit=pursuit, steps=2, lam=0.01).eval()(x)
        for pursuit in (ConstantMomentum(), "constant_momentum", "ml_ista", "ml_fista")
    }
    own, named, ista, fista = codes.values()
    assert torch.equal(own, named) and not torch.allclose(own, ista) and not torch.allclose(own, fista)
    network = create_model("ml_csc_mnist", pursuit="constant_momentum", steps=1)
    assert network(torch.rand(2, 1, 28, 28)).shape == (2, 10)
    assert network.stages[0].pursuit == "constant_momentum"


def test_bad_signals_are_refused():
    layer = MultiLayerCSC(stack())
    with pytest.raises(ValueError, match=r"expected signals \(N, 1, \.\.\.\) with 4 axes, got \(2, 3, 28, 28\)"):
        layer(torch.rand(2, 3, 28, 28))
    with pytest.raises(ValueError, match="too small"):
        layer(torch.rand(2, 1, 12, 12, dtype=torch.float64))
    with pytest.raises(ValueError, match="weights per sample"):
        layer.lam = torch.rand(2, 1, 1, 1)


def test_steps_can_change_where_no_dictionaries_hang_on_them():
    x = torch.rand(2, 1, 28, 28, dtype=torch.float64)
    few, many = (MultiLayerCSC(stack(), pursuit="ml_ista", steps=steps, lam=0.01).eval() for steps in (1, 3))
    many.load_state_dict(few.state_dict())
    few.steps = 3
    assert torch.equal(few(x), many(x))
    untied = MultiLayerCSC(stack(), pursuit="all_free", steps=2)
    untied.steps = 2
    with pytest.raises(ValueError, match="all_free has dictionaries for 2 steps, got steps=3"):
        untied.steps = 3


@pytest.mark.gpu
@pytest.mark.parametrize("pursuit", PURSUITS)
def test_on_the_accelerator_codes_and_gradients_are_those_of_the_cpu(pursuit):
    layer = MultiLayerCSC(stack(True), pursuit=pursuit, steps=3, lam=0.01, bias=True).eval()
    x = torch.rand(3, 1, 28, 28, dtype=torch.float64)
    codes = layer.codes(x)
    expected = torch.autograd.grad(sum(z.square().sum() for z in codes), list(layer.parameters()), allow_unused=True)
    layer.cuda()
    ours = layer.codes(x.cuda())
    for a, b in zip(ours, codes, strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-8, atol=1e-10)
    found = torch.autograd.grad(sum(z.square().sum() for z in ours), list(layer.parameters()), allow_unused=True)
    for a, b in zip(found, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a.cpu(), b, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("pursuit", PURSUITS)
def test_signals_that_are_too_small_and_dictionaries_that_do_not_fit_are_refused(pursuit):
    layer = MultiLayerCSC(stack(), pursuit=pursuit, steps=1)
    with pytest.raises(ValueError, match="too small"):
        layer(torch.rand(2, 1, 12, 12, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"one number of axes, got Dictionary1d, Dictionary2d"):
        MultiLayerCSC([Dictionary1d(1, 2, 3), Dictionary2d(2, 3, 3)], pursuit=pursuit, steps=1)
    with pytest.raises(ValueError, match=r"got Dictionary2d, DenseDictionary"):
        MultiLayerCSC([Dictionary2d(1, 2, 3), DenseDictionary(2, 3)], pursuit=pursuit, steps=1)
    with pytest.raises(AttributeError):
        layer.pursuit = "ml_fista"


def test_repr_shows_the_defining_numbers():
    text = repr(MultiLayerCSC(stack(), pursuit="layered_thresholding", lam=[0.1, 0.2, 0.3]))
    assert text.startswith(
        "MultiLayerCSC(lam=(0.1, 0.2, 0.3), pursuit='layered_thresholding'\n  (0): Dictionary2d(1, 5"
    )
    assert "steps" not in text and "steps=6" in repr(MultiLayerCSC(stack()))
