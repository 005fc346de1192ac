import copy

import pytest
import torch

from csc_nets.functional import unit_norm
from csc_nets.layers import DenseDictionary, Dictionary1d, Dictionary2d
from csc_nets.layers.sparse_atoms import LargestEntries, sparsify_atoms


@pytest.mark.parametrize("dictionary", [DenseDictionary(20, 6), Dictionary1d(2, 6, 5), Dictionary2d(3, 6, 3, stride=2)])
def test_the_largest_entries_stay_in_proportion_and_atoms_have_unit_norm(dictionary):
    dense = dictionary.weight.detach().clone()
    sparsify_atoms(dictionary, 4)
    sparse = dictionary.weight.detach()
    assert ((sparse != 0).flatten(1).sum(1) == 4).all()
    torch.testing.assert_close(sparse.flatten(1).norm(dim=1), torch.ones(6))
    kept = dense * (sparse != 0)
    torch.testing.assert_close(sparse, unit_norm(kept))
    assert (kept.flatten(1).abs().sort(1).values[:, -4] > (dense - kept).flatten(1).abs().amax(1)).all()


def test_the_step_size_is_that_of_the_sparse_atoms():
    dictionary = DenseDictionary(20, 6)
    sparsify_atoms(dictionary, 2)
    norm = torch.linalg.matrix_norm(dictionary.weight.detach(), 2).square()
    torch.testing.assert_close(dictionary.lipschitz, norm, rtol=1e-3, atol=0)


def test_all_entries_feel_the_gradient_of_the_ones_in_use():
    dense = torch.randn(3, 7, requires_grad=True)
    slope = torch.randn(3, 7)
    (LargestEntries(2)(dense) * slope).sum().backward()
    torch.testing.assert_close(dense.grad, slope)


def test_training_may_use_more_and_evaluation_never_does():
    dictionary = DenseDictionary(20, 6)
    dense = dictionary.weight.detach().clone()
    sparsify_atoms(dictionary, 4)
    (entries,) = (p for p in dictionary.parametrizations.weight if isinstance(p, LargestEntries))
    for used in (20, 7, 4, 1, 99):
        entries.used.fill_(used)
        weight = dictionary.train().weight.detach()
        assert ((weight != 0).sum(1) == min(used, 20)).all()
        torch.testing.assert_close(weight, unit_norm(dense * (weight != 0)))
        assert ((dictionary.eval().weight != 0).sum(1) == 4).all()


@pytest.mark.parametrize("used", [4, 7])
def test_entries_of_equal_size_do_not_use_more(used):
    dictionary = Dictionary2d(4, 6, 3)
    dictionary.weight = torch.randn(6, 4, 3, 3).sign()
    sparsify_atoms(dictionary, 4)
    (entries,) = (p for p in dictionary.parametrizations.weight if isinstance(p, LargestEntries))
    few = dictionary.eval().weight != 0
    assert (few.flatten(1).sum(1) == 4).all()
    entries.used.fill_(used)
    many = dictionary.train().weight != 0
    assert (many.flatten(1).sum(1) == used).all()
    assert (many | ~few).all()  # evaluation uses no entry that training does not


def test_in_evaluation_only_the_entries_in_use_have_a_gradient():
    dense = torch.tensor([[1.0, -3.0, 2.0]], requires_grad=True)
    LargestEntries(2).eval()(dense).sum().backward()
    assert dense.grad.tolist() == [[0.0, 1.0, 1.0]]


def test_all_tensors_are_on_the_device_of_the_dictionary():
    dictionary = Dictionary2d(2, 3, 3, device="meta")
    sparsify_atoms(dictionary, 4)
    assert {name for name, buffer in dictionary.named_buffers() if not buffer.is_meta} == set()


def test_descent_finds_a_support_that_the_start_did_not_have():
    torch.manual_seed(0)
    true = torch.zeros(1, 40)
    true[0, [3, 17, 30]] = torch.tensor([0.6, -0.64, 0.48])
    dictionary = DenseDictionary(40, 1)
    sparsify_atoms(dictionary, 3)
    assert (dictionary.weight * true).sum().abs() < 0.5
    optimizer = torch.optim.SGD(dictionary.parameters(), lr=0.3)
    for _ in range(200):
        optimizer.zero_grad()
        (dictionary.weight - true).square().sum().backward()
        optimizer.step()
    torch.testing.assert_close(dictionary.weight.detach(), true, atol=1e-3, rtol=0)


def test_more_nonzeros_than_entries_change_nothing():
    dictionary = DenseDictionary(5, 3)
    before = dictionary.weight.detach().clone()
    sparsify_atoms(dictionary, 9)
    torch.testing.assert_close(dictionary.weight.detach(), before)


def test_copy_and_state_dict():
    dictionary, other = DenseDictionary(9, 4), DenseDictionary(9, 4)
    for d in (dictionary, other):
        sparsify_atoms(d, 3)
    other.load_state_dict(dictionary.state_dict())
    assert torch.equal(other.weight, dictionary.weight)
    assert torch.equal(copy.deepcopy(dictionary).weight, dictionary.weight)


@pytest.mark.parametrize("count", [0, -1, 2.5, True])
def test_bad_counts_are_refused(count):
    with pytest.raises(ValueError, match="nonzeros must be an int >= 1"):
        sparsify_atoms(DenseDictionary(5, 3), count)
