"""The fused inference path gives the numbers of the plain one, and knows when to stay away."""

import pytest
import torch

from csc_nets.functional import ConvGeometry
from csc_nets.functional.operators import mkldnn
from csc_nets.layers import CSC2d


def signal(*shape):
    return torch.randn(*shape).to(memory_format=torch.channels_last)


@pytest.mark.skipif(not mkldnn.AVAILABLE, reason="this torch has no fused operators")
@pytest.mark.parametrize("steps", [1, 2, 3, 6])
@pytest.mark.parametrize("pursuit", ["ista", "fista", "threshold"])
@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation"), [(3, 1, 1, 1), (4, 2, 1, 1), (3, 2, 2, 2)])
def test_same_numbers_as_the_plain_path(monkeypatch, steps, pursuit, kernel, stride, padding, dilation):
    layer = CSC2d(3, 8, kernel, stride, padding, dilation, lam=torch.rand(8) * 0.2, steps=steps, pursuit=pursuit).eval()
    x = signal(2, 3, 11, 12)
    kept, mask = x.clone(), torch.rand(2, 1, 11, 12).round()
    calls = []
    original = mkldnn.analysis_relu
    monkeypatch.setattr(
        "csc_nets.functional.operators.convolution.analysis_relu", lambda *a, **k: calls.append(1) or original(*a, **k)
    )
    with torch.no_grad():
        ours, masked, warm = layer(x), layer(x, mask=mask), layer(x, init=layer(x))
    assert calls
    assert torch.equal(x, kept)
    for z, options in ((ours, {}), (masked, {"mask": mask}), (warm, {"init": layer(x).detach()})):
        torch.testing.assert_close(z, layer(x, **options), rtol=1e-4, atol=1e-5)


def test_conditions():
    geometry, weight = ConvGeometry.create(2, 3, padding=1), torch.zeros(8, 3, 3, 3)
    x = signal(2, 3, 8, 8)
    with torch.no_grad():
        assert mkldnn.can_fuse(x, weight, geometry) == mkldnn.AVAILABLE
        assert not mkldnn.can_fuse(x.contiguous(), weight, geometry)
        assert not mkldnn.can_fuse(x.double(), weight.double(), geometry)
        assert not mkldnn.can_fuse(x, weight, ConvGeometry.create(2, 3, padding=1, padding_mode="reflect"))
        with torch.autocast("cpu", torch.bfloat16):
            assert not mkldnn.can_fuse(x, weight, geometry)
    assert not mkldnn.can_fuse(x, weight, geometry)
