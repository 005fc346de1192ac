"""Limits: a constant stays, seen pixels are not changed, missing ones are not read, and gaps get smaller errors."""

import pytest
import torch

from csc_nets.functional import fill, fill_smoothly
from csc_nets.functional.operators.protocol import read
from csc_nets.models import create_model


@pytest.fixture(scope="module")
def model():
    return create_model("sparse_autoencoder", in_chans=1, sizes=[4, 8]).eval()


@pytest.fixture(scope="module")
def images():
    axis = torch.arange(24) / 3
    waves = torch.cos(axis + torch.tensor([[0.0], [1.0]]))
    return (waves[:, :, None] * waves.flip(0)[:, None]).unsqueeze(1)


@pytest.fixture(scope="module")
def seen():
    return torch.rand(2, 1, 24, 24, generator=torch.Generator().manual_seed(0)) > 0.4


def test_a_constant(seen):
    x = torch.full((2, 1, 24, 24), 3.0)
    torch.testing.assert_close(fill_smoothly(x.where(seen, torch.nan), seen), x)
    nothing = torch.zeros(2, 1, 24, 24, dtype=torch.bool)
    nothing[..., 5, 7] = True
    torch.testing.assert_close(fill_smoothly(x.where(nothing, torch.nan), nothing), x)


def test_seen_pixels_stay_and_missing_ones_are_not_read(model, images, seen):
    filled = model.fill(images, seen)
    assert torch.equal(filled[seen], images[seen])
    assert torch.equal(model.fill(images.where(seen, torch.nan), seen.float()), filled)
    assert torch.equal(fill(read(model.dictionary), images, seen, stride=8), filled)


def test_nearer_than_the_start_and_than_a_code_on_one_grid(model, images, seen):
    error = {
        "fill": model.fill(images, seen),
        "start": fill_smoothly(images, seen),
        "one grid": model.decode(model.encode(images, mask=seen)),
    }
    error = {name: (back - images)[~seen].square().mean().item() for name, back in error.items()}
    assert error["fill"] < 0.5 * min(error["start"], error["one grid"]), error


@pytest.mark.parametrize("options", [{"rounds": 0}, {"shifts": 0}, {"stop": 0.0}, {"start": 0.01}])
def test_bad_numbers(model, images, seen, options):
    with pytest.raises(ValueError, match="fill: rounds"):
        model.fill(images, seen, **options)
