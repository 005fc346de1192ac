"""Every guarantee against signals that meet it, against signals that just do not, and against brute force."""

import itertools
import math

import pytest
import torch
from scipy.optimize import linprog

from csc_nets.functional import hard_threshold, nonneg_soft_threshold, soft_threshold, solve
from csc_nets.layers import Dictionary1d, Dictionary2d
from csc_nets.theory import (
    LayerQuantities,
    atom_norms,
    basis_pursuit,
    basis_pursuit_noiseless,
    global_stability,
    guarantees,
    hard_thresholding,
    measure,
    mutual_coherence,
    patch_norm,
    soft_thresholding,
    stripe_norm,
    uniqueness,
)
from csc_nets.theory.sparse.dictionary_design import low_coherence_atoms, sparse_atoms

ALL = [uniqueness, global_stability, hard_thresholding, soft_thresholding, basis_pursuit_noiseless, basis_pursuit]
SIZE = 128


def circular(weight):
    atoms, channels, kernel = weight.shape
    layer = Dictionary1d(channels, atoms, kernel, padding="same", padding_mode="circular", dtype=weight.dtype)
    layer.weight = weight
    layer.refresh()
    return layer.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def one_layer():
    """Two atoms of 48 samples, coherence 0.09: stripes of 95 of the 128 positions."""
    return [circular(low_coherence_atoms(2, 1, [48], steps=300))]


@pytest.fixture(scope="module")
def two_layers():
    """Six nearly orthogonal atoms, and three above them with six non-zeros each, coherence 1/6."""
    return [
        circular(low_coherence_atoms(6, 12, [6], steps=300)),
        circular(sparse_atoms(3, 6, [12], 6, candidates=40)),
    ]


def draw(samples, atoms, nonzeros, low=1.0, high=1.0, size=SIZE):
    """Codes with so many non-zeros of magnitude low to high, anywhere."""
    code = torch.zeros(samples, atoms * size, dtype=torch.float64)
    places = torch.rand(code.shape).argsort(1)[:, :nonzeros]
    signs = 2.0 * torch.randint(2, places.shape) - 1
    return code.scatter(1, places, signs * (low + (high - low) * torch.rand(places.shape, dtype=torch.float64))).view(
        samples, atoms, size
    )


def signals(dictionaries, deepest):
    """All codes of a deepest one, shallow to deep, and the signal."""
    found = [deepest]
    for dictionary in reversed(dictionaries):
        found.append(dictionary.synthesis(found[-1], (SIZE,)))
    return found[-2::-1], found[-1]


def noises(dictionary, code, bound):
    """Random noise, and noise that pulls every entry towards zero; the worst patch has norm ``bound``."""
    x = dictionary.synthesis(code, (SIZE,))
    for noise in (torch.randn_like(x), -dictionary.synthesis(code.sign(), (SIZE,))):
        yield noise * (bound / patch_norm(noise, dictionary.geometry.kernel_size, 2))[:, None, None]


def per_sample(dictionaries, codes):
    """What ``measure`` says of each sample alone; the patch of the deepest code is the whole code."""
    together = measure(dictionaries, codes)
    found = [[] for _ in codes[0]]
    for i, (code, dictionary, layer) in enumerate(zip(codes, dictionaries, together, strict=True)):
        kernel = dictionary.geometry.kernel_size
        stripe = stripe_norm(code, kernel).tolist()
        window = dictionaries[i + 1].geometry.kernel_size if i + 1 < len(codes) else None
        patch = patch_norm(code, window).tolist()
        largest = code.abs().flatten(1).amax(1).tolist()
        smallest = code.abs().masked_fill(code == 0, math.inf).flatten(1).amin(1).tolist()
        for row, k, p, low, high in zip(found, stripe, patch, smallest, largest, strict=True):
            row.append(LayerQuantities(layer.coherence, k, p, low, high, layer.name))
    return found


def column(rows, key):
    return torch.tensor([row[key] for row in rows], dtype=torch.float64)[:, None, None]


SHRINK = {hard_thresholding: hard_threshold, soft_thresholding: soft_threshold}


def check_thresholding(theorem, dictionaries, codes, y, layers, noise, position=0.5, shrink=None):
    """Largest error / bound and number of samples, after checking all that the theorem promises where it holds."""
    held = [theorem(row, noise, position=position) for row in layers]
    keep = torch.tensor([guarantee.holds for guarantee in held])
    held = [guarantee for guarantee in held if guarantee.holds]
    below, worst = y[keep], 0.0
    for i, dictionary in enumerate(dictionaries):
        code, rows = codes[i][keep], [guarantee.layers[i] for guarantee in held]
        threshold = column(rows, "threshold")
        found = (shrink or SHRINK[theorem])(dictionary.analysis(below), threshold)
        assert torch.equal(found != 0, code != 0)
        error = found - code
        assert (error.abs() <= column(rows, "entry_error") + 1e-12).all()
        window = dictionaries[i + 1].geometry.kernel_size if i + 1 < len(codes) else None
        bound = column(rows, "error").flatten()
        assert (patch_norm(error, window, 2) <= bound + 1e-12).all()
        ratio = (patch_norm(error, window, 2) / bound)[bound > 1e-6]
        if len(ratio):
            worst = max(worst, ratio.max().item())
        below = found
    return worst, len(held)


@pytest.mark.parametrize("theorem", [hard_thresholding, soft_thresholding])
def test_thresholding_of_one_layer(one_layer, theorem, record_property):
    worst, total = 0.0, 0
    for nonzeros, high, noise in itertools.product((1, 2, 3, 4, 5), (1.0, 1.3), (0.0, 0.02, 0.1)):
        codes, _ = signals(one_layer, draw(60, 2, nonzeros, 1.0, high))
        layers = per_sample(one_layer, codes)
        x = one_layer[0].synthesis(codes[0])
        for e in noises(one_layer[0], codes[0], noise):
            for position in (1e-6, 0.5, 1 - 1e-6):
                ratio, held = check_thresholding(theorem, one_layer, codes, x + e, layers, noise, position)
                worst, total = max(worst, ratio), total + held
    record_property("largest error / bound", worst)
    record_property("samples under the guarantee", total)
    assert total > 3000
    assert worst > 0.85  # and not far from what happens


def test_thresholding_of_a_cnn(one_layer):
    """ReLU in place of the soft threshold, for codes >= 0."""
    codes = [draw(500, 2, 2).abs()]
    layers, x = per_sample(one_layer, codes), one_layer[0].synthesis(codes[0])
    for e in noises(one_layer[0], codes[0], 0.05):
        _, held = check_thresholding(
            soft_thresholding, one_layer, codes, x + e, layers, 0.05, shrink=nonneg_soft_threshold
        )
        assert held > 300


def check_basis_pursuit(dictionaries, codes, y, layers, noise, nonneg=False):
    """Largest entry error in units of the layer's noise, and number of samples."""
    held = [basis_pursuit(row, noise) for row in layers]
    keep = torch.tensor([guarantee.holds for guarantee in held])
    held = [guarantee for guarantee in held if guarantee.holds]
    below, worst = y[keep], []
    for i, dictionary in enumerate(dictionaries):
        code, rows = codes[i][keep], [guarantee.layers[i] for guarantee in held]
        penalty = column(rows, "penalty")
        found = solve(below, dictionary, penalty, tol=1e-12, steps=20_000, nonneg=nonneg)
        error, entry = found - code, column(rows, "entry_error")
        assert not ((found.abs() > 1e-9) & (code == 0)).any()
        assert (found[code.abs() > entry] != 0).all()
        window = dictionaries[i + 1].geometry.kernel_size if i + 1 < len(codes) else None
        assert (patch_norm(error, window, 2) <= column(rows, "error").flatten()).all()
        worst.append((error.abs() / (entry / 7.5)).max().item() if len(error) else 0.0)
        below = found
    assert max(worst) <= 7.5
    return worst, len(held)


@pytest.mark.parametrize("nonneg", [False, True])
def test_basis_pursuit_of_one_layer(one_layer, nonneg, record_property):
    worst, total = 0.0, 0
    for nonzeros in (1, 2, 3, 4):
        codes, _ = signals(one_layer, draw(100, 2, nonzeros, 0.05, 1.0))
        codes = [code.abs() if nonneg else code for code in codes]
        layers, x = per_sample(one_layer, codes), one_layer[0].synthesis(codes[0])
        for e in noises(one_layer[0], codes[0], 0.01):
            (ratio,), held = check_basis_pursuit(one_layer, codes, x + e, layers, 0.01, nonneg)
            worst, total = max(worst, ratio), total + held
    record_property("largest entry error / noise, 7.5 allowed", worst)
    record_property("samples under the guarantee", total)
    assert total > 500
    assert worst > 5


def test_basis_pursuit_without_noise_is_exact(one_layer):
    """Solved as a linear program, for codes at the limit of k."""
    matrix = one_layer[0].synthesis(torch.eye(2 * SIZE, dtype=torch.float64).view(-1, 2, SIZE)).flatten(1).T.numpy()
    limit = basis_pursuit_noiseless(measure(one_layer, [draw(1, 2, 1)])).layers[0]["k_limit"]
    most = math.ceil(limit) - 1
    assert most >= 5
    codes = draw(12, 2, most, 0.1, 1.0)
    for code, row in zip(codes, per_sample(one_layer, [codes]), strict=True):
        assert basis_pursuit_noiseless(row).holds and not basis_pursuit(row).holds
        x = matrix @ code.flatten().numpy()
        found = linprog([1.0] * (4 * SIZE), A_eq=[[*line, *-line] for line in matrix], b_eq=x, method="highs").x
        error = torch.from_numpy(found[: 2 * SIZE] - found[2 * SIZE :]) - code.flatten()
        assert error.abs().max() < 1e-8


def test_two_layers(two_layers, record_property):
    """The error of the first layer is the noise of the second; codes are made from the deepest one."""
    worst, total = {}, {}
    for nonzeros, noise in itertools.product((1, 2), (0.0, 1e-4, 5e-3)):
        codes, x = signals(two_layers, draw(150, 3, nonzeros, 1.0, 1.2))
        layers = per_sample(two_layers, codes)
        for e in noises(two_layers[0], codes[0], noise):
            for theorem in (hard_thresholding, soft_thresholding):
                ratio, held = check_thresholding(theorem, two_layers, codes, x + e, layers, noise, position=1e-6)
                worst[theorem.__name__] = max(worst.get(theorem.__name__, 0), ratio)
                total[theorem.__name__] = total.get(theorem.__name__, 0) + held
            if noise:
                few = [code[:40] for code in codes]
                ratios, held = check_basis_pursuit(two_layers, few, (x + e)[:40], layers[:40], noise)
                worst["basis_pursuit"] = max(worst.get("basis_pursuit", 0), max(ratios) / 7.5)
                total["basis_pursuit"] = total.get("basis_pursuit", 0) + held
    for name in worst:
        record_property(f"{name}: largest error / bound", worst[name])
        record_property(f"{name}: samples under the guarantee", total[name])
    assert min(total.values()) > 100


def plain(weight, **options):
    """A dictionary of atoms that have norms of their own."""
    atoms, channels, kernel = weight.shape[:3]
    layer = Dictionary2d(channels, atoms, kernel, padding=1, unit_norm=False, dtype=torch.float64, **options)
    layer.requires_grad_(False).weight.copy_(weight)
    layer.refresh()
    return layer


def test_two_layers_of_images_with_a_stride_a_border_of_zeros_and_atoms_of_other_norms(record_property):
    scale = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64).view(-1, 1, 1, 1)
    first = plain(low_coherence_atoms(3, 4, [4, 4], stride=2, steps=150) * scale, stride=2)
    second = plain(sparse_atoms(3, 3, [3, 3], 1) * 3 * scale.flip(0))
    norms = [norm.view(-1, 1, 1) for norm in atom_norms([first, second])]
    unit = [
        plain(first.weight / norms[0][:, None], stride=2),
        plain(second.weight * norms[0] / norms[1][:, None]),
    ]
    held, worst = dict.fromkeys((*SHRINK, basis_pursuit), 0), dict.fromkeys((*SHRINK, basis_pursuit), 0.0)
    for nonzeros in [1, 2, 3] * 12:
        places = torch.randperm(3 * 81)[:nonzeros]
        deepest = torch.zeros(1, 3 * 81, dtype=torch.float64)
        deepest[0, places] = (torch.rand(nonzeros).double() + 0.9) * (2.0 * torch.randint(2, (nonzeros,)) - 1)
        deepest = deepest.view(1, 3, 9, 9) / norms[1]
        codes = [second.synthesis(deepest, (9, 9)), deepest]
        x, noise = first.synthesis(codes[0], (18, 18)), 10 ** (-1 - 3 * torch.rand(()).item())
        layers = measure([first, second], codes, signal_size=(18, 18))
        for e, theorem in itertools.product((torch.randn_like(x), -first.synthesis(codes[0].sign(), (18, 18))), held):
            shrinks = theorem is not basis_pursuit
            guarantee = theorem(layers, noise, position=1e-6) if shrinks else theorem(layers, noise)
            if not guarantee.holds or (not shrinks and held[theorem] >= 6):
                continue
            held[theorem] += 1
            found = x + e * (noise / patch_norm(e, 4, 2)).view(-1, 1, 1, 1)
            for dictionary, code, norm, row, window in zip(
                unit, codes, norms, guarantee.layers, (3, None), strict=True
            ):
                if shrinks:
                    found = SHRINK[theorem](dictionary.analysis(found), row["threshold"])
                    assert torch.equal(found != 0, code != 0)
                else:
                    found = solve(found, dictionary, row["penalty"], tol=1e-10, steps=5000, nonneg=False)
                    assert not ((found.abs() > 1e-6) & (code == 0)).any()
                error = patch_norm(found - code * norm, window, 2).item()
                assert error <= row["error"] + 1e-9
                worst[theorem] = max(worst[theorem], error / row["error"])
    for theorem in held:
        record_property(f"{theorem.__name__}: largest error / bound", worst[theorem])
    assert min(held.values()) >= 6
    assert max(worst.values()) > 0.5


def matrix(dictionary, size=SIZE):
    """The dictionary's atoms, one a column."""
    atoms = dictionary.out_channels
    code = torch.eye(atoms * size, dtype=torch.float64).view(-1, atoms, size)
    return dictionary.synthesis(code, (size,)).flatten(1).T


def test_two_codes_of_one_noisy_signal_are_close(one_layer, record_property):
    """Global stability, for the codes that are hardest to tell apart on their supports."""
    atoms, ratios = matrix(one_layer[0]), []
    gram = atoms.T @ atoms
    for nonzeros in (2, 4, 6, 8, 10):
        for code in draw(40, 2, nonzeros):
            support = code.flatten().nonzero().flatten()
            values, vectors = torch.linalg.eigh(gram[support][:, support])
            one, other = torch.zeros(2, 2 * SIZE, dtype=torch.float64)
            half = nonzeros // 2
            one[support[:half]], other[support[half:]] = vectors[:half, 0], -vectors[half:, 0]
            # Y is in the middle of the two signals.
            noise = (atoms @ (one - other)).norm().item() / 2
            (layer,) = measure(one_layer, [torch.stack([one, other]).view(2, 2, SIZE)])
            guarantee = global_stability([layer], noise)
            if guarantee.holds:
                assert values[0] >= 1 - (2 * layer.stripe - 1) * layer.coherence
                ratios.append((one - other).norm().item() / guarantee.error)
    record_property("largest distance / bound", max(ratios))
    assert len(ratios) > 150
    assert 0.9 < max(ratios) <= 1 + 1e-9


def test_two_codes_of_two_layers_are_close(two_layers):
    held = 0
    for _ in range(50):
        codes, x = signals(two_layers, draw(2, 3, 2))
        found = guarantees(two_layers, codes, noise=(x[0] - x[1]).norm().item() / 2)["global_stability"]
        for code, row in zip(codes, found.layers, strict=True):
            assert (code[0] - code[1]).norm() <= row["error"]
        held += found.holds
    assert held > 10


def test_brute_force_finds_no_second_code():
    """All supports of a tiny system: 3 atoms on 6 positions, stripes of 9 coefficients, at most 2 non-zeros in each."""
    dictionary = circular(low_coherence_atoms(3, 2, [2], steps=500))
    atoms, size = matrix(dictionary, 6), 6
    supports = [c for r in range(5) for c in itertools.combinations(range(3 * size), r)]
    masks = torch.zeros(len(supports), 3 * size)
    for mask, support in zip(masks, supports, strict=True):
        mask[list(support)] = 1
    allowed = masks[stripe_norm(masks.view(-1, 3, size), 2) <= 2].double()
    assert allowed.sum(1).max() == 4 and len(allowed) > 500
    inverses = torch.linalg.pinv(atoms * allowed[:, None])
    for mask in allowed[:: len(allowed) // 20]:
        code = mask * torch.randn(3 * size, dtype=torch.float64)
        layers = measure([dictionary], [code.view(1, 3, size)])
        assert layers[0].coherence < 1 / 3 and uniqueness(layers).holds
        x = atoms @ code
        candidates = inverses @ x
        exact = (candidates @ atoms.T - x).norm(dim=1) < 1e-9
        assert exact.any()
        assert (candidates[exact] - code).abs().max() < 1e-8


def test_codes_beyond_the_bound_are_not_unique():
    """Four spikes and four waves: two spikes are two waves."""
    hadamard = torch.tensor([[1.0, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2
    atoms = torch.cat([torch.eye(4), hadamard])
    one, other = torch.zeros(2, 1, 8)
    one[0, [0, 2]], other[0, [4, 5]] = 1.0, 1.0
    assert torch.equal(one @ atoms, other @ atoms)
    for code in (one, other):
        assert uniqueness(measure([atoms], [code])).status == "vacuous"  # coherence 1/2
    assert uniqueness(measure([atoms], [one * torch.eye(8)[0]])).holds  # a single spike


def test_basis_pursuit_beyond_the_bound_takes_the_shorter_code():
    atoms = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5**0.5, 0.5**0.5]], dtype=torch.float64)
    code = torch.tensor([[1.0, 1.0, 0.0]], dtype=torch.float64)
    layers = measure([atoms], [code])
    assert basis_pursuit_noiseless(layers).status == basis_pursuit(layers).status == "vacuous"
    found = solve(code @ atoms, atoms, 0.1, tol=1e-12)
    torch.testing.assert_close(found, torch.tensor([[0, 0, 2**0.5 - 0.1]], dtype=torch.float64), atol=1e-5, rtol=0)


@pytest.mark.parametrize("theorem", SHRINK)
def test_a_threshold_outside_of_the_window_loses_the_support(one_layer, theorem):
    """The noise is the worst there is: an atom."""
    atoms, noise, slight = matrix(one_layer[0]), 0.2, 1e-9
    gram = (atoms.T @ atoms).fill_diagonal_(0)
    at, alike = divmod(gram.abs().argmax().item(), 2 * SIZE)
    sign = gram[at, alike].sign()
    code = torch.eye(2 * SIZE, dtype=torch.float64)[at].view(1, 2, SIZE)
    layers = measure(one_layer, [code])
    (row,) = theorem(layers, noise).layers
    assert row["threshold_low"] == pytest.approx(gram.abs().max().item() + noise)
    assert row["threshold_high"] == pytest.approx(1 - noise)
    towards, against = (noise * vector.view(1, 1, SIZE) for vector in (sign * atoms[:, alike], -atoms[:, at]))
    assert patch_norm(towards, 48, 2).item() == pytest.approx(noise)
    for e, threshold, recovered in (
        (towards, row["threshold_low"] + slight, True),
        (towards, row["threshold_low"] - slight, False),
        (against, row["threshold_high"] - slight, True),
        (against, row["threshold_high"] + slight, False),
    ):
        found = SHRINK[theorem](one_layer[0].analysis(one_layer[0].synthesis(code) + e), threshold)
        assert torch.equal(found != 0, code != 0) == recovered
        assert theorem(layers, noise, [threshold]).holds == recovered


def test_an_atom_cut_by_the_border_is_outside_of_the_guarantees():
    """Two atoms that differ in their first sample only, which the border of zeros takes away."""
    layer = Dictionary1d(1, 2, 3, padding=1, dtype=torch.float64).requires_grad_(False)
    layer.weight = torch.tensor([[[0.6, 0.48, 0.64]], [[-0.6, 0.48, 0.64]]], dtype=torch.float64)
    units = torch.eye(20, dtype=torch.float64).view(2, 10, 2, 10)
    at_border, inside = units[:, :1].flatten(0, 1), units[:, 4:5].flatten(0, 1)
    assert torch.equal(*layer.synthesis(at_border))  # two codes, one signal
    for theorem in ALL:
        assert not theorem(measure([layer], [at_border])).holds
    assert uniqueness(measure([layer], [inside])).holds
    # Where the true atoms are whole, the pursuit is right although others are cut.
    next_to_it = units[:, 1:2].flatten(0, 1)
    layers = measure([layer], [next_to_it])
    (row,) = hard_thresholding(layers).layers
    found = hard_threshold(layer.analysis(layer.synthesis(next_to_it)), row["threshold"])
    assert row["holds"] and torch.equal(found != 0, next_to_it != 0)


def test_a_code_of_a_cut_atom_may_make_the_same_signal():
    """Why uniqueness is among whole atoms: what the border leaves of the first atom is the second one."""
    layer = Dictionary1d(1, 2, 3, padding=1, dtype=torch.float64).requires_grad_(False)
    layer.weight = torch.tensor([[[0.19**0.5, 0.72, 0.54]], [[0.8, 0.6, 0.0]]], dtype=torch.float64)
    whole, cut = torch.zeros(2, 1, 2, 10, dtype=torch.float64)
    whole[0, 1, 1], cut[0, 0, 0] = 1.0, 1 / 0.9
    torch.testing.assert_close(layer.synthesis(whole), layer.synthesis(cut))
    assert uniqueness(measure([layer], [whole])).holds
    assert measure([layer], [cut])[0].cut == 1


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
            if theorem in SHRINK:
                assert not row["holds"]
        assert "nan" not in str(guarantee)


def test_all_of_them_at_once(two_layers):
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
    for theorem in SHRINK:
        with pytest.raises(ValueError, match="thresholds must be 1 finite numbers"):
            theorem(layers, 0.0, [0.1, 0.2])
        with pytest.raises(ValueError, match="thresholds"):
            theorem(layers, 0.0, [math.nan])
        with pytest.raises(ValueError, match="position"):
            theorem(layers, 0.0, position=1.0)
