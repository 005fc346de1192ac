import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d, cross_entropy

from csc_nets.functional import solve
from csc_nets.models import create_model

sklearn_datasets = pytest.importorskip("sklearn.datasets")


def test_shapes_of_the_published_multi_layer_networks():
    model = create_model("sparse_prior_cnn", in_chans=1).eval()
    assert sum(p.numel() for p in model.parameters()) == 604_906
    maps = model.forward_intermediates(torch.zeros(1, 1, 28, 28))[1]
    assert [tuple(m.shape[1:]) for m in maps] == [(32, 12, 12), (64, 4, 4), (512, 1, 1)]
    assert model.feature_info.reduction() == [2, 4, 4]
    with pytest.raises(ValueError, match="images must have 28 x 28 pixels or more"):
        model(torch.zeros(1, 1, 24, 24))


def test_one_step_is_a_plain_cnn_and_more_positions_are_averaged():
    model = create_model("sparse_prior_cnn", widths=[4, 6, 8], rate=0.05, sigma=0.5).eval()
    x = torch.randn(2, 3, 36, 32)
    y = x
    for stage, stride in zip(model.stages, [2, 2, 1], strict=True):
        assert (stage.bias < 0).all()
        y = conv2d(y, stage.atoms, stage.bias, stride).relu()
    assert y.shape[2:] == (3, 2)
    torch.testing.assert_close(model(x), nn.functional.linear(y.mean((2, 3)), model.fc.weight, model.fc.bias))


@pytest.mark.parametrize("dynamics", ["ista", "lca"])
def test_each_layer_codes_the_code_of_the_one_before(dynamics, narrow, images):
    model, x = narrow("sparse_prior_cnn", steps=300, dynamics=dynamics).eval(), images()
    with torch.no_grad():
        for stage, code in zip(model.stages, model.forward_intermediates(x)[1], strict=True):
            best = solve(x, stage.dictionary, stage.rates, nonneg=True, tol=1e-4)
            assert (stage.objective(x, code) < 1.002 * stage.objective(x, best)).all()
            assert 0 < (code > 0).float().mean() < 1
            x = code


@pytest.mark.parametrize("steps", [1, 5])
def test_learns_handwritten_digits_without_normalisation(steps):
    digits = sklearn_datasets.load_digits()
    torch.manual_seed(0)
    order = torch.randperm(len(digits.target))
    x = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1)[order] / 6 - 0.8  # mean 0, variance 1
    y = torch.tensor(digits.target)[order]
    model = create_model(
        "sparse_prior_cnn", in_chans=1, widths=[16, 32, 64], kernel_size=[3, 3, 4], stride=[1, 2, 1], padding=[1, 1, 0],
        steps=steps,
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(4):
        for batch in torch.randperm(1400).split(35):
            optimizer.zero_grad()
            cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
    with torch.no_grad():
        accuracy = (model.eval()(x[1400:]).argmax(1) == y[1400:]).float().mean()
    assert accuracy > 0.93  # chance: 0.1
    assert all((stage.bias < 0).all() for stage in model.stages)


def test_bad_shapes_are_refused():
    with pytest.raises(ValueError, match="stride must be one int or 3, one for each stage"):
        create_model("sparse_prior_cnn", stride=[2, 2])
    with pytest.raises(ValueError, match="widths must be at least one positive int"):
        create_model("sparse_prior_cnn", widths=[])
