"""Branches, decay over depth, whole networks, and what is refused."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import csc_nets
from csc_nets.theory import EnergyProfile, EnergyRow, energy_profile


def rows_of(model, images):
    return {(row.name, row.cause): row for row in energy_profile(model, images).rows}


def identity(channels=2, stride=1, gain=1.0):
    conv = nn.Conv2d(channels, channels, 1, stride)
    with torch.no_grad():
        conv.weight.copy_(gain * torch.eye(channels)[:, :, None, None]), conv.bias.zero_()
    return conv


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


def test_models_whose_operations_cannot_be_seen_are_refused(noise):
    with torch.inference_mode():
        model, x = nn.Conv2d(2, 3, 3), noise.clone()
    with pytest.raises(ValueError, match="inference_mode"):
        energy_profile(nn.Sequential(model), x)
    assert len(energy_profile(copy.deepcopy(model), x).rows) == 1
    for scripted in (torch.jit.script(nn.Conv2d(2, 3, 3)), torch.jit.trace(nn.Conv2d(2, 3, 3), noise)):
        with pytest.raises(ValueError, match="ScriptModule"):
            energy_profile(nn.Sequential(scripted, nn.ReLU()), noise)


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
