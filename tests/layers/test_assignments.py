"""What construction would refuse is refused in assignments too, and what is assigned takes effect at once."""

import math

import pytest
import torch

from csc_nets.functional import LISTA, Problem, TopK, solve
from csc_nets.layers import (
    CSC,
    CSC2d,
    DenseDictionary,
    Dictionary2d,
    MultiLayerCSC,
    PooledCSC2d,
    Scattering2d,
    SparseCoding,
    SparsePriorConv2d,
)
from csc_nets.layers.effective import EffectiveCSC2d

NAN, INF = math.nan, math.inf
CODING = [
    *[("lam", v) for v in (-1.0, NAN, INF, "a", True, None, torch.tensor(NAN), torch.tensor(-1.0), torch.ones(3))],
    *[("ridge", v) for v in (-1.0, NAN, INF, "a", True, None)],
    *[("nonneg", v) for v in ("no", 2, 0.5)],
    *[("tol", v) for v in (-1.0, 0.0, NAN, "small", True)],
    *[("steps", v) for v in (0, -1, 1.5, "a", True, None)],
    *[("pursuit", v) for v in ("omp", 3, None)],
    *[("penalty", v) for v in ("l7", 3)],
    *[("gradient", v) for v in ("none", 3)],
    *[("backward", v) for v in ("none", 3)],
    *[("dictionary", v) for v in (3, None, torch.nn.Linear(2, 2))],
    ("learn_lam", True),
]
PRIOR = [
    *[("sigma", v) for v in (-1.0, 0.0, NAN, INF, "a", True, None)],
    *[("rates", v) for v in (-1.0, 0.0, NAN, INF, True, torch.tensor(0.0), torch.ones(3))],
    *[("step_size", v) for v in (-1.0, 0.0, NAN, INF, "a", True)],
    *[("dynamics", v) for v in ("fista", None)],
    *[("unit_norm", False), ("learn_sigma", True)],
]
POOLED = [
    *[("window", v) for v in (0, -1, 1.5, "a", True)],
    *[("density", v) for v in (0, 7, -1.0, NAN, "a", True, None)],
    *[("steps", v) for v in (0, 1.5, "a", True, None)],
    *[("sign", v) for v in ("relu", None)],
    *[("step_size", v) for v in (-1, 0.0, NAN, INF, "a", True)],
    ("unit_norm", False),
]
SCATTERING = [
    *[("scales", v) for v in (0, 1.5, "a", True, None, 5)],
    *[("angles", v) for v in (0, 1.5, "a", True)],
    *[("order", v) for v in (0, 3, "a", True)],
    *[("bank", v) for v in ("haar", None)],
    *[("input_size", v) for v in (0, 4, 1.5, "a", (16,), (16, 0), None)],
]
MULTI = [
    *[("tol", v) for v in (-1, 0.0, NAN, "a", True)],
    *[("steps", v) for v in (-1, 1.5, "a", True, None)],
    *[("prox", v) for v in ("relu", "hard", None)],
    *[("lam", v) for v in (-1.0, NAN, INF, "a", None, [0.1], [0.1, -1.0], torch.ones(3), torch.tensor(NAN))],
    *[("lam_0", v) for v in (torch.tensor(NAN), torch.tensor(-1.0), torch.ones(5))],
    *[("step_size", v) for v in (-1.0, 0.0, NAN, INF, "a", True, [0.1], [0.1, "a"])],
    *[("bias", True), ("learn_step", True)],
]
CASES = {
    "CSC2d": (lambda: CSC2d(2, 4, 3, lam=0.2), CODING),
    "CSC2d learned": (lambda: CSC2d(2, 4, 3, lam=0.2, learn_lam=True), [*CODING, ("lam", 0.0)]),
    "CSC2d tolerance": (lambda: CSC2d(2, 4, 3, steps=None, tol=1e-2), [("tol", None), ("tol", -1.0), ("steps", 0)]),
    "CSC": (lambda: CSC(Dictionary2d(2, 4, 3)), CODING),
    "SparseCoding": (lambda: SparseCoding(7, 4), CODING),
    "EffectiveCSC2d": (lambda: EffectiveCSC2d([Dictionary2d(2, 3, 3), Dictionary2d(3, 4, 3)]), CODING),
    "SparsePriorConv2d": (lambda: SparsePriorConv2d(2, 4, 3, steps=2), [*CODING, *PRIOR]),
    "PooledCSC2d": (lambda: PooledCSC2d(2, 4, 3), POOLED),
    "Scattering2d": (lambda: Scattering2d(2, 2, input_size=16), SCATTERING),
    "MultiLayerCSC": (lambda: MultiLayerCSC([Dictionary2d(2, 3, 3), Dictionary2d(3, 4, 3)]), MULTI),
    "MultiLayerCSC solved": (
        lambda: MultiLayerCSC([Dictionary2d(2, 4, 3)], pursuit="layered_basis_pursuit", tol=1e-2),
        [("tol", -1.0), ("step_size", 0.1)],
    ),
    "MultiLayerCSC sized": (
        lambda: MultiLayerCSC([Dictionary2d(2, 4, 3)], pursuit="layered_basis_pursuit", step_size=0.1),
        [("tol", 1e-2), ("step_size_0", torch.tensor(-1.0)), ("step_size_0", torch.tensor(NAN))],
    ),
    "MultiLayerCSC learned": (
        lambda: MultiLayerCSC([Dictionary2d(2, 4, 3)], step_size=0.1, learn_step=True),
        [("step_size", None), ("step_size", -1.0)],
    ),
    "MultiLayerCSC biased": (lambda: MultiLayerCSC([Dictionary2d(2, 4, 3)], bias=True), [("prox", "hard")]),
}


@pytest.mark.parametrize(
    ("case", "name", "value"),
    [(case, name, value) for case, (_, bad) in CASES.items() for name, value in bad],
    ids=lambda v: str(v).replace("\n", "")[:40],
)
def test_an_assignment_that_construction_would_refuse_is_refused_and_changes_nothing(case, name, value):
    layer = CASES[case][0]().eval()
    x = torch.randn(2, 7) if case == "SparseCoding" else torch.randn(2, 2, 16, 16)
    before, text = layer(x), repr(layer)
    if case == "CSC2d learned" and name == "lam" and value is None:
        pytest.skip("torch's own assignment of None")
    with pytest.raises(ValueError, match=f"^{layer._get_name()}: "):
        setattr(layer, name, value)
    assert torch.equal(layer(x), before) and repr(layer) == text


def test_settings_of_a_multi_layer_coder_take_effect():
    layer, x = MultiLayerCSC([Dictionary2d(2, 4, 3)], pursuit="layered_basis_pursuit", steps=4).eval(), None
    x = torch.randn(2, 2, 9, 9)
    codes = [layer(x)]
    for name, value in (("prox", "soft"), ("step_size", 0.05), ("step_size", None), ("tol", 0.5), ("lam", 0.3)):
        setattr(layer, name, value)
        codes.append(layer(x))
    assert not torch.equal(codes[0], codes[1]) and not torch.equal(codes[1], codes[2])
    assert torch.equal(codes[1], codes[3]) and not torch.equal(codes[4], codes[5])
    layer.tol = None
    layer.step_size = [0.1]
    assert layer.step_size[0] == torch.tensor(0.1) and layer.prox == "soft" and layer.tol is None
    learned = MultiLayerCSC([Dictionary2d(2, 4, 3)], step_size=0.1, learn_step=True)
    learned.step_size = 0.2
    assert isinstance(learned.step_size[0], torch.nn.Parameter) and learned.step_size[0].item() == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("name", "value"), [("scales", 3), ("angles", 3), ("order", 1), ("bank", "morlet"), ("input_size", (32, 24))]
)
def test_settings_of_a_scattering_layer_make_the_filters_anew(name, value):
    layer = Scattering2d(2, 2, input_size=32).double()
    setattr(layer, name, value)
    other = Scattering2d(**{"scales": 2, "angles": 2, "input_size": 32, name: value})
    x = torch.randn(2, 1, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(layer(x), other(x), rtol=1e-6, atol=1e-8)
    assert {k: v.shape for k, v in layer.named_buffers()} == {k: v.shape for k, v in other.named_buffers()}
    assert all(b.dtype == torch.float64 for b in layer.buffers())


def test_another_dictionary_takes_effect():
    layer, x = CSC2d(2, 4, 3, lam=torch.full((4,), 0.2)), torch.randn(2, 2, 9, 9)
    before = layer(x)
    layer.dictionary = Dictionary2d(2, 4, 5)
    assert layer(x).shape != before.shape
    with pytest.raises(ValueError, match="CSC2d: dictionary must have 4 atoms, as lam has, got 5"):
        layer.dictionary = Dictionary2d(2, 5, 3)
    learned = CSC2d(2, 4, 3, pursuit=LISTA(3))
    with pytest.raises(
        ValueError, match=r"dictionary must have atoms \(4, 2, 3, 3\), as LISTA\(3\) has, got \(4, 2, 5, 5\)"
    ):
        learned.dictionary = Dictionary2d(2, 4, 5)
    vectors = SparseCoding(7, 4)
    vectors.dictionary = DenseDictionary(7, 6)
    assert vectors(torch.randn(3, 7)).shape == (3, 6)


@pytest.mark.parametrize("dynamics", ["ista", "lca"])
@pytest.mark.parametrize("change", [{"ridge": 1.0}, {"nonneg": False}, {"ridge": 0.5, "nonneg": False}])
def test_a_prior_takes_what_it_is_given_and_its_objective_means_the_same(dynamics, change):
    torch.manual_seed(0)
    layer = SparsePriorConv2d(2, 6, 3, padding=1, rate=0.2, steps=600, dynamics=dynamics, dtype=torch.float64).eval()
    x = torch.randn(2, 2, 6, 6, dtype=torch.float64)
    with torch.no_grad():
        before = layer(x)
        for name, value in change.items():
            setattr(layer, name, value)
        z, lam = layer(x), layer.lam
        best = solve(x, layer.dictionary, lam, tol=1e-9, ridge=layer.ridge, nonneg=layer.nonneg)
        gap = layer.objective(x, z) - layer.objective(x, best)
        moved = layer.objective(x, before) - layer.objective(x, best)
    assert (gap < 0.02 * moved).all()  # ISTA is slow without a ridge
    text = repr(layer)
    assert ("ridge" in text) == ("ridge" in change) and ("L1()" in text) == ("nonneg" in change)
    assert isinstance(layer.problem(x), Problem)


def test_a_prior_refuses_what_its_steps_cannot_do_and_shows_what_it_took():
    layer, x = SparsePriorConv2d(2, 4, 3, steps=3).eval(), torch.randn(2, 2, 9, 9)
    for name, value, message in (
        ("tol", 1e-2, "takes no tol"),
        ("gradient", "implicit", "do not end at one"),
        ("gradient", "recompute", "does more than that"),
        ("steps", None, "give tol first"),
    ):
        with pytest.raises(ValueError, match=f"SparsePriorConv2d: .*{message}"):
            setattr(layer, name, value)
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        SparsePriorConv2d(2, 4, 3, ridge=1.0)
    before = layer(x)
    layer.pursuit = "fista"
    assert not torch.equal(layer(x), before) and "pursuit=FISTA(3)" in repr(layer) and layer.dynamics == "other"
    torch.testing.assert_close(layer(x), CSC2d.forward(layer, x))
    with pytest.raises(ValueError, match=r"FISTA\(3\) takes no step_size, got 0.1"):
        layer.step_size = 0.1
    layer.penalty = TopK(5)
    assert (layer(x) != 0).flatten(1).sum(1).max() <= 5 and "TopK" in repr(layer)


@pytest.mark.parametrize("learn", [True, False])
def test_rates_stay_where_the_noise_changes(learn):
    layer = SparsePriorConv2d(2, 4, 3, rate=torch.rand(4) + 0.1, sigma=0.5, learn_sigma=learn)
    rates = layer.rates.detach().clone()
    layer.sigma = 2.0
    torch.testing.assert_close(layer.rates, rates)
    torch.testing.assert_close(layer.bias, -4 * rates)
    assert layer.sigma.item() == pytest.approx(2.0)
    assert any("sigma" in name for name, _ in layer.named_parameters()) == learn
