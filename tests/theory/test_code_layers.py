"""Which layers of a network are read as sparse coding, and what of them."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from csc_nets.layers import CSC1d, CSC2d, CSC3d, Dictionary1d, MultiLayerCSC, SparseCoding, SparsePriorConv2d
from csc_nets.theory.code_layers import find_code_layers


class Net(nn.Module):
    """Two convolutions with a rectifier of one form or another behind the first."""

    def __init__(self, rectify, between=None):
        super().__init__()
        self.first, self.between, self.second = nn.Conv2d(2, 6, 3), between or nn.Identity(), nn.Conv2d(6, 3, 3)
        self.rectify = rectify

    def forward(self, x):
        return self.second(self.rectify(self.between(self.first(x))))


FORMS = {
    "module": nn.ReLU(),
    "module in place": nn.ReLU(inplace=True),
    "functional": F.relu,
    "functional in place": lambda y: F.relu(y, inplace=True),
    "keyword": lambda y: torch.relu(input=y),
    "method": lambda y: y.relu(),
    "method in place": lambda y: y.relu_(),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_relu_in_any_form(form):
    model, x = Net(FORMS[form]), torch.randn(2, 2, 9, 8)
    layers, left_out = find_code_layers(model, x)
    assert [(layer.name, layer.kind) for layer in layers] == [("first", "Conv2d + ReLU")] and left_out == ["second"]
    norms = model.first.weight.flatten(1).norm(dim=1)
    torch.testing.assert_close(layers[0].code, (model.first(x).relu() / norms.view(-1, 1, 1)).detach())
    torch.testing.assert_close(layers[0].dictionary.weight.flatten(1).norm(dim=1), torch.ones(6))
    assert layers[0].signal_size == (9, 8)


@pytest.mark.parametrize("rectify", [F.gelu, F.relu6, F.leaky_relu, torch.sigmoid, lambda y: y, lambda y: -y.relu_()])
def test_other_functions_are_none(rectify):
    layers, left_out = find_code_layers(Net(rectify, nn.AvgPool2d(1)), torch.randn(2, 2, 9, 8))
    assert layers == [] and left_out == ["first", "second"]


@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_is_folded(affine):
    norm = nn.BatchNorm2d(6, affine=affine)
    nn.init.normal_(norm.running_mean), nn.init.uniform_(norm.running_var, 0.5, 2.0)
    if affine:
        nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)  # negative scales too
    model, x = Net(nn.ReLU(inplace=True), norm).eval(), torch.randn(2, 2, 9, 8)
    layers, _ = find_code_layers(model, x)
    assert layers[0].kind == "Conv2d + norm + ReLU"
    # Thresholding over the unit atoms, with thresholds from the folded bias.
    scale = (1.0 if norm.weight is None else norm.weight) / (norm.running_var + norm.eps).sqrt()
    bias = (model.first.bias - norm.running_mean) * scale + (0.0 if norm.bias is None else norm.bias)
    norms = (model.first.weight.flatten(1) * scale[:, None]).norm(dim=1)
    expected = F.conv2d(x, layers[0].dictionary.weight, bias / norms).relu()
    torch.testing.assert_close(layers[0].code, expected.detach(), rtol=1e-4, atol=1e-5)


def test_a_batch_norm_without_statistics_is_no_fixed_map():
    layers, _ = find_code_layers(Net(F.relu, nn.BatchNorm2d(6, track_running_stats=False)), torch.randn(2, 2, 9, 8))
    assert layers == []


def test_dropout_does_nothing_here():
    layers, _ = find_code_layers(Net(F.relu, nn.Dropout(0.5)), torch.randn(2, 2, 9, 8))
    assert len(layers) == 1


@pytest.mark.parametrize("in_place", [True, False])
def test_a_sum_before_the_relu_is_no_thresholding(in_place):
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

        def forward(self, x):
            y = self.norm(self.conv(x))
            if in_place:
                y += x
            else:
                y = y + x
            return F.relu(y, inplace=in_place)

    layers, left_out = find_code_layers(
        nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU(), Residual()), torch.randn(2, 1, 6, 6)
    )
    assert [layer.name for layer in layers] == ["0"] and left_out == ["2.conv"]


def test_the_first_convolution_of_every_residual_block():
    model = torchvision.models.resnet18(num_classes=4)
    layers, left_out = find_code_layers(model, torch.randn(1, 3, 32, 32))
    blocks = [f"layer{i}.{j}.conv1" for i in (1, 2, 3, 4) for j in (0, 1)]
    assert [layer.name for layer in layers] == ["conv1", *blocks]
    seconds = [name.replace("conv1", "conv2") for name in blocks]
    assert sorted(left_out) == sorted([*seconds, *(f"layer{i}.0.downsample.0" for i in (2, 3, 4))])


def test_a_chain_of_convolutions():
    vgg11 = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["A"])  # without its 120 M of classifier
    layers, left_out = find_code_layers(vgg11, torch.randn(1, 3, 32, 32))
    assert [len(layer.dictionary.weight) for layer in layers] == [64, 128, 256, 256, 512, 512, 512, 512]
    assert layers[0].name == "0" and left_out == []


def test_groups_strides_and_borders():
    for options in (
        {"groups": 2, "stride": 2, "padding": 1},
        {"padding": "same", "dilation": 2},
        {"padding": 1, "padding_mode": "circular"},
        {"padding": (1, 0), "padding_mode": "reflect"},
    ):
        conv, x = nn.Conv2d(4, 6, 3, bias=False, **options), torch.randn(2, 4, 9, 8)
        layer = find_code_layers(nn.Sequential(conv, nn.ReLU()), x)[0][0]
        assert layer.dictionary.weight.shape == (6, 4, 3, 3)
        norms = conv.weight.flatten(1).norm(dim=1).view(-1, 1, 1)
        analysis = layer.dictionary.geometry.analysis(x, layer.dictionary.weight)
        torch.testing.assert_close(analysis, (conv(x) / norms).detach(), rtol=1e-4, atol=1e-5)
        gap = x - layer.dictionary.synthesis(layer.code, x.shape[2:])
        assert layer.residual == pytest.approx((gap.norm() / x.norm()).item(), rel=1e-4)
    replicated = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1, padding_mode="replicate"), nn.ReLU())
    assert find_code_layers(replicated, x) == ([], ["0"])


def test_a_layer_that_runs_twice_is_two():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv1d(2, 2, 3, padding=1)

        def forward(self, x):
            return self.conv(self.conv(self.conv(x).relu()).relu())

    layers, left_out = find_code_layers(Twice(), torch.randn(2, 2, 9))
    assert [layer.name for layer in layers] == ["conv", "conv (2)"] and left_out == ["conv (3)"]


@pytest.mark.parametrize(
    "layer, shape",
    [
        (CSC1d(2, 5, 3), (2, 2, 9)),
        (CSC2d(2, 5, 3, stride=2, padding=1, nonneg=False), (2, 2, 9, 8)),
        (CSC3d(2, 5, 3), (2, 2, 5, 6, 4)),
        (SparsePriorConv2d(2, 5, 3), (2, 2, 9, 8)),
        (SparseCoding(7, 12), (2, 3, 7)),
    ],
)
def test_own_layers(layer, shape):
    x = torch.randn(shape)
    (found,), left_out = find_code_layers(nn.Sequential(layer), x)
    z = layer.eval()(x)
    assert found.name == "0" and found.kind == layer._get_name() and left_out == []
    torch.testing.assert_close(found.code, z.detach().reshape(found.code.shape), rtol=1e-4, atol=1e-6)
    made = layer.synthesize(z, x.shape[2:]) if x.ndim != 3 or found.kind == "CSC1d" else layer.synthesize(z)
    assert found.residual == pytest.approx(((x - made).norm() / x.norm()).item(), rel=1e-3)


def test_filters_of_any_norm():
    x = torch.randn(2, 2, 9, 8)
    for steps in (1, 4):
        layer = SparsePriorConv2d(2, 5, 3, steps=steps, unit_norm=False).eval()
        with torch.no_grad():
            layer.dictionary.weight *= torch.tensor([0.5, 1.0, 2.0, 3.0, 0.1]).view(-1, 1, 1, 1)
        layer.dictionary.refresh()
        (found,), _ = find_code_layers(nn.Sequential(layer), x)
        norms = layer.atoms.flatten(1).norm(dim=1).view(-1, 1, 1)
        z = layer(x)
        # One step is a thresholding of w^T x; more steps look for x = sum of z w.
        torch.testing.assert_close(found.code, (z / norms if steps == 1 else z * norms).detach(), rtol=1e-4, atol=1e-6)
        if steps > 1:
            gap = x - layer.synthesize(z, x.shape[2:])
            assert found.residual == pytest.approx((gap.norm() / x.norm()).item(), rel=1e-3)


@pytest.mark.parametrize("pursuit", ["layered_thresholding", "layered_basis_pursuit", "ml_fista"])
@pytest.mark.parametrize("unit", [True, False])
def test_a_stack_is_one_model(pursuit, unit):
    dictionaries = [Dictionary1d(1, 6, 5, unit_norm=unit), Dictionary1d(6, 8, 4, stride=2, unit_norm=unit)]
    stack = MultiLayerCSC(dictionaries, pursuit=pursuit, lam=0.01).double()
    if not unit:
        with torch.no_grad():
            dictionaries[0].weight *= torch.tensor([0.5, 1.0, 2.0, 3.0, 0.1, 1.0]).view(-1, 1, 1)
            dictionaries[1].weight *= 0.3
        [d.refresh() for d in dictionaries]
    x = torch.randn(3, 1, 20, dtype=torch.float64)
    layers, _ = find_code_layers(nn.Sequential(stack, nn.Flatten()), x)
    assert [layer.name for layer in layers] == ["0[0]", "0[1]"] and [layer.chained for layer in layers] == [False, True]
    codes = stack.eval().codes(x)
    if unit:
        for layer, code in zip(layers, codes, strict=True):
            torch.testing.assert_close(layer.code, code.detach())
    # Unit atoms with these codes make the same signals as the stack's own: exactly where x = D z is the model ...
    signals = [layer.dictionary.synthesis(layer.code, size) for layer, size in zip(layers, [(20,), (16,)], strict=True)]
    own = [d.synthesis(z, size) for d, z, size in zip(dictionaries, codes, [(20,), (16,)], strict=True)]
    norms = dictionaries[0].weight.flatten(1).norm(dim=1).view(-1, 1)
    if pursuit != "layered_thresholding":
        torch.testing.assert_close(signals[0], own[0].detach())
        torch.testing.assert_close(signals[1], (own[1] * norms).detach())
    else:  # ... and their thresholding the same codes.
        first = dictionaries[0].analysis(x) / norms
        torch.testing.assert_close(layers[0].code, (first - 0.01 / norms).relu().detach())
        second = layers[1].dictionary.geometry.analysis(layers[0].code, layers[1].dictionary.weight)
        scaled = dictionaries[1].weight * norms
        threshold = 0.01 / scaled.flatten(1).norm(dim=1).view(-1, 1)
        torch.testing.assert_close(layers[1].code, (second - threshold).relu().detach())


def test_unit_layers_that_feed_one_another_are_one_model_too():
    x = torch.randn(2, 1, 12, 12)
    between = {"nothing": nn.Identity(), "norm": nn.BatchNorm2d(5), "scale": nn.Conv2d(5, 5, 1)}
    for name, module in between.items():
        model = nn.Sequential(CSC2d(1, 5, 3), module, CSC2d(5, 6, 3), nn.MaxPool2d(2), nn.Conv2d(6, 4, 3), nn.ReLU())
        layers, _ = find_code_layers(model, x)
        assert [layer.chained for layer in layers] == [False, name == "nothing", False]

    # A code that was changed in place is no code any more.
    class Shifted(nn.Module):
        def forward(self, z):
            return z.add_(1.0)

    layers, _ = find_code_layers(nn.Sequential(CSC2d(1, 5, 3), Shifted(), CSC2d(5, 6, 3)), x)
    assert not layers[1].chained


def test_codes_are_kept_from_later_changes():
    x = torch.randn(2, 1, 12, 12)
    csc = CSC2d(1, 5, 3).eval()
    layers, _ = find_code_layers(nn.Sequential(csc, nn.ReLU(), nn.Threshold(10.0, 7.0, inplace=True)), x)
    torch.testing.assert_close(layers[0].code, csc(x).detach())


def test_a_mask_hides_what_is_missing():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.csc = CSC2d(1, 9, 3, padding=1, steps=60, lam=0.001)

        def forward(self, x):
            return self.csc(x, mask=~x.isnan())

    x = torch.randn(1, 1, 8, 8)
    x[0, 0, 2] = torch.nan
    layers, _ = find_code_layers(Masked(), x)
    assert 0 < layers[0].residual < 0.1


def test_the_model_is_left_as_it_was():
    stack = MultiLayerCSC([Dictionary1d(1, 3, 3)])
    model = nn.Sequential(nn.Conv1d(1, 1, 3), nn.BatchNorm1d(1), nn.ReLU(), stack).train()
    model[1].eval()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    for x in (torch.randn(2, 1, 12), torch.randn(2, 4, 12)):
        try:
            find_code_layers(model, x)
        except RuntimeError:
            assert x.shape[1] == 4  # the model's own complaint
        assert [m.training for m in model] == [True, False, True, True] and model.training
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
        assert all(not m._forward_hooks for m in model.modules()) and "codes" not in vars(stack)


def test_inside_inference_mode():
    with torch.inference_mode():
        layers, _ = find_code_layers(Net(F.relu), torch.randn(2, 2, 9, 8))
    assert len(layers) == 1
