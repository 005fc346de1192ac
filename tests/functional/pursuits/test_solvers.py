"""Pursuits against scikit-learn's solvers, optimality conditions and closed forms."""

import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import ElasticNet, Lasso

from csc_nets.functional import (
    ConvGeometry,
    GroupL1,
    Problem,
    as_adjoint_pair,
    duality_gap,
    fista,
    ista,
    iterative_hard_thresholding,
    lam_max,
    objective,
    one_per_block,
    soft_threshold,
    solve,
    thresholding,
    unit_norm,
)
from csc_nets.layers import CSC2d, Dictionary2d


@pytest.fixture
def matrix():
    weight = unit_norm(torch.randn(40, 20, dtype=torch.float64))
    return weight, torch.randn(5, 20, dtype=torch.float64)


@pytest.fixture
def convolution():
    weight = unit_norm(torch.randn(6, 2, 3, 3, dtype=torch.float64))
    return weight, torch.randn(3, 2, 7, 8, dtype=torch.float64)


@pytest.mark.parametrize("nonneg", [False, True])
@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_solution_is_that_of_scikit_learn(matrix, nonneg, ridge):
    weight, x = matrix
    z = solve(x, weight, 0.3, tol=1e-12, nonneg=nonneg, ridge=ridge)
    for code, signal in zip(z, x, strict=True):
        total = 0.3 + ridge
        model = ElasticNet(
            total / 20, l1_ratio=0.3 / total, fit_intercept=False, positive=nonneg, tol=1e-14, max_iter=10**6
        )
        if ridge == 0:
            model = Lasso(0.3 / 20, fit_intercept=False, positive=nonneg, tol=1e-14, max_iter=10**6)
        expected = model.fit(weight.T.numpy(), signal.numpy()).coef_
        np.testing.assert_allclose(code.numpy(), expected, atol=1e-5)


def test_solution_of_a_convolution_is_that_of_its_matrix(convolution):
    weight, x = convolution
    geometry = ConvGeometry.create(2, 3)
    basis = torch.eye(2 * 7 * 8, dtype=torch.float64).view(-1, 2, 7, 8)
    explicit = geometry.analysis(basis, weight).flatten(1).T  # rows are the shifted atoms
    z = solve(x, weight, 0.2, tol=1e-12).flatten(1)
    torch.testing.assert_close(z, solve(x.flatten(1), explicit, 0.2, tol=1e-12), atol=1e-4, rtol=0)


@pytest.mark.parametrize("nonneg", [False, True])
def test_solution_satisfies_the_optimality_conditions(convolution, nonneg):
    weight, x = convolution
    lam = torch.rand(6, dtype=torch.float64) * 0.3 + 0.1  # per atom
    z = solve(x, weight, lam, tol=1e-13, nonneg=nonneg, steps=50_000)
    correlation = ConvGeometry.create(2, 3).analysis(x - ConvGeometry.create(2, 3).synthesis(z, weight, (7, 8)), weight)
    limit = lam.view(-1, 1, 1).expand_as(z)
    on, c = z.abs() > 1e-6, correlation
    assert (c[on] - (limit * z.sign())[on]).abs().max() < 1e-5
    assert (c if nonneg else c.abs())[~on].sub(limit[~on]).max() < 1e-5


@pytest.mark.parametrize("nonneg", [False, True])
def test_at_lam_max_the_code_is_zero_and_below_it_is_not(convolution, nonneg):
    weight, x = convolution
    top = lam_max(x, weight, nonneg)
    assert top.shape == (3, 1, 1, 1)
    assert not fista(x, weight, top, steps=50, nonneg=nonneg).any()
    assert fista(x, weight, 0.99 * top, steps=50, nonneg=nonneg).flatten(1).any(1).all()


def test_without_weight_it_is_least_squares(matrix):
    weight, _ = matrix
    atoms, x = weight[:12], torch.randn(4, 20, dtype=torch.float64)  # fewer atoms than features: a unique solution
    expected = torch.linalg.lstsq(atoms.T, x.T).solution.T
    torch.testing.assert_close(fista(x, atoms, 0.0, steps=3000, restart=True), expected, atol=1e-8, rtol=0)


def test_orthonormal_dictionary_needs_one_soft_threshold():
    orthonormal = torch.linalg.qr(torch.randn(10, 10, dtype=torch.float64))[0]
    x = torch.randn(3, 10, dtype=torch.float64)
    expected = soft_threshold(x @ orthonormal.T, 0.4)
    torch.testing.assert_close(thresholding(x, orthonormal, 0.4), expected)
    for steps in (1, 5):
        torch.testing.assert_close(ista(x, orthonormal, 0.4, steps=steps, step_size=1.0), expected)


def test_one_step_is_the_thresholding_and_two_steps_have_no_momentum(matrix):
    weight, x = matrix
    torch.testing.assert_close(ista(x, weight, 0.2, steps=1, step_size=1.0), thresholding(x, weight, 0.2))
    assert torch.equal(ista(x, weight, 0.2, steps=2), fista(x, weight, 0.2, steps=2))
    assert not torch.allclose(ista(x, weight, 0.2, steps=3), fista(x, weight, 0.2, steps=3))


def test_fista_is_the_textbook_recursion(matrix):
    weight, x = matrix
    eta = 1 / torch.linalg.matrix_norm(weight, 2) ** 2
    z = previous = torch.zeros(5, 40, dtype=torch.float64)
    t = 1.0
    y = z
    for _ in range(9):
        previous, z = z, soft_threshold(y + eta * (x - y @ weight) @ weight.T, eta * 0.2)
        t, last = (1 + (1 + 4 * t * t) ** 0.5) / 2, t
        y = z + (last - 1) / t * (z - previous)
    for grad in (True, False):  # buffers are reused without gradient
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(fista(x, weight, 0.2, steps=9, step_size=eta), z)


def test_ista_descends_and_fista_keeps_its_rate(matrix):
    weight, x = matrix
    best = objective(x, weight, solve(x, weight, 0.1, tol=1e-12), 0.1)
    z_best = solve(x, weight, 0.1, tol=1e-12)
    eta = 1 / torch.linalg.matrix_norm(weight, 2) ** 2
    for pursuit, bound in (
        (ista, lambda k: 1 / (2 * eta * k)),  # Beck and Teboulle 2009, theorem 3.1
        (fista, lambda k: 2 / (eta * (k + 1) ** 2)),  # theorem 4.4
    ):
        trace = []
        pursuit(x, weight, 0.1, steps=60, step_size=eta, trace=trace)
        assert len(trace) == 60
        for k, value in enumerate(trace, 1):
            assert (value - best <= bound(k) * z_best.square().sum(1) + 1e-10).all()
        if pursuit is ista:
            assert all((b <= a + 1e-12).all() for a, b in itertools.pairwise(trace))


def test_monotone_fista_never_increases_the_objective_and_plain_fista_does():
    # Correlated atoms and a small weight: a badly conditioned problem, where momentum overshoots.
    weight = unit_norm(torch.randn(30, 12, dtype=torch.float64) + 1)
    x = torch.randn(8, 12, dtype=torch.float64)
    traces = {}
    for monotone in (False, True):
        traces[monotone] = []
        fista(x, weight, 0.01, steps=1000, trace=traces[monotone], monotone=monotone)
    rise = {m: max((b - a).max().item() for a, b in itertools.pairwise(t)) for m, t in traces.items()}
    assert rise[False] > 1e-4 and rise[True] <= 1e-12
    best = objective(x, weight, solve(x, weight, 0.01, tol=1e-12, steps=10**6), 0.01)
    assert (traces[True][-1] - best).max() < 1e-3


def test_restart_needs_fewer_steps_for_a_tight_gap(matrix):
    weight, x = matrix
    steps = {}
    for restart in (False, True):
        trace = []
        z = fista(x, weight, 0.1, steps=20_000, tol=1e-7, restart=restart, trace=trace)
        assert (duality_gap(x, weight, z, 0.1) <= 1e-7 * x.square().sum(1) / 2).all()
        steps[restart] = len(trace)
    assert steps[True] < steps[False] / 2


def test_duality_gap_bounds_the_suboptimality_and_vanishes_at_the_solution(convolution):
    weight, x = convolution
    mask = (torch.rand(3, 1, 7, 8) > 0.3).double()
    for options in ({}, {"nonneg": True}, {"ridge": 0.2}, {"mask": mask}, {"nonneg": True, "ridge": 0.1, "mask": mask}):
        best = solve(x, weight, 0.2, tol=1e-12, steps=50_000, **options)
        for z in (best, fista(x, weight, 0.2, steps=3, **options), torch.zeros_like(best)):
            gap = duality_gap(x, weight, z, 0.2, **options)
            excess = objective(x, weight, z, 0.2, **options) - objective(x, weight, best, 0.2, **options)
            assert (gap >= excess - 1e-9).all()
        assert duality_gap(x, weight, best, 0.2, **options).max() < 1e-9


@pytest.mark.parametrize("criterion", ["gap", "change"])
def test_tolerance_is_reached_by_each_sample_on_its_own(matrix, criterion):
    weight, x = matrix
    x = x * torch.tensor([[0.01], [1.0], [3.0], [0.3], [1.0]], dtype=torch.float64)
    together = fista(x, weight, 0.1, steps=10_000, tol=1e-4, criterion=criterion)
    for i in range(5):
        alone = fista(x[i : i + 1], weight, 0.1, steps=10_000, tol=1e-4, criterion=criterion)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-9, atol=1e-12)
    if criterion == "gap":
        assert (duality_gap(x, weight, together, 0.1) <= 1e-4 * x.square().sum(1) / 2).all()


def test_warm_start_continues_where_it_stopped(matrix):
    weight, x = matrix
    half = ista(x, weight, 0.1, steps=7)
    torch.testing.assert_close(ista(x, weight, 0.1, steps=5, init=half), ista(x, weight, 0.1, steps=12))
    kept = half.clone()
    with torch.no_grad():
        fista(x, weight, 0.1, steps=5, init=half)
    assert torch.equal(half, kept)


def test_mask_ignores_missing_samples(convolution):
    weight, x = convolution
    mask = (torch.rand(3, 1, 7, 8) > 0.4).double()
    spoiled = torch.where(mask.expand_as(x) == 0, 1e3, x)
    torch.testing.assert_close(
        fista(spoiled, weight, 0.1, steps=40, mask=mask), fista(x, weight, 0.1, steps=40, mask=mask)
    )
    # Dropping rows of the explicit matrix is the same problem.
    basis = torch.eye(2 * 7 * 8, dtype=torch.float64).view(-1, 2, 7, 8)
    explicit = ConvGeometry.create(2, 3).analysis(basis, weight).flatten(1).T
    known = mask[0].expand(2, 7, 8).flatten() > 0
    expected = solve(x[:1].flatten(1)[:, known], explicit[:, known], 0.1, tol=1e-11)
    ours = solve(x[:1], weight, 0.1, tol=1e-11, mask=mask[:1])
    torch.testing.assert_close(ours.flatten(1), expected, atol=1e-4, rtol=0)


def test_iterative_hard_thresholding_recovers_a_sparse_code():
    weight = unit_norm(torch.randn(60, 100, dtype=torch.float64))
    truth = torch.zeros(4, 60, dtype=torch.float64)
    truth[:, :4] = torch.tensor([1.0, -2.0, 1.5, 3.0], dtype=torch.float64)
    x = truth @ weight
    torch.testing.assert_close(
        iterative_hard_thresholding(x, weight, 4, steps=200, step_size=0.7), truth, atol=1e-6, rtol=0
    )
    assert (iterative_hard_thresholding(x, weight, 3, steps=2) != 0).sum(1).max() <= 3


def test_one_step_of_model_based_thresholding_keeps_the_largest_correlation_of_each_block(convolution):
    weight, x = convolution
    z = iterative_hard_thresholding(x, weight, project=lambda v: one_per_block(v, 2), steps=1)
    correlation = torch.nn.functional.conv2d(x, weight)
    assert torch.equal(z != 0, one_per_block(correlation, 2) != 0)
    torch.testing.assert_close(z[z != 0], correlation[z != 0])


@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.parametrize("dims", [1, 2])
def test_one_step_from_zero_is_convolution_pooling_unpooling_deconvolution(dims, window):
    """Gilbert et al., section 3.2: bit for bit a layer of a CNN and its decoder with tied weights."""
    F = torch.nn.functional
    conv, deconv = (F.conv1d, F.conv_transpose1d) if dims == 1 else (F.conv2d, F.conv_transpose2d)
    pool, unpool = (F.max_pool1d, F.max_unpool1d) if dims == 1 else (F.max_pool2d, F.max_unpool2d)
    weight, x = torch.randn(6, 3, *[3] * dims), torch.randn(2, 3, *[10] * dims)
    z = iterative_hard_thresholding(x, weight, project=lambda v: one_per_block(v, window=window), steps=1)

    h = conv(x, weight)
    size = window or 8
    _, switches = pool(h.abs(), size, return_indices=True)
    pooled = h.flatten(2).gather(2, switches.flatten(2)).view_as(switches)
    unpooled = unpool(pooled, switches, size)
    assert torch.equal(z, unpooled)
    assert torch.equal(as_adjoint_pair(weight).synthesis(z), deconv(unpooled, weight))


def test_gradients_of_the_unrolled_pursuit(matrix):
    weight, x = matrix
    weight, x = weight[:8, :5].clone().requires_grad_(), x[:2, :5].clone().requires_grad_()
    lam = torch.tensor(0.05, dtype=torch.float64, requires_grad=True)
    run = lambda x, weight, lam: fista(x, weight, lam, steps=6, step_size=0.2)  # noqa: E731
    assert torch.autograd.gradcheck(run, (x, weight, lam))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lam": -0.1}, "lam must be a finite number >= 0"),
        ({"lam": float("nan")}, "lam"),
        ({"lam": torch.tensor([-1.0])}, "not negative"),
        ({"lam": torch.ones(5, 1, 1)}, "got shape"),
        ({"steps": 0}, "steps must be an int >= 1, got 0"),
        ({"tol": 0.0}, "tol must be greater than 0"),
        ({"tol": 1e-3, "criterion": "luck"}, "'gap' or 'change'"),
        ({"proximal_map": soft_threshold, "monotone": True}, "need an objective"),
    ],
)
def test_bad_arguments_are_refused(matrix, options, message):
    weight, x = matrix
    with pytest.raises(ValueError, match=message):
        fista(x, weight, **{"lam": 0.1, **options})


def test_other_refusals(matrix):
    weight, x = matrix
    with pytest.raises(ValueError, match="either k or project"):
        iterative_hard_thresholding(x, weight)
    with pytest.raises(ValueError, match=r"expected weights \(M, F\) or \(M, C, \*K\)"):
        fista(x, weight[0], 0.1)
    with pytest.raises(RuntimeError, match="did not reach tol"):
        solve(x, weight, 0.01, tol=1e-12, steps=3)


def test_problem_uses_the_bound_of_a_dictionary_layer():
    class Pair:
        def bound(self, size):
            return torch.tensor(7.0) if size == (5,) else None

    assert Problem(torch.zeros(1, 2, 5), Pair(), 0.1).lipschitz() == 7


def test_single_precision_reaches_a_tight_tolerance_and_half_precision_runs(convolution):
    weight, x = convolution[0].float(), convolution[1].float()
    for scale in (1.0, 255.0):
        z = solve(scale * x, weight, 0.2 * scale, tol=1e-5)
        assert (
            duality_gap(scale * x, weight, z, 0.2 * scale) <= 1e-5 * (scale * x).square().flatten(1).sum(1) / 2
        ).all()
    half = fista(x.bfloat16(), weight.bfloat16(), 0.2, steps=5).float()
    full = fista(x, weight, 0.2, steps=5)
    assert (half - full).norm() < 0.05 * full.norm()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ridge": -5.0}, "ridge"),
        ({"ridge": float("nan")}, "ridge"),
        ({"step_size": -1.0}, "step_size"),
        ({"steps": 2.5}, "steps"),
    ],
)
def test_bad_numbers_are_refused(matrix, options, message):
    weight, x = matrix
    with pytest.raises(ValueError, match=message):
        fista(x, weight, 0.1, **options)


@pytest.mark.parametrize("method", ["fista", "douglas_rachford"])
def test_solves_signals_whose_squares_single_precision_does_not_hold(method):
    x, dictionary = torch.randn(3, 1, 9, 9), Dictionary2d(1, 4, 3, padding=1)
    scale, lam = torch.tensor([1.0, 2.0**-90, 2.0**90]).view(3, 1, 1, 1), torch.tensor([0.1, 0.2, 0.3, 0.4])
    init, mask = torch.randn(3, 4, 9, 9), torch.rand(3, 1, 9, 9) > 0.2
    expected = solve(x, dictionary, lam, method=method, init=init, mask=mask)
    weights = lam.view(4, 1, 1) * scale
    z = solve(scale * x, dictionary, weights, method=method, init=scale * init, mask=mask)
    energy = x.masked_fill(~mask, 0).square().flatten(1).sum(1) / 2
    ours, theirs = (objective(x, dictionary, code, lam, mask=mask) for code in (z / scale, expected))
    assert ((ours - theirs).abs() <= 1e-4 * energy).all()
    assert not solve(1e-30 * x, dictionary, 1e-29, method=method).any()
    assert not solve(1e-30 * x, dictionary, 1e10, method=method, ridge=0.1).any()


@pytest.mark.parametrize("scale", [1.0, 1e-20])
@pytest.mark.parametrize("method", ["fista", "douglas_rachford"])
def test_solves_one_signal_for_several_weights(method, scale):
    x, dictionary = torch.randn(1, 1, 9, 9), Dictionary2d(1, 4, 3, padding=1)
    lam = torch.tensor([0.1, 0.3, 0.9]).view(3, 1, 1, 1)
    z = solve(scale * x, dictionary, scale * lam, method=method) / scale
    each = torch.cat([solve(x, dictionary, float(value), method=method) for value in lam])
    ours, theirs = (objective(x, dictionary, code, lam) for code in (z, each))
    assert ((ours - theirs).abs() <= 1e-4 * x.square().sum() / 2).all()


def test_signals_that_cannot_be_coded_are_refused(matrix):
    weight, x = matrix
    with pytest.raises(ValueError, match="x holds NaN"):
        solve(x.log(), weight, 0.1)
    with pytest.raises(ValueError, match=r"signals must be \(N, F\)"):
        fista(x[0], weight, 0.1)
    assert not fista(x, torch.zeros_like(weight), 0.1, steps=3).any()


@pytest.mark.parametrize("method", ["fista", "douglas_rachford"])
@pytest.mark.parametrize("nonneg", [False, True])
@pytest.mark.parametrize("ridge", [0.0, 0.1])
@pytest.mark.parametrize("free", ["one", "three", "all"])
def test_weights_of_zero_are_certified(method, nonneg, ridge, free):
    torch.manual_seed(1)
    dictionary, x = Dictionary2d(1, 6, 3, padding=1, dtype=torch.float64), torch.randn(2, 1, 6, 6, dtype=torch.float64)
    lam = torch.full((6,), 0.3, dtype=torch.float64)
    lam = 0.0 if free == "all" else lam.index_fill(0, torch.arange({"one": 1, "three": 3}[free]), 0.0)
    options = {"nonneg": nonneg, "ridge": ridge}
    z = solve(x, dictionary, lam, tol=1e-5, method=method, **options)
    gap, energy = duality_gap(x, dictionary, z, lam, **options), x.square().flatten(1).sum(1) / 2
    assert (gap <= 1e-5 * energy).all()
    # What it certifies is true: no code is better by more.
    best = fista(x, dictionary, lam, steps=400, restart=True, **options)
    excess = objective(x, dictionary, z, lam, **options) - objective(x, dictionary, best, lam, **options)
    assert (excess <= gap + 1e-9).all()
    # And it is no certificate of a code that is far from it.
    bad = torch.zeros_like(z)
    true = objective(x, dictionary, bad, lam, **options) - objective(x, dictionary, best, lam, **options)
    assert (duality_gap(x, dictionary, bad, lam, **options) >= true - 1e-9).all() and (true > 0.1).all()


@pytest.mark.parametrize("kind", ["matrix", "groups", "mask", "positions"])
def test_weights_of_zero_of_other_problems(matrix, convolution, kind):
    weight, x = convolution if kind in ("mask", "positions") else matrix
    weight = weight[:15] if kind in ("matrix", "groups") else weight
    options = {"mask": (torch.rand_like(x) > 0.3).double()} if kind == "mask" else {}
    lam = torch.full((len(weight),), 0.3, dtype=x.dtype).index_fill(0, torch.arange(3), 0.0)
    if kind == "positions":
        lam = (torch.rand(1, 6, 5, 6) > 0.3).to(x) * 0.3
    if kind == "groups":
        z = fista(x, weight, lam, steps=5000, tol=1e-7, penalty=GroupL1(3), restart=True)
        gap = Problem(x, as_adjoint_pair(weight), lam, penalty=GroupL1(3)).duality_gap(z)
    else:
        z = solve(x, weight, lam, tol=1e-6, **options)
        gap = duality_gap(x, weight, z, lam, **options)
        best = fista(x, weight, lam, steps=400, restart=True, **options)
        assert (
            objective(x, weight, z, lam, **options) <= objective(x, weight, best, lam, **options) + gap + 1e-9
        ).all()
    assert (gap <= 1e-6 * x.square().flatten(1).sum(1)).all()


def test_an_atom_that_costs_nothing_is_fitted_by_least_squares(matrix):
    weight, x = matrix
    weight = weight[:8]
    torch.testing.assert_close(
        solve(x, weight, 0.0, tol=1e-12), torch.linalg.lstsq(weight.T, x.T).solution.T, rtol=0, atol=1e-4
    )


def test_advice_where_weights_of_zero_converge_slowly(matrix):
    weight, x = matrix
    lam = torch.full((40,), 0.01, dtype=x.dtype).index_fill(0, torch.tensor([1]), 0.0)
    with pytest.raises(
        RuntimeError, match="Atoms of weight 0 may converge slowly, which a ridge or a small weight helps"
    ):
        solve(x, weight, lam, tol=1e-12, steps=3)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_advice_of_an_equilibrium_layer_for_signals_that_are_no_numbers(bad):
    layer, x = CSC2d(1, 4, 3, steps=None, tol=1e-3), torch.randn(2, 1, 8, 8)
    spoiled = x.clone()
    spoiled[1, 0, 3, 3] = bad
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            with pytest.raises(ValueError, match="x holds NaN or infinite values"):
                layer(spoiled)
            mask = spoiled.isfinite().float()
            torch.testing.assert_close(layer(spoiled, mask=mask), layer(x, mask=mask))
    fixed = CSC2d(1, 4, 3, steps=300, gradient="implicit")
    with pytest.raises(ValueError, match="x holds NaN or infinite values"):
        fixed(spoiled)
    with pytest.raises(ValueError, match=r"torch\.float32 does not hold the squares of x, whose largest magnitude is"):
        fixed(1e22 * x)


@pytest.mark.parametrize("size", [1e-25, 1e-12, 1e15, 1e25])
def test_an_equilibrium_layer_solves_huge_and_tiny_signals(size):
    layer, x = CSC2d(1, 4, 3, steps=None, tol=1e-5, lam=0.3), torch.randn(3, 1, 8, 8)
    x = x * torch.tensor([1.0, size, 1.0]).view(3, 1, 1, 1)
    lam = torch.tensor([0.3, 0.3 * size, 0.3]).view(3, 1, 1, 1)
    z = layer(x, lam=lam)
    expected = layer.double()(x.double() / lam.double(), lam=1.0) * lam.double()
    scale = lam.double() / 0.3
    torch.testing.assert_close(z.double() / scale, expected / scale, rtol=0, atol=2e-2)


def test_types_that_cannot_be_certified_are_refused(matrix):
    weight, x = matrix
    with pytest.raises(ValueError, match=r"solve: x must be float32 or float64, got torch\.float16"):
        solve(x.half(), weight.half(), 0.1)
    with pytest.raises(
        ValueError, match=r"solve: x must be of type torch\.float64 as the dictionary is, got torch\.float32"
    ):
        solve(x.float(), weight, 0.1)
    assert solve(x[:0], weight, 0.1).shape == (0, 40)
    with pytest.raises(RuntimeError, match="did not reach tol"):
        solve(x.float(), weight.float(), 0.1, tol=1e-14, steps=40)
