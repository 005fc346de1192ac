"""What single operations do to the energy: filters, strides, rectifiers, attention, and this package's layers."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from csc_nets.layers import CSC2d, Dictionary2d, MultiLayerCSC, Scattering2d, SparseCoding, SparsePriorConv2d
from csc_nets.theory import energy_profile
from csc_nets.theory.network import energy_rows


def rows_of(model, images):
    return {(row.name, row.cause): row for row in energy_profile(model, images).rows}


def identity(channels=2, stride=1, gain=1.0):
    conv = nn.Conv2d(channels, channels, 1, stride)
    with torch.no_grad():
        conv.weight.copy_(gain * torch.eye(channels)[:, :, None, None]), conv.bias.zero_()
    return conv


def test_a_multiple_of_the_identity_passes_all(noise):
    row, *others = energy_profile(identity(gain=3.0), noise).rows
    assert not others and (row.kind, row.cause, row.depth) == ("conv2d", "filters", 1)
    assert row.energy_in == pytest.approx(noise.square().sum().item() / 8)
    assert row.energy_out == pytest.approx(9 * row.energy_in) and row.bound == pytest.approx(9)
    assert row.kept == pytest.approx(1) and row.removed == pytest.approx(0, abs=1e-6)


def test_a_stride_keeps_the_positions_that_it_visits(noise):
    rows = rows_of(identity(stride=2), noise)
    stride = rows["Conv2d", "stride"]
    assert rows["Conv2d", "filters"].kept == pytest.approx(1)
    assert stride.kept == pytest.approx((noise[..., ::2, ::2].square().sum() / noise.square().sum()).item())
    assert stride.kept == pytest.approx(1 / 4, rel=0.05)
    assert stride.share == stride.kept and stride.depth == 1


@pytest.mark.parametrize("padding, stride", [(0, 1), (1, 2), ("same", 1)])
def test_filters_are_measured_against_the_matrix_of_the_convolution(padding, stride):
    torch.manual_seed(0)
    conv, x = nn.Conv2d(2, 3, 3, stride, padding), torch.randn(4, 2, 6, 6)
    matrix = F.conv2d(torch.eye(72).view(72, 2, 6, 6), conv.weight, padding=padding).flatten(1).T.double()
    norm = torch.linalg.matrix_norm(matrix, 2).square().item()
    row = energy_profile(conv, x).rows[0]
    made = (matrix @ x.flatten(1).T.double()).square().sum().item() / 4
    assert row.bound == pytest.approx(norm, rel=0.01) and row.energy_out == pytest.approx(made, rel=1e-5)
    assert row.kept == pytest.approx(made / norm / (x.square().sum().item() / 4), rel=0.01)


def test_the_scale_of_the_weights_does_not_count(noise):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 8, 3, 2, bias=False), nn.ReLU(), nn.Conv2d(8, 4, 3, bias=False))
    before = [row.kept for row in energy_profile(model, noise).rows]
    with torch.no_grad():
        model[0].weight.mul_(7), model[2].weight.mul_(0.01)
    assert [row.kept for row in energy_profile(model, noise).rows] == pytest.approx(before, rel=1e-3)


@pytest.mark.parametrize(
    "relu",
    [nn.ReLU(), nn.ReLU(inplace=True), F.relu, torch.relu, torch.Tensor.relu, lambda x: x.clone().relu_()],
    ids=["module", "in place", "F", "torch", "method", "method in place"],
)
def test_a_relu_of_symmetric_noise_loses_half(relu, noise):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu = relu

        def forward(self, x):
            return self.relu(x) * 1

    (row,) = energy_profile(Net(), noise).rows
    assert (row.cause, row.depth) == ("rectification", 0)
    assert row.kept == pytest.approx((noise.clamp(min=0).square().sum() / noise.square().sum()).item())
    assert row.kept == pytest.approx(1 / 2, rel=0.05)


def test_a_soft_threshold_shrinks(noise):
    (row,) = energy_profile(nn.Softshrink(0.5), noise).rows
    expected = (noise.abs() - 0.5).clamp(min=0).square().sum() / noise.square().sum()
    assert row.cause == "shrinkage" and row.kept == pytest.approx(expected.item())


def test_a_clamp_that_moves_zero_is_no_contraction(noise):
    class Clamp(nn.Module):
        def __init__(self, *args, **options):
            super().__init__()
            self.args, self.options = args, options

        def forward(self, x):
            return x.clamp(*self.args, **self.options)

    for module in (nn.Hardtanh(1, 2), Clamp(1), Clamp(max=-0.5)):
        assert [row.cause for row in energy_profile(nn.Sequential(identity(), module), noise).rows] == ["filters"]
    assert [row.bound for row in energy_profile(Clamp(min=-1.0, max=0.5), noise).rows] == [1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_precisions(dtype, noise):
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 4, 3, 2), nn.ReLU(), CSC2d(4, 4, 2, 2, lam=0.1, pursuit="threshold"), nn.AvgPool2d(2)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(36, 3))
    expected = energy_profile(model, noise[..., :28, :28]).rows
    rows = energy_profile(model.to(dtype), noise[..., :28, :28].to(dtype)).rows
    for row, other in zip(rows, expected, strict=True):
        assert row.bound == pytest.approx(other.bound, rel=0.01) and row.kept == pytest.approx(other.kept, rel=0.05)


def test_autocast(noise):
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 4, 3, 2), nn.ReLU(), CSC2d(4, 4, 2, 2, lam=0.1, pursuit="threshold"), nn.AvgPool2d(2)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(36, 3))
    expected = energy_profile(model, noise[..., :28, :28]).rows
    with torch.autocast("cpu", torch.bfloat16):
        assert energy_profile(nn.AvgPool2d(2), noise).rows[0].bound == pytest.approx(0.25, rel=1e-5)
        rows = energy_profile(model, noise[..., :28, :28]).rows
    for row, other in zip(rows, expected, strict=True):
        assert row.bound == pytest.approx(other.bound, rel=0.01) and row.kept == pytest.approx(other.kept, rel=0.05)


class Attention(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, **options)

    def forward(self, x):
        return self.attention(x, x, x)[0]


@pytest.mark.parametrize("batch_first", [True, False])
def test_attention_is_a_projection_in_and_one_out(batch_first):
    torch.manual_seed(0)
    model, x = Attention(batch_first=batch_first), torch.randn(3, 5, 4)
    first, second = energy_profile(model, x).rows
    assert [(row.name, row.kind, row.cause, row.depth) for row in (first, second)] == [
        ("attention", "linear", "filters", 1),
        ("attention (2)", "linear", "filters", 2),
    ]
    weight = model.attention.in_proj_weight.detach()
    assert first.energy_out == pytest.approx((x @ weight.T).square().sum().item() / 3)
    assert first.bound == pytest.approx(torch.linalg.matrix_norm(weight, 2).square().item(), rel=0.01)
    assert second.energy_out == pytest.approx(model.eval()(x).square().sum().item() / 3)  # its bias is 0
    block = nn.TransformerEncoderLayer(4, 2, 8, batch_first=batch_first)
    profile = energy_profile(nn.Sequential(nn.Linear(4, 4), block), x)
    assert list(profile.layers) == [1, 3, 5]


def test_a_matrix_costs_the_same_for_any_number_of_tokens(monkeypatch):
    seen = []
    monkeypatch.setattr(energy_rows, "squared_norm", lambda linear, like: seen.append(linear(like).shape) or 1.0)
    energy_profile(nn.Linear(4, 3), torch.ones(2, 5, 4))
    assert seen == [(3,)]


def test_patches_are_a_matrix(noise):
    conv = nn.Conv2d(2, 3, 4, 4)
    (row,) = energy_profile(conv, noise).rows
    matrix = conv.weight.detach().flatten(1)
    assert row.bound == pytest.approx(torch.linalg.matrix_norm(matrix, 2).square().item(), rel=0.01)
    assert [row.cause for row in energy_profile(nn.Conv2d(2, 3, 4, 3), noise).rows] == ["filters", "stride"]


def test_samples_one_by_one(noise):
    class OneByOne(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return torch.stack([self.layer(u) for u in x])

    torch.manual_seed(0)
    linear, conv = nn.Linear(32, 3), nn.Conv2d(2, 3, 3, 2)
    for layer, x in ((linear, noise[:, 0, 0]), (conv, noise), (nn.MaxPool2d(2), noise), (nn.AvgPool2d(2), noise)):
        together = energy_profile(layer, x)
        profile = energy_profile(OneByOne(layer), x)
        single = [row for row in profile.rows if row.cause == "filters" or row.cause == "pooling"]
        assert len(single) == 8 and not any(row.on_path for row in single)
        assert all(row.bound == pytest.approx(together.rows[0].bound, rel=0.01) for row in single)
        assert profile.rows[-1].cause == "branches" and profile.rows[-1].on_path


def test_a_normalisation_loses_nothing_and_a_bias_neither(noise):
    norm = nn.BatchNorm2d(2)
    norm.running_var.fill_(0.01)
    conv = identity()
    with torch.no_grad():
        conv.bias.fill_(5.0)
    first, second = energy_profile(nn.Sequential(conv, norm), noise).rows
    assert (first.cause, second.cause) == ("filters", "scale")
    assert first.energy_out == pytest.approx(first.energy_in) and second.energy_in > 10 * first.energy_out
    assert second.kept == 1 and second.energy_out == pytest.approx(100 * second.energy_in, rel=0.01)


def orthonormal(lam, **options):
    layer = CSC2d(1, 4, 2, 2, lam=lam, steps=60, nonneg=False, **options)
    hadamard = torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2
    layer.dictionary.weight = hadamard.view(4, 1, 2, 2)
    layer.dictionary.refresh()
    return layer


def test_what_a_code_does_not_explain_is_the_residual(noise):
    x = noise[:, :1]
    (row,) = energy_profile(orthonormal(0.0), x).rows
    assert (row.kind, row.cause, row.depth) == ("CSC2d", "residual", 1)
    assert row.kept == pytest.approx(1) and row.energy_out == pytest.approx(row.energy_in)
    # A soft threshold takes min(|v|, lam) from each coefficient.
    v = orthonormal(0.0).eval()(x)
    (row,) = energy_profile(orthonormal(0.3), x).rows
    assert row.removed == pytest.approx((v.abs().clamp(max=0.3).square().sum() / v.square().sum()).item(), rel=1e-4)


def test_one_thresholding_is_filters_and_shrinkage(noise):
    filters, shrinkage = energy_profile(orthonormal(0.3, pursuit="threshold"), noise[:, :1]).rows
    assert (filters.cause, filters.depth, shrinkage.cause, shrinkage.depth) == ("filters", 1, "shrinkage", 1)
    assert filters.kept == pytest.approx(1) and 0.4 < shrinkage.kept < 0.8
    causes = [row.cause for row in energy_profile(SparsePriorConv2d(2, 4, 3), noise).rows]
    assert causes == ["filters", "shrinkage"]


def test_a_stack_is_one_row_a_layer(noise):
    torch.manual_seed(0)
    layer = MultiLayerCSC([Dictionary2d(2, 4, 3), Dictionary2d(4, 6, 3)], lam=0.01, pursuit="layered_basis_pursuit")
    rows = energy_profile(nn.Sequential(layer, nn.ReLU()), noise).rows
    assert [(row.name, row.depth) for row in rows] == [("0[0]", 1), ("0[1]", 2), ("1", 2)]
    with torch.no_grad():
        codes = layer.eval().codes(noise)
        lost = (noise - layer.dictionaries[0].synthesis(codes[0], (32, 32))).square().sum() / noise.square().sum()
    assert rows[0].removed == pytest.approx(lost.item(), rel=1e-5)


def test_a_scattering_keeps_what_its_paths_carry(noise):
    first, second = (energy_profile(Scattering2d(2, 4, order=order), noise).rows[0] for order in (1, 2))
    assert (first.cause, first.depth, first.bound) == ("paths", 1, 1 / 16)
    features = Scattering2d(2, 4)(noise).square().sum() / noise.square().sum()
    assert second.kept == pytest.approx(16 * features.item()) and 0.6 < first.kept < second.kept - 0.05 < 0.95
    (row,) = energy_profile(Scattering2d(2, 4), torch.ones(1, 1, 32, 32)).rows
    assert row.kept == pytest.approx(1, rel=1e-4)


def test_vectors(noise):
    model = nn.Sequential(nn.Flatten(), nn.Linear(2048, 16), SparseCoding(16, 32, lam=0.1))
    assert [row.cause for row in energy_profile(model, noise).rows] == ["filters", "residual"]
