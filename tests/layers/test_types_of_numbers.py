"""Layers of other types than float32."""

import pytest
import torch

from csc_nets.layers import CSC2d


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("channels", "samples"), [(1, 2), (1, 64), (3, 2), (3, 64), (8, 64)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_layer_of_another_type_keeps_it_for_signals_of_every_size(dtype, channels, samples, channels_last):
    """Signals of few channels are summed in single precision, from some number of coefficients on."""
    layer = CSC2d(channels, 32, 3, padding=1, steps=4).eval()
    x = torch.rand(samples, channels, 8, 8)
    x = x.to(memory_format=torch.channels_last) if channels_last else x
    with torch.no_grad():
        wanted = layer(x)
        z = layer.to(dtype)(x.to(dtype))
        assert z.dtype == layer.synthesize(z, (8, 8)).dtype == layer.dictionary.synthesis(z, (8, 8)).dtype == dtype
    torch.testing.assert_close(z.float(), wanted, rtol=0.1, atol=0.05)
