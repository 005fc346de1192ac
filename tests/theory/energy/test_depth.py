"""The depth for a share of the energy: the published table, and the bounds that it comes from."""

import math

import pytest
import torch

from csc_nets.functional import scattering_energy, wavelet_bank
from csc_nets.theory import depth_for_energy, energy_decay_bound, support_base

SHARES = (0.25, 0.5, 0.75, 0.9, 0.95, 0.99)


@pytest.mark.parametrize(
    ("family", "published"),
    [
        ("wavelet", [2, 3, 4, 6, 8, 11]),
        ("weyl_heisenberg", [2, 4, 5, 8, 10, 14]),
        ("general", [2, 3, 7, 19, 39, 199]),
    ],
)
def test_published_table(family, published):
    assert [int(depth_for_energy(share, family, exponent=1.0001)) for share in SHARES] == published
    assert [int(depth_for_energy(share, family)) for share in SHARES] == published
    twice = [int(depth_for_energy(share, family, bandwidth=0.02, gap=0.02)) for share in SHARES]
    assert twice == published


@pytest.mark.parametrize("smoothness", [None, 0.3, 2.0])
@pytest.mark.parametrize(
    ("family", "dim", "base"),
    [
        ("general", 1, None),
        ("general", 2, None),
        ("wavelet", 1, None),
        ("wavelet", 1, 2.5),
        ("analytic", 1, None),
        ("analytic", 1, 2.0),
        ("analytic", 2, None),
        ("analytic", 3, support_base(0.5, 2, dim=3)),
    ],
)
def test_bound_is_reached_at_that_depth_and_not_before(family, dim, base, smoothness):
    for share in (0.3, 0.9):
        for bandwidth in (0.5, 2.0, 9.0):
            options = {"family": family, "dim": dim, "base": base, "smoothness": smoothness, "gap": 0.8}
            depth = int(depth_for_energy(share, bandwidth=bandwidth, **options))
            if depth > 10**4:
                continue
            assert energy_decay_bound(depth + 1, bandwidth, **options) <= (1 - share) * (1 + 1e-9)
            # The published formulas of wavelets leave out the polynomial radius, which may be larger.
            if depth and family != "wavelet":
                assert energy_decay_bound(depth, bandwidth, **options) > 1 - share


def test_ours_needs_fewer_layers_than_the_published_bounds():
    for share in SHARES:
        for dim in (1, 2):
            assert int(depth_for_energy(share, "analytic", dim=dim)) < int(depth_for_energy(share, "general", dim=dim))
    assert [int(depth_for_energy(share, "analytic", base=support_base(1, 3))) for share in SHARES] == [1, 2, 3, 5, 6, 8]
    assert [int(depth_for_energy(share, "analytic", dim=2)) for share in SHARES] == [5, 9, 18, 44, 85, 407]


def test_features_hold_the_promised_share():
    bank = wavelet_bank(512, gap=1 / 8)
    x = torch.fft.irfft(torch.fft.rfft(torch.randn(5, 512, dtype=torch.float64)) * (torch.arange(257) <= 160))
    depth = int(depth_for_energy(0.7, "analytic", bandwidth=160 / 512, gap=bank.gap, base=5 / 3))
    energy = scattering_energy(x, bank, depth + 1)
    assert bool((energy.propagated[:, 1] > 0.3 * energy.total).all())  # more than one layer is needed
    assert bool((energy.features.sum(1) >= 0.7 * energy.total).all())


def test_answer_reads_well():
    depth = depth_for_energy(0.9, "wavelet", bandwidth=2.0)
    assert depth.layers == int(depth) == math.ceil(math.log(2 / (1 - 0.9 ** (1 / 2.0002)), 5 / 3))
    assert "L = 2" in depth.assumption and "Parseval" in depth.assumption and "analytic" in depth.assumption
    assert "no such rate" in depth.assumption and "no such rate" not in str(depth_for_energy(0.9, "general"))
    assert str(depth).startswith("8 layers for 0.9 of the energy: N = ceil(log_1.667 38.98). Holds for signals with")
    assert "H^2" in depth_for_energy(0.9, smoothness=2.0).assumption
    assert int(depth_for_energy(0.01, bandwidth=1e-6)) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fraction": 1.0}, r"fraction must be in \(0, 1\), got 1.0"),
        ({"fraction": 0.0}, "fraction"),
        ({"bandwidth": 0.0}, "bandwidth"),
        ({"smoothness": -1.0}, "smoothness"),
        ({"family": "cosine"}, "'cosine'"),
        ({"family": "wavelet", "dim": 2}, "dim=2"),
        ({"family": "weyl_heisenberg", "dim": 2}, "dim=2"),
        ({"gap": -1.0}, "gap"),
        ({"exponent": 0.5}, "exponent"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        depth_for_energy(**{"fraction": 0.5} | arguments)


def test_depths_that_nobody_builds_are_refused():
    for family, smoothness in (("general", 0.01), ("analytic", 0.01), ("wavelet", 0.001)):
        with pytest.raises(ValueError, match=r"fraction 0\.99 asks for a radius of e\^\d+"):
            depth_for_energy(0.99, family, smoothness=smoothness)
    # Where depth grows with the logarithm of the radius, 2.0002 * 100^50, there is one.
    expected = math.ceil((math.log(2.0002) + 50 * math.log(100)) / math.log(5 / 3))
    assert int(depth_for_energy(0.99, "wavelet", smoothness=0.01)) == expected
    assert int(depth_for_energy(0.99, "analytic", smoothness=0.01, base=5 / 3)) <= expected
