"""The report: numbers by hand, a case where guarantees hold, cases where they are vacuous, and a table to read."""

import math

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import csc_nets
from csc_nets.layers import CSC2d, DenseDictionary, MultiLayerCSC, SparseCoding
from csc_nets.theory import mutual_coherence, stripe_norm, welch_bound
from csc_nets.theory.network.report import report
from csc_nets.theory.sparse.signals import sample_dictionaries, sample_signals


def test_by_hand():
    conv = nn.Conv1d(1, 2, 2)
    conv.weight.data = torch.tensor([[[3.0, 4.0]], [[0.0, -2.0]]])
    conv.bias.data = torch.tensor([-2.0, 1.0])
    found = report(nn.Sequential(conv, nn.ReLU()), torch.tensor([[[1.0, 0.0, 0.0, 2.0]]]))
    # Unit atoms (.6, .8) and (0, -1); W x = [3, 0, 8], [0, 0, -4]; codes [.2, 0, 1.2], [.5, .5, 0];
    # D code = (.12, -.34, .22, .96).
    (row,) = found.rows
    assert (row["name"], row["atoms"], row["kernel_size"], row["stride"]) == ("0", 2, (2,), (1,))
    assert row["coherence"] == pytest.approx(0.8)  # of the two atoms without a shift
    assert row["welch_bound"] == pytest.approx(math.sqrt((2 - 1) / (2 * 3 - 1)))
    assert row["density"] == pytest.approx(4 / 6) and (row["k"], row["p"], row["cut"]) == (4, 4, 0)
    assert (row["smallest"], row["largest"]) == (pytest.approx(0.2), pytest.approx(1.2))
    assert row["residual"] == pytest.approx(math.sqrt(2.02 / 5))
    assert (row["k_unique"], row["k_basis_pursuit"]) == (1, 0)  # (1 + 1.25) / 2 and (1 + 1.25) / 3
    assert {row[name] for name in found.guarantees[0]} == {"vacuous"}
    assert found.left_out == {} and found.samples == 1


@pytest.fixture(scope="module")
def sparse():
    """A stack and signals of its own model, which basis pursuit explains."""
    dictionaries = sample_dictionaries((5, 2), (64, 16), steps=300)
    signals = sample_signals(dictionaries, 4, 256, per_stripe=1)
    stack = MultiLayerCSC(dictionaries, pursuit="layered_basis_pursuit", prox="soft", lam=1e-3, steps=2000, tol=1e-9)
    return stack, signals


def test_where_guarantees_hold(sparse):
    stack, signals = sparse
    found = report(stack, signals.signal, noise=1e-4)
    first, second = found.rows
    assert (first["name"], second["name"]) == ("MultiLayerCSC[0]", "MultiLayerCSC[1]")
    assert first["chain"] == second["chain"] == 0 and len(found.guarantees) == 1
    for row, dictionary, code in zip(found.rows, stack.dictionaries, signals.codes, strict=True):
        assert row["coherence"] == pytest.approx(mutual_coherence(dictionary), abs=1e-12)
        # The pursuit found the true supports, so these are the true numbers.
        assert row["k"] == stripe_norm(code, dictionary.geometry.kernel_size, dictionary.geometry.stride).max()
        assert row["density"] == pytest.approx((code != 0).double().mean().item())
        assert row["largest"] == pytest.approx(code.abs().max().item(), abs=0.01)
        assert row["residual"] < 0.01 and row["cut"] == 0
        assert all(row[name] == "holds" for name in ("uniqueness", "basis_pursuit_noiseless", "basis_pursuit"))
    assert first["p"] <= 2 and second["k_unique"] == math.inf
    guarantee = found.guarantees[0]["basis_pursuit"]
    assert guarantee.holds and guarantee.layers[1]["noise"] == pytest.approx(guarantee.layers[0]["error"])
    assert "One multi-layer model each: MultiLayerCSC[0] > MultiLayerCSC[1]." in str(found)
    assert str(found).splitlines()[2].split()[-3:] == ["yes", "yes", "yes"]


def test_a_layer_below_that_fails_fails_the_ones_above(sparse):
    stack = MultiLayerCSC(list(sparse[0].dictionaries), pursuit="layered_thresholding", prox="soft", lam=1e-3)
    found = report(stack, torch.randn(2, 1, 256, dtype=torch.float64))
    assert found.rows[0]["uniqueness"] == "does not hold" == found.rows[1]["uniqueness"]
    assert found.guarantees[0]["uniqueness"].layers[1]["holds"]  # by itself: its atoms are orthogonal


def test_package_model():
    model = csc_nets.create_model("csc_small", num_classes=3)
    x = torch.randn(2, 3, 16, 16)
    found = report(model, x)
    assert [row["name"] for row in found.rows] == ["stages.0.0", "stages.1.0", "stages.2.0"]
    assert [row["chain"] for row in found.rows] == [0, 1, 2]  # batch norm stands between
    layer = model.eval().stages[0][0]
    z = layer(x)
    row = found.rows[0]
    assert row["kind"] == "CSC2d" and row["coherence"] == pytest.approx(mutual_coherence(layer.dictionary))
    assert row["k"] == stripe_norm(z, 3).max() and row["density"] == pytest.approx((z != 0).double().mean().item())
    assert row["residual"] == pytest.approx(((x - layer.synthesize(z, (16, 16))).norm() / x.norm()).item(), rel=1e-4)
    assert row["p"] == (z != 0).flatten(1).sum(1).max()  # batch norm stands between: no layer is given this code
    assert found.rows[0]["uniqueness"] == "vacuous"


def test_a_network_of_torchvision():
    found = report(torchvision.models.resnet18(num_classes=5), torch.randn(1, 3, 32, 32))
    assert len(found.rows) == 9 and len(found.left_out) == 11
    row = found.rows[0]
    assert (row["name"], row["kernel_size"], row["stride"]) == ("conv1", (7, 7), (2, 2))
    text = str(found)
    assert max(map(len, text.splitlines())) <= 120
    assert "conv1" in text and "7x7/2" in text and "layer4.1.conv1" in text
    assert "left out, not followed by a ReLU: 11 (layer1.0.conv2, layer1.1.conv2, layer2.0.conv2, ...)." in text


def test_a_users_network():
    class User(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.head = nn.Conv2d(1, 4, 5, stride=2), nn.Conv2d(4, 8, 3), nn.Linear(8, 3)

        def forward(self, x):
            return self.head(F.relu(self.two(F.max_pool2d(F.relu(self.one(x)), 2))).mean((2, 3)))

    model, x = User(), torch.randn(3, 1, 20, 20)
    found = report(model, x)
    assert [row["name"] for row in found.rows] == ["one", "two"]
    for row, conv in zip(found.rows, (model.one, model.two), strict=True):
        assert row["coherence"] == pytest.approx(mutual_coherence(conv), rel=1e-6)
        assert row["welch_bound"] == pytest.approx(welch_bound(conv))


def test_the_patch_is_what_the_layers_given_the_code_see():
    class Fire(nn.Module):
        """As in SqueezeNet: two convolutions side by side."""

        def __init__(self, **options):
            super().__init__()
            self.squeeze, self.point = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 2, 1)
            self.wide = nn.Conv2d(1, 2, 3, **options)
            nn.init.ones_(self.squeeze.weight), nn.init.zeros_(self.squeeze.bias)

        def forward(self, x):
            x = F.relu(self.squeeze(x))
            one = F.relu(self.point(x))
            return one.mean() + F.relu(self.wide(x))

    x = torch.zeros(1, 1, 9, 9)
    x[0, 0, ::2, ::2] = 1.0
    found = report(Fire(dilation=2), x)
    assert [row["name"] for row in found.rows] == ["squeeze", "point", "wide"]
    assert [row["p"] for row in found.rows[:1]] == [9]  # nine dilated samples; a dense window of 3 sees four
    assert report(Fire(), x).rows[0]["p"] == 4
    # Nobody is given the codes of the others: not the one that ran next.
    dense = [row["density"] * row["atoms"] * 81 for row in found.rows[1:2]]
    assert [row["p"] for row in found.rows[1:2]] == pytest.approx(dense)


def test_groups_share_no_channel():
    conv = nn.Conv2d(6, 12, 3, groups=3, dilation=2)
    (row,) = report(nn.Sequential(conv, nn.ReLU()), torch.randn(2, 6, 11, 11)).rows
    assert row["coherence"] == pytest.approx(mutual_coherence(conv), rel=1e-6)
    assert row["welch_bound"] == pytest.approx(welch_bound(conv)) and row["welch_bound"] <= row["coherence"]


@pytest.mark.parametrize("coherence, unique, stable", [(0.34, 1, 1), (0.21, 2, 1), (0.19, 3, 2), (0.51, 1, 0)])
def test_how_many_non_zeros_a_coherence_allows(coherence, unique, stable):
    weight = torch.tensor([[1.0, 0.0], [coherence, math.sqrt(1 - coherence**2)]])
    model = SparseCoding(2, 2, lam=0.01)
    model.dictionary.weight = weight
    model.dictionary.refresh()
    (row,) = report(model, torch.randn(3, 2)).rows
    assert (row["k_unique"], row["k_basis_pursuit"]) == (unique, stable)


def test_a_dead_filter_counts_nowhere():
    conv = nn.Conv2d(1, 2, 3)
    nn.init.zeros_(conv.weight[0].data), nn.init.ones_(conv.bias)
    (row,) = report(nn.Sequential(conv, nn.ReLU()), torch.randn(1, 1, 5, 5)).rows
    # 3 x 3 positions, all in one stripe.
    assert 0 < row["k"] <= 9 and row["density"] * 18 == pytest.approx(row["k"]) and row["p"] == row["k"]


def test_reasons_are_given():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="replicate"),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3),
    )
    found = report(model, torch.randn(1, 1, 8, 8))
    assert str(found).splitlines()[-2:] == [
        "Convolutions left out, with padding_mode 'replicate': 1 (2).",
        "Convolutions left out, not followed by a ReLU: 1 (4).",
    ]
    with pytest.raises(ValueError, match=r"left out: with padding_mode 'replicate': 1 \(2\)\)"):
        report(model[2:4], torch.randn(1, 4, 8, 8))


def test_codes_that_are_not_the_model_show_it():
    # A stack of thresholdings computes codes that no signal of the model has; the table says how far off they are.
    stack = MultiLayerCSC([DenseDictionary(4, 4), DenseDictionary(4, 4)], pursuit="layered_thresholding", lam=0.5)
    for dictionary in stack.dictionaries:
        dictionary.weight = torch.eye(4)
        dictionary.refresh()
    found = report(stack, torch.tensor([[2.0, 0.0, 0.0, 0.0]]))
    assert [row["residual"] for row in found.rows] == pytest.approx([0.5 / 2, 0.5 / 1.5])
    assert "own\nsignals and codes are such only where resid. is 0" in str(found)


def test_vectors_and_zeros():
    model = nn.Sequential(SparseCoding(6, 9, lam=0.1), nn.Linear(9, 6), nn.ReLU(), SparseCoding(6, 4, lam=1e6))
    found = report(model, torch.randn(5, 6))
    assert [row["kernel_size"] for row in found.rows] == [(), ()]
    assert (found.rows[1]["k"], found.rows[1]["smallest"], found.rows[1]["largest"]) == (0, math.inf, 0.0)
    lines = str(found).splitlines()
    assert "dense" in lines[2] and lines[3].split()[-3:] == ["zero", "zero", "zero"]


def test_long_names_end_as_they_are():
    model = nn.Sequential()
    model.add_module("a_very_long_name_of_a_module_first", CSC2d(1, 4, 3))
    line = str(report(model, torch.randn(1, 1, 6, 6))).splitlines()[2]
    assert line.startswith("..._a_module_first ")


def test_bad_arguments_are_named():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())
    with pytest.raises(ValueError, match=r"model must be a torch.nn.Module, got function"):
        report(lambda x: x, torch.randn(1, 1, 4, 4))
    with pytest.raises(ValueError, match=r"batch must be a tensor of floats .* got list"):
        report(net, [torch.randn(1, 4, 4)])
    with pytest.raises(ValueError, match=r"got torch.uint8 \(1, 1, 4, 4\)"):
        report(net, torch.zeros(1, 1, 4, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"N >= 1, got torch.float32 \(0, 1, 4, 4\)"):
        report(net, torch.zeros(0, 1, 4, 4))
    with pytest.raises(ValueError, match=r"computed no code: .* left out: not followed by a ReLU: 1 \(0\)\)"):
        report(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sigmoid()), torch.randn(1, 1, 4, 4))
    with pytest.raises(ValueError, match=r"noise must be a finite number >= 0, got -1.0"):
        report(net, torch.randn(1, 1, 4, 4), noise=-1.0)
