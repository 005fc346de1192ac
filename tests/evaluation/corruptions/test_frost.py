"""Frost is drawn, not photographed: it has the contrast and the range of brightness of the photographs only."""

import pytest
import torch

from csc_nets.evaluation import corrupt
from csc_nets.evaluation.corruptions.draws import Draws
from csc_nets.evaluation.corruptions.frost import crystals


def test_crystals_have_mean_zero_and_deviation_one():
    needles = crystals(Draws(0, 3, torch.device("cpu")), 48, 64)
    assert needles.shape == (3, 1, 48, 64)
    torch.testing.assert_close(needles.mean((1, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(needles.std((1, 2, 3), correction=0), torch.ones(3))


def test_crystals_lie_in_directions():
    """In small windows, slopes along one axis are stronger than across; in noise of no direction they are alike."""

    def coherence(images):
        dy = images[..., 2:, 1:-1] - images[..., :-2, 1:-1]
        dx = images[..., 1:-1, 2:] - images[..., 1:-1, :-2]
        mean = torch.nn.functional.avg_pool2d
        a, b, c = (mean(product, 16) for product in (dx * dx, dy * dy, dx * dy))
        return (((a - b).square() + 4 * c.square()).sqrt() / (a + b)).mean()

    draws = Draws(0, 4, torch.device("cpu"))
    assert coherence(crystals(draws, 128, 128)) > 0.5 > 0.3 > coherence(draws.normal(1, 128, 128))


@pytest.mark.parametrize(("severity", "amount"), enumerate((0.4, 0.6, 0.7, 0.7, 0.75), 1))
def test_frost_on_black_has_the_brightness_of_the_photographs(severity, amount):
    panes = corrupt(torch.zeros(300, 3, 32, 32), "frost", severity, size=224) / amount
    # Six photographs, of which two are the same, have a mean of 0.60 and a deviation of 0.06 to 0.17.
    assert panes.mean().item() == pytest.approx(0.6, abs=0.05)
    assert 0.06 < panes.std((1, 2, 3)).mean() < 0.17
    red, _, blue = panes.mean((0, 2, 3))
    assert red < blue


@pytest.mark.parametrize(("severity", "share"), enumerate((1, 0.9, 0.8, 0.75, 0.7), 1))
def test_an_image_keeps_its_share_under_frost(severity, share):
    images = torch.rand(2, 3, 32, 32) * 0.2  # dark enough that nothing is clipped
    change = corrupt(images, "frost", severity, size=64) - corrupt(torch.zeros_like(images), "frost", severity, size=64)
    torch.testing.assert_close(change, share * images, atol=1e-5, rtol=0)
