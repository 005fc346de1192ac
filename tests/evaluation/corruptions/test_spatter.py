"""Drops: edges and distances against other programs, water adds light, mud covers."""

import numpy as np
import pytest
import torch

from csc_nets.evaluation import corrupt
from csc_nets.evaluation.corruptions.filters import blur
from csc_nets.evaluation.corruptions.spatter import canny, distance

NOISE = torch.rand(3, 1, 50, 60, generator=torch.Generator().manual_seed(0))
LEVELS = (blur(NOISE, 1.5) * 600 - 200).clamp(0, 255).floor()


def test_distances_are_euclidean_up_to_twenty():
    ndimage = pytest.importorskip("scipy.ndimage")
    edges = NOISE > 0.996
    assert edges.flatten(1).any(1).all()
    wanted = np.stack([ndimage.distance_transform_edt(~image) for image in edges[:, 0].numpy()])[:, None]
    found = distance(edges)
    np.testing.assert_allclose(found.clamp(max=20), wanted.clip(max=20), atol=1e-5)
    assert wanted.max() > 20, "some are further"


def test_edges_are_those_of_opencv():
    cv2 = pytest.importorskip("cv2")
    for low, high in ((50, 150), (100, 300)):
        wanted = np.stack([cv2.Canny(image.byte().numpy(), low, high) for image in LEVELS[:, 0]]) > 0
        found = canny(LEVELS, low, high)[:, 0].numpy()
        assert (found != wanted).mean() < 0.002, "angles of 22.5 degrees are rounded in OpenCV"
        assert 0.02 < wanted.mean() < 0.6


def test_weak_edges_hang_on_strong_ones():
    step = torch.zeros(2, 1, 20, 20)
    step[0, ..., 10:] = 20  # weak from top to bottom
    step[1, ..., 10:] = 20
    step[1, :, :3, 10:] = 255  # strong at the top
    edges = canny(step, 50, 150)
    assert not edges[0].any()
    assert edges[1, 0, 10:, 8:12].any(1).all()


@pytest.mark.parametrize("severity", [1, 2, 3])
def test_water_adds_light_of_one_colour(severity):
    grey = torch.full((4, 3, 64, 64), 0.1)
    added = corrupt(grey, "spatter", severity, size=224) - grey
    assert added.min() >= 0
    red, green, blue = added.unbind(1)
    torch.testing.assert_close(green, blue)
    torch.testing.assert_close(red * 238, green * 175, atol=1e-4, rtol=1e-4)
    strongest = {1: 0.6, 2: 0.6, 3: 0.5}[severity] * 238 / 255
    assert added.amax((1, 2, 3)).tolist() == pytest.approx([strongest] * 4, abs=1e-5)


@pytest.mark.parametrize("severity", [4, 5])
def test_mud_covers_what_it_covers_by_four_fifths_at_least(severity):
    muddy = corrupt(torch.ones(2, 3, 64, 64), "spatter", severity, size=224)
    cover = (1 - muddy) / (1 - torch.tensor([63, 42, 20]).view(3, 1, 1) / 255)
    torch.testing.assert_close(cover[:, 0], cover[:, 2], atol=1e-5, rtol=0)
    assert ((cover < 1e-6) | (cover > 0.8 - 1e-6)).all()
    assert 0.02 < (cover > 0).float().mean() < 0.4


def test_nothing_above_the_threshold_is_no_drop():
    tiny = torch.full((1, 3, 1, 1), 0.5)
    assert corrupt(tiny, "spatter", 1, size=224).isfinite().all()
