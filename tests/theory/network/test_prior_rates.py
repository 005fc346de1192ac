import math

import pytest
import torch
from torch import nn

from csc_nets.functional.problem import SAFETY
from csc_nets.layers import CSC2d, Dictionary2d, MultiLayerCSC, SparsePriorConv2d
from csc_nets.models import create_model
from csc_nets.theory.network.prior_rates import prior_rates

BIASES = torch.tensor([-0.5, -0.25, 0.0, 0.75])


def convolution(biases=BIASES, channels=1):
    conv = nn.Conv2d(channels, len(biases), 3)
    conv.bias.data = biases.clone()
    return conv


def test_hand_set_biases_are_counted():
    (row,) = prior_rates(nn.Sequential(convolution(), nn.ReLU()), sigma=0.5)
    assert torch.equal(row.rates, torch.tensor([2.0, 1.0, 0.0, -3.0], dtype=torch.float64))
    assert (row.name, row.filters, row.proper, row.flat, row.improper) == ("0", 4, 2, 1, 1)
    assert (row.smallest, row.median, row.largest) == (-3.0, 0.5, 2.0)


def test_batch_norm_is_folded_as_in_evaluation():
    """The folded layer's bias is what the pair gives to a signal of zeros."""
    model = nn.Sequential(convolution(channels=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 1, bias=False))
    norm = model[1]
    for value in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(value)
    nn.init.uniform_(norm.running_var, 0.1, 2.0)
    first, second = prior_rates(model)
    expected = -model.eval()[:2](torch.zeros(1, 2, 3, 3)).flatten()
    torch.testing.assert_close(first.rates.float(), expected.detach())
    assert (second.name, second.filters, second.flat, str(second.rates[0].item())) == ("3", 5, 5, "0.0")
    # Not folded: another number of channels, or something in between.
    apart = nn.Sequential(convolution(), nn.ReLU(), nn.BatchNorm2d(4), convolution(channels=4), nn.BatchNorm2d(2))
    nn.init.constant_(apart[2].bias, -7.0)
    assert all(torch.equal(row.rates, -BIASES.double()) for row in prior_rates(apart))


def test_batch_norm_is_folded_into_a_parametrised_convolution():
    conv, norm = nn.utils.parametrizations.weight_norm(convolution()), nn.BatchNorm2d(4)
    nn.init.constant_(norm.bias, -3.0)
    (row,) = prior_rates(nn.Sequential(conv, norm))
    torch.testing.assert_close(row.rates, 3 - BIASES.double() / math.sqrt(1 + norm.eps))


def test_batch_norm_without_affine_weights_or_statistics():
    norm = nn.BatchNorm2d(4, affine=False)
    norm.running_mean.fill_(1.0)
    (row,) = prior_rates(nn.Sequential(convolution(), norm))
    torch.testing.assert_close(row.rates.float(), (1 - BIASES) / math.sqrt(1 + norm.eps))
    with pytest.raises(ValueError, match="batch norm 'norm' has no running statistics to fold"):
        prior_rates(nn.ModuleDict({"conv": convolution(), "norm": nn.BatchNorm2d(4, track_running_stats=False)}))


def test_networks_of_torchvision():
    models = pytest.importorskip("torchvision.models")
    vgg = nn.ModuleDict({"features": models.vgg.make_layers(models.vgg.cfgs["A"])})  # vgg11 without its dense layers
    table = prior_rates(vgg)
    assert len(table) == 8 and table.total.filters == 64 + 128 + 2 * 256 + 4 * 512
    assert table.total.improper == sum(int((m.bias > 0).sum()) for m in vgg.modules() if isinstance(m, nn.Conv2d)) > 0
    bias = vgg["features"][3].bias.data.zero_()
    bias[:28], bias[28:32] = -0.1, 0.2
    row = prior_rates(vgg).layers[1]
    assert (row.name, row.proper, row.flat, row.improper) == ("features.3", 28, 96, 4)

    resnet = models.resnet18(num_classes=2)
    convolutions = [name for name, module in resnet.named_modules() if isinstance(module, nn.Conv2d)]
    assert [row.name for row in prior_rates(resnet)] == convolutions and len(convolutions) == 20
    norms = [module for module in resnet.modules() if isinstance(module, nn.BatchNorm2d)]
    for i, norm in enumerate(norms, start=1):
        nn.init.constant_(norm.bias, -i)
    for i, row in enumerate(prior_rates(resnet, sigma=2.0), start=1):  # every one with its own batch norm
        assert (row.smallest, row.largest, row.proper) == (i / 4, i / 4, row.filters)


def test_our_layers_know_their_rates():
    lam = torch.rand(4) + 0.1
    model = nn.Sequential(
        CSC2d(1, 4, 3, lam=lam),
        nn.BatchNorm2d(4),
        SparsePriorConv2d(4, 6, 3, rate=0.7, sigma=0.1),
        CSC2d(6, 5, 3, lam=0.0),
    )
    first, second, third = prior_rates(model, sigma=2.0)
    torch.testing.assert_close(first.rates.float(), lam / 4)
    torch.testing.assert_close(second.rates.float(), torch.full((6,), 0.7))
    assert (first.proper, second.proper, third.flat) == (4, 6, 5)
    table = prior_rates(create_model("sparse_prior_cnn", widths=[4, 6], kernel_size=3, stride=1))
    assert [row.name for row in table] == ["stages.0", "stages.1"] and table.total.proper == 10


@pytest.mark.parametrize("step_size", [None, 0.25])
def test_layers_of_a_multi_layer_pursuit(step_size):
    dictionaries = [Dictionary2d(1, 3, 3), Dictionary2d(3, 4, 3)]
    layer = MultiLayerCSC(
        dictionaries, pursuit="layered_thresholding", lam=[0.5, 0.1], bias=True, step_size=step_size, steps=0
    )
    layer.biases[0].data = torch.tensor([0.05, 0.25, -0.1])
    x = torch.randn(2, 1, 8, 8)
    eta = step_size or 1.0
    first, second = prior_rates(layer, sigma=2.0)
    assert (first.name, second.name) == ("0", "1")
    # The layer is eta times a convolution with ReLU whose biases are -rates * sigma^2.
    code = (nn.functional.conv2d(x, dictionaries[0].weight) - 4 * first.rates.float().view(-1, 1, 1)).relu() * eta
    torch.testing.assert_close(layer.codes(x)[0], code)
    torch.testing.assert_close(second.rates.float(), torch.full((4,), 0.1 / 4))


@pytest.mark.parametrize("step_size", [None, 0.25])
@pytest.mark.parametrize("pursuit", ["ml_ista", "ml_fista", "ml_lista"])
def test_layers_that_are_coded_together_have_the_step_sizes_of_those_below(pursuit, step_size):
    dictionaries = [Dictionary2d(1, 6, 3), Dictionary2d(6, 7, 3), Dictionary2d(7, 8, 3)]
    for bias in (False, True):
        layer = MultiLayerCSC(
            dictionaries, pursuit=pursuit, lam=[0.5, 0.6, 0.7], bias=bias, step_size=step_size, steps=0
        ).eval()
        for parameter in layer.biases:
            torch.nn.init.uniform_(parameter, -0.1, 0.1)
        below = 10 * torch.randn(2, 1, 12, 12)
        input_filters = layer.feedforward if pursuit == "ml_lista" else layer.dictionaries
        for i, (row, code) in enumerate(zip(prior_rates(layer), layer.codes(below), strict=True)):
            eta = step_size or SAFETY / layer.dictionaries[i].lipschitz
            expected = (input_filters[i].analysis(below) - row.rates.float().view(-1, 1, 1)).relu() * eta
            assert (code > 0).any() and (code == 0).any()
            torch.testing.assert_close(code, expected)
            below = code


def test_every_set_of_an_untied_stack_has_its_rates():
    layer = MultiLayerCSC(
        [Dictionary2d(1, 3, 3), Dictionary2d(3, 2, 3)], pursuit="all_free", steps=2, bias=True, lam=0.1, step_size=0.5
    )
    for i, bias in enumerate(layer.biases):
        bias.data.fill_(float(i))
    rows = list(prior_rates(layer))
    assert [row.name for row in rows] == ["0", "1", "sets.0.0", "sets.0.1", "sets.1.0", "sets.1.1"]
    assert [row.largest for row in rows] == pytest.approx([0.1 - 2 * i for i in range(6)])
    assert [row.filters for row in rows] == [3, 2] * 3


class TwoConvolutions(nn.Module):
    """Its order of execution is not that of its registration."""

    def __init__(self, widths, norms):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, widths[0], 1), nn.Conv2d(widths[0], widths[1], 1)
        for i, width in enumerate(norms, start=1):
            self.add_module(f"bn{i}", nn.BatchNorm2d(width))


@pytest.mark.parametrize(
    ("widths", "norms", "refused"),
    [
        ((4, 4), (4, 4), "'bn1' may belong to any of conv1, conv2"),
        ((4, 4), (4,), "'bn1' may belong to any of conv1, conv2"),
        ((4, 6), (4, 6), "'bn1' may belong to any of conv1:"),
        ((4, 6), (6, 4), "'bn2' may belong to any of conv1:"),
        ((4, 6), (6,), None),
        ((4, 6), (5,), None),
    ],
)
def test_batch_norms_that_may_belong_to_several_convolutions_are_refused(widths, norms, refused):
    model = TwoConvolutions(widths, norms)
    if refused is None:
        assert len(prior_rates(model)) == 2
    else:
        with pytest.raises(ValueError, match=refused):
            prior_rates(model)
        with pytest.raises(ValueError, match=r"'0\.bn"):
            prior_rates(nn.Sequential(model, nn.ReLU()))


def test_the_order_of_a_sequential_is_that_of_execution():
    norm = nn.SyncBatchNorm(4)
    nn.init.constant_(norm.bias, -3.0)
    model = nn.Sequential(convolution(), nn.Conv2d(4, 4, 1, bias=False), norm, nn.ReLU())
    first, second = prior_rates(nn.Sequential(model, nn.Flatten()))
    assert torch.equal(first.rates, -BIASES.double())
    torch.testing.assert_close(second.rates, torch.full((4,), 3.0, dtype=torch.float64))


def test_the_table_is_readable():
    text = str(prior_rates(nn.Sequential(convolution(), nn.ReLU(), convolution(BIASES[:2], 4)))).splitlines()
    assert text[0].split() == ["layer", "filters", "proper", "flat", "improper", "min", "median", "max"]
    assert text[1].split() == ["0", "4", "2", "1", "1", "-0.75", "0.125", "0.5"]
    assert text[3].split() == ["all", "6", "4", "1", "1", "-0.75", "0.25", "0.5"]
    assert len({len(line) for line in text}) == 1
    assert len(str(prior_rates(convolution())).splitlines()) == 2


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="sigma must be a finite number > 0, got 0"):
        prior_rates(convolution(), sigma=0)
    with pytest.raises(ValueError, match="Linear has no convolution"):
        prior_rates(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="the biases of '1' must be finite"):
        prior_rates(nn.Sequential(convolution(), convolution(BIASES / 0, 4)))
