import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from csc_nets.evaluation import invert_layers
from csc_nets.layers import PooledCSC2d
from csc_nets.models import create_model
from csc_nets.theory import mutual_coherence


@pytest.fixture
def cnn():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 40, 3, stride=2), nn.ReLU()
    ).double()


@pytest.fixture
def images():
    return torch.rand(3, 3, 12, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_rows_say_what_was_inverted(cnn, images):
    cnn.train()
    table = invert_layers(cnn, images)
    assert cnn.training and all(m.training for m in cnn.modules())
    first, second = table.rows
    assert (first["name"], first["filters"], first["channels"], first["size"]) == ("0", 16, 3, (12, 12))
    assert (second["name"], second["filters"], second["kernel_size"], second["size"]) == ("3", 40, (3, 3), (6, 6))
    assert second["density"] == (cnn[:3](images) != 0).double().mean().item()
    assert second["coherence_learned"] == mutual_coherence(cnn[3].weight, shifts=False)
    # The input of the first layer is the image.
    assert first["activation_learned"] == pytest.approx(
        (table.pictures["0"]["learned"] - images)
        .flatten(1)
        .norm(dim=1)
        .div(images.flatten(1).norm(dim=1))
        .mean()
        .item()
    )
    text = str(table)
    assert "40x16x3x3" in text and "6x6" in text
    assert table.grid(2).shape == (2, 1 + 3 * 2, 3, 12, 12)


def test_one_step_is_the_published_formula(cnn, images):
    cnn.eval()
    row = invert_layers(cnn, images, layers=["3"]).rows[0]
    h = cnn[:3](images)
    w = F.normalize(cnn[3].weight.flatten(1), dim=1).view_as(cnn[3].weight)
    v = F.conv2d(h, w, stride=2)
    _, at = F.max_pool2d(v.abs(), 2, return_indices=True)
    z = F.max_unpool2d(v.flatten(2).gather(2, at.flatten(2)).view_as(at), at, 2)
    back = F.conv_transpose2d(z, w, stride=2, output_padding=1)
    back = back * (h.flatten(1).norm(dim=1) / back.flatten(1).norm(dim=1)).view(-1, 1, 1, 1)
    expected = ((back - h).flatten(1).norm(dim=1) / h.flatten(1).norm(dim=1)).mean().item()
    assert row["activation_learned"] == pytest.approx(expected, rel=1e-10)


def test_orthonormal_filters_without_pooling_lose_nothing(images):
    conv = nn.Conv2d(3, 12, 2, stride=2).double()
    conv.weight.data = torch.linalg.qr(torch.randn(12, 12).double())[0].view(12, 3, 2, 2)
    row = invert_layers(nn.Sequential(conv), images, window=1).rows[0]
    assert row["activation_learned"] < 1e-12 and row["image_learned"] < 1e-12 < 0.1 < row["activation_random"]


def test_noise_is_as_far_as_an_independent_vector_of_that_norm(cnn):
    x = torch.rand(16, 3, 24, 24, dtype=torch.float64)
    for row in invert_layers(cnn, x).rows:
        assert row["activation_noise"] == pytest.approx(math.sqrt(2), abs=0.03)


def test_more_steps_and_more_blocks_explain_more(cnn, images):
    errors = [invert_layers(cnn, images, layers=["0"], steps=s).rows[0]["activation_learned"] for s in (1, 4, 16)]
    assert errors == sorted(errors, reverse=True) and errors[2] < 0.8 * errors[0]
    sparse = invert_layers(cnn, images, layers=["0"], density=0.1).rows[0]["activation_learned"]
    assert sparse > errors[0]


def test_without_rescaling_one_step_is_as_small_as_its_step(cnn, images):
    raw, scaled = (invert_layers(cnn, images, layers=["0"], rescale=r).rows[0]["activation_learned"] for r in (0, 1))
    assert raw > scaled


@pytest.mark.parametrize("name", ["csc_small", "invertible_cnn"])
def test_reads_the_filters_of_coding_layers(name, images):
    model = create_model(name, widths=[6, 8]).double()
    table = invert_layers(model, images)
    assert [row["filters"] for row in table.rows] == [6, 8]
    assert all(math.isfinite(row["image_learned"]) for row in table.rows)


def test_only_layers_that_run_are_inverted_and_in_their_order(cnn, images):
    class Branched(nn.Module):
        def __init__(self):
            super().__init__()
            self.unused, self.second, self.first = nn.Conv2d(3, 4, 3), nn.Conv2d(6, 5, 3), nn.Conv2d(3, 6, 3)

        def forward(self, x):
            return self.second(self.first(x))

    table = invert_layers(Branched().double(), images)
    assert [row["name"] for row in table.rows] == ["first", "second"]


@pytest.mark.parametrize(
    "shape",
    [{"stride": 2, "padding": 1}, {"dilation": 2}, {"padding": "same"}, {"padding": 1, "padding_mode": "circular"}],
)
def test_steps_have_the_size_that_the_layer_s_geometry_asks_for(shape, images):
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 20, 3, **shape).double()
    row = invert_layers(nn.Sequential(conv), images, steps=6, rescale=False).rows[0]
    coder = PooledCSC2d(3, 20, 3, sign="signed", steps=6, dtype=torch.float64, **shape).eval()
    coder.set_filters(conv.weight)
    back = coder.synthesize(*coder.pooled(images), images.shape[2:])
    expected = ((back - images).flatten(1).norm(dim=1) / images.flatten(1).norm(dim=1)).mean().item()
    assert row["activation_learned"] == pytest.approx(expected, rel=1e-10)


def test_a_seed_leaves_other_random_numbers_alone(cnn, images):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = invert_layers(cnn, images, seed=5)
    assert torch.equal(torch.rand(3), expected)
    again = invert_layers(cnn, images, seed=5)
    assert first.rows == again.rows != invert_layers(cnn, images, seed=6).rows


def test_bad_names_are_refused(cnn, images):
    with pytest.raises(ValueError, match=r"among 0, 3, got \['1'\]"):
        invert_layers(cnn, images, layers=["1"])
    with pytest.raises(ValueError, match="among none"):
        invert_layers(nn.Linear(12, 3).double(), images)
    with pytest.raises(ValueError, match="images must be at least one, got none"):
        invert_layers(cnn, images[:0])
    with pytest.raises(ValueError, match="must be finite"):
        invert_layers(cnn, images * torch.nan)
