"""Heavy ball, and a LISTA of one's own."""

import copy

import pytest
import torch

import csc_nets
from csc_nets.functional import ISTA, Recompute
from csc_nets.layers import CSC, CSC2d

KINDS = pytest.mark.parametrize("kind", ["conv", "strided", "dense"])
NAMES = pytest.mark.parametrize("name", ["plain", "mask", "ridge", "init", "per sample", "signed", "all"])


def written_out(layer, x, count, beta, lam=None, mask=None, init=None):
    """Heavy ball as in a textbook."""
    lam = layer.lam if lam is None else lam
    mask = torch.ones_like(x) if mask is None else mask
    eta = 0.9 / layer.dictionary.bound(x.shape[2:])
    z = torch.zeros_like(layer(x)) if init is None else init
    before = z
    for _ in range(count):
        correlation = layer.dictionary.analysis(mask * (x - layer.dictionary.synthesis(z, x.shape[2:])))
        v = (z + beta * (z - before) + eta * correlation) / (1 + eta * layer.ridge)
        t = eta * lam / (1 + eta * layer.ridge)
        before, z = z, (v - t).relu() if layer.nonneg else v.sign() * (v.abs() - t).relu()
    return z


@KINDS
@NAMES
def test_heavy_ball_is_the_iteration(own, situation, name, kind):
    build, x, arguments = situation(name, kind)
    layer = build(pursuit=own.HeavyBall(5, beta=0.6))
    with torch.no_grad():
        expected, plain = written_out(layer, x, 5, 0.6, **arguments), build(layer, pursuit=ISTA(5))(x, **arguments)
        torch.testing.assert_close(layer(x, **arguments), expected)
    torch.testing.assert_close(layer(x, **arguments), expected)
    assert not torch.allclose(plain, expected)


@KINDS
@NAMES
def test_recompute_has_the_gradient_of_heavy_ball(own, situation, gradients_of, alike, name, kind):
    build, x, arguments = situation(name, kind)
    layer = build(pursuit=own.HeavyBall(6, 0.7))
    other = build(layer, pursuit=own.HeavyBall(6, 0.7), gradient="recompute")
    alike(gradients_of(other, x, **arguments), gradients_of(layer, x, **arguments))


@pytest.mark.parametrize("name", ["plain", "mask", "ridge", "init", "per sample"])
def test_the_implicit_gradient_of_heavy_ball_at_convergence(own, situation, gradients_of, alike, name):
    build, x, arguments = situation(name, "strided")
    layer = build(pursuit=own.HeavyBall(1500, 0.9))
    given = {key: value for key, value in arguments.items() if key != "init"}
    assert float(layer.problem(x, **given).duality_gap(layer(x, **arguments)).detach().max()) < 1e-10
    other = build(layer, pursuit=own.HeavyBall(1500, 0.9), gradient="implicit")
    z, expected = gradients_of(layer, x, **arguments)
    y, found = gradients_of(other, x, **arguments)
    start = len(arguments) - list(arguments).index("init") if "init" in arguments else 0
    if start:  # a solution does not depend on where one started
        assert found[-start] is None and float(expected[-start].abs().max()) < 1e-5
        found, expected = found[:-start], expected[:-start]
    alike((y, found), (z, expected), 1e-5)


def test_spellings_and_changes(own):
    spelled = [
        CSC2d(2, 6, 3, pursuit="heavy_ball", steps=4),
        CSC2d(2, 6, 3, pursuit={"name": "heavy_ball", "beta": 0.5}, steps=4),
        CSC2d(2, 6, 3, pursuit={"name": "heavy_ball", "count": 4}, steps=2),
        CSC2d(2, 6, 3, pursuit=own.HeavyBall(4)),
    ]
    assert {layer.pursuit for layer in spelled} == {own.HeavyBall(4, 0.5)}
    assert repr(CSC2d(2, 6, 3, pursuit={"name": "threshold"}, steps=4).pursuit) == "Threshold()"  # as by its name
    layer = spelled[0]
    layer.steps = 7
    assert layer.pursuit == own.HeavyBall(7, 0.5) and "pursuit=HeavyBall(count=7, beta=0.5)" in repr(layer)
    assert CSC2d(2, 6, 3, pursuit="heavy_ball", steps=None, tol=1e-3).gradient.registered_name == "implicit"


def moved(layer):
    """The layer with a pursuit that has learned something."""
    with torch.no_grad():
        for p in layer.pursuit.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return layer


@KINDS
@NAMES
def test_lista_starts_as_ista_and_recompute_has_its_gradients(own, situation, gradients_of, alike, name, kind):
    build, x, arguments = situation(name, kind)
    layer = build(pursuit=own.MyLISTA(4))
    plain = copy.deepcopy(layer)
    plain.pursuit = ISTA(4)
    expected = plain(x, **arguments)
    torch.testing.assert_close(layer(x, **arguments), expected)
    assert not torch.allclose(moved(layer)(x, **arguments), expected)
    other = build(layer, pursuit="my_lista", steps=4, gradient=Recompute())
    one, two = gradients_of(layer, x, **arguments), gradients_of(other, x, **arguments)
    alike(one, two)
    assert all(g is not None for g in one[1])  # those of all filters and gains, too


def test_lista_trains_and_keeps_its_steps(own):
    layer, x = CSC2d(2, 6, 3, padding=1, pursuit=own.MyLISTA(4)), torch.randn(3, 2, 8, 8)
    assert {f"pursuit.filters.{k}" for k in range(4)} | {"pursuit.gains"} <= set(layer.state_dict())
    assert "pursuit=MyLISTA(4)" in repr(layer) and "\n" not in repr(layer)
    target = copy.deepcopy(layer)
    target.pursuit = ISTA(50)
    with torch.no_grad():
        wanted = target.eval()(x)
    optimizer = torch.optim.Adam(layer.parameters(), 1e-2)
    before, losses = copy.deepcopy(layer), []
    for _ in range(30):
        optimizer.zero_grad()
        loss = (layer(x) - wanted).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert not any(torch.equal(p, q) for p, q in zip(layer.parameters(), before.parameters(), strict=True))
    with pytest.raises(ValueError, match=r"MyLISTA\(4\) takes no count=3"):
        layer.steps = 3
    layer.steps = 4
    assert not torch.equal(layer.pursuit.gains, before.pursuit.gains)
    again = CSC2d(2, 6, 3, padding=1, pursuit="my_lista", steps=4)
    again.load_state_dict(layer.state_dict())
    assert torch.equal(again.eval()(x), layer.eval()(x))


def test_every_layer_of_a_network_has_its_own_filters(own):
    pursuit = own.MyLISTA(2)
    model = csc_nets.create_model("csc_small", widths=[3, 4], pursuit=pursuit)
    filters = [m.pursuit.filters[0].shape for m in model.modules() if isinstance(m, CSC2d)]
    assert filters == [(3, 3, 3, 3), (4, 3, 3, 3)] and not list(pursuit.parameters())


def test_filters_of_ones_own_need_atoms(own):
    with pytest.raises(ValueError, match=r"^CSC: MyLISTA\(4\) is not made for this dictionary: .*'weight'"):
        CSC(own.Haar(), pursuit=own.MyLISTA(4))
