"""The LISTA family: it starts as ISTA, learns what it says, and keeps what it has learned."""

import pytest
import torch

from csc_nets.functional import (
    ALISTA,
    ISTA,
    L1,
    LISTA,
    LISTACP,
    StepLISTA,
    TiLISTA,
    soft_threshold,
)
from csc_nets.functional.problem import SAFETY
from csc_nets.functional.pursuits.lista import SupportSelection
from csc_nets.layers import CSC1d, CSC2d, SparseCoding

FAMILY = {
    "lista": (LISTA, {"shifts", "analysers", "synthesisers"}),
    "lista_cp": (LISTACP, {"shifts", "analysers"}),
    "ti_lista": (TiLISTA, {"gains", "shifts", "analysers"}),
    "alista": (ALISTA, {"gains", "shifts"}),
    "step_lista": (StepLISTA, {"gains"}),
}
LAYERS = {
    "CSC1d": (CSC1d, (2, 6, 5, 2, 2), (3, 2, 17)),
    "CSC2d": (CSC2d, (3, 8, 3, 1, 1), (2, 3, 7, 6)),
    "SparseCoding": (SparseCoding, (7, 12), (9, 7)),
}


@pytest.fixture(params=LAYERS)
def case(request):
    cls, args, shape = LAYERS[request.param]
    torch.manual_seed(0)
    return (lambda **options: cls(*args, **{"lam": 0.1, **options}, dtype=torch.float64)), torch.randn(shape).double()


@pytest.mark.parametrize("name", FAMILY)
def test_each_learns_what_the_table_says(case, name):
    build, x = case
    kind, learned = FAMILY[name]
    layer = build(pursuit=name, steps=4)
    assert isinstance(layer.pursuit, kind) and {n for n, _ in layer.pursuit.named_parameters()} == learned
    layer(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in layer.pursuit.parameters())


@pytest.mark.parametrize("nonneg", [True, False])
@pytest.mark.parametrize("name", [name for name in FAMILY if name != "alista"])
def test_it_starts_as_ista(case, name, nonneg):
    build, x = case
    layer = build(pursuit=name, steps=5, nonneg=nonneg).eval()
    ista = build(pursuit=ISTA(5), nonneg=nonneg).eval()
    ista.load_state_dict(layer.state_dict(), strict=False)
    torch.testing.assert_close(layer(x), ista(x))
    mask, lam = torch.rand_like(x) > 0.2, torch.rand(len(x), *(1,) * (x.ndim - 1)).double()
    init = ista(x, lam=lam)
    for options in ({"mask": mask}, {"lam": lam}):
        torch.testing.assert_close(layer(x, **options), ista(x, **options))
    if name in ("ti_lista", "step_lista"):
        torch.testing.assert_close(layer(x, init=init), ista(x, init=init))


def test_the_iteration_is_the_published_one():
    torch.manual_seed(0)
    layer, x = SparseCoding(7, 12, lam=0.1, nonneg=False, pursuit=LISTA(3), dtype=torch.float64), torch.randn(4, 7)
    x, pursuit, eta = x.double(), layer.pursuit, SAFETY / layer.dictionary.lipschitz
    with torch.no_grad():
        for p in pursuit.parameters():
            p.add_(0.1 * torch.randn_like(p))
    z = torch.zeros(4, 12).double()
    for k in range(3):
        b = pursuit.synthesisers[k - 1] if k else layer.atoms
        t = (eta * 0.1 + pursuit.shifts[k]).clamp_min(0)  # the signed threshold has none below 0
        z = soft_threshold(z + eta * (x - z @ b) @ pursuit.analysers[k].T, t)
    torch.testing.assert_close(layer(x), z)


def test_support_selection_lets_the_largest_pass_above_the_threshold():
    v = torch.tensor([[3.0, -2.0, 1.5, 0.2, -0.1]])
    assert SupportSelection(L1(), 0.4).prox(v, 1.0).tolist() == [[3.0, -2.0, 0.5, 0.0, 0.0]]
    assert torch.equal(SupportSelection(L1(), 0.0).prox(v, 1.0), L1().prox(v, 1.0))
    # Entries below the threshold do not pass, however many may.
    torch.testing.assert_close(SupportSelection(L1(), 1.0).prox(v, 1.0), torch.where(v.abs() > 1, v, 0.0))


@pytest.mark.parametrize("name", FAMILY)
def test_learned_steps_are_kept(case, name):
    build, x = case
    layer = build(pursuit=name, steps=4)
    with torch.no_grad():
        for p in layer.pursuit.parameters():
            p.add_(0.01)
    expected = layer.eval()(x)
    with pytest.raises(ValueError, match=r"has learned 4 steps and takes no other number"):
        layer.steps = 3
    layer.steps = 4
    torch.testing.assert_close(layer(x), expected)
    again = build(pursuit=name, steps=4).eval()
    again.load_state_dict(layer.state_dict())
    torch.testing.assert_close(again(x), expected)
    with pytest.raises(ValueError, match="do not end at one"):
        layer.gradient = "implicit"


@pytest.mark.parametrize("select", [0.0, 5.0])
@pytest.mark.parametrize("name", FAMILY)
def test_recomputed_gradients_are_those_of_unrolling(case, name, select):
    build, x = case
    gradients = []
    for gradient in ("unroll", "recompute"):
        torch.manual_seed(0)
        layer = build(pursuit={"name": name, "count": 3, "select": select}, gradient=gradient)
        layer(x).square().sum().backward()
        gradients.append([p.grad for p in layer.parameters()])
    for ours, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, expected)


def test_bad_numbers_are_refused():
    for options in ({"count": 0}, {"select": -1.0}, {"select": 20.0, "most": 10.0}, {"most": 101.0}):
        with pytest.raises(ValueError, match=r"steps must be|select and most"):
            LISTA(**options)
