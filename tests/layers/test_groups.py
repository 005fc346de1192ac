"""Dictionaries whose atoms lie in groups of channels, as the filters of a grouped convolution do."""

import copy

import pytest
import torch
from torch import nn

from csc_nets.functional import FISTA, Recompute
from csc_nets.layers import CSC1d, CSC2d, Dictionary2d
from csc_nets.theory import mutual_coherence

CASES = [(4, 8, 2, {}), (6, 6, 6, {"padding": 1}), (6, 12, 3, {"stride": 2, "padding": 1, "padding_mode": "circular"})]


@pytest.mark.parametrize(("channels", "atoms", "groups", "options"), CASES)
def test_analysis_is_the_grouped_convolution_and_synthesis_its_adjoint(channels, atoms, groups, options):
    dictionary = Dictionary2d(channels, atoms, 3, groups=groups, dtype=torch.float64, **options)
    conv = nn.Conv2d(channels, atoms, 3, groups=groups, bias=False, dtype=torch.float64, **options)
    conv.weight.data.copy_(dictionary.weight)
    x = torch.randn(2, channels, 8, 8, dtype=torch.float64)
    z = dictionary.analysis(x)
    torch.testing.assert_close(z, conv(x))
    code = torch.randn_like(z)
    torch.testing.assert_close((z * code).sum(), (x * dictionary.synthesis(code, (8, 8))).sum())


def test_each_group_is_coded_by_itself():
    options = {"lam": 0.3, "step_size": 0.1, "steps": 20}
    layer, x = CSC2d(6, 9, 3, groups=3, **options), torch.randn(2, 6, 7, 7)
    z = layer(x)
    for i in range(3):
        alone = CSC2d(2, 3, 3, **options)
        alone.atoms = layer.atoms[3 * i : 3 * i + 3].detach()
        part = x[:, 2 * i : 2 * i + 2].contiguous()
        torch.testing.assert_close(alone(part), z[:, 3 * i : 3 * i + 3], atol=1e-4, rtol=0)


def test_the_bound_is_the_largest_of_the_groups():
    layer = CSC2d(4, 8, 3, groups=2)
    norms = []
    for half in layer.atoms.detach().chunk(2):
        alone = Dictionary2d(2, 4, 3)
        alone.weight = half
        norms.append(alone.lipschitz.item())
    assert layer.dictionary.lipschitz.item() == pytest.approx(max(norms), rel=0.02)


def test_gradients_agree_and_the_state_dict_loads():
    layer = CSC2d(4, 8, 3, groups=2, pursuit=FISTA(5), lam=0.05)
    other = copy.deepcopy(layer)
    other.gradient = Recompute()
    x = torch.randn(2, 4, 9, 9)
    grads = []
    for net in (layer, other):
        net(x).square().sum().backward()
        grads.append(net.get_parameter("dictionary.parametrizations.weight.original").grad)
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-5)
    fresh = CSC2d(4, 8, 3, groups=2, pursuit=FISTA(5), lam=0.05)
    fresh.load_state_dict(layer.state_dict())
    assert torch.equal(fresh.eval()(x), layer.eval()(x))


def test_coherence_compares_atoms_of_one_group():
    layer = CSC1d(2, 2, 3, groups=2)
    layer.atoms = torch.tensor([[[1.0, 0, 0]], [[1.0, 0, 0]]])
    assert mutual_coherence(layer.dictionary) == 0


def test_bad_groups_are_refused():
    with pytest.raises(ValueError, match="groups must divide"):
        CSC2d(4, 9, 3, groups=2)
    with pytest.raises(ValueError, match="groups must be an int"):
        CSC2d(4, 8, 3, groups=0)
    with pytest.raises(ValueError, match="whitened"):
        CSC2d(4, 8, 3, groups=2, pursuit="whitened")
    with pytest.raises(ValueError, match=r"expected 4 input channels"):
        CSC2d(4, 8, 3, groups=2)(torch.randn(1, 2, 8, 8))
