import math

import pytest
import torch

from csc_nets.evaluation import ClassSubspaces, class_structure, decode_classes, sample_images
from csc_nets.models import create_model


def test_classes_on_axes_of_their_own():
    z = torch.eye(3).repeat_interleave(4, 0) * torch.tensor([1.0, -1, 2, 5]).repeat(3)[:, None]
    found = class_structure(z, torch.arange(3).repeat_interleave(4))
    assert found.ranks == pytest.approx([1, 1, 1]) and found.within == pytest.approx([1, 1, 1])
    assert found.between == pytest.approx([0, 0, 0], abs=1e-12)
    torch.testing.assert_close(found.cosines, torch.block_diag(*[torch.ones(4, 4)] * 3).double())


def test_a_class_without_structure_looks_the_same_inside_and_outside():
    z = torch.randn(2000, 32, generator=torch.Generator().manual_seed(0))
    found = class_structure(z, torch.arange(2000) % 2)
    expected = math.sqrt(2 / (math.pi * 32))
    assert found.within == pytest.approx([expected] * 2, rel=0.02) and found.between == pytest.approx(
        found.within, rel=0.01
    )
    assert found.ranks[0] > 31 and found.cosines.shape == (500, 500)


def test_a_class_of_one_image_and_a_single_class_have_no_such_number():
    found = class_structure(torch.eye(3), torch.tensor([0, 0, 1]))
    assert found.within[0] == pytest.approx(0, abs=1e-12) and math.isnan(found.within[1])
    assert math.isnan(class_structure(torch.eye(3), torch.zeros(3)).between[0])


def test_features_of_zero_have_no_direction():
    found = class_structure(torch.tensor([[1.0, 0], [0, 0], [0, 0], [0, 0]]), torch.tensor([0, 0, 0, 1]))
    assert found.within[0] == 0 and found.ranks == pytest.approx([1, 0]) and found.between == [0, 0]


@pytest.fixture
def loop():
    torch.manual_seed(0)
    model = create_model("csc_ctrl_32", in_chans=1, input_size=8, widths=[4], features=6).eval()
    images, labels = torch.rand(40, 1, 8, 8) * 2 - 1, torch.arange(40) % 2
    with torch.no_grad():
        return model, ClassSubspaces.fit(model.encode(images), labels, 3)


def test_what_the_decoder_makes_of_a_class(loop):
    model, subspaces = loop
    images = decode_classes(model, subspaces, components=2, samples=3, reach=1.5)
    assert images.shape == (2, 8, 1, 8, 8) and images.abs().max() < 1
    with torch.no_grad():
        for column, side in ((3, -1.5), (4, 1.5)):  # both ends of the second direction
            z = subspaces.means[1] + side * subspaces.deviations[1][1] * subspaces.directions[1][1]
            torch.testing.assert_close(images[1, column], model.decode((z / z.norm()).float()[None])[0])
    assert torch.equal(images[:, 5:], decode_classes(model, subspaces, components=2, samples=3)[:, 5:])
    assert not torch.equal(images[:, 5:], decode_classes(model, subspaces, components=2, samples=3, seed=1)[:, 5:])


def test_a_direction_that_a_class_lacks_repeats_its_mean(loop):
    model, subspaces = loop
    images = decode_classes(model, subspaces, components=5, samples=0)
    assert images.shape[1] == 11 and torch.equal(images[:, 7:], images[:, :1].expand(-1, 4, -1, -1, -1))


def test_draws_take_classes_in_turn(loop):
    model, subspaces = loop
    images = sample_images(model, subspaces, 7)
    generator = torch.Generator().manual_seed(0)
    first, second = (subspaces.sample(j, 4, generator) for j in range(2))
    z = torch.stack([first[0], second[0], first[1], second[1], first[2], second[2], first[3]])
    with torch.no_grad():
        torch.testing.assert_close(images, model.decode((z / z.norm(dim=1, keepdim=True)).float()))
