"""Older spellings say so, and mean what they meant."""

import pytest
import torch

from csc_nets.functional import fista, iterate, soft_threshold
from csc_nets.layers import CSC2d


@pytest.mark.parametrize("momentum", [True, False])
def test_iterate_is_the_pursuit(momentum):
    torch.manual_seed(0)
    x, weight = torch.randn(3, 8).double(), torch.randn(12, 8).double()
    eta = 0.9 / torch.linalg.matrix_norm(weight, 2).square()

    def update(y, disposable=False):
        return soft_threshold(y + eta * (x - y @ weight) @ weight.T, eta * 0.1)

    with pytest.warns(DeprecationWarning, match="replaced by functional.run"):
        z = iterate(update, update(torch.zeros(3, 12).double()), 7, momentum=momentum)
    torch.testing.assert_close(z, fista(x, weight, 0.1, steps=7, momentum=momentum))


def test_backward_is_the_older_name_of_gradient():
    with pytest.warns(DeprecationWarning, match="now called gradient"):
        layer = CSC2d(3, 8, 3, backward="recompute")
    assert repr(layer) == repr(CSC2d(3, 8, 3, gradient="recompute")) and layer.backward == "recompute"
    with pytest.raises(ValueError, match="CSC2d: backward is the older name of gradient: give one"):
        CSC2d(3, 8, 3, backward="recompute", gradient="unroll")
