"""Signals of the multi-layer model: exact synthesis, sparsity as asked for, and what the theorems assume."""

import pytest
import torch

from csc_nets.layers import Dictionary2d
from csc_nets.theory import measure, mutual_coherence, patch_norm, stripe_norm
from csc_nets.theory.sparse.signals import sample_code, sample_dictionaries, sample_signals


@pytest.fixture(scope="module")
def line():
    return sample_dictionaries(steps=300)


@pytest.fixture(scope="module")
def plane():
    return sample_dictionaries((5, 4, 3), (7, 4, 3), (2, 1, 1), dims=2, nonzeros=3, steps=50)


def stripes(dictionaries, codes):
    return [
        stripe_norm(code, d.geometry.kernel_size, d.geometry.stride)
        for d, code in zip(dictionaries, codes, strict=True)
    ]


def test_every_layer_is_synthesised_from_the_one_below(line, plane):
    for dictionaries, size in ((line, 512), (plane, 24)):
        signals = sample_signals(dictionaries, 3, size, per_stripe=2, seed=1)
        chain = [signals.signal, *signals.codes]
        strides = [d.geometry.stride[0] for d in dictionaries]
        assert [c.shape[-1] for c in signals.codes] == [size // strides[0]] * len(dictionaries)
        for dictionary, above, below in zip(dictionaries, chain, chain[1:], strict=False):
            gap = above - dictionary.synthesis(below, above.shape[2:])
            assert above.dtype == torch.float64 and gap.abs().max() < 1e-12
            # An independent synthesis: shifts of the atoms added up around the circle.
            assert (above - added_up(dictionary, below, above.shape)).abs().max() < 1e-12


def added_up(dictionary, code, shape):
    geometry, total = dictionary.geometry, torch.zeros(shape, dtype=code.dtype)
    for sample, atom, *place in code.nonzero().tolist():
        for channel, *offset in dictionary.weight[atom].nonzero().tolist():
            at = [
                (s * p + x - pad[0]) % n
                for s, p, x, pad, n in zip(geometry.stride, place, offset, geometry.padding, shape[2:], strict=True)
            ]
            value = code[(sample, atom, *place)] * dictionary.weight[(atom, channel, *offset)]
            total[(sample, channel, *at)] += value
    return total


@pytest.mark.parametrize("most", [1, 2, 5])
def test_stripes_are_as_full_as_asked(line, plane, most):
    for dictionaries, size in ((line, 512), (plane, 32)):
        signals = sample_signals(dictionaries, 20, size, per_stripe=most)
        assert (stripes(dictionaries, signals.codes)[-1] == most).all()
    # Nothing fits any more: a non-zero in any empty needle overfills a stripe.
    code = sample_code(4, 3, [40], per_stripe=most, reach=3)
    counts = (code != 0).sum(1)
    around = sum(counts.roll(shift, 1) for shift in range(-3, 4))
    fullest = torch.stack([around.roll(shift, 1) for shift in range(-3, 4)]).amax(0)
    assert ((fullest == most) | (counts == 1)).all() and counts.max() == 1


def test_numbers_of_non_zeros():
    assert ((sample_code(6, 5, [7, 9], count=11) != 0).flatten(1).sum(1) == 11).all()
    density = (sample_code(50, 20, [100], density=0.03) != 0).double().mean().item()
    assert density == pytest.approx(0.03, abs=4 * (0.03 / 100_000) ** 0.5)
    assert not sample_code(2, 3, [8], per_stripe=0).any() and sample_code(2, 3, [8], density=1.0).all()


def test_magnitudes_and_signs():
    code = sample_code(20, 5, [100], density=0.5, magnitudes=(0.5, 3.0))
    values = code[code != 0]
    assert 0.5 <= values.abs().min() < 0.51 and 2.99 < values.abs().max() <= 3.0
    assert values.abs().mean().item() == pytest.approx(1.75, abs=0.06)
    assert abs(values.sign().mean()) < 0.06


def test_non_negative_to_the_top():
    dictionaries = sample_dictionaries((6, 4, 3), (16, 6, 6), nonzeros=3, steps=20, nonneg=True)
    signals = sample_signals(dictionaries, 4, 96, count=9, nonneg=True)
    assert all((code >= 0).all() and code.any() for code in signals.codes)


def test_the_default_setting_is_one_that_the_theorems_speak_of(line):
    coherences = [mutual_coherence(d) for d in line]
    assert 0.03 < coherences[0] < 0.055 and coherences[1] == 0
    for most in (1, 2, 3):
        signals = sample_signals(line, 100, 512, per_stripe=most)
        counts = stripes(line, signals.codes)
        assert (counts[0] < (1 + 1 / coherences[0]) / 2).all() and counts[0].max() >= 2 * most
    # A dense code is outside.
    crowded = sample_signals(line, 10, 512, per_stripe=12)
    assert (stripes(line, crowded.codes)[0] > (1 + 1 / coherences[0]) / 2).all()


def test_no_atom_is_cut(line):
    for size in (510, 128, 254):  # no multiple of the stride; shorter than two atoms less a sample, 255
        with pytest.raises(ValueError, match=rf"dictionaries\[0\] a multiple of 4 .* at least 255 .* got {size} and"):
            sample_signals(line, 2, size, per_stripe=1)
    signals = sample_signals(line, 20, 256, per_stripe=2)
    assert [numbers.cut for numbers in measure(line, signals.codes, signal_size=(256,))] == [0, 0]
    deep = sample_dictionaries((4, 3), (9, 9), (4, 1), steps=0)
    with pytest.raises(ValueError, match=r"dictionaries\[1\] a multiple of 1 .* at least 17 .* got 16 and 16"):
        sample_signals(deep, 2, 64, per_stripe=1)
    assert sample_signals(deep, 2, 68, per_stripe=1).codes[1].shape == (2, 3, 17)


def test_atoms_that_are_longer_in_one_axis():
    dictionary = Dictionary2d(1, 3, (3, 9), stride=(1, 2), padding=(1, 4), padding_mode="circular").double()
    for most in (1, 3):
        code = sample_signals([dictionary.requires_grad_(False)], 9, 24, per_stripe=most).codes[0]
        assert (stripe_norm(code, (3, 9), (1, 2)) == most).all()


def test_dilated_atoms():
    dictionary = Dictionary2d(1, 3, 3, padding="same", dilation=3, padding_mode="circular").double()
    signals = sample_signals([dictionary.requires_grad_(False)], 9, 24, count=5, noise=1.0)
    level = patch_norm(signals.noise, 3, 2, dilation=3)
    torch.testing.assert_close(level, torch.ones(9, dtype=torch.float64))
    with pytest.raises(ValueError, match="per_stripe needs a deepest dictionary without dilation"):
        sample_signals([dictionary], 9, 24, per_stripe=1)


def test_noise_has_the_level_asked_for(line):
    quiet = sample_signals(line, 5, 512, per_stripe=2)
    assert torch.equal(quiet.observed, quiet.signal)
    local = sample_signals(line, 5, 512, per_stripe=2, noise=0.3)
    torch.testing.assert_close(patch_norm(local.noise, 128, 2), torch.full((5,), 0.3, dtype=torch.float64))
    assert torch.equal(local.signal, quiet.signal) and torch.equal(local.observed, local.signal + local.noise)
    white = sample_signals(line, 50, 512, per_stripe=2, sigma=0.2)
    assert white.noise.std().item() == pytest.approx(0.2, rel=0.02)


def test_the_seed_fixes_the_signals(line):
    one, same, other = (sample_signals(line, 3, 256, per_stripe=2, noise=1.0, seed=s) for s in (4, 4, 5))
    assert torch.equal(one.signal, same.signal) and torch.equal(one.noise, same.noise)
    assert not torch.equal(one.codes[-1], other.codes[-1]) and not torch.equal(one.noise, other.noise)


def test_what_cancels_is_zero():
    # Two entries that cancel in a needle leave rounding behind, which is not a coefficient.
    dictionaries = sample_dictionaries((4, 4), (16, 3), nonzeros=4, steps=0)
    for seed in range(5):
        signals = sample_signals(dictionaries, 20, 64, density=0.5, magnitudes=(1.0, 1.0), seed=seed)
        code = signals.codes[0]
        assert code[code != 0].abs().min() > 1e-9
        assert (signals.signal - dictionaries[0].synthesis(code, (64,))).abs().max() < 1e-12


def test_single_precision_and_half_the_channels():
    dictionaries = sample_dictionaries((4,), (9,), dims=2, channels=3, steps=5, dtype=torch.float32)
    signals = sample_signals(dictionaries, 2, 20, count=4, noise=0.1)
    assert signals.observed.dtype == torch.float32 and signals.signal.shape == (2, 3, 20, 20)
    assert signals.codes[0].shape == (2, 4, 10, 10)


def test_bad_arguments_are_named(line):
    with pytest.raises(ValueError, match="one entry per layer"):
        sample_dictionaries((4, 3), (9,))
    with pytest.raises(ValueError, match="dims must be 1 or 2, got 3"):
        sample_dictionaries((4,), (3,), dims=3)
    with pytest.raises(ValueError, match="give one of density, count and per_stripe"):
        sample_signals(line, 2, 512)
    with pytest.raises(ValueError, match="give one of"):
        sample_signals(line, 2, 512, count=3, density=0.1)
    with pytest.raises(ValueError, match="count must be an int, 0 to 384"):
        sample_signals(line, 2, 512, count=1000)
    with pytest.raises(ValueError, match=r"density must be between 0 and 1, got 1.5"):
        sample_code(1, 1, [4], density=1.5)
    with pytest.raises(ValueError, match="per_stripe must be an int >= 0, got -1"):
        sample_code(1, 1, [4], per_stripe=-1)
    with pytest.raises(ValueError, match=r"magnitudes must be two finite numbers 0 < low <= high, got \(2.0, 1.0\)"):
        sample_code(1, 1, [4], count=1, magnitudes=(2.0, 1.0))
    with pytest.raises(ValueError, match=r"noise or sigma must be a finite number >= 0, got 1.0 and 1.0"):
        sample_signals(line, 2, 512, count=3, noise=1.0, sigma=1.0)
    for arguments, message in (
        ({"count": 2.5}, "count must be an int, 0 to 8, the entries of a code, got 2.5"),
        ({"per_stripe": 1.5}, "per_stripe must be an int >= 0, got 1.5"),
        ({"per_stripe": 1, "reach": -1}, "reach must be an int >= 0 or 1 of them, got -1"),
        ({"per_stripe": 1, "reach": [1, 1]}, r"reach must be an int >= 0 or 1 of them, got \[1, 1\]"),
        ({"count": 1, "samples": -1}, "samples must be an int >= 1, got -1"),
        ({"count": 1, "atoms": True}, "atoms must be an int >= 1, got True"),
        ({"count": 1, "size": [4, 0]}, "size must be an int >= 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            sample_code(**{"samples": 1, "atoms": 2, "size": [4]} | arguments)
    with pytest.raises(ValueError, match="dictionaries must be at least one, got none"):
        sample_signals([], 1, 8, count=1)
