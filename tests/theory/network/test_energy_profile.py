import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import csc_nets
from csc_nets.layers import CSC2d, Dictionary2d, MultiLayerCSC, Scattering2d, SparseCoding, SparsePriorConv2d
from csc_nets.theory import EnergyProfile, EnergyRow, energy_profile
from csc_nets.theory.network import energy_rows


@pytest.fixture
def noise():
    return torch.randn(8, 2, 32, 32, generator=torch.Generator().manual_seed(0))


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


@pytest.mark.parametrize("pool", [nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(16)])
def test_averages_of_noise_and_of_a_constant(pool, noise):
    (row,) = energy_profile(pool, noise).rows
    assert row.cause == "pooling" and row.bound == pytest.approx(1 / 4)
    assert row.kept == pytest.approx(1 / 4, rel=0.05)
    assert energy_profile(pool, torch.ones(1, 1, 32, 32)).rows[0].kept == pytest.approx(1)


def test_a_global_mean_is_an_average_and_a_mean_over_channels_is_not(noise):
    class Mean(nn.Module):
        def __init__(self, dim):
            super().__init__()
            self.dim = dim

        def forward(self, x):
            return F.relu(x).mean(dim=self.dim)

    (*_, row) = energy_profile(Mean((2, 3)), noise).rows
    assert (row.kind, row.cause) == ("mean", "pooling") and row.bound == pytest.approx(1 / 1024, rel=1e-4)
    assert [row.cause for row in energy_profile(Mean(1), noise).rows] == ["rectification"]


def test_a_maximum_keeps_what_it_chooses(noise):
    (row,) = energy_profile(nn.MaxPool2d(2), torch.ones(1, 1, 8, 8)).rows
    assert (row.cause, row.bound, row.kept) == ("pooling", 1.0, 0.25)
    (row,) = energy_profile(nn.MaxPool2d(3, 2, 1), noise).rows
    assert row.bound == 4  # a number lies in up to 2 x 2 windows
    spike = torch.zeros(1, 1, 9, 9)
    spike[..., 3, 3] = 1
    assert energy_profile(nn.MaxPool2d(3, 2, 1), spike).rows[0].kept == 1
    (row,) = energy_profile(nn.AdaptiveMaxPool2d(1), torch.ones(1, 1, 4, 4)).rows
    assert row.kept == 1 / 16


def test_a_maximum_counts_the_windows_that_share_a_number():
    image = torch.zeros(1, 1, 5, 1)
    image[0, 0, 2] = 1
    (row,) = energy_profile(nn.AdaptiveMaxPool2d((3, 1)), image).rows  # windows 0-1, 1-3, 3-4
    assert (row.energy_out, row.bound, row.kept) == (1, 2, 0.5)
    spike = torch.zeros(1, 1, 5, 5)
    spike[..., 1, 2] = 1
    (row,) = energy_profile(nn.AdaptiveMaxPool2d(3), spike).rows
    assert (row.energy_out, row.bound) == (2, 4)
    assert energy_profile(nn.AdaptiveMaxPool2d((None, 1)), spike).rows[0].bound == 1
    dilated = torch.zeros(1, 9)
    dilated[0, 4] = 1  # in the windows from 0, 2 and 4, each of every second number
    (row,) = energy_profile(nn.Sequential(nn.Unflatten(1, (1, 9)), nn.MaxPool1d(3, 2, dilation=2)), dilated).rows
    assert (row.energy_out, row.bound, row.kept) == (3, 3, 1)


@pytest.mark.parametrize(
    "rectifier, bound",
    [
        (nn.LeakyReLU(0.1), 1),
        (nn.LeakyReLU(2.0), 4),
        (nn.ELU(3.0), 9),
        (nn.Hardtanh(-1, 2), 1),
        (nn.Hardtanh(), 1),
        (nn.ReLU6(), 1),
    ],
)
def test_a_rectifier_is_measured_against_its_steepest_slope(rectifier, bound):
    x = -1e-3 * torch.rand(4, 8)
    (row,) = energy_profile(rectifier, x).rows
    made = rectifier(x).double().square().sum() / x.double().square().sum()
    assert row.bound == bound and row.kept == pytest.approx(made.item() / bound, rel=1e-6)


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


@pytest.mark.parametrize(
    "norm, axes",
    [
        (nn.LayerNorm([2, 32, 32]), (1, 2, 3)),
        (nn.LayerNorm(32), 3),
        (nn.GroupNorm(1, 2), (1, 2, 3)),
        (nn.GroupNorm(2, 2), (2, 3)),
        (nn.InstanceNorm2d(2), (2, 3)),
    ],
)
def test_a_normalisation_that_takes_the_mean_out_loses_it(norm, axes, noise):
    x = noise + 1
    (row,) = energy_profile(norm, x).rows
    lost = x.mean(axes, keepdim=True).expand_as(x).square().sum() / x.square().sum()
    assert row.cause == "centring" and row.removed == pytest.approx(lost.item(), rel=1e-4)


def test_normalisations_by_running_statistics_and_by_size_lose_nothing(noise):
    for norm in (nn.InstanceNorm2d(2, track_running_stats=True), nn.RMSNorm(32)):
        (row,) = energy_profile(norm, noise + 1).rows
        assert (row.cause, row.kept) == ("scale", 1)


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


def test_models_whose_operations_cannot_be_seen_are_refused(noise):
    with torch.inference_mode():
        model, x = nn.Conv2d(2, 3, 3), noise.clone()
    with pytest.raises(ValueError, match="inference_mode"):
        energy_profile(nn.Sequential(model), x)
    assert len(energy_profile(copy.deepcopy(model), x).rows) == 1
    for scripted in (torch.jit.script(nn.Conv2d(2, 3, 3)), torch.jit.trace(nn.Conv2d(2, 3, 3), noise)):
        with pytest.raises(ValueError, match="ScriptModule"):
            energy_profile(nn.Sequential(scripted, nn.ReLU()), noise)


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


class Residual(nn.Module):
    """A block whose shortcut runs last, as ResNet's does."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.shortcut = identity(), identity(stride=2), identity(stride=2)

    def forward(self, x):
        return F.relu(self.second(F.relu(self.first(x))) + self.shortcut(x))


def test_a_sum_has_the_mean_share_of_its_branches(noise):
    rows = rows_of(Residual(), noise)
    deep, short, last = rows["second", "stride"], rows["shortcut", "stride"], rows["Residual (2)", "rectification"]
    meet = rows["Residual", "branches"]
    assert (deep.depth, short.depth, meet.depth, last.depth) == (2, 1, 2, 2) and meet.kind == "add"
    assert [deep.on_path, short.on_path, meet.on_path, last.on_path] == [False, False, True, True]
    mean = (deep.energy_out * deep.share + short.energy_out * short.share) / (deep.energy_out + short.energy_out)
    assert meet.share == meet.kept == pytest.approx(mean) and last.share == pytest.approx(mean * last.kept)
    assert energy_profile(Residual(), noise).causes == {"branches": meet.kept, "rectification": last.kept}


@pytest.mark.parametrize("shortcut_first", [True, False])
def test_the_order_of_branches_does_not_count(shortcut_first, noise):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.shortcut, self.body = identity(stride=2), nn.Sequential(identity(), nn.ReLU(), identity(stride=2))

        def forward(self, x):
            return self.shortcut(x) + self.body(x) if shortcut_first else self.body(x) + self.shortcut(x)

    profile = energy_profile(nn.Sequential(identity(), Block(), identity()), noise)
    assert [row.name for row in profile.rows if row.on_path] == ["0", "1", "2"]
    assert list(profile.layers) == [1, 3, 4]
    assert math.prod(profile.causes.values()) == pytest.approx(profile.shares[-1])


def test_a_branch_that_delivers_nothing_has_no_say(noise):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(identity(gain=0.0), identity())

        def forward(self, x):
            return x + self.body(x)

    profile = energy_profile(nn.Sequential(*(nn.Sequential(Block(), nn.AvgPool2d(2)) for _ in range(4))), noise)
    assert all(row.kept == 0 for row in profile.rows if "body" in row.name)  # the second is fed zero
    assert all(row.kept == 1 for row in profile.rows if row.cause == "branches")
    assert profile.decay[0] == pytest.approx((profile.shares[0] / profile.shares[-1]) ** (1 / 6), rel=0.05)


def test_a_fresh_network_of_residual_blocks_decays(noise):
    torch.manual_seed(0)
    profile = energy_profile(csc_nets.create_model("sdnet18_all", num_classes=3).train(), torch.rand(2, 3, 32, 32))
    assert profile.decay[0] > 1 and min(profile.shares) > 0
    assert profile.shares == sorted(profile.shares, reverse=True)


def test_the_decay_of_a_chain_is_a_line(noise):
    model = nn.Sequential(*(identity(stride=2) for _ in range(4)))
    constant = torch.ones(1, 2, 32, 32)
    profile = energy_profile(model, constant)
    assert profile.shares == pytest.approx([1 / 4, 1 / 16, 1 / 64, 1 / 256])
    assert profile.decay == pytest.approx((4.0, 1.0))
    assert profile.causes == pytest.approx({"filters": 1.0, "stride": 1 / 256})
    profile = energy_profile(nn.Sequential(*model, nn.ReLU()), noise)
    assert math.prod(profile.causes.values()) == pytest.approx(profile.rows[-1].share)


def test_the_decay_has_a_slope_and_an_r_squared():
    def profile(shares):
        return EnergyProfile(
            [EnergyRow(str(n), "k", "c", n, 1, 1, 1, 1, share) for n, share in enumerate(shares, 1)], 1
        )

    a, r_squared = profile([0.5, 0.3, 0.05, 0.04]).decay
    y, n = torch.tensor([0.5, 0.3, 0.05, 0.04], dtype=torch.float64).log(), torch.arange(1.0, 5, dtype=torch.float64)
    correlation = torch.corrcoef(torch.stack([n, y]))[0, 1].item()
    slope = torch.linalg.lstsq(torch.stack([n, torch.ones_like(n)], 1), y[:, None]).solution[0].item()
    assert (a, r_squared) == pytest.approx((math.exp(-slope), correlation**2))
    with pytest.raises(ValueError, match="a line through 2 layers"):
        _ = profile([0.5, 0.2]).decay
    with pytest.raises(ValueError, match="behind layer 2"):
        _ = profile([0.5, 0.0, 0.0]).decay


def test_a_network_is_left_as_it_was(noise):
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(True), nn.Conv2d(4, 2, 3)).train()
    model[1].eval()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    x = noise.clone().requires_grad_()
    with torch.enable_grad():
        energy_profile(model, x)
        assert torch.is_grad_enabled()
    assert [module.training for module in model] == [True, False, True, True]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert x.grad is None and model[3].weight.grad is None and model[0].weight.grad.eq(1).all()
    assert torch.equal(x, noise) and not hasattr(x, "_csc_nets_energy")


def test_hooks_are_gone_after_an_error(noise):
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(3, 4, 3))
    with pytest.raises(RuntimeError, match="channels"):
        energy_profile(model, noise)
    assert model.training and not any(module._forward_hooks for module in model.modules())
    assert type(torch.relu(noise)) is torch.Tensor


def test_masks_concatenations_and_a_whole_network_run(noise):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = identity(), identity(stride=1)

        def forward(self, x):
            y = torch.cat([self.a(x), self.b(F.relu(x))], 1)
            return (y * (y > 0)).flatten(1)[:, :10].softmax(1)

    rows = energy_profile(Net(), noise).rows
    assert [(row.depth, row.cause == "branches") for row in rows] == [(1, False), (0, False), (1, False), (1, True)]
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    profile = energy_profile(models.resnet18(num_classes=3), torch.rand(2, 3, 64, 64))
    assert list(profile.layers) == [1, 3, 5, 7, 9, 11, 13, 15, 17, 18]
    assert profile.shares == sorted(profile.shares, reverse=True)
    assert math.prod(profile.causes.values()) == pytest.approx(profile.rows[-1].share)
    assert all(0 <= row.kept <= 1 for row in profile.rows)
    a, r_squared = profile.decay
    assert a > 1 and 0 < r_squared <= 1
    text = str(profile)
    assert "layer1.0.relu (2)" in text and "2 samples" in text and f"1 / {a:.3g}" in text


def test_outputs_that_share_no_operation(noise):
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = identity(), identity()

        def forward(self, x):
            return {"first": self.first(x), "others": [self.second(x)]}

    profile = energy_profile(Heads(), noise)
    assert profile.shares == [] and not any(row.on_path for row in profile.rows)
    assert "Kept by cause: all in branches." in str(profile)


def test_plot(noise):
    pyplot = pytest.importorskip("matplotlib.figure")
    axes = pyplot.Figure().subplots()
    energy_profile(nn.Sequential(identity(stride=2), nn.ReLU()), noise).plot(axes)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["filters", "stride", "rectification"]
    assert axes.get_yscale() == "log"


@pytest.mark.parametrize(
    "model, images, message",
    [
        (None, torch.ones(1, 1), "model must be"),
        (nn.ReLU(), [1.0], "got list"),
        (nn.ReLU(), torch.ones(2, 3, dtype=torch.int64), "int64"),
        (nn.ReLU(), torch.ones(0, 3), r"N >= 1, got torch.float32 \(0, 3\)"),
        (nn.ReLU(), torch.full((2, 3), math.nan), "finite"),
        (nn.ReLU(), torch.zeros(2, 3), "not all zero"),
        (nn.Identity(), torch.ones(2, 3), "Identity ran no operation"),
    ],
)
def test_bad_input_is_refused(model, images, message):
    with pytest.raises(ValueError, match=message):
        energy_profile(model, images)
