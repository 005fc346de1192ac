"""Balls of perturbations against their definitions, and the ascent in them against a linear function."""

import math

import pytest
import torch

from csc_nets.functional import L2Norm, LInfNorm, LocalNorm, Norm, as_norm, ascend, nearby, register_norm
from csc_nets.theory import patch_norm

NORMS = [LInfNorm(), L2Norm(), LocalNorm(3), LocalNorm(20)]
ALL = pytest.mark.parametrize("norm", NORMS, ids=str)
SHAPES = pytest.mark.parametrize("shape", [(6, 3, 8, 7), (6, 2, 16)])


@ALL
@SHAPES
def test_points_of_the_ball(norm, shape):
    delta = torch.randn(shape, dtype=torch.float64)
    inside = norm.project(delta, 0.3)
    assert (norm.size(inside) <= 0.3 + 1e-12).all()
    torch.testing.assert_close(norm.project(inside, 0.3), inside)
    far = 2 * norm.size(delta).max().item()
    assert torch.equal(norm.project(delta, far), delta)
    assert not norm.project(delta, 0.0).any()
    generator = torch.Generator().manual_seed(0)
    drawn = norm.random(lambda random: random(shape, generator=generator, dtype=torch.float64))
    assert (norm.size(drawn) <= 1 + 1e-12).all() and norm.size(drawn).max() > 0.5


@ALL
@SHAPES
def test_the_steepest_direction_has_size_one_whatever_the_size_of_the_gradient(norm, shape):
    gradient = torch.randn(shape)
    torch.testing.assert_close(norm.size(norm.steepest(gradient)), torch.ones(6))
    torch.testing.assert_close(norm.steepest(gradient * 1e-25), norm.steepest(gradient))
    assert not norm.steepest(torch.zeros(shape)).any()
    for _ in range(20):  # no other direction is steeper, of the two norms whose direction is exact
        other = norm.steepest(torch.randn(shape))
        if not isinstance(norm, LocalNorm):
            assert (
                (gradient * other).flatten(1).sum(1) <= (gradient * norm.steepest(gradient)).flatten(1).sum(1)
            ).all()


def test_sizes_are_the_definitions():
    delta = torch.randn(5, 3, 8, 8, dtype=torch.float64)
    assert torch.equal(LInfNorm().size(delta), torch.stack([d.abs().max() for d in delta]))
    torch.testing.assert_close(L2Norm().size(delta), torch.stack([d.norm() for d in delta]))
    torch.testing.assert_close(LocalNorm(3).size(delta), patch_norm(delta, 3, order=2))
    torch.testing.assert_close(LocalNorm(8).size(delta), L2Norm().size(delta))
    torch.testing.assert_close(LocalNorm(1).size(delta), delta.norm(dim=1).flatten(1).amax(1))


@ALL
def test_ascent_of_a_linear_function_reaches_the_border_of_the_ball(norm):
    slope, x = torch.randn(4, 2, 6, 6, dtype=torch.float64), torch.rand(4, 2, 6, 6, dtype=torch.float64)
    free = (-math.inf, math.inf)
    found = ascend(lambda _: slope, x, norm, 0.2, steps=1, step_size=0.2, bounds=free)
    torch.testing.assert_close(norm.size(found - x), torch.full((4,), 0.2, dtype=torch.float64))
    again = ascend(lambda _: slope, x, norm, 0.2, steps=60, step_size=0.1, start=norm.steepest(-slope), bounds=free)
    assert (slope * (again - x)).sum() > 0.95 * (slope * (found - x)).sum()


@ALL
def test_images_stay_images(norm):
    x = torch.rand(4, 2, 6, 6)
    found = nearby(x + 3 * torch.randn_like(x), x, norm, 0.3)
    assert found.amin() >= 0 and found.amax() <= 1 and (norm.size(found - x) <= 0.3 + 1e-6).all()


def test_a_norm_of_ones_own_has_a_name():
    @register_norm("half_linf")
    class Half(LInfNorm):
        def size(self, delta):
            return super().size(delta) / 2

    assert isinstance(as_norm("half_linf"), Half) and as_norm({"name": "local", "window": 5}) == LocalNorm(5)
    assert isinstance(as_norm(Half()), Norm)
    with pytest.raises(ValueError, match=r"norm must be one of .*, got 'linff'; did you mean 'linf'"):
        as_norm("linff")
    with pytest.raises(ValueError, match="window must be an int >= 1, got 0"):
        LocalNorm(0)
    with pytest.raises(ValueError, match="steps must be an int >= 1, got 0"):
        ascend(lambda x: x, torch.rand(1, 1, 2, 2), L2Norm(), 0.1, steps=0, step_size=0.1)
