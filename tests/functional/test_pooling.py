import numpy as np
import pytest
import torch
import torch.nn.functional as F

from csc_nets.functional import absolute_pool, unpool
from csc_nets.functional.pooling import entries, fixed_switches


def windows(shape, size):
    """Every window of positions, as index arrays, by plain loops."""
    starts = [range(0, n, w) for n, w in zip(shape, size, strict=True)]
    for corner in np.ndindex(*map(len, starts)):
        where = [starts[i][c] for i, c in enumerate(corner)]
        yield corner, tuple(slice(a, a + w) for a, w in zip(where, size, strict=True))


@pytest.mark.parametrize("shape, window", [((7,), 3), ((6, 5), 2), ((6, 5), (2, 4)), ((3, 4, 5), 2), ((4, 5), None)])
def test_pools_the_largest_magnitude_with_its_sign(shape, window):
    v = torch.randn(2, 3, *shape, dtype=torch.float64)
    values, switches = absolute_pool(v, window)
    size = shape if window is None else (window,) * len(shape) if isinstance(window, int) else window
    for corner, window_at in windows(shape, size):
        block = v[(slice(None), slice(None), *window_at)].flatten(2)
        best = block.gather(2, block.abs().argmax(2, keepdim=True))[..., 0]
        assert torch.equal(values[(slice(None), slice(None), *corner)], best)
    assert torch.equal(entries(v, switches), values)


def test_unpool_is_the_adjoint_of_taking_the_entries():
    v, w = torch.randn(2, 3, 6, 5, dtype=torch.float64), torch.randn(2, 3, 3, 3, dtype=torch.float64)
    _, at = absolute_pool(v, 2)
    torch.testing.assert_close((entries(v, at) * w).sum(), (v * unpool(w, at, (6, 5))).sum())
    assert torch.equal(entries(unpool(w, at, (6, 5)), at), w)


def test_on_positive_codes_it_is_torchs_max_pooling():
    v = torch.rand(2, 3, 8, 8)
    values, at = absolute_pool(v, 2)
    expected, indices = F.max_pool2d(v, 2, return_indices=True)
    assert torch.equal(values, expected) and torch.equal(at, indices)
    assert torch.equal(unpool(values, at, (8, 8)), F.max_unpool2d(expected, indices, 2))


def test_fixed_switches_are_the_first_positions():
    v = torch.zeros(2, 3, 5, 4)
    assert fixed_switches(v, 2)[1, 2].tolist() == [[0, 2], [8, 10], [16, 18]]
    assert torch.equal(fixed_switches(v), torch.zeros(2, 3, 1, 1, dtype=torch.int64))
    assert torch.equal(fixed_switches(v, 2), absolute_pool(v, 2)[1])  # of equal entries the first


def test_gradient_reaches_the_largest_entries_alone():
    v = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    absolute_pool(v, 2)[0].sum().backward()
    assert v.grad.sum() == 8 and ((v.grad == 0) | (v.grad == 1)).all()


@pytest.mark.parametrize("window", [0, (2,), 1.5, (2, 0)])
def test_refuses_a_bad_window(window):
    with pytest.raises(ValueError, match="window"):
        absolute_pool(torch.zeros(1, 1, 4, 4), window)


def test_refuses_vectors():
    with pytest.raises(ValueError, match=r"\(N, M, \*S\)"):
        absolute_pool(torch.zeros(2, 3))
