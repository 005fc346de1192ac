"""Uniqueness and global stability against brute force, and where true codes are found no more."""

import itertools

import torch

from csc_nets.functional import hard_threshold, solve
from csc_nets.layers import Dictionary1d
from csc_nets.theory import (
    basis_pursuit,
    basis_pursuit_noiseless,
    global_stability,
    guarantees,
    hard_thresholding,
    measure,
    soft_thresholding,
    stripe_norm,
    uniqueness,
)
from csc_nets.theory.sparse.dictionary_design import low_coherence_atoms

ALL = [uniqueness, global_stability, hard_thresholding, soft_thresholding, basis_pursuit_noiseless, basis_pursuit]
SIZE = 128  # of the signals


def test_two_codes_of_one_noisy_signal_are_close(one_layer, draw, matrix, record_property):
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


def test_two_codes_of_two_layers_are_close(two_layers, draw, signals):
    held = 0
    for _ in range(50):
        codes, x = signals(two_layers, draw(2, 3, 2))
        found = guarantees(two_layers, codes, noise=(x[0] - x[1]).norm().item() / 2)["global_stability"]
        for code, row in zip(codes, found.layers, strict=True):
            assert (code[0] - code[1]).norm() <= row["error"]
        held += found.holds
    assert held > 10


def test_brute_force_finds_no_second_code(circular, matrix):
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
