import pytest
import torch
from scipy.optimize import linear_sum_assignment

from csc_nets.theory.sparse.matching import atom_match


def padded(atoms, before, after):
    """Atoms laid into a larger window."""
    dims = atoms.ndim - 2
    return torch.nn.functional.pad(atoms, [before, after] * dims)


@pytest.mark.parametrize("shape", [(6, 9), (6, 2, 9), (6, 2, 5, 5), (4, 1, 3, 4, 3)])
def test_a_shuffled_rescaled_and_flipped_copy_matches_entirely(shape):
    true = torch.randn(shape, dtype=torch.float64)
    order, sign = torch.randperm(shape[0]), torch.tensor([1, -1] * (shape[0] // 2))
    scale = (sign * torch.linspace(0.1, 9, shape[0])).view(-1, *[1] * (len(shape) - 1))
    match = atom_match((true * scale)[order], true)
    torch.testing.assert_close(match.correlation, torch.ones(shape[0], dtype=torch.float64))
    assert torch.equal(order[match.index], torch.arange(shape[0]))
    assert torch.equal(match.sign, sign)
    assert not match.shift.any()
    assert match.share(0.99) == 1


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_shifted_copy_in_a_larger_window_matches_entirely_and_the_shift_is_found(dims):
    true = torch.randn(5, 2, *[4] * dims)
    match = atom_match(padded(true, 3, 1), true)
    torch.testing.assert_close(match.correlation, torch.ones(5))
    assert torch.equal(match.shift, torch.full((5, dims), -3))
    back = atom_match(true, padded(true, 3, 1))
    torch.testing.assert_close(back.correlation, torch.ones(5))
    assert torch.equal(back.shift, torch.full((5, dims), 3))


def test_a_shift_that_cuts_an_atom_off_costs_what_was_cut():
    true = torch.ones(1, 1, 4)
    learned = torch.tensor([[[0.0, 0.0, 1.0, 1.0]]])
    assert atom_match(learned, true).correlation.item() == pytest.approx(2 / (2 * 2**0.5))


def test_random_atoms_do_not_match():
    match = atom_match(torch.randn(16, 1, 8, 8), torch.randn(16, 1, 8, 8))
    assert match.share(0.95) == 0
    assert match.correlation.max() < 0.8
    assert match.index.unique().numel() == 16


def test_no_learned_atom_serves_twice():
    true = torch.eye(3)
    match = atom_match(torch.tensor([[1.0, 0, 0], [1.0, 0.1, 0]]), true)
    assert sorted(match.index.tolist()) == [-1, 0, 1]
    assert match.index[0] == 0 and match.index[1] == 1
    assert match.correlation[2] == 0 and match.share(0.99) == pytest.approx(1 / 3)


def test_with_clear_partners_greedy_is_the_optimal_assignment():
    true = torch.randn(12, 1, 6, 6)
    learned = (true + 0.15 * torch.randn(12, 1, 6, 6))[torch.randperm(12)]
    every = torch.stack([torch.stack([atom_match(b[None], a[None]).correlation[0] for b in learned]) for a in true])
    rows, columns = linear_sum_assignment(every.numpy(), maximize=True)
    match = atom_match(learned, true)
    assert match.index.tolist() == columns.tolist()
    torch.testing.assert_close(match.correlation, every[rows, columns])


def test_a_zero_atom_matches_nothing():
    assert atom_match(torch.zeros(2, 1, 3), torch.randn(2, 1, 3)).correlation.max() == 0


@pytest.mark.parametrize("shape", [(4, 2, 5, 5), (4, 1, 5), (4, 5)])
def test_atoms_of_another_kind_are_refused(shape):
    with pytest.raises(ValueError, match="learned and true must be atoms"):
        atom_match(torch.randn(shape), torch.randn(4, 1, 5, 5))


@pytest.mark.parametrize(
    "atoms", [torch.zeros(0, 1, 3), torch.full((2, 1, 3), torch.nan), torch.full((2, 1, 3), torch.inf)]
)
def test_no_atoms_and_atoms_that_are_not_finite_are_refused(atoms):
    with pytest.raises(ValueError, match="atom_match: learned must be one atom or more"):
        atom_match(atoms, torch.randn(2, 1, 3))
    with pytest.raises(ValueError, match="atom_match: true must be one atom or more"):
        atom_match(torch.randn(2, 1, 3), atoms)
