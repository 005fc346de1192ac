"""MCP and k atoms at a position."""

from itertools import pairwise

import pytest
import torch

from csc_nets.functional import FISTA, ISTA
from csc_nets.layers import CSC2d, SparseCoding


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0, 1.49, 1.5, 2.5])
def test_the_prox_of_mcp_is_the_minimum(own, t):
    optimize = pytest.importorskip("scipy.optimize")
    penalty = own.MCP(1.5)
    v = torch.linspace(-4, 4, 41)
    found = penalty.prox(v, t)
    for at, z in zip(v.tolist(), found.tolist(), strict=True):

        def f(z, at=at):
            return (z - at) ** 2 / 2 + penalty.value(torch.tensor([[z]]), t).item()

        # Not convex: the best of the minima of the pieces between the kinks.
        kinks = [-5, -1.5, 0, 1.5, 5]
        pieces = [optimize.minimize_scalar(f, bounds=ends, method="bounded").fun for ends in pairwise(kinks)]
        assert f(z) <= min(*pieces, *map(f, kinks)) + 1e-9


def test_mcp_between_the_soft_and_the_hard_threshold(own):
    v = torch.tensor([-3.0, -1.0, 0.25, 0.75, 1.25, 3.0])
    torch.testing.assert_close(own.MCP(1e9).prox(v, 0.5), torch.tensor([-2.5, -0.5, 0, 0.25, 0.75, 2.5]))
    torch.testing.assert_close(own.MCP(1e-9).prox(v, 0.5), v)  # next to no penalty
    torch.testing.assert_close(own.MCP(1.0).prox(v, 1.0), torch.tensor([-3.0, 0, 0, 0, 1.25, 3.0]))
    weights = torch.tensor([0.1, 2.0]).view(2, 1, 1, 1)
    code = torch.randn(2, 3, 4, 4)
    each = torch.stack([own.MCP(1.0).value(code[i : i + 1], float(weights[i]))[0] for i in range(2)])
    torch.testing.assert_close(own.MCP(1.0).value(code, weights), each)


def test_layers_descend_on_mcp(own):
    x, layer = torch.randn(2, 3, 8, 8), CSC2d(3, 8, 3, padding=1, lam=0.2, penalty=own.MCP(1.0), ridge=0.1)
    values = []
    for count in (1, 2, 5, 20, 200):
        layer.pursuit = ISTA(count)
        values.append(layer.eval().objective(x, layer(x)))
    assert all(bool((b <= a + 1e-12).all()) for a, b in pairwise(values))
    with pytest.raises(NotImplementedError, match="MCP has no dual"):
        layer.lam_max(x)


def test_the_implicit_gradient_of_mcp_is_that_of_finite_differences(own):
    layer = SparseCoding(12, 6, lam=0.3, penalty="mcp", pursuit=FISTA(1500), gradient="implicit").eval()
    x, lam = torch.randn(4, 12), torch.full((4, 1), 0.3)
    z = layer(x, lam=lam)
    size = z.abs()
    # All three pieces of the prox are used.
    assert bool((size == 0).any()) and bool(((size > 0) & (size < 2)).any()) and bool((size > 2).any())
    weight = layer.dictionary.parametrizations.weight.original
    assert torch.autograd.gradcheck(lambda x, lam: layer(x, lam=lam), (x.requires_grad_(), lam.requires_grad_()))
    bound = 0.9 / layer.dictionary.bound(())

    def of_atoms(original):
        problem = layer.problem(x.detach())
        operator = problem.operator.map(lambda _: original / original.norm(dim=1, keepdim=True))
        problem = type(problem)(x.detach(), operator, 0.3, penalty=layer.penalty, step=bound.detach())
        return layer.gradient(layer.pursuit, problem)

    assert torch.autograd.gradcheck(of_atoms, (weight.detach().clone().requires_grad_(),))


@pytest.mark.parametrize("gradient", ["unroll", "recompute"])
def test_gradients_of_steps_with_mcp(own, gradient):
    layer = SparseCoding(8, 12, lam=0.3, penalty=own.MCP(1.0), pursuit=FISTA(5), gradient=gradient, ridge=0.1).eval()
    assert torch.autograd.gradcheck(layer, (torch.randn(3, 8).requires_grad_(),))


def test_at_most_k_atoms_at_a_position(own):
    v = torch.randn(2, 5, 3, 3)
    kept = own.TopAtoms(2).prox(v, 0.1)
    smallest = v.abs().sort(dim=1).values[:, 3:4]
    assert torch.equal(kept, torch.where(v.abs() >= smallest, v, 0))
    assert torch.equal(own.TopAtoms(9).prox(v, 0.1), v)
    for layer, x in (
        (CSC2d(3, 8, 3, padding=1, penalty="top_atoms", steps=5), torch.randn(2, 3, 6, 6)),
        (SparseCoding(8, 12, penalty={"name": "top_atoms", "k": 4}, steps=5), torch.randn(2, 7, 8)),
    ):
        z = layer(x)
        axis = 1 if x.ndim == 4 else -1
        assert int((z != 0).sum(axis).max()) == 4
        assert bool((layer.objective(x, z) < layer.objective(x, torch.zeros_like(z))).all())
        z.square().sum().backward()
        assert all(p.grad is not None for p in layer.parameters())


def test_the_implicit_gradient_of_a_constraint_is_that_of_least_squares(own):
    layer = SparseCoding(12, 6, penalty=own.TopAtoms(2), pursuit=FISTA(1000), gradient="implicit").eval()
    x = torch.randn(3, 12)
    z, atoms = layer(x), layer.atoms.detach()
    for signal, code in zip(x, z, strict=True):
        support = code != 0
        expected = torch.linalg.lstsq(atoms[support].T, signal[:, None]).solution[:, 0]
        torch.testing.assert_close(code[support], expected)
    assert torch.autograd.gradcheck(layer, (x.requires_grad_(),))
