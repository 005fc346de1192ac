"""Dictionaries made to measure: how low the coherence gets, and against what bound."""

import math

import pytest
import torch

from csc_nets.theory import mutual_coherence, welch_bound
from csc_nets.theory.sparse.dictionary_design import low_coherence_atoms, sparse_atoms


@pytest.mark.parametrize("atoms, channels, kernel, stride", [(2, 1, [48], 1), (5, 1, [64], 4), (4, 2, [8, 8], 2)])
def test_optimised_atoms_come_near_the_welch_bound(atoms, channels, kernel, stride):
    options = {"stride": stride, "seed": 3}
    gaussian = low_coherence_atoms(atoms, channels, kernel, steps=0, **options)
    better = low_coherence_atoms(atoms, channels, kernel, steps=400, **options)
    assert better.shape == (atoms, channels, *kernel) and better.dtype == torch.float64
    torch.testing.assert_close(better.flatten(1).norm(dim=1), torch.ones(atoms, dtype=torch.float64))
    bound = welch_bound(better, stride)
    assert bound < mutual_coherence(better, stride) < min(2 * bound + 0.02, 0.6 * mutual_coherence(gaussian, stride))


def test_atoms_that_do_not_meet_become_orthogonal():
    # Stride 4 and 4 samples: four atoms in four dimensions can be orthonormal, shifts never meet.
    assert mutual_coherence(low_coherence_atoms(4, 1, [4], stride=4, steps=1500), 4) < 1e-3
    assert low_coherence_atoms(1, 1, [1], steps=3).abs().item() == 1  # nothing to optimise, nothing broken


def test_the_seed_fixes_the_atoms():
    torch.manual_seed(5)
    one = low_coherence_atoms(3, 1, [9], steps=20, seed=1), sparse_atoms(3, 4, [9], 2, seed=1)
    torch.manual_seed(6)
    same = low_coherence_atoms(3, 1, [9], steps=20, seed=1), sparse_atoms(3, 4, [9], 2, seed=1)
    other = low_coherence_atoms(3, 1, [9], steps=20, seed=2), sparse_atoms(3, 4, [9], 2, seed=2)
    for a, b, c in zip(one, same, other, strict=True):
        assert torch.equal(a, b) and not torch.equal(a, c)


@pytest.mark.parametrize("nonzeros", [1, 3, 4])
def test_sparse_atoms_have_the_coherence_of_one_shared_entry(nonzeros):
    atoms = sparse_atoms(4, 4, [24], nonzeros)
    assert (atoms != 0).flatten(1).sum(1).tolist() == [nonzeros] * 4
    torch.testing.assert_close(atoms[atoms != 0].abs(), torch.full((4 * nonzeros,), nonzeros**-0.5).double())
    # One entry: four atoms in four channels share none. More: they must share, but once at most.
    assert mutual_coherence(atoms) == pytest.approx(0 if nonzeros == 1 else 1 / nonzeros)


def test_sparse_atoms_with_channels_of_their_own_are_orthogonal():
    assert mutual_coherence(sparse_atoms(3, 6, [8], 2)) == 0
    assert mutual_coherence(sparse_atoms(3, 6, [3, 3], 2)) == 0
    assert mutual_coherence(sparse_atoms(8, 24, [4], 3)) == 0


def test_sparse_atoms_use_every_entry_once():
    atoms = sparse_atoms(2, 3, [2, 2], 12, candidates=2)
    torch.testing.assert_close(atoms.abs(), torch.full_like(atoms, 1 / math.sqrt(12)))
    assert (sparse_atoms(5, 3, [4], 3, nonneg=True) >= 0).all()


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"nonzeros must be 1 to 12 \(C x K\), got 13"):
        sparse_atoms(2, 3, [4], 13)
    with pytest.raises(ValueError, match="must be positive, got 2, 0"):
        sparse_atoms(2, 0, [4], 1)
    with pytest.raises(ValueError, match="must be positive, got 2, 1, 0"):
        low_coherence_atoms(2, 1, [4], stride=0)
    with pytest.raises(ValueError, match="steps must be an int >= 0, got -1"):
        low_coherence_atoms(2, 1, [4], steps=-1)
