"""Every pursuit's guarantee against signals that meet it, and against signals that just do not."""

import itertools
import math

import pytest
import torch
from scipy.optimize import linprog

from csc_nets.functional import hard_threshold, nonneg_soft_threshold, soft_threshold, solve
from csc_nets.layers import Dictionary2d
from csc_nets.theory import (
    LayerQuantities,
    atom_norms,
    basis_pursuit,
    basis_pursuit_noiseless,
    hard_thresholding,
    measure,
    patch_norm,
    soft_thresholding,
    stripe_norm,
)
from csc_nets.theory.sparse.dictionary_design import low_coherence_atoms, sparse_atoms

SIZE = 128  # of the signals


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
def test_thresholding_of_one_layer(one_layer, theorem, draw, signals, record_property):
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


def test_thresholding_of_a_cnn(one_layer, draw):
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
def test_basis_pursuit_of_one_layer(one_layer, nonneg, draw, signals, record_property):
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


def test_basis_pursuit_without_noise_is_exact(one_layer, draw):
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


def test_two_layers(two_layers, draw, signals, record_property):
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


@pytest.mark.parametrize("theorem", SHRINK)
def test_a_threshold_outside_of_the_window_loses_the_support(one_layer, theorem, matrix):
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
