"""Conditions and bounds in closed form, all six theorems at once, and what is refused."""

import itertools
import math

import pytest
import torch

from csc_nets.layers import Dictionary1d
from csc_nets.theory import (
    LayerQuantities,
    basis_pursuit,
    basis_pursuit_noiseless,
    global_stability,
    guarantees,
    hard_thresholding,
    measure,
    mutual_coherence,
    patch_norm,
    soft_thresholding,
    uniqueness,
)

ALL = [uniqueness, global_stability, hard_thresholding, soft_thresholding, basis_pursuit_noiseless, basis_pursuit]
THRESHOLDINGS = [hard_thresholding, soft_thresholding]
SIZE = 128  # of the signals


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_codes_that_are_no_model_are_refused(dtype):
    first, second = (Dictionary1d(*sizes, 3, padding=1, dtype=dtype) for sizes in ((1, 4), (4, 5)))
    deepest = (torch.randn(3, 5, 40) * (torch.rand(3, 5, 40) < 0.1)).to(dtype)
    codes = [second.synthesis(deepest).detach(), deepest]
    assert len(guarantees([first, second], codes)["uniqueness"].layers) == 2
    wrong = codes[0].clone()
    wrong[2, 0, 0] += 0.1
    for shallow in (wrong, 1.01 * codes[0], codes[0].flip(0), codes[0] * 0):
        with pytest.raises(ValueError, match=r"codes\[0\] must be the synthesis of codes\[1\] by dictionaries\[1\]"):
            guarantees([first, second], [shallow, deepest])
    identity, spikes = torch.eye(4, dtype=dtype), torch.eye(4, dtype=dtype)
    assert guarantees([identity, identity], [spikes[:1], spikes[:1]])["uniqueness"].holds
    with pytest.raises(ValueError, match="synthesis"):
        guarantees([identity, identity], [spikes[:1], 5 * spikes[2:3]])


def quantities(coherence, stripe, patch=1, smallest=1.0, largest=1.0):
    return LayerQuantities(coherence, stripe, patch, smallest, largest)


@pytest.mark.parametrize(
    ("theorem", "coherence", "stripe", "status"),
    [
        (uniqueness, 0.3, 2, "holds"),
        (uniqueness, 0.3, 3, "does not hold"),
        (uniqueness, 1 / 3, 1, "holds"),
        (uniqueness, 1 / 3, 2, "vacuous"),
        (uniqueness, 0.9, 1, "holds"),
        (uniqueness, 1.0, 1, "vacuous"),
        (uniqueness, 0.0, 10**6, "holds"),
        (global_stability, 0.2, 3, "does not hold"),
        (global_stability, 0.5, 2, "vacuous"),
        (basis_pursuit_noiseless, 0.2, 2, "holds"),
        (basis_pursuit, 0.19, 2, "holds"),
        (basis_pursuit, 0.19, 3, "does not hold"),
        (basis_pursuit, 0.2, 2, "vacuous"),
        (basis_pursuit, 0.5, 1, "vacuous"),
        (hard_thresholding, 0.3, 2, "holds"),
        (soft_thresholding, 0.3, 3, "does not hold"),
        (soft_thresholding, 0.4, 2, "vacuous"),
    ],
)
def test_status(theorem, coherence, stripe, status):
    guarantee = theorem([quantities(coherence, stripe)], 0.0)
    assert guarantee.status == status
    assert guarantee.holds == (status == "holds") == math.isfinite(guarantee.error)
    assert guarantee.entry_error == guarantee.error if stripe == 1 or status != "holds" else True
    # A layer that holds does not change what another says.
    both = theorem([quantities(0.01, 1), quantities(coherence, stripe)], 0.0)
    assert both.status == status
    if status == "vacuous":
        for k in (2, 3):
            assert not theorem([quantities(coherence, k)], 0.0).holds


def test_errors_in_closed_form():
    layers = [quantities(0.01, 3, 5, 0.5, 2.0), quantities(0.05, 2, 4, 1.0, 1.5), quantities(0.1, 1, 7)]
    product = math.prod(4 / (1 - (2 * q.stripe - 1) * q.coherence) for q in layers)
    assert global_stability(layers, 0.3).error ** 2 == pytest.approx(0.3**2 * product)
    found = basis_pursuit(layers, 1e-3)
    assert found.error == pytest.approx(1e-3 * 7.5**3 * math.sqrt(5 * 4 * 7))
    assert found.entry_error == pytest.approx(found.error / math.sqrt(7))
    noise = [1e-3, 1e-3 * 7.5 * math.sqrt(5), 1e-3 * 7.5**2 * math.sqrt(20)]
    assert [row["penalty"] for row in found.layers] == pytest.approx([4 * e for e in noise])
    hard = hard_thresholding(layers, 1e-3)
    first = math.sqrt(5) * (1e-3 + 0.01 * 2 * 2)
    second = math.sqrt(4) * (first + 0.05 * 1.5)
    assert [row["error"] for row in hard.layers] == pytest.approx([first, second, math.sqrt(7) * second])
    soft = soft_thresholding(layers, 1e-3, [0.065, 0.5, 1.0])
    assert soft.layers[0]["error"] == pytest.approx(first + math.sqrt(5) * 0.065)
    (row,) = soft_thresholding(layers[:1], 1e-3).layers
    assert (row["threshold_low"], row["threshold_high"]) == pytest.approx((0.061, 0.459))
    assert row["threshold"] == pytest.approx(0.26)
    assert row["k_limit"] == pytest.approx((1 + 0.5 / (0.01 * 2)) / 2 - 1e-3 / (0.01 * 2))
    # The window is empty exactly where k reaches the limit.
    for k, holds in ((12, True), (13, False)):
        assert hard_thresholding([quantities(0.01, k, 1, 0.5, 2.0)], 1e-3).holds == holds
    for threshold, holds in ((0.06, False), (0.062, True), (0.458, True), (0.46, False)):
        assert hard_thresholding(layers[:1], 1e-3, [threshold]).holds == holds


def test_no_noise_and_orthogonal_atoms():
    layers = [quantities(0.0, 4, 3, 0.1, 9.0)] * 2
    for theorem in (uniqueness, global_stability, hard_thresholding, basis_pursuit_noiseless, basis_pursuit):
        assert theorem(layers, 0.0).holds and theorem(layers, 0.0).error == 0
    assert soft_thresholding(layers, position=0.0).error == 0
    for theorem in (global_stability, hard_thresholding, soft_thresholding, basis_pursuit):
        errors = [theorem(layers[:1], noise).error for noise in (0.0, 1e-3, 1e-2)]
        assert all(a <= b for a, b in itertools.pairwise(errors)) and math.isfinite(errors[-1])


@pytest.mark.parametrize("behind", [quantities(0.0, 2), LayerQuantities(0.0, 0, 0, math.inf, 0.0)])
def test_behind_a_layer_that_fails_no_error_is_bounded(behind):
    for theorem, noise in itertools.product(ALL, (0.0, 0.1)):
        guarantee = theorem([quantities(0.9, 2), behind, behind], noise)
        assert not guarantee.holds
        for row in guarantee.layers:
            assert row["error"] == row["entry_error"] == math.inf
            assert not any(math.isnan(value) for value in row.values())
            if theorem in THRESHOLDINGS:
                assert not row["holds"]
        assert "nan" not in str(guarantee)


def test_all_of_them_at_once(two_layers, draw, signals):
    codes, x = signals(two_layers, draw(3, 3, 1, size=SIZE))
    noise = torch.randn_like(x[:1])
    whole, local = noise.norm().item(), patch_norm(noise, 6, 2).item()
    scale = 1e-4 / whole
    found = guarantees(two_layers, codes, 1e-4, local_noise=local * scale, window=1, position=0.01)
    assert list(found) == [theorem.__name__ for theorem in ALL]
    layers = measure(two_layers, codes, window=1)
    assert found["global_stability"] == global_stability(layers, 1e-4)
    assert found["basis_pursuit"] == basis_pursuit(layers, local * scale)
    assert found["soft_thresholding"] == soft_thresholding(layers, local * scale, position=0.01)
    assert all(guarantee.holds for guarantee in found.values())
    looser = guarantees(two_layers, codes, 1e-4)
    assert looser["basis_pursuit"].error > found["basis_pursuit"].error
    assert looser["soft_thresholding"].status == "does not hold"  # in the middle of the window
    rows = found["hard_thresholding"].layers
    assert [row["coherence"] for row in rows] == pytest.approx([mutual_coherence(d) for d in two_layers])


def test_table():
    text = str(basis_pursuit([quantities(0.1, 2, 3), quantities(0.25, 3)], 0.01)).splitlines()
    assert text[0] == "layered basis pursuit: vacuous"
    for line, expected in zip(
        text[1:],
        (
            "layer coherence k cut k_limit holds p noise penalty entry_error error",
            "1 0.1 2 0 3.667 yes 3 0.01 0.04 0.075 0.1299",
            "2 0.25 3 0 1.667 no 1 0.1299 0.5196 inf inf",
        ),
        strict=True,
    ):
        assert " ".join(line.split()) == expected
    assert len({len(line) for line in text[1:]}) == 1
    assert str(uniqueness([quantities(0.1, 2)])).startswith("uniqueness: holds, error <= 0\n")


def test_bad_arguments_are_refused():
    layers = [quantities(0.1, 2)]
    for theorem in ALL:
        with pytest.raises(ValueError, match="layers must be at least one"):
            theorem([], 0.0)
    for theorem in (global_stability, hard_thresholding, soft_thresholding, basis_pursuit):
        for noise in (-1.0, math.nan, math.inf):
            with pytest.raises(ValueError, match="noise must be a finite number >= 0"):
                theorem(layers, noise)
    for theorem in THRESHOLDINGS:
        with pytest.raises(ValueError, match="thresholds must be 1 finite numbers"):
            theorem(layers, 0.0, [0.1, 0.2])
        with pytest.raises(ValueError, match="thresholds"):
            theorem(layers, 0.0, [math.nan])
        with pytest.raises(ValueError, match="position"):
            theorem(layers, 0.0, position=1.0)
