import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from csc_nets.data.preprocess import MIRROR
from csc_nets.data.sampling import EpochSampler, held_out_indices, stratified_split


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=80), st.integers(0, 9))
def test_stratified_split_covers_everything_once_and_keeps_the_shares(values, seed):
    labels = torch.tensor(values)
    parts = stratified_split(labels, [0.2, 0.3], seed)
    assert torch.cat(parts).sort().values.tolist() == list(range(len(values)))
    for label in set(values):
        count = values.count(label)
        assert (labels[parts[1]] == label).sum() == round(0.2 * count)
        assert (labels[parts[2]] == label).sum() == round(0.3 * count)


def test_stratified_split_follows_the_seed():
    labels = torch.arange(200) % 5
    first, again, other = (stratified_split(labels, [0.5], seed)[1].tolist() for seed in (3, 3, 4))
    assert first == again != other


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_a_share_outside_zero_to_one_is_refused(fraction):
    with pytest.raises(ValueError, match=r"toy: val_fraction must be between 0 and 1, got"):
        held_out_indices("toy", torch.arange(10) % 2, fraction, 0)


def test_a_share_that_holds_nothing_out_is_refused():
    with pytest.raises(ValueError, match="must leave training and validation images"):
        held_out_indices("toy", torch.arange(10), 0.2, 0)


def test_plan_is_a_function_of_seed_and_epoch_alone():
    def plan(seed, epoch):
        sampler = EpochSampler(50, seed=seed, shuffle=True)
        sampler.set_epoch(epoch)
        torch.rand(7)  # the global generator plays no part
        return sampler.plan()

    base, again = plan(0, 3), plan(0, 3)
    assert all(torch.equal(a, b) for a, b in zip(base, again, strict=True))
    assert base.order.sort().values.tolist() == list(range(50))
    for other in (plan(0, 4), plan(1, 3), plan(3, 0)):
        assert not torch.equal(base.order, other.order) and not torch.equal(base.draws, other.draws)
    assert base.draws.min() >= 0 and base.draws.max() < 1


def test_evaluation_keeps_the_stored_order():
    assert EpochSampler(9, shuffle=False).plan().order.tolist() == list(range(9))


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_processes_share_an_epoch(world_size):
    def orders(shuffle):
        samplers = [EpochSampler(20, shuffle=shuffle, rank=rank, world_size=world_size) for rank in range(world_size)]
        parts = [sampler.plan().order.tolist() for sampler in samplers]
        assert {len(part) for part in parts} <= {len(samplers[0]), len(samplers[0]) - (not shuffle)}
        return [index for part in parts for index in part]

    training, evaluation = orders(shuffle=True), orders(shuffle=False)
    assert len(training) == len(set(training)) == 20 - 20 % world_size
    assert sorted(evaluation) == list(range(20))


def test_no_process_is_without_an_image_for_each_batch():
    last = EpochSampler(3, shuffle=False, rank=1, world_size=2)
    assert last.plan().order.tolist() == [1] and last.plan(least=2).order.tolist() == [1, 0]


def test_shares_that_round_up_together_never_take_more_than_there_is():
    parts = stratified_split(torch.zeros(3, dtype=torch.long), [0.5, 0.5])
    assert sorted(torch.cat(parts).tolist()) == [0, 1, 2]


def test_alternate_mirrors_every_image_in_one_of_two_epochs():
    sampler = EpochSampler(200, shuffle=True, alternate=True)
    mirrored = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        plan = sampler.plan()
        by_image = torch.empty(200)
        by_image[plan.order] = plan.draws[:, MIRROR]
        mirrored.append(by_image < 0.5)
    assert torch.equal(mirrored[0], ~mirrored[1]) and torch.equal(mirrored[0], mirrored[2])
    assert 60 < mirrored[0].sum() < 140
    other = EpochSampler(200, shuffle=True)
    other.set_epoch(2)
    assert torch.equal(other.plan().order, plan.order)
    assert torch.equal(other.plan().draws[:, 3:], plan.draws[:, 3:])
