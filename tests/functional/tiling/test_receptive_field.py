"""The window of a stretch of a code: enough, and no sample too many."""

import itertools

import pytest
import torch

from csc_nets.functional import ConvGeometry
from csc_nets.functional.tiling.receptive_field import window
from csc_nets.layers import CSC1d

CASES = [(k, s, p, d) for k, s, p, d in itertools.product((2, 3, 5), (1, 2, 3), (0, 1, 2), (1, 2)) if p <= d * (k - 1)]


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_outside_nothing_counts_and_the_outermost_samples_do(steps):
    torch.manual_seed(0)
    for kernel, stride, padding, dilation in CASES:
        # Without a threshold the code is linear in the signal: what counts is seen.
        layer = CSC1d(1, 2, kernel, stride, padding, dilation, lam=0.0, steps=steps, nonneg=False).double().eval()
        size = 140
        (count,) = layer.dictionary.geometry.code_size((size,))
        first, last = count // 2, count // 2 + 3
        part = window(layer.dictionary.geometry, 0, size, steps, first, last)
        assert 0 < part.start < part.stop < size and part.start == (first - part.skip) * stride
        impulses = torch.eye(size, dtype=torch.float64)[:, None]
        counts = layer(impulses)[:, :, first:last].abs().flatten(1).amax(1) > 0
        decisive = counts.nonzero().flatten().tolist()
        assert part.start <= decisive[0] and decisive[-1] < part.stop
        # The window ends with the last sample that counts; it begins early enough to see no padding.
        if stride <= dilation * (kernel - 1) + 1 and dilation == 1:
            assert part.stop == decisive[-1] + 1 and decisive[0] - part.start < stride + padding


def test_whole_axis_needs_nothing_but_itself():
    geometry = ConvGeometry.create(1, 5, 3, 2, padding_mode="circular")
    assert window(geometry, 0, 20, 7, 0, *geometry.code_size((20,))) == (0, 20, 0)


def test_ends_of_a_signal_are_no_cuts():
    geometry = ConvGeometry.create(1, 3, 1, 1)
    assert window(geometry, 0, 100, 2, 0, 10) == (0, 13, 0)  # 10 + 1 for the analysis, + 2 for a step
    assert window(geometry, 0, 100, 2, 90, 100) == (87, 100, 3)
    assert window(geometry, 0, 100, 2, 40, 50) == (37, 53, 3)


def test_circular_windows_go_on_at_the_other_end():
    geometry = ConvGeometry.create(1, 3, 1, 1, padding_mode="circular")
    assert window(geometry, 0, 100, 2, 0, 10) == (-3, 13, 3)
    assert window(geometry, 0, 15, 2, 0, 10) == (0, 15, 0)  # all of it


def test_refusals():
    with pytest.raises(ValueError, match="cannot be cut along axis 0"):
        window(ConvGeometry.create(1, 3, 2, 1, padding_mode="circular"), 0, 21, 2, 0, 4)
    with pytest.raises(ValueError, match=r"positions -3 to 5 of axis 0 lie outside a code of 20"):
        window(ConvGeometry.create(1, 3, 1, 1), 0, 20, 2, -3, 5)
