"""Corruptions against imagecorruptions-imaug on photographs: brightness and strength agree at every severity.

Its functions take a picture of 8 bits and give floats in [0, 255], before they are cut to whole numbers. Random numbers
differ, so means over images and draws are compared.
"""

import inspect
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from csc_nets.evaluation import corrupt, list_corruptions
from csc_nets.evaluation.corruptions.digital import elastic_transform
from csc_nets.evaluation.corruptions.draws import Draws

library = pytest.importorskip("imagecorruptions.corruptions")

ROUNDING = 1 / 255
"""The library rounds or cuts to 8 bits on the way in some functions."""
TOLERANCE = dict.fromkeys(list_corruptions(), 0.01) | {
    "defocus_blur": 0.02,  # two of its disks have a sum of 1.01
    "motion_blur": 0.06,  # of 24 directions
    "snow": 0.02,
    "fog": 0.10,  # of 32 clouds, whose means differ
    "spatter": 0.08,  # of few drops; distances are rounded to 5 x 5 steps there
}
"""Relative, of the mean absolute change and of the deviation of the change."""
REPEATS = {"impulse_noise": 4, "fog": 8, "snow": 4, "spatter": 8, "motion_blur": 6}
EXACT = {
    **dict.fromkeys(("brightness", "contrast", "saturate", "gaussian_blur"), ROUNDING / 100),
    "pixelate": ROUNDING,
    "zoom_blur": 3 * ROUNDING,  # a few enlargements are cut in the middle here, and at the lower right there
}
"""Corruptions that draw nothing, with the mean difference that a pixel may have."""


@pytest.fixture
def images(photographs):
    return photographs[::2]


def theirs(images, name, severity):
    """What the library makes. A function with a seed of its own draws anew each time without one."""
    corruption = getattr(library, name)
    seeded = "seed" in inspect.signature(corruption).parameters
    seeds = [{"seed": np.random.randint(2**31)} if seeded else {} for _ in images]
    pictures = images.mul(255).round().byte().permute(0, 2, 3, 1).numpy()
    with warnings.catch_warnings(action="ignore"):
        made = [
            corruption(Image.fromarray(picture), severity, **seed)
            for picture, seed in zip(pictures, seeds, strict=True)
        ]
    return torch.from_numpy(np.stack([np.asarray(image, np.float32) for image in made])).permute(0, 3, 1, 2) / 255


def measures(images, changed):
    """Means over several sets of changed images."""
    rows = [(c.mean().item(), (c - images).abs().mean().item(), (c - images).std().item()) for c in changed]
    return np.mean(rows, axis=0)


@pytest.mark.parametrize("severity", range(1, 6))
@pytest.mark.parametrize("name", [n for n in list_corruptions() if n not in ("frost", "elastic_transform")])
def test_means_and_strengths_agree(images, name, severity):
    rounds = range(REPEATS.get(name, 1))
    changed = [corrupt(images, name, severity, seed=100 * i) for i in rounds]
    reference = [theirs(images, name, severity) for _ in rounds]
    ours, wanted, tolerance = measures(images, changed), measures(images, reference), TOLERANCE[name]
    assert ours[0] == pytest.approx(wanted[0], abs=ROUNDING + tolerance * wanted[1])
    assert ours[1:] == pytest.approx(wanted[1:], abs=ROUNDING / 2, rel=tolerance)
    if name in EXACT:
        assert (changed[0] - reference[0]).abs().mean() < EXACT[name]


@pytest.mark.parametrize("severity", range(1, 6))
def test_elastic_transform_agrees_at_the_constants_of_the_library(images, severity):
    """The library moves no corners and has constants of its own: only the displacement of each pixel is compared."""
    side = images.shape[-1]
    reach, length = 0.005 * side, 250 * (0.05, 0.065, 0.085, 0.1, 0.12)[severity - 1]
    draws = [Draws(100 * i, len(images), images.device) for i in range(3)]
    moved = [elastic_transform(images, d, length * reach, 0.01 * side, 0.0) for d in draws]
    wanted = [theirs(images, "elastic_transform", severity) for _ in draws]
    assert measures(images, moved) == pytest.approx(measures(images, wanted), rel=0.02)


@pytest.mark.parametrize("severity", range(1, 6))
def test_drawn_frost_is_as_bright_and_as_strong_as_photographs_of_frost(photographs, severity):
    """No equality: what is drawn here is not what was photographed. Both cover an image alike."""
    drawn = [corrupt(photographs, "frost", severity, seed=100 * i) for i in range(5)]
    reference = [theirs(photographs, "frost", severity) for _ in range(5)]
    assert measures(photographs, drawn) == pytest.approx(measures(photographs, reference), rel=0.15)
