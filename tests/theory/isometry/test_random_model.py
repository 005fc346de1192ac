"""Random filters and codes follow their laws."""

import pytest
import scipy.stats
import torch

from csc_nets.theory import random_filters, sample_model_code


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize(("window", "blocks"), [(None, 4), (3, 12), ((2,), 16)])
def test_codes_are_uniform_in_the_model(generator, window, blocks):
    """Exactly k non-zeros, one per block, every block and every position of it as often as the others."""
    n, k = 4000, 3
    codes = sample_model_code(n, 4, (8,), k, window=window, generator=generator) != 0
    size = 8 if window is None else window if isinstance(window, int) else window[0]
    parts = torch.nn.functional.pad(codes, (0, -8 % size)).unflatten(2, (-1, size))
    per_block = parts.sum(3).flatten(1)
    assert per_block.shape[1] == blocks
    assert bool((codes.flatten(1).sum(1) == k).all()) and int(per_block.max()) == 1
    share = k / blocks
    spread = 5 * (n * share * (1 - share)) ** 0.5
    assert bool(((per_block.sum(0) - n * share).abs() < spread).all())
    cut = 8 - (parts.shape[2] - 1) * size  # positions of the last block
    for position, count in enumerate(codes.sum(0)[0].tolist()):
        width = cut if position >= 8 - cut else size
        assert abs(count - n * share / width) < 5 * (n * share / width) ** 0.5


def test_values_follow_their_law(generator):
    for values in ("uniform", "gaussian", "sign"):
        entries = sample_model_code(1000, 6, (7,), 4, values=values, generator=generator)
        entries = entries[entries != 0].numpy()
        assert len(entries) == 4000
        if values == "sign":
            assert set(entries.tolist()) == {-1.0, 1.0} and abs(entries.mean()) < 5 / 4000**0.5
        else:
            law = scipy.stats.uniform(-1, 2) if values == "uniform" else scipy.stats.norm()
            assert scipy.stats.kstest(entries, law.cdf).pvalue > 1e-4


def test_aligned_codes_stand_at_one_position(generator):
    codes = sample_model_code(3000, 5, (2, 3), 4, aligned=True, generator=generator) != 0
    assert bool((codes.flatten(1).sum(1) == 4).all()) and bool((codes.flatten(2).any(1).sum(1) == 1).all())
    at = codes.flatten(2).any(1).sum(0)
    assert bool(((at - 500).abs() < 5 * 500**0.5).all())


def test_codes_of_a_matrix(generator):
    codes = sample_model_code(100, 6, (), 2, generator=generator)
    assert codes.shape == (100, 6) and bool(((codes != 0).sum(1) == 2).all())


@pytest.mark.parametrize("scaling", ["variance", "unit"])
def test_random_filters(generator, scaling):
    weight = random_filters(400, 6, (3, 2), scaling, generator=generator)
    assert weight.shape == (400, 6, 3, 2) and weight.dtype == torch.float64
    energy = weight.flatten(1).square().sum(1)
    if scaling == "unit":
        assert torch.allclose(energy, torch.ones(400, dtype=torch.float64))
    else:  # chi squared with 36 degrees of freedom, over 36
        assert abs(energy.mean().item() - 1) < 5 * (2 / 36 / 400) ** 0.5
        assert energy.var().item() == pytest.approx(2 / 36, rel=0.4)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((0, 4, (6,), 2), {}, "samples"),
        ((2, 4, (6,), 5), {}, "k must be an int, 1 to 4"),
        ((2, 4, (6,), 5), {"aligned": True}, "k must be an int, 1 to 4"),
        ((2, 4, (6,), 9), {"window": 3}, "k must be an int, 1 to 8"),
        ((2, 4, (6,), True), {}, "k must be an int"),
        ((2, 4, (6,), 2), {"window": 0}, "window"),
        ((2, 4, (6,), 2), {"window": 0, "aligned": True}, "window"),
        ((2, 4, (6,), 2), {"values": "worst"}, "values"),
        ((2.5, 4, (6,), 2), {}, "samples must be an int >= 1, got 2.5"),
        ((2, 0, (6,), 2), {}, "atoms must be an int >= 1, got 0"),
        ((2, 4, (6, 0), 2), {}, r"size must be up to 3 ints >= 1, got \(6, 0\)"),
        ((2, 4, (1, 1, 1, 1), 2), {}, r"size must be up to 3 ints >= 1, got \(1, 1, 1, 1\)"),
        ((2, 4, 6, 2), {}, "size must be up to 3 ints >= 1, got 6"),
    ],
)
def test_bad_arguments(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        sample_model_code(*arguments, **options)


def test_bad_scaling():
    with pytest.raises(ValueError, match="scaling"):
        random_filters(2, 2, 2, "norm")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 3, 3), "atoms must be an int >= 1, got 0"),
        ((2, -1, 3), "channels must be an int >= 1, got -1"),
        ((2, True, 3), "channels must be an int >= 1, got True"),
        ((2, 3, 0), "kernel_size must be an int >= 1 or a sequence of them, got 0"),
        ((2, 3, (3, 0)), r"kernel_size must be an int >= 1 or a sequence of them, got \(3, 0\)"),
        ((2, 3, 1.5), "kernel_size must be an int >= 1 or a sequence of them, got 1.5"),
    ],
)
def test_bad_filters(arguments, message):
    with pytest.raises(ValueError, match=message):
        random_filters(*arguments)


def test_a_given_generator_is_the_only_one(generator):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    random_filters(4, 3, (2, 2), generator=generator)
    for values in ("uniform", "gaussian", "sign"):
        for aligned in (False, True):
            sample_model_code(3, 4, (5,), 2, window=2, values=values, aligned=aligned, generator=generator)
    assert torch.equal(torch.get_rng_state(), state)
