"""Non-zeros of a code and back."""

import io

import pytest
import torch

from csc_nets.functional.tiling import sparse_code
from csc_nets.functional.tiling.sparse_code import SparseCode


@pytest.fixture
def code():
    return torch.relu(torch.randn(2, 6, 11, 9) - 1.6)


def tiles(code):
    for rows in (slice(0, 4), slice(4, 11)):
        where = (slice(0, 2), slice(0, 6), rows, slice(0, 9))
        yield where, code[where]


def test_dense_again_from_tiles_of_any_layout(code):
    for layout in (code, code.contiguous(memory_format=torch.channels_last)):
        sparse = SparseCode.of(tiles(layout))
        assert sparse.shape == code.shape and torch.equal(sparse.dense(), code)
        for (where, tile), (same, dense) in zip(sparse, tiles(code), strict=True):
            assert where == same and torch.equal(tile, dense)


def test_size_and_density(code):
    sparse = SparseCode.of(code)
    count = int((code != 0).sum())
    assert sparse.nbytes == 8 * count and sparse.density == pytest.approx(count / code.numel())


def test_a_file_holds_plain_tensors(code):
    buffer = io.BytesIO()
    torch.save(SparseCode.of(tiles(code)).state_dict(), buffer)
    buffer.seek(0)
    back = SparseCode.from_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(back.dense(), code)


def test_a_code_of_zeros_has_no_entries():
    sparse = SparseCode.of(torch.zeros(1, 3, 5))
    assert sparse.nbytes == 0 and torch.equal(sparse.dense(), torch.zeros(1, 3, 5))


def test_an_empty_batch_has_a_density():
    sparse = SparseCode.of(torch.zeros(0, 3, 5))
    assert sparse.density == 0 and sparse.dense().shape == (0, 3, 5) and "density=0" in repr(sparse)


def test_positions_of_a_huge_tile_do_not_overflow(code, monkeypatch):
    monkeypatch.setattr(sparse_code, "INT32", code.numel() - 1)
    sparse = SparseCode.of(code)
    assert sparse.parts[0][1].dtype == torch.int64 and torch.equal(sparse.dense(), code)


@pytest.mark.parametrize(
    "key, spoil",
    [("value", lambda t: t[:1]), ("index", lambda t: t + 2 * 6 * 11 * 9), ("index", lambda t: t - 2 * 6 * 11 * 9)],
)
def test_a_damaged_file_is_refused(code, key, spoil):
    state = SparseCode.of(code).state_dict()
    state[key] = [spoil(state[key][0])]
    with pytest.raises(ValueError, match="expected one position below 1188 for each value"):
        SparseCode.from_state_dict(state)


def test_refusals():
    with pytest.raises(ValueError, match="at least one tile"):
        SparseCode([])
    with pytest.raises(ValueError, match="where, index and value, got list"):
        SparseCode.from_state_dict([1])
