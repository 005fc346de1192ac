"""Which layers of a network are read as sparse coding, and what of them."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from csc_nets.layers import (
    CSC1d,
    CSC2d,
    CSC3d,
    Dictionary1d,
    MultiLayerCSC,
    PooledCSC2d,
    SparseCoding,
    SparsePriorConv2d,
)
from csc_nets.theory.network.code_layers import find_code_layers

NO_RELU = "not followed by a ReLU"


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
    assert [(layer.name, layer.kind) for layer in layers] == [("first", "Conv2d + ReLU")]
    assert left_out == {"second": NO_RELU}
    norms = model.first.weight.flatten(1).norm(dim=1)
    torch.testing.assert_close(layers[0].code, (model.first(x).relu() / norms.view(-1, 1, 1)).detach())
    torch.testing.assert_close(layers[0].dictionary.weight.flatten(1).norm(dim=1), torch.ones(6))
    assert layers[0].signal_size == (9, 8)


@pytest.mark.parametrize("rectify", [F.gelu, F.relu6, F.leaky_relu, torch.sigmoid, lambda y: y, lambda y: (-y).relu_()])
def test_other_functions_are_none(rectify):
    layers, left_out = find_code_layers(Net(rectify), torch.randn(2, 2, 9, 8))
    assert layers == [] and left_out == {"first": NO_RELU, "second": NO_RELU}


@pytest.mark.parametrize(
    "between", [nn.AvgPool2d(1), nn.GroupNorm(2, 6), nn.InstanceNorm2d(6, track_running_stats=True)]
)
def test_other_modules_do_not_pass_a_convolution_on(between):
    layers, left_out = find_code_layers(Net(F.relu, between), torch.randn(2, 2, 9, 8))
    assert layers == [] and left_out == {"first": NO_RELU, "second": NO_RELU}


class Same(nn.Conv2d):
    def forward(self, x):
        return self._conv_forward(F.pad(x, (0, 1, 0, 1)), self.weight, self.bias)


class Standardised(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, 9 * (weight - weight.mean((1, 2, 3), keepdim=True)), bias)


class Activated(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x) ** 2


def test_subclasses_that_compute_something_else():
    x = torch.randn(2, 2, 9, 8)
    for conv in (Same(2, 6, 3, stride=2), Standardised(2, 6, 3)):
        assert find_code_layers(nn.Sequential(conv, nn.ReLU()), x) == ([], {"0": "with a forward of its own"})
    layers, left_out = find_code_layers(nn.Sequential(nn.Conv2d(2, 6, 3), Activated(6), nn.ReLU()), x)
    assert layers == [] and left_out == {"0": NO_RELU}
    # One that only has its weights from elsewhere is a convolution.
    conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 6, 3))
    (layer,), _ = find_code_layers(nn.Sequential(conv, nn.ReLU()), x)
    norms = conv.weight.flatten(1).norm(dim=1).view(-1, 1, 1)
    torch.testing.assert_close(layer.code, (conv(x).relu() / norms).detach())


def test_a_signal_that_was_changed_is_none():
    class Erase(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(2, 6, 3)

        def forward(self, x):
            y = self.conv(x)
            x.zero_()
            return F.relu(y)

    assert find_code_layers(Erase(), torch.randn(2, 2, 9, 8)) == (
        [],
        {"conv": "with an input that was changed in place"},
    )


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, nn.SyncBatchNorm])
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_is_folded(kind, affine):
    norm = kind(6, affine=affine)
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
    assert [layer.name for layer in layers] == ["0"] and list(left_out) == ["2.conv"]


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
    assert layers[0].name == "0" and left_out == {}


def test_groups_strides_and_borders():
    for options in (
        {"groups": 2, "stride": 2, "padding": 1},
        {"padding": "same", "dilation": 2},
        {"padding": 1, "padding_mode": "circular"},
        {"padding": (1, 0), "padding_mode": "reflect"},
    ):
        conv, x = nn.Conv2d(4, 6, 3, bias=False, **options), torch.randn(2, 4, 9, 8)
        layer = find_code_layers(nn.Sequential(conv, nn.ReLU()), x)[0][0]
        assert layer.dictionary.weight.shape == conv.weight.shape
        norms = conv.weight.flatten(1).norm(dim=1).view(-1, 1, 1)
        torch.testing.assert_close(layer.code, (conv(x).relu() / norms).detach(), rtol=1e-4, atol=1e-5)
        # Synthesis is the gradient of <D^T x, code>, with torch's own convolution for D^T.
        signal = x.clone().requires_grad_()
        (made,) = torch.autograd.grad((conv(signal) / norms * layer.code).sum(), signal)
        torch.testing.assert_close(layer.dictionary.synthesis(layer.code, x.shape[2:]), made, rtol=1e-4, atol=1e-5)
        gap = x - made
        assert layer.residual == pytest.approx((gap.norm() / x.norm()).item(), rel=1e-4)
    replicated = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1, padding_mode="replicate"), nn.ReLU())
    assert find_code_layers(replicated, x) == ([], {"0": "with padding_mode 'replicate'"})
    assert find_code_layers(nn.Sequential(conv, nn.ReLU()), x[0]) == ([], {"0": "without a batch axis"})


def test_a_layer_that_runs_twice_is_two():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv1d(2, 2, 3, padding=1)

        def forward(self, x):
            return self.conv(self.conv(self.conv(x).relu()).relu())

    layers, left_out = find_code_layers(Twice(), torch.randn(2, 2, 9))
    assert [layer.name for layer in layers] == ["conv", "conv (2)"] and list(left_out) == ["conv (3)"]


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
    assert found.name == "0" and found.kind == layer._get_name() and left_out == {}
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


def test_a_stack_without_further_steps_is_a_thresholding():
    x = torch.randn(3, 1, 20, dtype=torch.float64)
    for pursuit, steps, size in (
        ("layered_thresholding", 0, 0.1),
        ("ml_ista", 0, 0.1),
        ("ml_fista", 0, None),
        ("ml_lista", 0, 0.1),
        ("all_free", 0, 0.1),
        ("layered_iterative_thresholding", 1, 0.1),
    ):
        dictionaries = [Dictionary1d(1, 6, 5, unit_norm=False), Dictionary1d(6, 8, 4, unit_norm=False)]
        stack = MultiLayerCSC(dictionaries, pursuit=pursuit, steps=steps, step_size=size, lam=0.01).double()
        weights = [d.weight for d in (stack.feedforward if pursuit == "ml_lista" else stack.dictionaries)]
        with torch.no_grad():
            weights[0] *= torch.tensor([0.5, 1.0, 2.0, 3.0, 0.1, 1.0]).view(-1, 1, 1)
        [d.refresh() for d in dictionaries]
        layers, _ = find_code_layers(stack, x)
        # Each code is the thresholded analysis of the one before with unit atoms, whatever the step size.
        signal = x
        for layer, code in zip(layers, stack.eval().codes(x), strict=True):
            unit = layer.dictionary.weight
            torch.testing.assert_close(unit.flatten(1).norm(dim=1), torch.ones(len(unit)).double())
            correlation = F.conv1d(signal, unit)
            inside = layer.code > 0
            assert torch.equal(inside, code > 0) and 0.1 < inside.double().mean() < 0.9
            thresholds = [(correlation - layer.code)[:, a][inside[:, a]] for a in range(len(unit))]
            assert all(len(t) == 0 or t.max() - t.min() < 1e-12 for t in thresholds)
            signal = layer.code
        first = weights[0] / weights[0].flatten(1).norm(dim=1).view(-1, 1, 1)
        torch.testing.assert_close(layers[0].dictionary.weight, first.detach())


def test_the_dictionaries_of_untied_steps():
    x = torch.randn(3, 1, 20)
    stack = MultiLayerCSC([Dictionary1d(1, 6, 5), Dictionary1d(6, 8, 4)], pursuit="all_free", steps=2, lam=0.01).eval()
    layers, _ = find_code_layers(stack, x)
    for layer, dictionary, code in zip(layers, stack.sets[-1], stack.codes(x), strict=True):
        torch.testing.assert_close(layer.dictionary.weight, dictionary.weight.detach())
        torch.testing.assert_close(layer.code, code.detach())


def test_a_filter_of_zeros_is_no_atom():
    conv = nn.Conv2d(1, 2, 3)
    nn.init.zeros_(conv.weight[0].data), nn.init.ones_(conv.bias)
    x = torch.randn(2, 1, 9, 8)
    (layer,), _ = find_code_layers(nn.Sequential(conv, nn.ReLU()), x)
    assert layer.code[:, 1].any() and not layer.code[:, 0].any()


def test_unit_layers_that_feed_one_another_are_one_model_too():
    x = torch.randn(2, 1, 12, 12)
    between = {"nothing": nn.Identity(), "norm": nn.BatchNorm2d(5), "scale": nn.Conv2d(5, 5, 1)}
    for name, module in between.items():
        model = nn.Sequential(CSC2d(1, 5, 3), module, CSC2d(5, 6, 3), nn.MaxPool2d(2), nn.Conv2d(6, 4, 3), nn.ReLU())
        layers, _ = find_code_layers(model, x)
        assert [layer.chained for layer in layers] == [False, name == "nothing", False]

    vectors = nn.Sequential(SparseCoding(7, 9, lam=0.01), SparseCoding(9, 5, lam=0.01))
    for shape in ((4, 7), (2, 3, 7)):
        assert [layer.chained for layer in find_code_layers(vectors, torch.randn(shape))[0]] == [False, True]
    # Groups are not in the model, but a convolution with ReLU may follow a unit layer.
    for groups in (1, 5):
        model = nn.Sequential(CSC2d(1, 5, 3), nn.Conv2d(5, 5, 3, groups=groups), nn.ReLU())
        assert [layer.chained for layer in find_code_layers(model, x)[0]] == [False, groups == 1]

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

    class Keywords(Masked):
        def forward(self, x):
            return self.csc(mask=~x.isnan(), x=x)

    model = Masked()
    by_name = Keywords()
    by_name.load_state_dict(model.state_dict())
    residuals = [find_code_layers(m, x)[0][0].residual for m in (model, by_name)]
    assert residuals[0] == residuals[1]


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
    with torch.inference_mode():
        batch = torch.randn(2, 2, 9, 8)
    assert len(find_code_layers(Net(F.relu), batch)[0]) == 1


@pytest.mark.parametrize("layer", [nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU()), CSC2d(2, 6, 3)])
def test_a_model_in_inference_mode_is_refused(layer):
    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        @torch.inference_mode()
        def forward(self, x):
            return self.layer(x)

    with pytest.raises(ValueError, match=r"a layer of the model ran under torch\.inference_mode"):
        find_code_layers(Frozen(), torch.randn(2, 2, 9, 8))


@pytest.mark.parametrize("options", [{}, {"sign": "mirrored", "density": 0.5}, {"sign": "signed", "steps": 4}])
def test_a_pooled_code_is_that_of_unit_atoms(options):
    layer = PooledCSC2d(2, 6, 3, padding=1, unit_norm=False, **options).double().eval()
    with torch.no_grad():
        layer.dictionary.weight.mul_(torch.rand(6, 1, 1, 1) + 0.5)
    layer.dictionary.refresh()
    x = torch.randn(2, 2, 8, 8, dtype=torch.float64)
    (found,), _ = find_code_layers(layer, x)
    code = layer.code(x)
    assert (found.name, found.kind) == ("PooledCSC2d", "PooledCSC2d") and torch.equal(found.code != 0, code != 0)
    if options.get("steps", 1) > 1:  # the coefficients explain x as the code does
        torch.testing.assert_close(found.dictionary.synthesis(found.code, (8, 8)), layer.dictionary.synthesis(code))
    else:  # correlations with the unit atoms
        kept = found.code != 0
        correlation = layer._pair(layer.dictionary).analysis(x)
        norms = torch.cat([layer.dictionary.weight] * (found.code.shape[1] // 6)).flatten(1).norm(dim=1)
        torch.testing.assert_close(found.code[kept], (correlation / norms.view(-1, 1, 1))[kept])
