import pytest
import torch
from torch import nn

from csc_nets.layers import CSC2d, Dictionary2d, MultiLayerCSC, given_lam


def test_calls_get_the_chosen_weight_and_the_network_is_left_as_it_was():
    net = nn.Sequential(CSC2d(1, 4, 3, padding=1, lam=0.1), nn.BatchNorm2d(4), CSC2d(4, 4, 3, lam=0.2)).eval()
    x, before = torch.randn(3, 1, 8, 8), repr(net)
    lam = torch.tensor([0.1, 0.3, 0.9]).view(3, 1, 1, 1)
    plain = net(x)
    with given_lam([net[0]], lambda layer, x, mask: lam):
        given, explicit = net(x), net[0](x, lam=0.7)
    expected = torch.cat([net[1:](net[0](x[i : i + 1], lam=lam[i].item())) for i in range(3)])
    torch.testing.assert_close(given, expected)
    assert torch.equal(explicit, net[0](x, lam=0.7)) and torch.equal(net(x), plain) and repr(net) == before
    assert not any(m._forward_pre_hooks for m in net.modules())


def test_hooks_go_after_an_error_and_masks_arrive():
    layer = CSC2d(1, 4, 3, lam=0.1)
    mask = torch.ones(8, 8)
    seen = []
    with given_lam([layer], lambda layer, x, mask: seen.append(mask) or 0.1):
        layer(torch.randn(1, 1, 8, 8), mask=mask)
    assert seen == [mask]

    def fail(layer, x, mask):
        raise RuntimeError("no weight")

    with pytest.raises(RuntimeError, match="no weight"), given_lam([layer], fail):
        layer(torch.randn(1, 1, 8, 8))
    assert not layer._forward_pre_hooks


def test_the_chosen_weight_has_a_gradient():
    layer = CSC2d(1, 4, 3, padding=1, lam=0.1)
    x = torch.randn(2, 1, 8, 8)
    lam = torch.full((2, 1, 1, 1), 0.2, requires_grad=True)
    with given_lam([layer], lambda layer, x, mask: lam):
        layer(x).sum().backward()
    assert (lam.grad < 0).all()  # a larger weight, a smaller code


def test_several_dictionaries_share_the_weight():
    layer = MultiLayerCSC([Dictionary2d(1, 4, 3), Dictionary2d(4, 6, 3)], lam=0.1)
    x, lam = torch.randn(2, 1, 8, 8), torch.tensor([0.1, 0.4]).view(2, 1, 1, 1)
    with given_lam([layer], lambda layer, x, mask: lam):
        z = layer(x)
    torch.testing.assert_close(z[1:], layer(x[1:], lam=0.4))
