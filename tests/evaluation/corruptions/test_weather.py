"""Weather: what its formulas say of a black image, of a white one and of the brightest value."""

import pytest
import torch

from csc_nets.evaluation import corrupt
from csc_nets.evaluation.corruptions.draws import Draws
from csc_nets.evaluation.corruptions.weather import plasma

BLACK = torch.zeros(6, 3, 64, 64)


def test_fog_of_a_constant_is_scaled_clouds():
    density, decay, light = 1.5, 2, 0.4
    found = corrupt(BLACK + light, "fog", 1, seed=3, size=224)
    clouds = plasma(Draws(3, 6, BLACK.device), 64, decay)[:, None]
    torch.testing.assert_close(found, ((light + density * clouds) * light / (light + density)).expand_as(BLACK))
    assert found.amax().item() == pytest.approx(light)  # the brightest value stays


@pytest.mark.parametrize(("size", "side"), [(32, 32), (33, 64), (1, 1)])
def test_clouds_fill_their_range_and_have_the_next_power_of_two(size, side):
    clouds = plasma(Draws(0, 2, BLACK.device), size, 2.0)
    assert clouds.shape == (2, side, side)
    if side > 1:
        assert clouds.amin((1, 2)).tolist() == [0, 0] and clouds.amax((1, 2)).tolist() == [1, 1]


def test_clouds_are_smoother_where_the_noise_decays_faster():
    rough, smooth = (plasma(Draws(0, 8, BLACK.device), 64, decay).diff(dim=1).abs().mean() for decay in (1.4, 3.0))
    assert smooth < 0.5 * rough


def test_snow_pales_black_to_half_white_and_adds_flakes_twice():
    share = 0.8
    snowed = corrupt(BLACK, "snow", 1, size=224)
    pale = (1 - share) * 0.5
    assert snowed.min().item() == pytest.approx(pale)
    flakes = snowed - pale
    torch.testing.assert_close(flakes, flakes.flip(-2, -1), atol=1e-5, rtol=0)
    assert 0 < flakes.mean() < 0.5
    assert torch.equal(flakes[:, 0], flakes[:, 1])  # snow is grey


def test_snow_is_that_share_of_white_where_nothing_falls():
    white = torch.ones(1, 3, 32, 32)
    assert corrupt(white, "snow", 3).eq(1).all()
