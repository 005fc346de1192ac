"""Checkpoints with the names of SDNet's public code, and the formulas of that code: no line and no weight is theirs."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from csc_nets.layers import CSC2d
from csc_nets.models import create_model, import_sdnet

LAM, WIDTHS = 0.1, (4, 6)


def coded(x, weight, eta, stride, steps, ridge=0.0):
    """Steps as in "Lib/models/csc_layer.py": the gradient is taken at z, also behind a momentum."""
    z, before, t = None, None, (1 + 5**0.5) / 2
    shrink = 1 / (1 + ridge * eta)
    geometry = {"stride": stride, "padding": weight.shape[-1] // 2}
    for k in range(steps):
        if z is None:
            v = eta * F.conv2d(x, weight, **geometry)
        else:
            residual = x - F.conv_transpose2d(z, weight, output_padding=int(stride > 1), **geometry)
            v = z + eta * F.conv2d(residual, weight, **geometry)
            if k > 1:
                last, t = t, (1 + (1 + 4 * t * t) ** 0.5) / 2
                v = v + (last - 1) / t * (z - before)
        z, before = (v * shrink - LAM * eta * shrink).relu(), z
    return z


class Theirs:
    """A random network in their names, and its logits by the formulas."""

    def __init__(self, everywhere, shortcut=True, kernel=3, steps=2, ridge=0.0):
        self.everywhere, self.shortcut, self.steps, self.ridge = everywhere, shortcut, steps, ridge
        self.large, self.state = kernel == 7, {}
        self.stem, self.blocks = ("layer0.0.dn", 2 if self.large else 1), []
        self.code("layer0.0.dn", 3, WIDTHS[0], kernel)
        self.norm("layer0.1", WIDTHS[0])
        if self.large and everywhere:
            self.code("layer0.2.dn", WIDTHS[0], WIDTHS[0])
        wide = WIDTHS[0]
        for i, width in enumerate(WIDTHS, 1):
            for j in range(2):
                prefix, stride = f"layer{i}.layers.{j}" if everywhere else f"layer{i}.{j}", 2 if i > 1 and j == 0 else 1
                for k, channels in ((1, wide), (2, width)):
                    make = self.code if everywhere else self.convolution
                    make(f"{prefix}.conv{k}" + (".dn" if everywhere else ""), channels, width)
                    self.norm(f"{prefix}.bn{k}", width)
                if shortcut and (stride > 1 or wide != width):
                    self.convolution(f"{prefix}.shortcut.0", wide, width, 1)
                    self.norm(f"{prefix}.shortcut.1", width)
                self.blocks.append((prefix, stride))
                wide = width
        self.state["linear.weight"], self.state["linear.bias"] = torch.randn(5, wide).double(), torch.randn(5).double()

    def convolution(self, name, channels, width, kernel=3):
        self.state[f"{name}.weight"] = torch.randn(width, channels, kernel, kernel).double() / (3 * channels) ** 0.5

    def code(self, name, channels, width, kernel=3):
        atoms = torch.randn(width, channels, kernel, kernel).double()
        self.state[f"{name}.weight"] = atoms / atoms.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        self.state[f"{name}.step_size"] = torch.rand(()).double() / 5 + 0.1

    def norm(self, name, width):
        values = {"weight": (0.5, 1), "bias": (-0.1, 0.5), "running_mean": (0, 0.1), "running_var": (0.02, 0.1)}
        for key, (least, spread) in values.items():
            self.state[f"{name}.{key}"] = least + spread * torch.rand(width).double()
        self.state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    def layer(self, x, name, stride):
        weight = self.state[f"{name}.weight"]
        if f"{name}.step_size" in self.state:
            return coded(x, weight, self.state[f"{name}.step_size"], stride, self.steps, self.ridge)
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    def normed(self, x, name):
        weight, bias, mean, var = (self.state[f"{name}.{k}"] for k in ("weight", "bias", "running_mean", "running_var"))
        return F.batch_norm(x, mean, var, weight, bias)

    def logits(self, x):
        x = self.normed(self.layer(x, *self.stem), "layer0.1")
        if self.large:
            x = self.layer(x, "layer0.2.dn", 2) if self.everywhere else F.max_pool2d(x, 3, 2, 1)
        for prefix, stride in self.blocks:
            dn = ".dn" if self.everywhere else ""
            y = self.normed(self.layer(x, f"{prefix}.conv1{dn}", stride), f"{prefix}.bn1")
            y = self.normed(self.layer(y if self.everywhere else y.relu(), f"{prefix}.conv2{dn}", 1), f"{prefix}.bn2")
            if self.shortcut:
                if f"{prefix}.shortcut.0.weight" in self.state:
                    x = self.normed(self.layer(x, f"{prefix}.shortcut.0", stride), f"{prefix}.shortcut.1")
                y = (y + x).relu()
            x = y
        return F.linear(x.mean((2, 3)), self.state["linear.weight"], self.state["linear.bias"])


CASES = {
    "sdnet": {"everywhere": False},
    "sdnet-all": {"everywhere": True},
    "sdnet-all without shortcuts": {"everywhere": True, "shortcut": False},
    "sdnet, large images": {"everywhere": False, "kernel": 7},
    "sdnet-all, large images": {"everywhere": True, "kernel": 7},
    "five steps": {"everywhere": True, "steps": 5, "ridge": 0.3},
}


@pytest.mark.parametrize("case", CASES)
def test_logits_are_theirs(case):
    theirs, x = Theirs(**CASES[case]), torch.randn(2, 3, 16, 16).double()
    options = {"steps": theirs.steps, "ridge": theirs.ridge}
    if theirs.steps > 2:
        options["pursuit"] = "sdnet"
    network = import_sdnet({f"module.{key}": value for key, value in theirs.state.items()}, **options)
    expected = theirs.logits(x)
    assert (expected[0] - expected[1]).abs().max() > 1e-2
    torch.testing.assert_close(network(x), expected, rtol=1e-12, atol=1e-12)
    if theirs.steps > 2:  # FISTA is not their momentum
        assert (import_sdnet(theirs.state, **{**options, "pursuit": "fista"})(x) - expected).abs().max() > 1e-3
    again = create_model(network.model_name, **network.model_args).double().eval()
    again.load_state_dict(network.state_dict())
    torch.testing.assert_close(again(x), expected, rtol=1e-8, atol=1e-8)  # its lam was rounded to float32
    layer = next(module for module in network.modules() if isinstance(module, CSC2d))
    assert layer.step_size == theirs.state["layer0.0.dn.step_size"]
    layer.step_size = None
    assert not torch.allclose(network(x), expected, rtol=1e-6)


def test_a_training_checkpoint_of_float32_is_taken_whole():
    state = {k: v.float() if v.is_floating_point() else v for k, v in Theirs(everywhere=True).state.items()}
    network = import_sdnet({"state_dict": state, "epoch": 3})
    assert network(torch.randn(1, 3, 16, 16)).dtype == torch.float32 and not network.training


def test_other_checkpoints_are_refused():
    with pytest.raises(ValueError, match="expected names of SDNet"):
        import_sdnet(nn.Linear(2, 2).state_dict())
    state = Theirs(everywhere=True).state
    with pytest.raises(ValueError, match=r"missing: .*body.1.weight"):
        import_sdnet({key: value for key, value in state.items() if key != "layer1.layers.0.bn1.weight"})
    wide = {**state, "layer1.layers.0.conv1.dn.weight": torch.randn(4, 8, 3, 3).double()}
    with pytest.raises(ValueError, match="EXPANSION_FACTOR"):
        import_sdnet(wide)
