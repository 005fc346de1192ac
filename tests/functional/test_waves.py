"""Waves: the discrete Fourier transform of signals, and the dictionary's operator on each by its convolutions."""

import pytest
import torch

from csc_nets.functional import ConvGeometry
from csc_nets.functional.waves import Waves

CASES = [
    (1, 5, 1, 0, 1, "zeros"),
    (1, 4, 3, 1, 1, "circular"),
    (2, 3, 1, 1, 1, "zeros"),
    (2, (3, 2), (2, 3), 1, 1, "zeros"),
    (2, 3, 2, 2, 2, "circular"),
    (3, 2, (1, 2, 1), 0, 1, "zeros"),
]


@pytest.fixture(params=CASES, ids=str)
def case(request):
    geometry, size = ConvGeometry.create(*request.param).probe()
    weight = torch.randn(5, 2, *geometry.kernel_size, dtype=torch.float64)
    return geometry, size, Waves(geometry, size), weight


def test_a_signal_is_the_sum_of_its_waves(case):
    _, size, waves, _ = case
    signal = torch.randn(1, 2, *size, dtype=torch.float64)
    state = waves.read(signal)
    assert state.shape[:3] == (len(waves), 2, 2)
    torch.testing.assert_close(waves.write(state, torch.arange(len(waves))), signal)
    index = torch.tensor([3, 1, 3])  # the first of equal ones counts
    changed = state.clone()
    changed[index[:2]] *= 2
    expected = waves.write(changed, torch.arange(len(waves))) - signal
    torch.testing.assert_close(waves.write(state[index] * torch.tensor([1, 1, 7]).view(-1, 1, 1, 1), index), expected)


@pytest.mark.parametrize("last", [False, True])
def test_the_operator_on_waves_is_the_one_on_signals(case, last):
    geometry, size, waves, weight = case
    if last:
        weight = weight.movedim(1, -1).contiguous().movedim(-1, 1)
    signal = torch.randn(1, 2, *size, dtype=torch.float64)
    expected = waves.read(geometry.synthesis(geometry.analysis(signal, weight), weight, size))
    index = torch.tensor([0, 2, len(waves) - 1])
    torch.testing.assert_close(waves.gram(waves.read(signal)[index], index, weight), expected[index])
