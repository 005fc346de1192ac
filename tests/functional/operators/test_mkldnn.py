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


@pytest.mark.skipif(not (mkldnn.AVAILABLE and mkldnn.has_bfloat16()), reason="this processor has no bfloat16 products")
@pytest.mark.parametrize("steps", [1, 2, 6])
@pytest.mark.parametrize("whole", [False, True])
@torch.no_grad()
def test_bfloat16_is_at_least_as_near_to_float32_as_the_plain_path(monkeypatch, steps, whole):
    """Under autocast, and with everything in bfloat16: the sum of a step is rounded once."""
    torch.manual_seed(0)
    layer, x = CSC2d(8, 32, 3, padding=1, lam=0.1, steps=steps).eval(), signal(2, 8, 12, 12)
    exact = layer(x)
    layer, x = (layer.bfloat16(), x.bfloat16()) if whole else (layer, x)

    def error():
        with torch.autocast("cpu", torch.bfloat16, enabled=not whole):
            z = layer(x)
        assert z.dtype == torch.bfloat16
        return ((z - exact).norm() / exact.norm()).item()

    fused = error()
    monkeypatch.setattr("csc_nets.functional.operators.convolution.can_fuse", lambda *a: False)
    assert fused < 1.05 * error()
    assert fused < 0.01


@pytest.mark.parametrize("channels, size", [(1, 9), (8, 1), (1, 1)])
@torch.no_grad()
def test_bfloat16_signals_of_either_order_of_memory(channels, size):
    layer, x = CSC2d(channels, 8, 3, padding=1, lam=0.1, steps=4).eval(), signal(2, channels, size, size)
    torch.testing.assert_close(layer.bfloat16()(x.bfloat16()).float(), layer.float()(x), rtol=0.05, atol=0.05)


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
            known = mkldnn.AVAILABLE and mkldnn.has_bfloat16()
            assert mkldnn.can_fuse(x, weight.bfloat16(), geometry) == known
        with torch.autocast("cpu", torch.float16):
            assert not mkldnn.can_fuse(x, weight.half(), geometry)
    assert not mkldnn.can_fuse(x, weight, geometry)
