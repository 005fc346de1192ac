import pytest
import torch

from csc_nets.data.batches import TensorBatches
from csc_nets.data.preprocess import Preprocess
from csc_nets.data.sampling import EpochSampler

IMAGES = torch.randint(0, 256, (23, 1, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(23)


def loader(seed=0, shuffle=True, drop_last=True, batch_size=5):
    preprocess = Preprocess([0.5], [0.5], crop_padding=1, flip=True, cutout=2)
    sampler = EpochSampler(23, seed=seed, shuffle=shuffle)
    device = torch.device("cpu")
    return TensorBatches(IMAGES, LABELS, sampler, batch_size, preprocess, drop_last=drop_last, device=device)


def same(first, second):
    pairs = list(zip(first, second, strict=True))
    return all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in pairs)


@pytest.mark.parametrize(("drop_last", "sizes"), [(True, [5, 5, 5, 5]), (False, [5, 5, 5, 5, 3])])
def test_length_and_last_batch(drop_last, sizes):
    batches = loader(drop_last=drop_last)
    assert [len(labels) for _, labels in batches] == sizes and len(batches) == len(sizes)


def test_every_image_comes_once_and_in_another_order_each_epoch():
    batches = loader(drop_last=False)
    first, second = (torch.cat([labels for _, labels in batches]) for _ in range(2))
    assert first.sort().values.equal(LABELS) and second.sort().values.equal(LABELS)
    assert not first.equal(second)


def test_set_epoch_repeats_an_epoch_exactly_and_another_seed_does_not():
    batches = loader()
    epochs = [list(batches) for _ in range(3)]
    assert not torch.equal(epochs[0][0][0], epochs[2][0][0])
    fresh = loader()
    fresh.set_epoch(2)
    assert same(fresh, epochs[2])
    assert not same(loader(seed=1), epochs[0])


def test_a_pass_that_is_broken_off_does_not_advance_the_epoch():
    batches = loader()
    next(iter(batches))
    assert same(batches, loader())


def test_state_resumes_inside_an_epoch_with_the_next_batch():
    batches = loader()
    list(batches)
    whole = list(batches)
    batches.set_epoch(1)
    iterator = iter(batches)
    next(iterator), next(iterator)
    state = batches.state_dict()
    assert state == {"epoch": 1, "batch": 2}
    resumed = loader()
    resumed.load_state_dict(state)
    resumed.set_epoch(1)
    assert same(resumed, whole[2:])
    assert resumed.sampler.epoch == 2 and len(list(resumed)) == 4


def test_state_of_another_epoch_starts_at_the_first_batch():
    resumed = loader()
    resumed.load_state_dict({"epoch": 0, "batch": 4})
    resumed.set_epoch(1)
    assert len(list(resumed)) == 4


@pytest.mark.gpu
def test_batches_on_the_accelerator_equal_those_on_the_cpu():
    sampler = EpochSampler(23, shuffle=True)
    preprocess = Preprocess([0.5], [0.5], crop_padding=1, flip=True, cutout=2)
    cuda = TensorBatches(IMAGES, LABELS, sampler, 5, preprocess, drop_last=True, device=torch.device("cuda"))
    for (x, y), (u, v) in zip(cuda, loader(), strict=True):
        assert x.is_cuda and torch.equal(y.cpu(), v)
        torch.testing.assert_close(x.cpu(), u)


@pytest.mark.parametrize("length", [1, 2, 3, 7, 12, 13, 23])
@pytest.mark.parametrize("batch_size", [1, 3, 6])
def test_processes_evaluate_as_many_batches_each_and_no_empty_one(length, batch_size):
    preprocess = Preprocess((0.0,), (1.0,), white=255.0)
    sizes, seen = [], []
    for rank in range(2):
        sampler = EpochSampler(length, shuffle=False, rank=rank, world_size=2)
        device = torch.device("cpu")
        batches = TensorBatches(
            IMAGES[:length], torch.arange(length), sampler, batch_size, preprocess, drop_last=False, device=device
        )
        labels = [labels.tolist() for _, labels in batches]
        assert len(labels) == len(batches) and all(0 < len(part) <= batch_size for part in labels)
        sizes.append(len(labels))
        seen += [label for part in labels for label in part]
    assert sizes[0] == sizes[1] and set(seen) == set(range(length))
    assert len(seen) == length or batch_size == 1 or length == 1
