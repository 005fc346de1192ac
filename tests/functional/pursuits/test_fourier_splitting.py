"""Douglas-Rachford against scikit-learn, FISTA, optimality conditions and its own definition with explicit matrices."""

import copy
import itertools
import re

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_images
from sklearn.linear_model import ElasticNet, Lasso

from csc_nets.functional import (
    Problem,
    douglas_rachford,
    duality_gap,
    elastic_net_threshold,
    fista,
    lam_max,
    objective,
    solve,
)
from csc_nets.functional.operators import fourier
from csc_nets.functional.pursuits import fourier_splitting as splitting
from csc_nets.layers import Dictionary1d, Dictionary2d, Dictionary3d

CIRCULAR = {"padding": "same", "padding_mode": "circular"}
GEOMETRIES = [
    (Dictionary1d, (2, 5, 3), {}, (12,)),
    (Dictionary1d, (1, 6, 5), {"padding": 2, "dilation": 2}, (31,)),
    (Dictionary2d, (1, 5, 4), CIRCULAR, (9, 8)),
    (Dictionary2d, (2, 5, 3), {}, (7, 8)),
    (Dictionary2d, (1, 6, 4), {"padding": "same"}, (9, 8)),
    (Dictionary2d, (1, 6, 3), {"padding": 1, "stride": 2}, (9, 8)),
    (Dictionary2d, (3, 6, 3), {**CIRCULAR, "padding": 1, "stride": 2}, (8, 8)),
    (Dictionary3d, (1, 4, 3), {"padding": 1}, (4, 5, 4)),
]


def explicit_matrix(dictionary, channels, size):
    """Rows are the shifted atoms, as ``DenseDictionary`` has them."""
    numel = channels * int(np.prod(size))
    basis = torch.eye(numel, dtype=torch.float64).view(-1, channels, *size)
    return dictionary.analysis(basis).flatten(1).T.detach()


def violation(problem, z):
    """How far ``z`` is from the optimality conditions: the distance of the gradient from the subgradients."""
    correlation = problem.pair.analysis(problem.residual(z)) - problem.ridge * z
    lam = problem.lam.expand_as(z) if isinstance(problem.lam, torch.Tensor) else torch.full_like(z, problem.lam)
    outside = (correlation if problem.nonneg else correlation.abs()) - lam
    return torch.where(z == 0, outside, (correlation - lam * z.sign()).abs()).max()


@pytest.mark.parametrize("nonneg", [False, True])
@pytest.mark.parametrize("ridge", [0.0, 0.3])
@pytest.mark.parametrize(
    ("cls", "sizes", "options", "signal"),
    [(Dictionary1d, (1, 3, 4), {}, (16,)), (Dictionary2d, (1, 3, 3), {"padding": 1}, (5, 6))],
)
def test_solution_is_that_of_scikit_learn(cls, sizes, options, signal, nonneg, ridge):
    dictionary = cls(*sizes, **options).double()
    x = torch.randn(2, sizes[0], *signal, dtype=torch.float64)
    z = douglas_rachford(x, dictionary, 0.3, steps=5000, tol=1e-13, nonneg=nonneg, ridge=ridge)
    matrix = explicit_matrix(dictionary, sizes[0], signal)
    total, features = 0.3 + ridge, matrix.shape[1]
    for code, image in zip(z, x, strict=True):
        settings = {"fit_intercept": False, "positive": nonneg, "tol": 1e-14, "max_iter": 10**6}
        model = ElasticNet(total / features, l1_ratio=0.3 / total, **settings)
        model = model if ridge else Lasso(0.3 / features, **settings)
        expected = model.fit(matrix.T.numpy(), image.flatten().numpy()).coef_
        np.testing.assert_allclose(code.flatten().numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("nonneg", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("cls", "sizes", "options", "signal"), GEOMETRIES)
def test_every_geometry_is_solved_and_traced(cls, sizes, options, signal, masked, nonneg):
    dictionary = cls(*sizes, **options).double()
    x = torch.randn(2, sizes[0], *signal, dtype=torch.float64)
    mask = (torch.rand(2, 1, *signal) > 0.3).double() if masked else None
    lam = 0.1 + 0.2 * torch.rand(sizes[1], dtype=torch.float64)  # per atom
    weights = {"nonneg": nonneg, "ridge": 0.1, "mask": mask}
    trace = []
    z = douglas_rachford(x, dictionary, lam, steps=3000, tol=1e-10, trace=trace, **weights)
    problem = Problem(x, dictionary, lam, **weights)
    assert 20 < len(trace) < 3000
    torch.testing.assert_close(trace[-1], problem.objective(z), rtol=1e-10, atol=0)
    assert violation(problem, z) < 1e-4
    assert not nonneg or z.min() >= 0


def test_step_is_its_definition_with_explicit_matrices():
    """Proximal maps by a linear solve, in w = u / rho; ridge and all."""
    dictionary, lam, rho, ridge, relax = Dictionary2d(2, 5, 3, **CIRCULAR).double(), 0.2, 0.7, 0.3, 1.6
    x = torch.randn(1, 2, 5, 4, dtype=torch.float64)
    matrix = explicit_matrix(dictionary, 2, (5, 4)).T
    hessian = matrix.T @ matrix + rho * torch.eye(matrix.shape[1], dtype=torch.float64)
    w = torch.zeros(matrix.shape[1], dtype=torch.float64)
    for steps in range(1, 8):
        z = elastic_net_threshold(w, lam / rho, ridge / rho)
        y = torch.linalg.solve(hessian, matrix.T @ x.flatten() + rho * (2 * z - w))
        w = w + relax * (y - z)
        ours = douglas_rachford(x, dictionary, lam, steps=steps, rho=rho, relax=relax, ridge=ridge)
        torch.testing.assert_close(ours.flatten(), elastic_net_threshold(w, lam / rho, ridge / rho))


def test_batch_is_as_one_at_a_time_with_weights_and_rho_of_their_own():
    dictionary = Dictionary2d(1, 5, 4).double()
    x = torch.randn(3, 1, 9, 8, dtype=torch.float64) * torch.tensor([0.1, 1.0, 5.0]).view(3, 1, 1, 1)
    lam = torch.tensor([0.01, 0.2, 0.3], dtype=torch.float64).view(3, 1, 1, 1)
    together = douglas_rachford(x, dictionary, lam, steps=60)
    for i in range(3):
        alone = douglas_rachford(x[i : i + 1], dictionary, lam[i].item(), steps=60)
        torch.testing.assert_close(together[i : i + 1], alone)


def test_weights_of_every_shape():
    dictionary = Dictionary2d(1, 5, 3, padding=1).double()
    x = torch.randn(2, 1, 7, 6, dtype=torch.float64)
    expected = douglas_rachford(x, dictionary, 0.2, steps=30)
    for shape in ((), (5,), (5, 1, 1), (2, 1, 1, 1), (1, 5, 1, 1), (2, 5, 7, 6), (1, 1, 7, 1)):
        lam = torch.full(shape, 0.2, dtype=torch.float64)
        torch.testing.assert_close(douglas_rachford(x, dictionary, lam, steps=30), expected)


def test_blocks_of_atoms_change_nothing(monkeypatch):
    dictionary, x = Dictionary2d(1, 7, 3, padding=1).double(), torch.randn(2, 1, 7, 6, dtype=torch.float64)
    lam = 0.1 + torch.rand(7, dtype=torch.float64)
    expected = douglas_rachford(x, dictionary, lam, steps=30)
    monkeypatch.setitem(fourier.BLOCK, "cpu", 1)
    torch.testing.assert_close(douglas_rachford(x, dictionary, lam, steps=30), expected)


def test_certificate_bounds_the_suboptimality_at_every_step():
    dictionary = Dictionary2d(1, 6, 3, padding=1, stride=2).double()
    x, lam = torch.randn(2, 1, 9, 8, dtype=torch.float64), 0.2
    for nonneg, ridge in itertools.product((False, True), (0.0, 0.2)):
        problem = Problem(x, dictionary, lam, ridge, nonneg)
        best = problem.objective(solve(x, dictionary, lam, tol=1e-12, nonneg=nonneg, ridge=ridge, method="fista"))
        for steps in (5, 20, 60):
            z, gap = splitting.split(problem, steps, tol=1e-15)
            assert (gap * x.square().flatten(1).sum(1) / 2 >= problem.objective(z) - best - 1e-10).all()
            assert gap.min() > 0


def test_warm_start_at_the_solution_stays_there():
    for options in (CIRCULAR, {"padding": 1}):
        dictionary = Dictionary2d(1, 5, 3, **options).double()
        x = torch.randn(2, 1, 9, 8, dtype=torch.float64)
        z = douglas_rachford(x, dictionary, 0.2, steps=5000, tol=1e-13)
        again, gap = splitting.split(Problem(x, dictionary, 0.2), 5, init=z, tol=1e-8)
        torch.testing.assert_close(again, z, atol=1e-4, rtol=0)
        assert gap.max() < 1e-5


@pytest.mark.parametrize("ridge", [0.0, 0.3])
@pytest.mark.parametrize("nonneg", [False, True])
def test_a_warm_start_is_the_first_code(ridge, nonneg):
    dictionary = Dictionary2d(1, 5, 3, padding=1).double()
    x, init = torch.randn(2, 1, 9, 8, dtype=torch.float64), torch.randn(2, 5, 9, 8, dtype=torch.float64)
    init[:, ::2] = 0
    with torch.no_grad():
        run = splitting.Splitting(Problem(x, dictionary, 0.2, ridge, nonneg), None, None, init)
        code = init.clamp_min(0) if nonneg else init
        torch.testing.assert_close(run.code(), code)
        torch.testing.assert_close((run.du + run.s) / 2, run.waves.synthesize(run.waves.pack(code)))


@pytest.mark.parametrize("padding", [0, 2])
def test_a_bad_warm_start_is_left_behind(padding):
    dictionary = Dictionary2d(1, 12, 5, padding=padding).double().eval()
    x = torch.randn(3, 1, 18, 18, dtype=torch.float64)
    with torch.no_grad():
        init = 10 * dictionary.analysis(x)
        _, gap = splitting.split(Problem(x, dictionary, 0.1 * lam_max(x, dictionary)), 1000, init=init, tol=1e-4)
    assert gap.max() <= 1e-4


def test_the_code_of_nothing_is_nothing_from_any_start():
    x, init = torch.zeros(2, 1, 9, 8, dtype=torch.float64), 10 * torch.ones(1, 5, 9, 8, dtype=torch.float64)
    dictionary = Dictionary2d(1, 5, 3, padding=1).double()
    assert not solve(x, dictionary, 0.1, init=init, method="douglas_rachford").any()


def test_limits():
    dictionary = Dictionary2d(1, 6, 3, **CIRCULAR).double()
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    top = lam_max(x, dictionary)
    assert not solve(x, dictionary, 1.001 * top, method="douglas_rachford").any()
    assert not douglas_rachford(torch.zeros_like(x), dictionary, 0.1, steps=20, tol=1e-6).any()
    z = douglas_rachford(x, dictionary, 0.0, steps=200)  # least squares: more atoms than samples, no residual
    torch.testing.assert_close(dictionary.synthesis(z, (8, 8)), x, atol=1e-6, rtol=0)
    assert not z.requires_grad


def test_solve_takes_it_for_images_and_agrees_with_fista():
    dictionary = Dictionary2d(1, 6, 5, padding="same")
    x = torch.randn(2, 1, 20, 20)
    auto = solve(x, dictionary, 0.3, tol=1e-3)
    assert torch.equal(auto, solve(x, dictionary, 0.3, tol=1e-3, method="douglas_rachford"))
    x, dictionary = x.double(), dictionary.double()
    problem = Problem(x, dictionary, 0.3)
    least = problem.objective(solve(x, dictionary, 0.3, tol=1e-9))
    energy = x.square().flatten(1).sum(1) / 2
    for z in (auto.double(), solve(x, dictionary, 0.3, tol=1e-3, method="fista")):
        assert (problem.objective(z) - least <= 1e-3 * energy).all()


def test_rho_is_near_the_best_of_a_grid():
    """At most 1.6 times the steps of the best of a grid of factor two."""
    noise = torch.randn(1, 1, 16, 16, dtype=torch.float64)
    x = torch.nn.functional.avg_pool2d(noise, 3, 1, 1)
    for scale, lam in ((1.0, 0.05), (7.0, 2.0)):
        dictionary, trace = Dictionary2d(1, 12, 5, **CIRCULAR).double(), []
        douglas_rachford(scale * x, dictionary, lam, steps=300, trace=trace)
        best, counts = trace[-1], {}
        for rho in (None, 0.2, 0.4, 0.8, 1.6, 3.2):
            trace = []
            douglas_rachford(scale * x, dictionary, lam, steps=120, rho=rho, trace=trace)
            counts[rho] = next((k for k, v in enumerate(trace, 1) if v <= best * (1 + 1e-4)), 120)
        ours = counts.pop(None)
        assert ours <= 1.6 * min(counts.values()) and min(counts.values()) < 120


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be an int >= 1, got 0"),
        ({"rho": 0.0}, "rho must be a finite number > 0, got 0.0"),
        ({"relax": 2.0}, "relax must lie between 0 and 2, got 2.0"),
        ({"tol": 0.0}, "tol must be greater than 0, got 0.0"),
        ({"lam": -1.0}, "lam must be a finite number >= 0"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        douglas_rachford(torch.zeros(1, 1, 8, 8), torch.randn(4, 1, 3, 3), **{"lam": 0.1, **options})


def test_solve_refuses_what_it_cannot_reach():
    x, weight = torch.randn(1, 1, 20, 20), torch.randn(4, 1, 3, 3)
    with pytest.raises(ValueError, match="method must be"):
        solve(x, weight, 0.1, method="luck")
    with pytest.raises(RuntimeError, match=r"1 of 1 samples did not reach tol=1e-10 in 400 steps of torch\.float32"):
        solve(x, weight, 0.1, tol=1e-10, steps=400)
    with pytest.raises(ValueError, match="is a convolution with"):
        solve(x, Dictionary2d(1, 4, 3, padding=1, padding_mode="reflect"), 0.1, method="douglas_rachford")
    assert duality_gap(x, weight, solve(x, weight, 0.1, tol=1e-3, method="fista"), 0.1) <= 1e-3 * x.square().sum() / 2


@pytest.mark.parametrize("ridge", [1.0, 1e2, 1e4])
def test_a_strong_ridge_takes_few_steps(ridge):
    d = Dictionary2d(1, 8, 5, padding="same", dtype=torch.float64)
    x, trace = torch.randn(1, 1, 32, 32, dtype=torch.float64), []
    z = douglas_rachford(x, d, 0.01, ridge=ridge, tol=1e-4, steps=200, trace=trace)
    assert len(trace) <= 40
    best = objective(x, d, fista(x, d, 0.01, ridge=ridge, steps=500), 0.01, ridge=ridge)
    assert (trace[-1] - best <= 1e-4 * x.square().sum() / 2).all() and z.shape == (1, 8, 32, 32)


@pytest.mark.parametrize(
    "d, init",
    [
        (Dictionary2d(1, 2, 3, padding="same", padding_mode="circular"), torch.ones(1, 2, 16, 16)),
        (Dictionary2d(1, 4, 8, stride=8), torch.ones(1, 4, 2, 2)),
    ],
)
def test_a_warm_start_is_left_as_it_was_and_broadcast(d, init):
    init = init.to(memory_format=torch.channels_last)
    x = torch.randn(3, 1, 16, 16)
    z = douglas_rachford(x, d, 0.1, steps=3, init=init)
    assert (init == 1).all() and z.shape == (3, *init.shape[1:])
    torch.testing.assert_close(z, douglas_rachford(x, d, 0.1, steps=3, init=init.repeat(3, 1, 1, 1)))


def test_no_signals_have_no_codes():
    d = Dictionary2d(1, 6, 5, padding="same")
    for method in ("auto", "douglas_rachford", "fista"):
        assert solve(torch.zeros(0, 1, 20, 20), d, 0.1, method=method).shape == (0, 6, 20, 20)


def test_signals_that_are_not_the_dictionarys_are_refused():
    d = Dictionary2d(1, 6, 5)
    with pytest.raises(ValueError, match=r"expected signals \(N, 1, ...\) of torch.float32.*got \(1, 3, 20, 20\)"):
        douglas_rachford(torch.zeros(1, 3, 20, 20), d, 0.1)
    with pytest.raises(ValueError, match=r"of torch.float32, as the dictionary, got .* of torch.float64"):
        douglas_rachford(torch.zeros(1, 1, 20, 20, dtype=torch.float64), d, 0.1)
    with pytest.raises(ValueError, match="on a signal of size"):
        douglas_rachford(torch.zeros(1, 20, 20), d, 0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mode", ["zeros", "circular"])
def test_certificate_holds_with_missing_data_and_weights_of_their_own(mode, dtype):
    d = Dictionary2d(1, 6, 3, padding="same", padding_mode=mode, dtype=dtype)
    x, mask = torch.randn(2, 1, 18, 18, dtype=dtype), (torch.rand(2, 1, 18, 18) > 0.3).to(dtype)
    x[mask == 0] = float("nan")
    lam = 0.05 + 0.2 * torch.rand(2, 6, 1, 1, dtype=dtype)
    exact, facts = copy.deepcopy(d).double(), {"mask": mask.double()}
    solution = fista(x.double(), exact, lam.double(), steps=2000, restart=True, **facts)
    best = objective(x.double(), exact, solution, lam.double(), **facts)
    energy = x.nan_to_num().double().square().flatten(1).sum(1) / 2
    for steps in (5, 20, 80):
        z, gap = splitting.split(Problem(x, d, lam, 0.0, False, mask), steps, tol=1e-12)
        truth = (objective(x.double(), exact, z.double(), lam.double(), **facts) - best) / energy
        rounding = 1e-9 if dtype == torch.float64 else 1e-6  # of the atoms' norms
        assert (truth <= gap + rounding).all() and (gap < 2).all()


@pytest.mark.parametrize(("masked", "nonneg"), [(False, False), (True, True)])
@pytest.mark.parametrize(("cls", "sizes", "options", "signal"), GEOMETRIES)
def test_no_dual_point_claims_too_much(cls, sizes, options, signal, masked, nonneg):
    channels, atoms, kernel = sizes
    dictionary = cls(channels, atoms, kernel, **options).double()
    x = torch.randn(2, channels, *signal, dtype=torch.float64)
    mask = (torch.rand_like(x) > 0.3).double() if masked else None
    lam = 0.1 + 0.2 * torch.rand(2, atoms, *[1] * len(signal), dtype=torch.float64)
    problem = Problem(x, dictionary, lam, 0.0, nonneg, mask)
    best = problem.objective(fista(x, dictionary, lam, steps=1500, restart=True, nonneg=nonneg, mask=mask))
    run = splitting.Splitting(problem, None, None, None)
    for k in range(1, 41):
        run.step(look=True, last=False)
        if k in (2, 10, 40):
            least = (problem.objective(run.code()) - best) / run.energy - 1e-9
            descended = run._descended(run.dual)
            points = (
                (run.dual, run.level),
                run._windowed(run.dual, run.level),
                (descended, run._level(descended)),
                run._windowed(descended, run._level(descended)),
            )
            for dual, level in points:
                torch.testing.assert_close(run._level(dual), level)
                assert (run._gap(dual, level) >= least).all()


def test_a_photograph_is_certified_soon(monkeypatch):
    photographs = [torch.tensor(image).double().mean(2) / 255 for image in load_sample_images().images]
    image, other = (p[None, None] - torch.nn.functional.avg_pool2d(p[None, None], 17, 1, 8) for p in photographs)
    image, generator = image[..., 100:228, 200:328], torch.Generator().manual_seed(0)
    patches = other[..., 16:400, 16:600].unfold(2, 8, 8).unfold(3, 8, 8).flatten(0, 3)
    patches = patches[patches.flatten(1).norm(dim=1) > 0.2]
    atoms = patches[torch.randperm(len(patches), generator=generator)[:24], None]
    dictionary = Dictionary2d(1, len(atoms), 8, **CIRCULAR).double()
    dictionary.weight = atoms / atoms.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    problem = Problem(image, dictionary, 0.2)
    best = problem.objective(douglas_rachford(image, dictionary, 0.2, steps=500))

    def certified():
        """Steps to a certificate of a thousandth of the objective."""
        counted = []
        with monkeypatch.context() as patch:
            step = splitting.Splitting.step
            patch.setattr(splitting.Splitting, "step", lambda *a, **k: (counted.append(1), step(*a, **k)))
            tol = float(1e-3 * best / (image.square().sum() / 2))
            z, gap = splitting.split(problem, 1000, tol=tol)
        assert gap <= tol and problem.objective(z) <= best * 1.001
        return len(counted)

    now = certified()
    monkeypatch.setattr(splitting, "_WINDOW_GAIN", 0)  # the residual scaled as a whole
    assert now <= certified() / 2
