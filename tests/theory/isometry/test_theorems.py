"""Theorems 3.1 and 3.3: their forms, their limits, and signals that must obey them."""

import dataclasses
import itertools
import math

import pytest
import torch

from csc_nets.functional import as_adjoint_pair, one_per_block
from csc_nets.theory import RandomLayer, calibrate_constant, random_filters, reconstruction_bound, restricted_isometry

LAYER = RandomLayer(channels=32, filters=96, length=5, signal_length=32)


def test_inequality_of_theorem_3_1():
    """Its sides are equal at the numbers that the four forms give."""
    layer = RandomLayer(channels=64, filters=40, length=6, signal_length=30, stride=2, failure=0.05, constant=0.3)

    def sides(channels, k, delta, constant=0.3):
        left = channels * 6**2 / 30
        return left, constant * k / delta**2 * (math.log(40) + math.log(13) - math.log(0.05))

    assert layer.shifts == 13
    for left, right in (
        sides(64, 7, layer.delta(7)),
        sides(64, layer.sparsity_allowed(0.4), 0.4),
        sides(layer.channels_needed(7, 0.4), 7, 0.4),
        sides(64, 7, 0.4, layer.constant_for(7, 0.4)),
    ):
        assert left == pytest.approx(right, rel=1e-12)


def test_what_the_number_of_filters_and_of_channels_do():
    """Twice the input channels allow twice the non-zeros; twice the filters cost a logarithm."""
    wide = dataclasses.replace(LAYER, channels=64)
    assert wide.sparsity_allowed(0.5) == pytest.approx(2 * LAYER.sparsity_allowed(0.5))
    many = dataclasses.replace(LAYER, filters=192)
    ratio = math.log(96 * 28 / 0.01) / math.log(192 * 28 / 0.01)
    assert many.sparsity_allowed(0.5) == pytest.approx(ratio * LAYER.sparsity_allowed(0.5))
    assert LAYER.spans and not RandomLayer(96, 32, 5, 32).spans


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((32, 96, 5, 32, 2), "multiple >= 0 of stride=2, got 32 - 5 = 27"),
        ((32, 96, 5, 4), "got 4 - 5 = -1"),
        ((0, 96, 5, 32), "channels must be an int"),
        ((32, 96.0, 5, 32), "filters must be an int"),
        ((32, 96, 5, 32, 1, 0.0), "failure"),
        ((32, 96, 5, 32, 1, 0.1, 0.0), "constant"),
    ],
)
def test_bad_layers(arguments, message):
    with pytest.raises(ValueError, match=message):
        RandomLayer(*arguments)


def test_constant_of_filters_that_fill_the_signal():
    """One shift: k = K filters in M l dimensions, whose singular values lie within sqrt(K / M l) of 1."""
    layer = RandomLayer(channels=60, filters=6, length=10, signal_length=10, failure=0.5)
    constant = calibrate_constant(layer, 6, draws=30, samples=1, generator=torch.Generator().manual_seed(0))
    delta = dataclasses.replace(layer, constant=constant).delta(6)
    typical = 2 * math.sqrt(6 / 600) + 6 / 600
    assert 0.6 * typical < delta < 1.2 * typical


def test_calibrated_constant_takes_the_quantile_over_filters():
    common = {"draws": 8, "samples": 5}
    sure = calibrate_constant(LAYER, 4, **common, generator=torch.Generator().manual_seed(0))
    half = dataclasses.replace(LAYER, failure=0.5)
    loose = calibrate_constant(half, 4, **common, generator=torch.Generator().manual_seed(0))
    # The same filters and supports: the largest of 8 deltas against the fourth.
    assert dataclasses.replace(LAYER, constant=sure).delta(4) > dataclasses.replace(half, constant=loose).delta(4)


def test_quantile_over_filters_is_of_the_rank_that_whole_numbers_give():
    """30 % of 10 draws are 3, as 25 % are rounded up; in floating point (1 - 0.7) * 10 is above 3."""

    def delta(failure):
        layer = dataclasses.replace(LAYER, failure=failure)
        generator = torch.Generator().manual_seed(0)
        constant = calibrate_constant(layer, 2, draws=10, samples=3, generator=generator)
        return dataclasses.replace(layer, constant=constant).delta(2)

    third, fourth = delta(0.75), delta(0.65)
    assert third < fourth and delta(0.7) == pytest.approx(third, rel=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"draws": 0}, "draws must be an int >= 1, got 0"),
        ({"draws": 2.0}, "draws must be an int >= 1, got 2.0"),
        ({"samples": 0}, "samples must be an int >= 1, got 0"),
        ({"k": 97}, "k must be an int, 1 to 96"),
    ],
)
def test_bad_calibrations(arguments, message):
    with pytest.raises(ValueError, match=message):
        calibrate_constant(LAYER, **{"k": 2, **arguments})


def test_calibration_draws_from_the_given_generator_alone():
    def calibrated():
        return calibrate_constant(LAYER, 2, draws=2, samples=2, generator=torch.Generator().manual_seed(0))

    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = calibrated()
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(1)
    assert calibrated() == first


@pytest.mark.parametrize(("delta", "bound"), [(0.01, 0.051), (0.02, 0.104), (0.05, 0.277), (0.1, 0.614)])
def test_reconstruction_bound_in_numbers(delta, bound):
    found = reconstruction_bound(delta)
    assert found.signal == pytest.approx(bound, abs=5e-4) and not found.vacuous
    assert found.code == pytest.approx(5 * delta / (1 - delta), rel=1e-12)


@pytest.mark.parametrize(("form", "limit"), [("printed", 0.1471), ("derived", 0.3478)])
def test_bounds_say_nothing_from_here_on(form, limit):
    assert not reconstruction_bound(limit - 2e-4, form=form).vacuous
    assert reconstruction_bound(limit + 2e-4, form=form).vacuous
    assert reconstruction_bound(0.2, 1.0, form).signal == math.inf
    assert reconstruction_bound(1.5, form=form).vacuous
    assert reconstruction_bound(0.0, form=form).signal == 0


def test_the_derived_bound_implies_the_printed_one():
    for delta_2k in torch.linspace(0, 0.99, 34).tolist():
        for share in (0.0, 0.5, 1.0):
            printed = reconstruction_bound(share * delta_2k, delta_2k)
            derived = reconstruction_bound(share * delta_2k, delta_2k, "derived")
            assert derived.code <= printed.code and derived.signal <= printed.signal


@pytest.mark.parametrize("arguments", [(-0.1,), (0.3, 0.2), (math.nan,), (0.1, math.nan)])
def test_bad_constants(arguments):
    with pytest.raises(ValueError, match="constants must be"):
        reconstruction_bound(*arguments)
    with pytest.raises(ValueError, match="form must be"):
        reconstruction_bound(0.1, form="proved")


@pytest.fixture(scope="module")
def small():
    """Filters whose constants are known: every support was looked at."""
    generator = torch.Generator().manual_seed(0)
    weight = random_filters(3, 500, 2, "unit", generator=generator)
    pair = as_adjoint_pair(weight)
    vectors = pair.synthesis(torch.eye(9, dtype=torch.float64).view(9, 3, 3), (4,)).flatten(1)
    gram = vectors @ vectors.T
    supports = [
        [3 * block + place for block, place in zip(blocks, places, strict=True)]
        for blocks in itertools.combinations(range(3), 2)
        for places in itertools.product(range(3), repeat=2)
    ]
    deltas = [0.0, 0.0]
    for a, b in itertools.product(supports, supports):
        for i, support in enumerate((a, sorted({*a, *b}))):
            values = torch.linalg.eigvalsh(gram[support][:, support])
            deltas[i] = max(deltas[i], (values - 1).abs().max().item())
    return weight, pair, deltas, generator


def test_signals_obey_both_forms_of_theorem_3_3(small):
    weight, pair, (delta_k, delta_2k), generator = small
    found = restricted_isometry(
        weight, 2, signal_size=(4,), values="worst", differences=True, samples=2000, generator=generator
    )
    assert found.delta == pytest.approx(delta_2k, rel=1e-9)
    bound = reconstruction_bound(delta_k, delta_2k)
    derived = reconstruction_bound(delta_k, delta_2k, "derived")
    assert not bound.vacuous and derived.signal < 0.5
    places = torch.rand(2000, 3, 3, generator=generator)
    values = torch.rand(2000, 3, 3, generator=generator, dtype=torch.float64) * 2 - 1
    # Half of the codes with a tiny second entry, which the projection misses: the worst for it.
    values[:1000] *= torch.where(torch.rand(1000, 3, 1, generator=generator) < 0.5, 1e-2, 1.0)
    z = values * (one_per_block(places, 2) != 0)
    x = pair.synthesis(z, (4,))
    code = one_per_block(pair.analysis(x), 2)

    def ratio(difference, whole):
        return (difference.flatten(1).norm(dim=1) / whole.flatten(1).norm(dim=1)).max().item()

    assert 0.1 * derived.code < ratio(code - z, z) <= derived.code
    assert 0.1 * derived.signal < ratio(pair.synthesis(code, (4,)) - x, x) <= derived.signal


def test_the_printed_theorem_fails_with_switches_that_do_not_know(small):
    """'Any valid switches' would include these: the error is far above the bound."""
    _, pair, deltas, _ = small
    z = torch.zeros(1, 3, 3, dtype=torch.float64)
    z[0, 0, 2], z[0, 1, 1] = 1.0, -0.5
    x = pair.synthesis(z, (4,))
    wrong = pair.synthesis(one_per_block(pair.analysis(x), 2, switches="fixed"), (4,))
    assert (wrong - x).norm() / x.norm() > 1.2 > reconstruction_bound(*deltas).signal
