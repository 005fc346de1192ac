"""The Fourier form of a dictionary against its convolution."""

import pytest
import torch

from csc_nets.functional import as_adjoint_pair
from csc_nets.functional.operators.fourier import FourierDictionary, prefers_fourier
from csc_nets.layers import DenseDictionary, Dictionary1d, Dictionary2d, Dictionary3d

GEOMETRIES = [
    (Dictionary1d, (2, 5, 3), {}, (11,)),
    (Dictionary1d, (1, 6, 5), {"padding": 2, "dilation": 2}, (31,)),
    (Dictionary1d, (1, 4, 4), {"padding": 3, "stride": 3}, (14,)),
    (Dictionary2d, (1, 5, 4), {"padding": "same", "padding_mode": "circular"}, (9, 8)),
    (Dictionary2d, (1, 4, (3, 5)), {"padding": (1, 0), "padding_mode": "circular"}, (7, 9)),
    (Dictionary2d, (3, 6, 3), {"padding": 1, "stride": 2, "padding_mode": "circular"}, (8, 6)),
    (Dictionary2d, (1, 7, 4), {"padding": "same"}, (9, 8)),
    (Dictionary2d, (2, 6, 3), {"padding": 1, "stride": (2, 1)}, (9, 8)),
    (Dictionary3d, (2, 4, 3), {"padding": 1}, (5, 6, 4)),
    (Dictionary3d, (1, 4, 2), {"stride": 2}, (6, 5, 4)),
]


@pytest.mark.parametrize(("cls", "sizes", "options", "signal"), GEOMETRIES)
def test_passes_are_those_of_the_convolution(cls, sizes, options, signal):
    dictionary = cls(*sizes, **options).double()
    waves = FourierDictionary.create(dictionary, signal)
    x = torch.randn(3, sizes[0], *signal, dtype=torch.float64)
    code = dictionary.analysis(x)
    z = torch.randn_like(code)

    everything = slice(0, len(waves.spectra))
    analysis = waves.unpack(torch.view_as_real(waves.analyze_block(waves.fft(waves.embed(x)), everything)))
    torch.testing.assert_close(analysis[:, : sizes[1]], code)

    # Behind the signal lies what padding crops, and nothing else.
    expected = waves.embed(dictionary.synthesis(z, signal))
    synthesis = waves.ifft(waves.synthesize(waves.pack(z)))
    inside = waves.embed(torch.ones_like(x)) == 1
    torch.testing.assert_close(synthesis.real[inside], expected[inside])
    assert waves.is_cropped or not synthesis.real[~inside].abs().gt(1e-12).any()
    assert synthesis.imag.abs().max() < 1e-12


@pytest.mark.parametrize(("cls", "sizes", "options", "signal"), GEOMETRIES)
def test_gram_is_synthesis_of_analysis_and_its_inverse_undoes_it(cls, sizes, options, signal):
    waves = FourierDictionary.create(cls(*sizes, **options).double(), signal)
    s = waves.fft(torch.randn(2, waves.gram.shape[0], *waves.grid, dtype=torch.float64))
    everything = slice(0, len(waves.spectra))
    for weight in (torch.rand(2, 1), torch.rand(2, len(waves.spectra) if waves.basis is None else 1)):
        gram = waves.weighted_gram(weight.double())
        image = waves.filter(s, gram)
        code = waves.analyze_block(s, everything) * weight.view(*weight.shape, *(1,) * len(signal))
        torch.testing.assert_close(image, waves.synthesize(code))
        torch.testing.assert_close(waves.filter(image + s, 1 / (1 + gram)), s)


def test_circles_are_fast_sizes():
    waves = FourierDictionary.create(as_adjoint_pair(torch.randn(2, 1, 5, 5)), (11, 23))
    assert waves.grid == (12, 24) and waves.code_size == (7, 19)


@pytest.mark.parametrize(
    ("dictionary", "signal"),
    [
        (Dictionary2d(1, 4, 3, padding=1, padding_mode="reflect"), (8, 8)),
        (Dictionary2d(1, 4, 3, padding=1, stride=2, padding_mode="circular"), (9, 8)),
        (Dictionary2d(1, 4, 3, padding=2, padding_mode="circular"), (8, 8)),  # more codes than samples
        (Dictionary2d(1, 4, 3).bfloat16(), (8, 8)),
        (DenseDictionary(8, 4), ()),
    ],
)
def test_other_dictionaries_are_refused(dictionary, signal):
    with pytest.raises(ValueError, match="is a convolution with zero padding, or with circular padding"):
        FourierDictionary.create(dictionary, signal)
    assert not prefers_fourier(dictionary, torch.zeros(1, 1, *signal))


def test_preferred_for_images_of_few_channels():
    assert prefers_fourier(Dictionary2d(1, 4, 3), torch.zeros(1, 1, 32, 32))
    assert not prefers_fourier(Dictionary2d(1, 4, 3), torch.zeros(1, 1, 5, 5))
    assert not prefers_fourier(Dictionary2d(3, 4, 3, stride=2), torch.zeros(1, 3, 32, 32))
