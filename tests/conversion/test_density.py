"""Sparsity weights for a wanted density."""

import pytest
import torch
from torch import nn

import csc_nets
from csc_nets.functional.penalties import TopK
from csc_nets.layers import CSC2d


def test_every_layer_of_a_converted_network_gets_its_density():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.SiLU()).eval()
    coded, _ = csc_nets.convert(nn.Sequential(model, nn.Flatten()), steps={"0.0": 3})
    images = torch.randn(2, 3, 10, 10)
    rows = csc_nets.calibrate_density(coded, [(images, torch.zeros(2))], density=0.15)
    assert [row["name"] for row in rows] == ["0.0", "0.3"]
    first = coded[0][0]
    code = first(images)
    assert (code != 0).double().mean().item() == pytest.approx(0.15, abs=0.01)
    for row in rows:
        assert row["density"] == pytest.approx(0.15, abs=0.01) and row["before"] > row["density"]
        assert row["lam"] > 0


def test_codes_that_are_sparse_enough_keep_no_weight():
    model = nn.Sequential(CSC2d(1, 4, 3, lam=5.0, pursuit="threshold"))
    (row,) = csc_nets.calibrate_density(model, [torch.rand(2, 1, 8, 8)], density=1.0)
    assert row["lam"] == 0 and model[0].lam == 0


def test_bad_arguments_are_refused():
    layer = CSC2d(1, 4, 3)
    with pytest.raises(ValueError, match=r"density must be in \(0, 1\], got 0"):
        csc_nets.calibrate_density(layer, [torch.rand(2, 1, 8, 8)], density=0)
    with pytest.raises(ValueError, match="no batch"):
        csc_nets.calibrate_density(layer, [])
    with pytest.raises(ValueError, match="no coding layer"):
        csc_nets.calibrate_density(nn.Conv2d(1, 4, 3), [torch.rand(2, 1, 8, 8)])


@pytest.mark.parametrize("steps", [1, 2])
def test_of_layers_without_a_relu(steps):
    """Where the code is 0 the output is exactly that of no code, so that rounding is not counted."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU(), nn.Conv2d(8, 8, 3), nn.Flatten()).eval()
    coded, _ = csc_nets.convert(plain, where="0", steps=steps)
    (row,) = csc_nets.calibrate_density(coded, [torch.randn(4, 3, 32, 32)], density=0.2)
    assert row["density"] == pytest.approx(0.2, abs=1e-3) and 0 < row["lam"] < 10
    coded[0].lam = 100.0
    x = torch.randn(2, 3, 9, 9)
    assert coded[0].code(coded[0](x)).count_nonzero() == 0
    torch.testing.assert_close(coded[0](x), coded[0](x)[:1, :, :1, :1].expand(2, 8, 7, 7), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("loader", "arguments", "said"),
    [
        ([torch.randn(2, 3, 9, 9)], {"batches": 0}, "batches must be an int >= 1, got 0"),
        ([torch.randn(2, 3, 9, 9)], {"updates": -3}, "updates must be an int >= 1, got -3"),
        ([torch.randn(2, 3, 9, 9)], {"density": "0.1"}, r"density must be in \(0, 1\], got '0.1'"),
        (torch.randn(2, 3, 9, 9), {}, "loader must give batches, got Tensor"),
        (5, {}, "loader must give batches, got int"),
        ([torch.randn(0, 3, 9, 9)], {}, r"batches must be images, or images first, got \(0, 3, 9, 9\)"),
        ([{"x": torch.randn(2, 3, 9, 9)}], {}, "batches must be images, or images first, got dict"),
    ],
)
def test_bad_arguments(loader, arguments, said):
    with pytest.raises(ValueError, match=said):
        csc_nets.calibrate_density(CSC2d(3, 8, 3), loader, **arguments)


def test_a_density_that_no_weight_reaches_is_refused_and_the_weight_stays():
    layer = CSC2d(1, 8, 3, lam=0.3, pursuit="matching", steps=4, penalty=TopK(4))
    with pytest.raises(ValueError, match=r"layer '' has the density .* at any lam, got density=0.01"):
        csc_nets.calibrate_density(layer, [torch.rand(2, 1, 8, 8)], density=0.01)
    assert float(layer.lam) == pytest.approx(0.3)
