import copy

import pytest
import torch
from torch import nn

from csc_nets.functional import Cascade, solve
from csc_nets.layers import CSC2d, Dictionary2d
from csc_nets.layers.effective import EffectiveCSC2d, EffectiveDictionary2d, effective_atoms

CHAINS = [
    [(1, 4, 5, 1, 3)],
    [(1, 4, 3, 1, 0), (4, 6, 3, 1, 0)],
    [(3, 4, 5, 2, 4), (4, 5, 3, 1, 0), (5, 7, (2, 3), (2, 1), 0)],
    [(1, 4, 7, 2, 0), (4, 6, 5, 1, 0), (6, 8, 7, 1, 0)],
]


def chain(spec, dtype=torch.float64):
    return [Dictionary2d(c, m, k, stride=s, padding=p, dtype=dtype) for c, m, k, s, p in spec]


@pytest.mark.parametrize("spec", CHAINS)
@pytest.mark.parametrize("size", [(28, 28), (30, 33)])
def test_it_is_the_product_of_its_factors_with_unit_atoms(spec, size):
    factors = chain(spec)
    effective, cascade = EffectiveDictionary2d(factors), Cascade(factors)
    norms = effective_atoms(factors).flatten(1).norm(dim=1)
    torch.testing.assert_close(effective.weight.flatten(1).norm(dim=1), torch.ones_like(norms))
    x = torch.randn(2, factors[0].in_channels, *size, dtype=torch.float64)
    z = effective.analysis(x)
    assert tuple(z.shape[2:]) == cascade.sizes(size)[-1]
    torch.testing.assert_close(z, cascade.analysis(x) / norms.view(-1, 1, 1))
    torch.testing.assert_close(effective.synthesis(z, size), cascade.synthesis(z / norms.view(-1, 1, 1), size))
    codes = EffectiveCSC2d(factors).codes(z, size)
    for ours, theirs in zip(codes, cascade.codes(z / norms.view(-1, 1, 1), size)[1:], strict=True):
        torch.testing.assert_close(ours, theirs)


def test_an_effective_atom_is_what_one_nonzero_makes():
    factors = chain(CHAINS[2])
    factors[0].geometry = Dictionary2d(3, 4, 5, stride=2).geometry  # room for the whole atom
    atoms = effective_atoms(factors)
    assert atoms.shape == (7, 3, 11, 13)
    one = torch.zeros(1, 7, 1, 1, dtype=torch.float64)
    one[0, 4] = 1
    torch.testing.assert_close(Cascade(factors).synthesis(one, (11, 13))[0], atoms[4])


@pytest.mark.parametrize("spec", CHAINS)
@pytest.mark.parametrize(("size", "tight"), [((28, 28), 0.0), ((100, 100), 0.8)])
def test_the_bound_holds_the_norm_on_signals_of_every_size(spec, size, tight):
    effective = EffectiveDictionary2d(chain(spec))
    bound = effective.bound(size)
    u = torch.randn(1, effective.in_channels, *size, dtype=torch.float64)
    with torch.no_grad():
        for _ in range(30):
            u = effective.synthesis(effective.analysis(u / u.norm()), size)
    assert tight * bound < u.norm() < bound / 0.9  # 0.9: the safety of the step size


@pytest.mark.parametrize("training", [True, False])
def test_the_bound_follows_the_factors(training):
    layer = EffectiveCSC2d(chain(CHAINS[1]), steps=1).train(training)
    old, x = layer.dictionary.lipschitz.item(), torch.randn(1, 1, 12, 12, dtype=torch.float64)
    layer(x)
    assert layer.dictionary.lipschitz.item() == old
    for dictionary in layer.dictionary.dictionaries:
        dictionary.weight = torch.ones_like(dictionary.weight)  # all aligned: a far larger norm
    layer(x)
    expected = copy.deepcopy(layer.dictionary)
    expected.refresh()
    assert layer.dictionary.lipschitz == expected.lipschitz
    assert layer.dictionary.lipschitz > 2 * old


def test_an_effective_dictionary_has_no_atoms_of_its_own():
    layer = EffectiveCSC2d(chain(CHAINS[1]))
    with pytest.raises(ValueError, match="atoms are products of those of the factors"):
        layer.atoms = torch.ones_like(layer.atoms)


def test_the_bound_of_a_single_position_is_the_norm_of_the_matrix_of_atoms():
    effective = EffectiveDictionary2d(chain(CHAINS[3]))
    atoms = effective.weight.detach()
    assert atoms.shape == (8, 1, 27, 27)
    expected = torch.linalg.matrix_norm(atoms.flatten(1), 2).square()
    torch.testing.assert_close(effective.bound((28, 27)), expected)
    assert effective.bound((29, 27)) > 1.2 * expected


def test_the_bound_is_exact_on_periodic_signals():
    effective = EffectiveDictionary2d(chain([(2, 3, 3, (2, 1), 0), (3, 9, 2, 1, 0)]))
    atoms = effective.weight.detach()
    assert atoms.shape == (9, 2, 5, 4)
    identity = torch.eye(2 * 20 * 16, dtype=torch.float64).view(-1, 2, 20, 16)  # four atoms in each axis, and even
    periodic = torch.nn.functional.pad(identity, [0, 3, 0, 3], mode="circular")
    matrix = torch.nn.functional.conv2d(periodic, atoms, stride=(2, 1)).flatten(1)
    assert matrix.shape[1] == 9 * 10 * 16
    torch.testing.assert_close(effective.lipschitz, torch.linalg.eigvalsh(matrix.T @ matrix)[-1])


@pytest.mark.parametrize("kernel", [13, 17])
def test_the_safety_of_the_step_size_covers_atoms_that_are_all_one_wave(kernel):
    effective = EffectiveDictionary2d([Dictionary2d(1, 2, kernel, dtype=torch.float64)])
    place = torch.arange(kernel, dtype=torch.float64)
    ratios = []
    for frequency in torch.linspace(0.2, 0.25, 16, dtype=torch.float64):  # several samples of the spectrum wide
        phase = 2 * torch.pi * frequency * (place[:, None] + place)
        effective.dictionaries[0].weight = torch.stack([phase.cos(), phase.sin()])[:, None]
        effective.refresh()
        norm = torch.fft.fft2(effective.weight.detach(), s=(256, 256)).abs().square().sum(0).amax()
        ratios.append((effective.lipschitz / norm).item())
    assert 0.9 <= min(ratios) < 0.93  # 0.9: the safety of the step size; the waves do lie between samples


def test_the_bound_is_made_from_the_smaller_gram_matrix(monkeypatch):
    sizes, solver = [], torch.linalg.eigvalsh
    monkeypatch.setattr(torch.linalg, "eigvalsh", lambda gram: sizes.append(gram.shape[-1]) or solver(gram))
    EffectiveDictionary2d([Dictionary2d(3, 4, 3, stride=2), Dictionary2d(4, 5, 2, stride=2)])
    assert sizes == [5, 5]  # 5 atoms against 3 * 4 * 4 folded frequencies, and 3 * 5 * 5 pixels
    sizes.clear()
    EffectiveDictionary2d([Dictionary2d(1, 4, 2, stride=2), Dictionary2d(4, 9, 1)])
    assert sizes == [4, 4]


def test_the_bound_is_that_of_the_given_atoms():
    effective = EffectiveDictionary2d(chain(CHAINS[2])).train()
    bounds = effective.lipschitz.clone(), effective.lipschitz_single.clone()
    effective.update_lipschitz(2 * effective.weight)
    torch.testing.assert_close((effective.lipschitz, effective.lipschitz_single), tuple(4 * b for b in bounds))


@pytest.mark.parametrize("training", [True, False])
def test_the_factors_keep_bounds_of_their_own(training):
    layer = EffectiveCSC2d(chain(CHAINS[2]), steps=1).train(training)
    factors = list(layer.dictionary.dictionaries)
    old, x = [d.lipschitz.item() for d in factors], torch.randn(1, 3, 20, 20, dtype=torch.float64)
    layer(x)
    torch.testing.assert_close([d.lipschitz.item() for d in factors], old, rtol=0.02, atol=0)
    for dictionary in factors:
        dictionary.get_parameter("parametrizations.weight.original").data.fill_(1)
    layer(x)
    for dictionary, before in zip(factors, old, strict=True):
        twin = copy.deepcopy(dictionary)
        twin.refresh()
        torch.testing.assert_close(dictionary.lipschitz, twin.lipschitz, rtol=0.01, atol=0)
        assert dictionary.lipschitz > 1.5 * before
        dictionary.lipschitz.fill_(1)
    layer.dictionary.refresh()
    assert min(d.lipschitz.item() for d in factors) > 1.5


def test_broken_atoms_keep_the_last_bound():
    layer = EffectiveCSC2d(chain(CHAINS[1]), steps=1).train()
    old = layer.dictionary.lipschitz.item()
    layer.dictionary.dictionaries[0].get_parameter("parametrizations.weight.original").data.fill_(float("nan"))
    layer(torch.randn(1, 1, 12, 12, dtype=torch.float64))
    assert layer.dictionary.lipschitz.item() == old
    layer.dictionary.refresh()
    assert layer.dictionary.lipschitz.item() == old


def test_codes_agree_with_a_solver_over_the_factors_whose_weights_are_the_norms():
    factors = chain(CHAINS[3])
    layer = EffectiveCSC2d(factors, lam=0.3, steps=3000, nonneg=False).eval()
    x = torch.randn(2, 1, 29, 29, dtype=torch.float64)
    norms = effective_atoms(factors).flatten(1).norm(dim=1).detach()
    expected = solve(x, Cascade(factors), 0.3 * norms, tol=1e-9)
    assert (expected != 0).any()
    torch.testing.assert_close(layer.codes(layer(x))[-1], expected, atol=1e-4, rtol=1e-3)
    assert (layer.problem(x).duality_gap(layer(x)) < 1e-5 * x.square().sum((1, 2, 3))).all()


def test_one_factor_is_a_csc_layer():
    plain = CSC2d(1, 4, 5, padding=3, lam=0.2, steps=7)
    layer = EffectiveCSC2d([copy.deepcopy(plain.dictionary)], lam=0.2, steps=7)
    x = torch.randn(2, 1, 14, 14)
    layer.dictionary.lipschitz.copy_(plain.dictionary.lipschitz)
    torch.testing.assert_close(layer.eval()(x), plain.eval()(x))


def test_the_gradient_reaches_every_factor():
    factors = chain(CHAINS[2])
    layer = EffectiveCSC2d(factors, lam=0.05, steps=3)
    x = torch.randn(1, 3, 20, 20, dtype=torch.float64)
    layer.synthesize(layer(x), (20, 20)).square().sum().backward()
    for dictionary in factors:
        assert dictionary.parametrizations.weight.original.grad.abs().sum() > 0


def test_state_dict_and_copy():
    layer, other = (EffectiveCSC2d(chain(CHAINS[1], torch.float32), steps=3).eval() for _ in range(2))
    x = torch.randn(1, 1, 9, 9)
    assert not torch.allclose(layer(x), other(x))
    other.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(x), other(x), rtol=0, atol=0)
    torch.testing.assert_close(copy.deepcopy(layer)(x), layer(x), rtol=0, atol=0)
    other.dictionary.reset_parameters()
    assert not torch.allclose(layer(x), other(x))
    assert isinstance(layer, nn.Module) and "lam=0.1" in repr(layer) and "kernel_size=(5, 5)" in repr(layer)


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ([], "at least one"),
        ([Dictionary2d(1, 4, 3), Dictionary2d(5, 4, 3)], r"dictionaries\[1\] must take the 4 atoms .* got 5"),
        ([Dictionary2d(1, 4, 3), Dictionary2d(4, 4, 3, padding=1)], r"dictionaries\[1\] must have dilation 1"),
        ([Dictionary2d(1, 4, 3, dilation=2)], r"dictionaries\[0\] must have dilation 1"),
        ([Dictionary2d(1, 4, 3, padding=1, padding_mode="circular")], "circular"),
    ],
)
def test_what_is_no_convolution_is_refused(factors, message):
    with pytest.raises(ValueError, match=message):
        EffectiveCSC2d(factors)


@pytest.mark.parametrize("dilated", [0, 1])
def test_atoms_of_dilated_factors_are_refused(dilated):
    factors = [Dictionary2d(1, 4, 3), Dictionary2d(4, 5, 3)]
    factors[dilated] = Dictionary2d(*factors[dilated].weight.shape[1::-1], 3, dilation=2)
    with pytest.raises(ValueError, match=rf"dictionaries\[{dilated}\] must have dilation 1, got \(2, 2\)"):
        effective_atoms(factors)


def test_recomputed_and_implicit_gradients_reach_the_factors():
    x, steps = torch.randn(2, 1, 12, 12, dtype=torch.float64), 3000
    gradients = {}
    for options in (
        {"steps": 6},
        {"steps": 6, "gradient": "recompute"},
        {"steps": steps},
        {"steps": None, "tol": 1e-9},
    ):
        torch.manual_seed(0)
        layer = EffectiveCSC2d(chain(CHAINS[1]), lam=0.3, **options).double().eval()
        assert options.get("gradient", layer.gradient.registered_name) == layer.gradient.registered_name
        layer(x).square().sum().backward()
        gradients[options.get("gradient") or options["steps"]] = [p.grad for p in layer.parameters()]
    for ours, expected, rtol in (("recompute", 6, 1e-6), (None, steps, 1e-3)):
        for a, b in zip(gradients[ours], gradients[expected], strict=True):
            assert (a - b).norm() <= rtol * b.norm()


@pytest.mark.parametrize("options", [{"steps": 20, "tol": 1e-2}, {"steps": None, "tol": 1e-2}])
def test_a_pursuit_to_tolerance_multiplies_the_factors_once(options, monkeypatch):
    layer, count = EffectiveCSC2d(chain(CHAINS[1]), lam=0.3, **options), 0
    plain = EffectiveDictionary2d._products

    def counted(self):
        nonlocal count
        count += 1
        return plain(self)

    monkeypatch.setattr(EffectiveDictionary2d, "_products", counted)
    layer(torch.randn(2, 1, 12, 12, dtype=torch.float64)).sum().backward()
    assert count == 1
