"""Networks of torchvision and timm, converted: one step computes what they computed before."""

import copy

import pytest
import torch
import torchvision
from torch import nn

import csc_nets
from csc_nets.conversion import Converted, freeze_dictionaries, to_plain

SMALL = {
    "resnet18": "layer1.*",
    "vgg11_bn": "features.*",
    "convnext_tiny": "features.1.*",
    "efficientnet_b0": "features.[12].*",
    "mobilenet_v2": "features.[123].*",
    "vit_b_16": "encoder.layers.encoder_layer_0.*",
    "swin_t": "features.1.*",
}


@torch.no_grad()
def randomise(model: nn.Module) -> nn.Module:
    """Batch norms as after training, with scales of both signs."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.normal_()
            module.bias.normal_()
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model


def block() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.ReLU6(inplace=True),
        nn.Conv2d(8, 4, 1),
        nn.BatchNorm2d(4),
        nn.SiLU(),
        nn.Flatten(),
        nn.Linear(4 * 36, 5),
    )


def agree(model: nn.Module, coded: nn.Module, x: torch.Tensor) -> None:
    with torch.no_grad():
        wanted, got = model(x), coded(x)
    assert (wanted - got).abs().max() <= 1e-5 * wanted.abs().max()


@pytest.mark.parametrize("name", SMALL)
def test_torchvision_networks_compute_what_they_did(name):
    options = {"image_size": 64, "num_layers": 1} if name == "vit_b_16" else {}
    if options:
        model = torchvision.models.VisionTransformer(patch_size=16, num_heads=2, hidden_dim=32, mlp_dim=64, **options)
    else:
        model = torchvision.models.get_model(name, weights=None, num_classes=10)
    model = randomise(model).eval()
    coded, summary = csc_nets.convert(model, SMALL[name])
    assert summary.rows
    x = torch.randn(2, 3, 64, 64)
    agree(model, coded, x)
    plain = csc_nets.to_plain(coded)
    assert not any(isinstance(module, Converted) for module in plain.modules())
    with torch.no_grad():
        assert torch.equal(plain(x), coded(x))


TIMM = {
    "resnet18": "layer1.*",
    "vgg11_bn": "features.*",
    "convnext_atto": "stages.0.*",
    "efficientnet_b0": "blocks.[01].*",
    "vit_tiny_patch16_224": "blocks.0.*",
    "swin_tiny_patch4_window7_224": "layers.0.*",
}


@pytest.mark.parametrize("name", TIMM)
def test_timm_networks_compute_what_they_did(name):
    timm = pytest.importorskip("timm")
    options = {"vit": {"img_size": 64, "depth": 1}, "swin": {"img_size": 64, "window_size": 2}}
    own = options.get(name.split("_")[0], {})
    model = randomise(timm.create_model(name, pretrained=False, num_classes=10, **own)).eval()
    coded, summary = csc_nets.convert(model, TIMM[name])
    assert summary.rows
    agree(model, coded, torch.randn(2, 3, 64, 64))


def test_what_follows_a_layer_decides_what_it_becomes():
    coded, summary = csc_nets.convert(block())
    kinds = {row["name"]: row["kind"] for row in summary.rows}
    assert kinds == {"0": "Conv2d + norm + ReLU", "3": "Conv2d + ReLU", "5": "Conv2d"}
    assert summary.skipped == {"9": "its output is that of the network"}
    assert isinstance(coded[1], nn.Identity) and isinstance(coded[6], nn.BatchNorm2d)


def test_training_is_the_same_too():
    model = randomise(block()).train()
    coded, _ = csc_nets.convert(model)
    x = torch.randn(4, 3, 8, 8)
    outputs = []
    for net in (model, coded):
        y = net(x)
        y.sum().backward()  # the ReLUs work in place
        outputs.append(y.detach())
    torch.testing.assert_close(*outputs, atol=1e-4, rtol=1e-5)
    agree(model.eval(), coded.eval(), x)


def test_a_part_that_cannot_be_traced_is_entered():
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())
            self.direct = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return self.inner(x) if x.sum() > 0 else self.direct(x)

    model = nn.Sequential(nn.Conv2d(3, 3, 1), Gate(), nn.Flatten())
    coded, summary = csc_nets.convert(model)
    assert {row["name"]: row["kind"] for row in summary.rows} == {"0": "Conv2d", "1.inner.0": "Conv2d + ReLU"}
    assert summary.skipped == {"1.direct": "no call of it was seen in the graph"}
    for sign in (1, -1):
        agree(model, coded, sign * torch.rand(1, 3, 4, 4))


def test_an_output_with_two_readers_is_not_rectified():
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            y = self.conv(x)
            return y + y.relu()

    model = Skip()
    coded, summary = csc_nets.convert(model)
    assert summary.rows[0]["kind"] == "Conv2d"
    agree(model, coded, torch.randn(1, 3, 4, 4))


def test_weights_that_other_code_reads_stay():
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).train()
    model.linear1.register_forward_hook(lambda *_: None)
    _, summary = csc_nets.convert(nn.Sequential(model, nn.Flatten()), "*")
    assert summary.skipped["0.linear1"] == "with hooks"
    assert "0.self_attn.out_proj" in summary.skipped


def test_schedules_and_the_summary_of_images():
    where = {"0": 4, "3": 2}
    x = torch.randn(2, 3, 8, 8)
    coded, summary = csc_nets.convert(block().eval(), ["0", "3"], steps=where, lam={"0": 0.2}, images=x)
    assert [coded[0].steps, coded[3].steps, coded[0].lam.item(), coded[3].lam.item()] == [4, 2, pytest.approx(0.2), 0]
    first, second = summary.rows
    assert 0 <= first["gap"] < first["gap_1"] and 0 < first["energy"] <= 1 and 0 < first["coherence"] <= 1
    assert second["time"] > 0 and second["stripe"] >= 0
    assert "gap_1" in str(summary) and "Conv2d + norm + ReLU" in str(summary)


def test_the_original_is_left_alone_unless_told():
    model = block()
    before = copy.deepcopy(model.state_dict())
    csc_nets.convert(model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    coded, _ = csc_nets.convert(model, inplace=True)
    assert coded is model and isinstance(model[0], Converted)


def test_frozen_atoms_do_not_train():
    coded, _ = csc_nets.convert(block())
    assert csc_nets.freeze_dictionaries(coded, "[03]") == ["0", "3"]
    coded(torch.randn(2, 3, 8, 8)).sum().backward()
    trained = {name for name, p in coded.named_parameters() if p.grad is not None}
    assert "0.scale" in trained and "5.dictionary.parametrizations.weight.original" in trained
    assert "0.dictionary.parametrizations.weight.original" not in trained


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"no convolution or linear layer of Sequential fits where='layer9\.\*'"):
        csc_nets.convert(block(), "layer9.*")
    with pytest.raises(ValueError, match="steps must be an int"):
        csc_nets.convert(block(), steps=0)
    coded, _ = csc_nets.convert(block(), "0", steps=2)
    with pytest.raises(ValueError, match="to_plain: ConvertedConv must have one step"):
        csc_nets.to_plain(coded)


class Own(nn.Conv2d):
    """A subclass that computes what its base does."""


class Called(nn.Linear):
    def forward(self, x):
        return nn.functional.linear(x, self.weight, self.bias)


class Standardised(nn.Conv2d):
    def forward(self, x):
        return nn.functional.conv2d(x, self.weight - self.weight.mean(), self.bias)


def test_subclasses_that_compute_what_their_base_does():
    torch.manual_seed(0)
    plain = nn.Sequential(
        Own(3, 8, 3),
        nn.ReLU(),
        Standardised(8, 8, 3),
        nn.ReLU(),
        nn.Flatten(),
        Called(128, 5),
        nn.ReLU(),
        nn.Linear(5, 2),
    )
    coded, _summary = csc_nets.convert(plain.eval())
    assert isinstance(coded[0], Converted) and isinstance(coded[5], Converted) and type(coded[2]) is Standardised
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(coded(x), plain(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pursuit", ["fista", "ista"])
@pytest.mark.parametrize("training", [False, True])
def test_steps_under_autocast(pursuit, training):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).eval()
    coded, _ = csc_nets.convert(plain, steps=4, pursuit=pursuit)
    x = torch.randn(2, 3, 9, 9)
    with torch.autocast("cpu", torch.bfloat16):
        half = coded.train(training)(x)
    half.float().sum().backward()
    exact = coded(x)
    assert (half - exact).norm() < 0.03 * exact.norm()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"steps": {"layer9*": 4}}, r"fits 'layer9\*' of steps="),
        ({"lam": {"0": 0.1, "7": 0.2}}, "fits '7' of lam="),
        ({"where": ["0", "layer9.*"]}, "of where="),
        ({"where": 0}, "where must be patterns for names of layers, got 0"),
        ({"where": [0]}, r"where must be patterns for names of layers, got \[0\]"),
        ({"pursuit": csc_nets.functional.FISTA(3), "steps": 7}, "has its own number of steps, got also steps=7"),
    ],
)
def test_what_would_have_no_effect_is_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        csc_nets.convert(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten()), **arguments)


def test_no_module_is_refused():
    with pytest.raises(ValueError, match="no coding layer of Linear fits where='layer9'"):
        csc_nets.freeze_dictionaries(nn.Linear(2, 2), where="layer9")
    with pytest.raises(ValueError, match="model must be a module, got str"):
        csc_nets.convert("resnet18")


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (lambda net: csc_nets.convert(net, inplace="no"), "convert: inplace must be True or False, got 'no'"),
        (lambda net: csc_nets.convert(net, images=torch.zeros(0, 3, 8, 8)), r"got \(0, 3, 8, 8\)"),
        (lambda net: csc_nets.convert(net, images=[1]), "convert: images must be a batch of images or None, got list"),
        (lambda net: csc_nets.convert(net, images=torch.full((1, 3, 8, 8), torch.nan)), "images must be finite"),
        (lambda net: to_plain(None), "to_plain: model must be a module, got NoneType"),
        (lambda net: to_plain(net, inplace="no"), "to_plain: inplace must be True or False"),
        (lambda net: freeze_dictionaries(None), "freeze_dictionaries: model must be a module"),
        (lambda net: freeze_dictionaries(net, frozen="no"), "frozen must be True or False"),
        (lambda net: freeze_dictionaries(net, 0), "where must be patterns for names of layers, got 0"),
        (lambda net: freeze_dictionaries(net, ["0", "layer9"]), "no coding layer of Sequential fits 'layer9' of where"),
    ],
)
def test_bad_networks_flags_and_images_are_refused(run, said):
    net, _ = csc_nets.convert(block(), where="0")
    with pytest.raises(ValueError, match=said):
        run(net)
    assert isinstance(net[0], Converted) and all(p.requires_grad for p in net.parameters())


def test_one_weight_for_all_layers_may_be_a_tensor():
    lam = torch.linspace(0, 1, 8)
    one, _ = csc_nets.convert(block().eval(), where="0", lam=0.3)
    same, _ = csc_nets.convert(block().eval(), where="0", lam=torch.tensor(0.3))
    each, _ = csc_nets.convert(block().eval(), where="0", lam=lam)
    assert one[0].lam.unique() == same[0].lam.unique() and torch.allclose(each[0].lam.flatten(), lam, atol=1e-6)
