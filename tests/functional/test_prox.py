"""Each proximal map against its definition: a numerical minimisation of 1/2 (v - z)^2 + penalty(z)."""

from itertools import product

import numpy as np
import pytest
import torch
from scipy.optimize import minimize, minimize_scalar

from csc_nets.functional import (
    elastic_net_threshold,
    group_soft_threshold,
    hard_threshold,
    nonneg_soft_threshold,
    one_per_block,
    soft_threshold,
    top_k,
)

VALUES = [-2.3, -1.0, -0.4, 0.0, 0.3, 0.9, 1.7]


def _argmin(objective, low):
    """Global minimum on [low, 4]: a grid, then a bounded search around its best point; kinks are candidates too."""
    grid = np.linspace(low, 4, 801)
    best = grid[np.argmin([objective(z) for z in grid])]
    found = minimize_scalar(
        objective, bounds=(max(best - 0.02, low), best + 0.02), method="bounded", options={"xatol": 1e-10}
    ).x
    return min([found, 0.0, best], key=objective)


@pytest.mark.parametrize("t", [0.0, 0.5, 1.2])
@pytest.mark.parametrize("v", VALUES)
def test_scalar_maps_minimise_their_penalties(v, t):
    cases = [
        (soft_threshold, lambda z: t * abs(z), -4),
        (nonneg_soft_threshold, lambda z: t * z, 0),
        (hard_threshold, lambda z: t**2 / 2 * (z != 0), -4),
        (lambda v, t: elastic_net_threshold(v, t, 0.7), lambda z: t * abs(z) + 0.35 * z * z, -4),
        (lambda v, t: elastic_net_threshold(v, t, 0.7, nonneg=True), lambda z: t * z + 0.35 * z * z, 0),
    ]
    for prox, penalty, low in cases:
        ours = prox(torch.tensor([v], dtype=torch.float64), t).item()
        objective = lambda z, penalty=penalty: (v - z) ** 2 / 2 + penalty(z)  # noqa: E731
        best = _argmin(objective, low)
        assert objective(ours) <= objective(best) + 1e-12
        assert ours == pytest.approx(best, abs=1e-4)


def test_weights_per_atom_and_per_sample():
    v = torch.randn(2, 3, 4, 5)
    per_atom, per_sample = torch.rand(3, 1, 1), torch.rand(2, 1, 1, 1)
    for prox in (soft_threshold, nonneg_soft_threshold, hard_threshold, lambda v, t: elastic_net_threshold(v, t, 0.3)):
        for n, m in product(range(2), range(3)):
            torch.testing.assert_close(prox(v, per_atom)[n, m], prox(v[n, m], per_atom[m].item()))
            torch.testing.assert_close(prox(v, per_sample)[n, m], prox(v[n, m], per_sample[n].item()))


def test_gradient_of_the_soft_threshold_with_respect_to_its_weight():
    v, t = (
        torch.randn(50, dtype=torch.float64, requires_grad=True),
        torch.tensor(0.4, dtype=torch.float64, requires_grad=True),
    )
    assert torch.autograd.gradcheck(soft_threshold, (v, t))
    assert torch.autograd.gradcheck(nonneg_soft_threshold, (v, t))


@pytest.mark.parametrize("group_size", [None, 2, 6])
def test_group_soft_threshold_minimises_the_sum_of_norms(group_size):
    v = torch.randn(2, 6, 2, dtype=torch.float64)
    z = group_soft_threshold(v, 0.8, group_size)
    size = group_size or 6
    for n, g, p in product(range(2), range(6 // size), range(2)):
        part = v[n, g * size : (g + 1) * size, p].numpy()
        objective = lambda a, part=part: ((part - a) ** 2).sum() / 2 + 0.8 * np.linalg.norm(a)  # noqa: E731
        start = minimize(
            objective,
            part * 0.5,
            method="Nelder-Mead",
            options={"xatol": 1e-9, "fatol": 1e-14, "maxiter": 20000, "maxfev": 20000},
        ).x
        best = min([start, np.zeros_like(part)], key=objective)
        ours = z[n, g * size : (g + 1) * size, p].numpy()
        assert objective(ours) <= objective(best) + 1e-12
        np.testing.assert_allclose(ours, best, atol=1e-5)


def test_group_soft_threshold_is_differentiable_at_zero_and_checks_its_groups():
    v = torch.zeros(1, 4, 1, requires_grad=True)
    group_soft_threshold(v, 0.5).sum().backward()
    assert torch.isfinite(v.grad).all()
    with pytest.raises(ValueError, match="group_size must divide the 6 atoms, got 4"):
        group_soft_threshold(torch.zeros(1, 6, 2), 1.0, 4)


@pytest.mark.parametrize("k", [0, 1, 3, 99])
def test_top_k_is_the_closest_k_sparse_point(k):
    v = torch.randn(3, 2, 4, dtype=torch.float64)
    z = top_k(v, k)
    for sample, code in zip(v.flatten(1), z.flatten(1), strict=True):
        assert (code != 0).sum() <= k
        # The distance of the closest k-sparse point is the energy of all but the k largest.
        expected = np.sort(np.square(sample.numpy()))[: max(8 - k, 0)].sum()
        assert ((sample - code) ** 2).sum().item() == pytest.approx(expected, abs=1e-12)
    with pytest.raises(ValueError, match="at least 0"):
        top_k(v, -1)


@pytest.mark.parametrize("k", [None, 1, 2])
def test_one_per_block_is_the_closest_model_sparse_point(k):
    v = torch.randn(4, 3, 2, 2, dtype=torch.float64)
    z = one_per_block(v, k)
    for sample, code in zip(v, z, strict=True):
        blocks, coded = sample.flatten(1), code.flatten(1)
        assert ((coded != 0).sum(1) <= 1).all() and (coded != 0).sum() <= (3 if k is None else k)
        # Brute force over every choice of at most one position in each block (4 = none).
        best = min(
            sum((blocks[b].square().sum() - (blocks[b, p] ** 2 if p < 4 else 0)).item() for b, p in enumerate(choice))
            for choice in product(range(5), repeat=3)
            if sum(p < 4 for p in choice) <= (3 if k is None else k)
        )
        assert (blocks - coded).square().sum().item() == pytest.approx(best, abs=1e-12)


def test_one_per_block_of_windows_treats_every_window_as_a_block():
    v = torch.randn(3, 2, 4, 6, dtype=torch.float64)
    blocks = v.unflatten(3, (3, 2)).unflatten(2, (2, 2)).permute(0, 1, 2, 4, 3, 5).reshape(3, 12, 4)
    expected = one_per_block(blocks, 5).view(3, 2, 2, 3, 2, 2).permute(0, 1, 2, 4, 3, 5).reshape(3, 2, 4, 6)
    assert torch.equal(one_per_block(v, 5, window=2), expected)


def test_switches_say_where_the_entry_of_a_block_goes():
    v = torch.tensor([[[1.0, -3.0, 2.0, 0.5]]])
    assert one_per_block(v, window=2).tolist() == [[[0, -3, 2, 0]]]
    assert one_per_block(v, window=2, switches="fixed").tolist() == [[[-3, 0, 2, 0]]]
    assert one_per_block(v, switches=torch.tensor([[[0, 3]]])).tolist() == [[[1, 0, 0, 0.5]]]
    assert one_per_block(v, 1, switches=torch.tensor([[[0, 3]]])).tolist() == [[[1, 0, 0, 0]]]
    with pytest.raises(ValueError, match="'known', 'fixed' or positions, got 'unknown'"):
        one_per_block(v, switches="unknown")


@pytest.mark.parametrize("shape", [(), (3, 1, 1), (2, 1, 1, 1), (2, 3, 1, 1)])
def test_the_soft_threshold_has_the_gradient_of_its_formula(shape):
    v = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    t = (0.2 + 0.5 * torch.rand(shape, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(soft_threshold, (v, t))
    assert torch.autograd.gradgradcheck(soft_threshold, (v, t))
    cotangent = torch.randn_like(v)
    ours = torch.autograd.grad(soft_threshold(v, t), (v, t), cotangent)
    theirs = torch.autograd.grad(v - torch.clamp(v, -t, t), (v, t), cotangent)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_the_gradient_of_a_threshold_below_zero():
    """v - t below zero; v - t sign(v) on the support from zero on, where the gradient of older clamps has one bound."""
    v = torch.randn(2, 3, 5, requires_grad=True)
    t = torch.tensor([[-0.3], [0.0], [0.4]], requires_grad=True)
    cotangent = torch.randn_like(v)
    of_v, of_t = torch.autograd.grad(soft_threshold(v, t), (v, t), cotangent)
    support = (v.abs() > t).float()
    slope = torch.where(t < 0, 1, support * v.sign())
    torch.testing.assert_close(of_v, cotangent * support)
    torch.testing.assert_close(of_t, -(cotangent * slope).sum((0, 2))[:, None])


def test_a_number_of_atoms_at_each_position():
    v = torch.randn(2, 9, 3, 4)
    z = top_k(v, 2, per_position=True)
    for n, i, j in product(range(2), range(3), range(4)):
        kept = v[n, :, i, j].abs().topk(2).indices
        expected = torch.zeros(9).scatter(0, kept, v[n, kept, i, j])
        assert torch.equal(z[n, :, i, j], expected)
    rows = torch.randn(5, 9)
    assert torch.equal(top_k(rows, 2, per_position=True), top_k(rows, 2))
