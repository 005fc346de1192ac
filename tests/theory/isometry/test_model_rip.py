"""Model-RIP by Monte Carlo against explicit matrices, exhaustive supports and closed forms."""

import itertools

import numpy as np
import pytest
import scipy.stats
import torch

from csc_nets.functional import ConvGeometry
from csc_nets.layers import DenseDictionary, Dictionary1d, Dictionary2d
from csc_nets.theory import RestrictedIsometry, find_code_layers, mutual_coherence, random_filters, restricted_isometry


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def columns(weight, size):
    """The atoms of a code ``(M, S')`` as vectors, in the order of its entries: ``(M, S', signal)``."""
    geometry = ConvGeometry.create(weight.ndim - 2, tuple(weight.shape[2:]))
    shape = (len(weight), *geometry.code_size(size))
    units = torch.eye(int(np.prod(shape)), dtype=weight.dtype).view(-1, *shape)
    return geometry.synthesis(units, weight, size).flatten(1).view(shape[0], -1, weight[0, :, 0].numel() * size[0])


def exact_delta(vectors, k, differences=False):
    """The largest deviation of an eigenvalue from 1, over all supports: vectors ``(blocks, positions, F)``, numpy."""
    supports = [
        tuple(zip(blocks, places, strict=True))
        for blocks in itertools.combinations(range(vectors.shape[0]), k)
        for places in itertools.product(range(vectors.shape[1]), repeat=k)
    ]
    if differences:
        supports = {tuple(sorted(set(a) | set(b))) for a, b in itertools.combinations_with_replacement(supports, 2)}
    worst = 0.0
    for support in supports:
        chosen = np.stack([vectors[block, place] for block, place in support])
        worst = max(worst, np.abs(np.linalg.svd(chosen, compute_uv=False) ** 2 - 1).max())
    return worst


LAYERS = [
    (torch.nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2), (9,)),
    (torch.nn.Conv2d(2, 5, 3, padding="same", padding_mode="circular", bias=False), (6, 5)),
    (Dictionary1d(2, 5, 4, stride=3, unit_norm=False), (13,)),
    (Dictionary2d(1, 3, 3, padding=1, padding_mode="reflect", dilation=2), (7, 6)),
    (DenseDictionary(5, 8), ()),
    (torch.nn.Linear(4, 7), ()),
]


@pytest.mark.parametrize(("layer", "size"), LAYERS, ids=lambda value: getattr(value, "_get_name", lambda: "")())
def test_ratios_of_given_codes_are_those_of_the_adjoint_of_the_layer(layer, size):
    """The transpose of the analysis, by automatic differentiation."""
    layer = layer.double()
    channels = getattr(layer, "in_channels", None) or layer.in_features
    analysis = layer.analysis if hasattr(layer, "analysis") else layer
    zero = torch.zeros(1, channels, *size, dtype=torch.float64)
    matrix = torch.func.jacrev(lambda x: analysis(x)[0])(zero)
    shape = analysis(zero).shape[1:]
    codes = torch.randn(6, *shape, dtype=torch.float64)
    expected = (codes.flatten(1) @ matrix.reshape(codes[0].numel(), -1)).square().sum(1) / codes.flatten(
        1
    ).square().sum(1)
    found = restricted_isometry(layer, codes=codes, signal_size=size)
    assert torch.allclose(found.ratios, expected, rtol=1e-12)
    assert found.nonzeros == codes[0].numel()


def test_worst_values_reach_the_constant_over_all_supports(generator):
    """With enough draws every support of a small dictionary is seen."""
    weight = random_filters(4, 3, 2, generator=generator)
    vectors = columns(weight, (4,)).numpy()
    for k in (1, 2, 3):
        found = restricted_isometry(weight, k, signal_size=(4,), values="worst", samples=2000, generator=generator)
        exact = exact_delta(vectors, k)
        assert found.delta == pytest.approx(exact, rel=1e-10)
        for values in ("uniform", "gaussian", "sign"):
            some = restricted_isometry(weight, k, signal_size=(4,), values=values, samples=500, generator=generator)
            assert 0.2 * exact < some.delta <= exact + 1e-12
    pairs = restricted_isometry(
        weight, 1, code_size=(3,), values="worst", differences=True, samples=1000, generator=generator
    )
    assert pairs.delta == pytest.approx(exact_delta(vectors, 1, differences=True), rel=1e-10)
    assert pairs.nonzeros == 2


def test_coherence_bounds_the_constant(generator):
    weight = random_filters(12, 8, 4, "unit", generator=generator)
    mu = mutual_coherence(weight)
    for k in (2, 3, 5):
        found = restricted_isometry(weight, k, signal_size=(10,), values="worst", samples=300, generator=generator)
        assert found.delta <= (k - 1) * mu + 1e-12


def test_two_non_zeros_deviate_by_the_correlation_of_their_atoms(generator):
    weight = random_filters(5, 3, 4, "unit", generator=generator)
    found = restricted_isometry(weight, 2, signal_size=(4,), values="worst", samples=500, generator=generator)
    assert found.delta == pytest.approx(mutual_coherence(weight, shifts=False), rel=1e-10)


def test_aligned_supports_are_filters_side_by_side(generator):
    weight = random_filters(6, 4, 3, generator=generator)
    eigenvalues = np.linalg.eigvalsh((weight.flatten(1) @ weight.flatten(1).T).numpy())
    options = {"signal_size": (11,), "values": "worst", "aligned": True, "samples": 200, "generator": generator}
    assert restricted_isometry(weight, 6, **options).delta == pytest.approx(np.abs(eigenvalues - 1).max(), rel=1e-10)
    # Sums of two of them at one position are twice as many atoms.
    assert restricted_isometry(weight, 3, differences=True, **options).delta == pytest.approx(
        np.abs(eigenvalues - 1).max(), rel=1e-10
    )


def test_more_atoms_than_samples_of_a_signal_have_a_code_of_no_signal(generator):
    found = restricted_isometry(torch.randn(9, 4).double(), 9, values="worst", samples=1, generator=generator)
    assert found.delta >= 1


@pytest.mark.parametrize("values", ["uniform", "gaussian", "sign", "worst"])
@pytest.mark.parametrize("aligned", [False, True])
def test_sums_of_two_codes_that_cancel_are_drawn_again(generator, values, aligned):
    """One atom at one place: half of the sums of two signs are zero."""
    options = {"samples": 200, "values": values, "differences": True, "aligned": aligned, "generator": generator}
    found = restricted_isometry(torch.eye(1, 4).view(1, 1, 4), 1, signal_size=(4,), **options)
    assert len(found.ratios) == 200 and found.delta < 1e-6
    found = restricted_isometry(torch.eye(8).view(8, 8, 1), 1, signal_size=(4,), **options)
    assert len(found.ratios) == 200 and found.delta < 1e-6 and found.nonzeros == 2


def test_layers_that_a_network_was_read_into(generator):
    """What ``find_code_layers`` gives, groups included."""
    network = torch.nn.Sequential(torch.nn.Conv1d(4, 6, 3, padding=1, groups=2, bias=False), torch.nn.ReLU())
    layer = find_code_layers(network, torch.rand(5, 4, 9))[0][0]
    assert layer.dictionary.groups == 2
    found = restricted_isometry(layer.dictionary, codes=layer.code, signal_size=(9,))
    expected = restricted_isometry(network[0], codes=layer.code, signal_size=(9,), unit_atoms=True)
    assert torch.allclose(found.ratios, expected.ratios, rtol=1e-5)


def test_values_worst_of_given_codes_looks_at_their_supports(generator):
    weight = random_filters(3, 2, 2, generator=generator)
    code = torch.zeros(1, 3, 4, dtype=torch.float64)
    code[0, 0, 1], code[0, 2, 2] = 0.1, 5.0
    atoms = columns(weight, (5,))[[0, 2], [1, 2]].numpy()
    values = np.linalg.svd(atoms, compute_uv=False) ** 2
    found = restricted_isometry(weight, codes=code, values="worst")
    assert found.delta == pytest.approx(np.abs(values - 1).max(), rel=1e-12)


def test_unit_atoms(generator):
    weight = 7 * random_filters(5, 3, 4, generator=generator)
    options = {"signal_size": (9,), "samples": 50}
    scaled = restricted_isometry(weight, 1, unit_atoms=True, **options, generator=torch.Generator().manual_seed(1))
    assert scaled.delta < 1e-12
    assert restricted_isometry(weight, 1, **options).mean > 20


def test_memory_bound_does_not_change_the_law(generator, monkeypatch):
    weight = random_filters(8, 4, 3, generator=generator)
    monkeypatch.setattr("csc_nets.theory.isometry.model_rip.BATCH", 7 * (8 * 6 + 4 * 8))
    found = restricted_isometry(weight, 2, signal_size=(8,), samples=100, generator=generator)
    assert len(found.ratios) == 100 and abs(found.mean - 1) < 0.3


def test_quantile_intervals_are_the_binomial_ones():
    n, confidence = 200, 0.9
    found = RestrictedIsometry(1 + torch.arange(1, n + 1, dtype=torch.float64), 1, confidence)
    for share in (0.02, 0.5, 0.9, 0.99):
        law = scipy.stats.binom(n, share)
        low = max(rank for rank in range(n + 1) if rank == 0 or law.cdf(rank - 1) <= 0.05)
        high = min(rank for rank in range(1, n + 2) if law.sf(rank - 1) <= 0.05 or rank == n + 1)
        expected = (np.ceil(share * n), low, np.inf if high == n + 1 else high)
        assert found.quantile(share) == pytest.approx(expected)
    assert found.exceeding == pytest.approx(1 - 0.1 ** (1 / n))


@pytest.mark.parametrize("n", [1, 7, 10, 100, 1000])
def test_quantiles_are_of_the_rank_that_whole_numbers_give(n):
    """At least a share of p % of n draws are p n / 100 of them, rounded up: 0.07 * 100 is above 7 in floating point."""
    found = RestrictedIsometry(1 + torch.arange(1, n + 1, dtype=torch.float64), 1)
    for percent in range(1, 100):
        assert found.quantile(percent / 100)[0] == (percent * n + 99) // 100
    assert found.quantile(1e-12)[0] == 1 and found.quantile(1 - 1e-7)[0] == n


def test_statements_are_as_confident_as_they_say(generator):
    """1000 repetitions with deviations uniform in [0, 1]: 95 % coverage, sampling error 0.7 %."""
    hits = torch.zeros(3)
    for ratios in 1 + torch.rand(1000, 60, generator=generator, dtype=torch.float64):
        found = RestrictedIsometry(ratios, 1)
        low, high = found.quantile(0.8)[1:]
        mean = found.mean_interval
        hits += torch.tensor([low <= 0.8 <= high, 1 - found.delta <= found.exceeding, mean[0] <= 1.5 <= mean[1]])
    # Order statistics are discrete and cover a little more; the normal interval of 60 uniforms nearly 95 %.
    assert hits[0] >= 935 and 925 <= hits[1] <= 975 and 915 <= hits[2] <= 975


def test_text_says_that_it_is_a_lower_bound(generator):
    text = str(restricted_isometry(random_filters(4, 2, 3), 2, signal_size=(8,), generator=generator))
    assert "delta >=" in text and "exceed" in text and "1000 codes of at most 2 non-zeros" in text


WEIGHT = torch.randn(4, 2, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 2}, "signal_size, code_size or codes"),
        ({"k": 0, "signal_size": (8,)}, "k must be an int, 1 to 4"),
        ({"k": 5, "signal_size": (8,)}, "k must be an int, 1 to 4"),
        ({"k": 13, "signal_size": (8,), "window": 2}, "k must be an int, 1 to 12"),
        ({"signal_size": (8,)}, "give k or codes"),
        ({"k": 5, "signal_size": (8,), "window": 2, "aligned": True}, "1 to 4"),
        ({"k": 5, "signal_size": (8,), "differences": True, "aligned": True}, "k must be an int, 1 to 4"),
        ({"k": 2, "signal_size": (8,), "values": "cauchy"}, "values must be one of"),
        ({"k": 2, "signal_size": (8,), "confidence": 1.0}, "confidence"),
        ({"k": 2, "signal_size": (8,), "samples": 0}, "samples"),
        ({"k": 2, "signal_size": (8,), "window": 0}, "window"),
        ({"codes": torch.ones(2, 3, 6)}, r"codes must be \(N, 4, S\)"),
        ({"codes": [[1.0]]}, r"codes must be \(N, 4, S\), got list"),
        ({"codes": torch.ones(2, 4, 6), "k": 2}, "of random codes, got codes and k=2"),
        ({"codes": torch.ones(2, 4, 6), "window": 0}, "of random codes, got codes and window=0"),
        ({"codes": torch.ones(2, 4, 6), "aligned": True}, "of random codes, got codes and aligned=True"),
        ({"codes": torch.ones(2, 4, 6), "samples": -3}, "samples must be an int >= 1, got -3"),
        ({"codes": torch.ones(2, 4, 6), "code_size": (5,)}, r"codes must be \(5,\).*got \(6,\)"),
        ({"codes": torch.ones(2, 4, 6), "signal_size": (9,)}, r"codes.*\(7,\).*got \(6,\)"),
        ({"k": 2, "signal_size": (8,), "samples": 2.5}, "samples must be an int >= 1, got 2.5"),
        ({"k": 2, "signal_size": (8,), "window": 0, "aligned": True}, "window"),
        ({"k": 2, "signal_size": (4,), "code_size": (7,)}, r"code_size must be \(2,\).*got \(7,\)"),
        ({"k": 2, "signal_size": (8, 8)}, r"signal_size must be 1 int >= 1, got \(8, 8\)"),
        ({"k": 2, "signal_size": 8}, "signal_size must be 1 int >= 1, got 8"),
        ({"k": 2, "code_size": (0,)}, r"code_size must be 1 int >= 1, got \(0,\)"),
        ({"codes": torch.zeros(2, 4, 6)}, "no code zero"),
        ({"codes": torch.zeros(2, 4, 6), "values": "worst"}, "no code zero"),
        ({"codes": torch.full((2, 4, 6), torch.nan)}, "finite"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        restricted_isometry(WEIGHT, **arguments)


@pytest.mark.parametrize(
    ("dictionary", "arguments", "message"),
    [
        (torch.nn.Conv2d(1, 2, 3), {"signal_size": (8,)}, r"signal_size must be 2 ints >= 1, got \(8,\)"),
        (torch.nn.Conv2d(1, 2, 3), {"code_size": (8, 8, 8)}, r"code_size must be 2 ints >= 1, got \(8, 8, 8\)"),
        (torch.nn.Linear(4, 7), {"signal_size": (8,)}, r"signal_size must be \(\) for a matrix, got \(8,\)"),
    ],
)
def test_sizes_of_another_number_of_axes(dictionary, arguments, message):
    with pytest.raises(ValueError, match=message):
        restricted_isometry(dictionary, 1, **arguments)


def test_both_sizes_may_be_given_if_they_agree():
    strided = torch.nn.Conv1d(1, 2, 3, stride=2)
    found = restricted_isometry(strided, 1, signal_size=(10,), code_size=(4,), samples=3)
    assert len(found.ratios) == 3


def test_a_given_generator_is_the_only_one(generator):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    for values in ("uniform", "worst"):
        options = {"signal_size": (8,), "values": values, "differences": True, "samples": 5, "generator": generator}
        restricted_isometry(WEIGHT, 2, **options)
        restricted_isometry(WEIGHT, 2, window=2, **options)
        restricted_isometry(WEIGHT, 2, aligned=True, **options)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("dictionary", [torch.ones(3), torch.nn.ReLU(), torch.nn.LayerNorm((2, 3, 4)), "atoms"])
def test_bad_dictionaries(dictionary):
    with pytest.raises(ValueError, match="dictionary must be atoms"):
        restricted_isometry(dictionary, 1, signal_size=(8,))


def test_bad_numbers_elsewhere():
    with pytest.raises(ValueError, match="share"):
        RestrictedIsometry(torch.ones(3), 1).quantile(1.0)
    assert RestrictedIsometry(torch.ones(1), 1).mean_interval == (-np.inf, np.inf)
