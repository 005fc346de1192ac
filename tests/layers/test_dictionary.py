"""Dictionary modules: unit atoms, adjointness, the spectral bound."""

import io

import pytest
import torch
from torch import nn

from csc_nets.functional import unit_norm
from csc_nets.layers import CSC2d, DenseDictionary, Dictionary1d, Dictionary2d, Dictionary3d
from csc_nets.layers.dictionary import UnitNorm

CASES = [
    (DenseDictionary(6, 9), (2, 6), None),
    (Dictionary1d(2, 5, 4, 2, 1), (2, 2, 11), (11,)),
    (Dictionary2d(3, 7, 3, 2, 1), (2, 3, 9, 10), (9, 10)),
    (Dictionary3d(2, 4, 2, 2), (2, 2, 5, 4, 6), (5, 4, 6)),
]


@pytest.mark.parametrize(("dictionary", "shape", "size"), CASES)
def test_adjoint_unit_atoms_and_bound(dictionary, shape, size):
    dictionary = dictionary.double()
    x = torch.randn(shape, dtype=torch.float64)
    code = dictionary.analysis(x)
    z = torch.randn_like(code)
    inner = (dictionary.synthesis(z, size) * x).sum()
    torch.testing.assert_close(inner, (z * code).sum(), rtol=1e-10, atol=1e-10)
    norms = dictionary.weight.flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms))
    assert code.square().sum() <= 1.03 * dictionary.lipschitz * x.square().sum()


def test_dense_bound_is_the_spectral_norm():
    dictionary = DenseDictionary(6, 9)
    torch.testing.assert_close(dictionary.lipschitz, torch.linalg.matrix_norm(dictionary.weight.detach(), 2) ** 2)


def test_atoms_stay_on_the_sphere_through_an_optimiser_step_and_an_assignment():
    dictionary = Dictionary2d(2, 5, 3)
    optimiser = torch.optim.SGD(dictionary.parameters(), lr=0.5)
    dictionary.analysis(torch.randn(1, 2, 6, 6)).square().sum().backward()
    gradient = dictionary.get_parameter("parametrizations.weight.original").grad
    # Moving along an atom changes nothing, so the gradient is tangent to the sphere.
    original = dictionary.get_parameter("parametrizations.weight.original").detach()
    assert ((gradient * original).flatten(1).sum(1).abs() < 1e-4 * gradient.flatten(1).norm(dim=1)).all()
    optimiser.step()
    torch.testing.assert_close(dictionary.weight.flatten(1).norm(dim=1), torch.ones(5))
    atoms = 3 * torch.randn(5, 2, 3, 3)
    dictionary.weight = atoms
    torch.testing.assert_close(dictionary.weight, atoms / atoms.flatten(1).norm(dim=1).view(-1, 1, 1, 1))


def test_a_first_step_of_gradient_descent_is_the_projected_one():
    """Trained tensors start on the sphere, where the chain rule through the norm is the projection on its tangents."""
    dictionary = Dictionary2d(3, 8, 3, dtype=torch.float64)
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    plain = dictionary.weight.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(torch.nn.functional.conv2d(x, plain).pow(4).sum(), plain)
    along = (gradient * plain).sum((1, 2, 3), keepdim=True) * plain
    expected = (plain - 0.01 * (gradient - along)).detach()
    optimizer = torch.optim.SGD(dictionary.parameters(), lr=0.01)
    dictionary.analysis(x).pow(4).sum().backward()
    optimizer.step()
    torch.testing.assert_close(dictionary.weight, expected / expected.flatten(1).norm(dim=1).view(-1, 1, 1, 1))


def test_atoms_that_are_set_bring_their_bound():
    dictionary = Dictionary2d(1, 6, 3, padding=1).eval()
    assert dictionary.lipschitz < 30
    dictionary.weight = torch.ones(6, 1, 3, 3)  # six copies of a box filter: norm^2 = 6 * 9 at frequency 0
    assert dictionary.lipschitz.item() == pytest.approx(54, rel=1e-4)
    dictionary.lipschitz.fill_(1)
    dictionary.refresh()
    assert dictionary.lipschitz.item() == pytest.approx(54, rel=1e-4)


def test_the_bound_survives_a_forward_with_zero_atoms():
    layer = CSC2d(1, 6, 3, padding=1)
    atoms = layer.atoms.detach().clone()
    layer.dictionary.weight = torch.zeros_like(atoms)
    assert not layer(torch.randn(1, 1, 6, 6)).any()
    layer.dictionary.weight = atoms
    expected = Dictionary2d(1, 6, 3, padding=1)
    expected.weight = atoms
    expected.refresh()
    for _ in range(30):
        layer(torch.randn(1, 1, 6, 6))
    torch.testing.assert_close(layer.dictionary.lipschitz, expected.lipschitz, rtol=1e-2, atol=0)


def test_lower_bound_of_the_spectral_norm():
    # The mean eigenvalue of D D^T with unit atoms is M / (C stride^2).
    for channels, atoms, stride in ((3, 64, 1), (4, 64, 2), (8, 8, 1)):
        assert Dictionary2d(channels, atoms, 3, stride, 1).lipschitz >= max(1, atoms / (channels * stride**2))


def test_meta_device_and_repr():
    with torch.device("meta"):
        assert Dictionary2d(2, 3, 3).weight.is_meta
    assert repr(nn.Sequential(Dictionary2d(2, 3, (3, 2), padding="same", dilation=2, padding_mode="circular"))) == (
        "Sequential(\n  (0): Dictionary2d(2, 3, kernel_size=(3, 2), stride=(1, 1), padding=(2, 1), dilation=(2, 2), "
        "padding_mode='circular')\n)"
    )
    assert repr(DenseDictionary(4, 5)) == "DenseDictionary(4, 5)"
    with pytest.raises(ValueError, match="must be positive, got 0, 5"):
        DenseDictionary(0, 5)


def test_plain_weights_are_neither_normalised_nor_parametrised():
    dictionary = Dictionary2d(2, 5, 3, padding=1, unit_norm=False)
    torch.testing.assert_close(dictionary.weight.flatten(1).norm(dim=1), torch.ones(5))
    assert [name for name, _ in dictionary.named_parameters()] == ["weight"]
    with torch.no_grad():
        dictionary.weight.mul_(3)
    lipschitz = dictionary.lipschitz.clone()
    dictionary.refresh()
    torch.testing.assert_close(dictionary.lipschitz, 9 * lipschitz)
    x = torch.randn(1, 2, 8, 8)
    assert torch.equal(dictionary.analysis(x), torch.nn.functional.conv2d(x, dictionary.weight, padding=1))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_gradient_of_the_unit_norm(memory_format):
    """That of the function by autograd, once and twice; a zero atom has a finite one."""
    weight = torch.randn(5, 2, 3, 3, dtype=torch.float64).to(memory_format=memory_format).requires_grad_()
    assert torch.autograd.gradcheck(UnitNorm(), (weight,)) and torch.autograd.gradgradcheck(UnitNorm(), (weight,))
    gradient = torch.randn_like(weight)
    ours, theirs = (torch.autograd.grad(f(weight), weight, gradient)[0] for f in (UnitNorm(), unit_norm))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert torch.equal(UnitNorm()(weight), unit_norm(weight))
    with torch.no_grad():
        weight[1] = 0
    assert bool(torch.autograd.grad(UnitNorm()(weight).square().sum(), weight)[0].isfinite().all())


def test_gradient_of_an_atom_whose_squared_norm_underflows():
    weight = torch.full((1, 3, 3), 1e-20, requires_grad=True)
    gradient = 30 * torch.randn(1, 3, 3)
    ours, theirs = (torch.autograd.grad(f(weight), weight, gradient)[0] for f in (UnitNorm(), unit_norm))
    assert bool(ours.isfinite().all()) and (ours - theirs).norm() < 0.2 * theirs.norm()


def test_a_trace_is_saved_and_loaded():
    layer, x, file = CSC2d(3, 8, 3, padding=1).eval(), torch.randn(2, 3, 8, 8), io.BytesIO()
    with torch.no_grad():
        torch.jit.save(torch.jit.trace(layer, (x,)), file)
        file.seek(0)
        torch.testing.assert_close(torch.jit.load(file)(x), layer(x))
