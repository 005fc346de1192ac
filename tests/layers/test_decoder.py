"""The deconvolutional decoder."""

import pytest
import torch

from csc_nets.layers import DeconvDecoder


@pytest.mark.parametrize("size", [(16, 16), (17, 15), (9, 30)])
@pytest.mark.parametrize("kernel", [3, 4])
def test_any_size_is_decoded_exactly(size, kernel):
    decoder = DeconvDecoder([12, 8, 3], kernel, 2, 1)
    code_size = size
    for dictionary in reversed(decoder.dictionaries):
        code_size = dictionary.geometry.code_size(code_size)
    assert decoder(torch.randn(2, 12, *code_size), size).shape == (2, 3, *size)


def test_it_is_a_chain_of_normalised_synthesis():
    decoder = DeconvDecoder([6, 4, 2], [4, 3], [2, 1], [1, 0], dims=1)
    z = torch.randn(3, 6, 5)
    weights, norms = [d.weight for d in decoder.dictionaries], decoder.norms
    hidden = torch.nn.functional.conv_transpose1d(norms[0](z), weights[0], stride=2, padding=1)
    expected = torch.nn.functional.conv_transpose1d(norms[1](hidden.relu()), weights[1])
    torch.testing.assert_close(decoder(z), expected)
    torch.testing.assert_close(decoder(hidden.relu(), start=1), expected)


def test_first_output_has_the_variance_of_the_signal():
    decoder = DeconvDecoder([64, 32, 3], 3, 2, 1)
    x = decoder(torch.rand(16, 64, 8, 8))
    assert 0.2 < x.std() < 2


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="at least a code and a signal"):
        DeconvDecoder([4], 3)
    with pytest.raises(ValueError, match="kernel_size must be one int or 2 of them"):
        DeconvDecoder([4, 3, 2], [3, 3, 3])
    with pytest.raises(ValueError, match="does not fit"):
        DeconvDecoder([4, 3], 3, 2, 1)(torch.zeros(1, 4, 5, 5), (20, 20))
