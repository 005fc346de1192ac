"""What is measured: against explicit matrices, loops, and the model of unit atoms written out."""

import math

import pytest
import torch

from csc_nets.functional import Cascade
from csc_nets.layers import DenseDictionary, Dictionary1d, Dictionary2d
from csc_nets.theory import LayerQuantities, atom_norms, guarantees, measure, mutual_coherence, patch_norm, stripe_norm


def sparse_code(*shape, density=0.05):
    return torch.randn(shape, dtype=torch.float64) * (torch.rand(shape) < density)


def plain(cls, *arguments, scale=1.0, **options):
    """A dictionary whose atoms have norms between 0.5 and 2 times ``scale``."""
    layer = cls(*arguments, unit_norm=False, dtype=torch.float64, **options).requires_grad_(False)
    layer.weight *= scale * 4 ** (torch.rand(len(layer.weight), *(1,) * (layer.weight.ndim - 1)) - 0.5)
    return layer


def test_every_number_is_the_one_of_its_definition():
    first = Dictionary2d(2, 3, 4, stride=2, dtype=torch.float64)
    second = Dictionary2d(3, 5, (3, 2), dilation=(1, 2), dtype=torch.float64)
    codes = [sparse_code(4, 3, 9, 8), sparse_code(4, 5, 7, 6)]
    layers = measure([first, second], codes, window=(2, 1), signal_size=(20, 19))
    assert [layer.name for layer in layers] == ["layer 1", "layer 2"]
    for layer, dictionary, code in zip(layers, (first, second), codes, strict=True):
        assert layer.coherence == pytest.approx(mutual_coherence(dictionary), abs=1e-12)
        magnitudes = code[code != 0].abs()
        assert layer.smallest == pytest.approx(magnitudes.min().item())
        assert layer.largest == pytest.approx(magnitudes.max().item())
        assert layer.cut == 0
    assert layers[0].stripe == stripe_norm(codes[0], 4, 2).max()
    assert layers[1].stripe == stripe_norm(codes[1], (3, 2), 1, dilation=(1, 2)).max()
    assert layers[0].patch == patch_norm(codes[0], (3, 2), dilation=(1, 2)).max()  # what the second layer sees
    assert layers[1].patch == patch_norm(codes[1], (2, 1)).max()
    assert measure([first, second], codes)[1].patch == (codes[1] != 0).flatten(1).sum(1).max()


def test_weights_stand_for_dictionaries():
    code, dense = sparse_code(2, 3, 20), sparse_code(3, 6, density=0.5)
    layer, matrix = Dictionary1d(1, 3, 4), DenseDictionary(5, 6)
    assert measure([layer.weight], [code]) == measure([layer], [code])
    (found,) = measure([matrix], [dense])
    assert measure([matrix.weight], [dense]) == [found]
    assert found.stripe == found.patch == (dense != 0).sum(1).max()


def test_norms_of_atoms_move_into_the_codes():
    """The model of unit atoms, written out: the same signal, and its numbers are those that are measured."""
    dictionaries = [plain(Dictionary1d, 2, 4, 5, scale=3), plain(Dictionary1d, 4, 3, 4), plain(Dictionary1d, 3, 6, 2)]
    codes = Cascade(dictionaries).codes(sparse_code(3, 6, 20))[1:]
    norms = atom_norms(dictionaries)
    below = torch.ones(2, dtype=torch.float64)
    unit, unit_codes = [], []
    for dictionary, code, norm in zip(dictionaries, codes, norms, strict=True):
        layer = Dictionary1d(
            dictionary.in_channels, dictionary.out_channels, dictionary.geometry.kernel_size, dtype=torch.float64
        )
        weight = dictionary.weight * below[:, None]
        torch.testing.assert_close(norm, weight.flatten(1).norm(dim=1))
        layer.weight = weight / norm[:, None, None]
        unit.append(layer)
        unit_codes.append(code * norm[:, None])
        below = norm
    for i, (layer, code) in enumerate(zip(unit, unit_codes, strict=True)):
        made = dictionaries[0].synthesis(codes[0]) if i == 0 else unit_codes[i - 1]
        torch.testing.assert_close(layer.synthesis(code), made)
    for found, expected in zip(measure(dictionaries, codes), measure(unit, unit_codes), strict=True):
        assert found.coherence == pytest.approx(expected.coherence, abs=1e-12)
        assert (found.stripe, found.patch) == (expected.stripe, expected.patch)
        assert (found.smallest, found.largest) == pytest.approx((expected.smallest, expected.largest))
    # Normalising each layer on its own is another model: the atoms of layer 2 have other directions.
    assert measure(dictionaries, codes)[1].coherence != pytest.approx(mutual_coherence(dictionaries[1]), abs=1e-3)
    for norm in atom_norms(unit):
        torch.testing.assert_close(norm, torch.ones_like(norm))


def test_dead_atoms_take_no_part():
    weight = torch.cat([torch.zeros(1, 5), torch.eye(5)])
    (layer,) = measure([weight], [torch.ones(1, 6)])
    assert (layer.stripe, layer.coherence) == (5, 0)


def test_codes_of_zeros():
    layers = measure([torch.eye(4)], [torch.zeros(2, 4)])
    assert layers == [LayerQuantities(0.0, 0, 0, math.inf, 0.0, "layer 1")]
    found = guarantees([torch.eye(4)], [torch.zeros(2, 4)], noise=0.3)
    assert all(guarantee.holds and guarantee.error == 0 for guarantee in found.values())
    assert found["hard_thresholding"].layers[0]["threshold"] == 0.3  # nothing below it is let through


@pytest.mark.parametrize(
    ("options", "size", "whole"),
    [
        ({}, 12, range(10)),
        ({"padding": 1}, 12, range(1, 11)),
        ({"padding": 2, "stride": 2}, 11, range(1, 6)),
        ({"padding": 2, "stride": 2}, 12, range(1, 6)),
        ({"padding": 1, "dilation": 2}, 12, range(1, 9)),
        ({"padding": "same", "padding_mode": "circular"}, 12, range(12)),
        ({"padding": 1, "stride": 2, "padding_mode": "circular"}, 12, range(6)),
        ({"padding": 1, "stride": 2, "padding_mode": "circular"}, 13, range(1, 6)),  # the ends are off the grid
        ({"padding": "same", "dilation": 3, "padding_mode": "circular"}, 16, range(16)),
        ({"padding": 1, "dilation": 3, "stride": 3, "padding_mode": "circular"}, 15, range(4)),
        ({"padding": 2, "dilation": 3, "padding_mode": "circular"}, 16, range(4, 10)),  # stripes close too early
        ({"padding": "same", "padding_mode": "circular"}, 4, []),  # atoms meet at both ends
        ({"padding": "same", "padding_mode": "reflect"}, 12, []),
        ({"padding_mode": "reflect"}, 12, range(10)),
    ],
)
def test_atoms_at_the_border(options, size, whole):
    """Whole are those atoms that all others meet as they would in the middle of a long signal."""
    dictionary = Dictionary1d(1, 2, 3, dtype=torch.float64, **options).requires_grad_(False)
    count = dictionary.geometry.code_size((size,))[0]
    unit = torch.eye(2 * count, dtype=torch.float64).view(-1, 2, count)
    found = [p for p in range(count) if measure([dictionary], [unit[p : p + 1]], signal_size=(size,))[0].cut == 0]
    assert found == list(whole)
    gram = dictionary.analysis(dictionary.synthesis(unit, (size,))).view(2, count, 2, count)
    mu = mutual_coherence(dictionary)
    geometry = dictionary.geometry
    for p in whole:
        meets = gram[0, p].abs() > 1e-12
        stripe = stripe_norm(meets[None], geometry.kernel_size, geometry.stride, dilation=geometry.dilation)
        assert stripe >= meets.sum()
        row = gram[0, p].clone()
        assert row[0, p] == pytest.approx(1)
        row[0, p] = 0
        assert row.abs().max() <= mu + 1e-12
        assert gram[0, p].abs().max() <= 1 + 1e-12


def test_folded_atoms_let_noise_through_even_to_a_code_of_zeros():
    weight = torch.tensor([[[0.6, 0.0, 0.8]]], dtype=torch.float64)
    for options, size, folded in (
        ({"padding_mode": "reflect", "padding": 1}, 6, True),
        ({"padding_mode": "reflect"}, 6, False),
        ({"padding_mode": "circular", "padding": 1}, 2, True),
        ({"padding_mode": "circular", "padding": 1}, 6, False),
        ({"padding": 1}, 6, False),
    ):
        dictionary = Dictionary1d(1, 1, 3, dtype=torch.float64, **options).requires_grad_(False)
        dictionary.weight = weight
        count = dictionary.geometry.code_size((size,))[0]
        units = torch.eye(count, dtype=torch.float64).view(count, 1, count)
        atoms = dictionary.synthesis(units, (size,))
        assert (atoms.norm(dim=(1, 2)).max() > 1.3) == folded
        noise = atoms[atoms.norm(dim=(1, 2)).argmax()][None]
        noise *= 0.3 / noise.norm()
        found = guarantees([dictionary], [torch.zeros(1, 1, count)], 0.3, signal_size=(size,))["hard_thresholding"]
        assert found.holds != folded
        assert bool((dictionary.analysis(noise).abs() > 0.3 + 1e-12).any()) == folded


def test_a_padded_stride_needs_the_size_of_the_signal():
    """Two atoms that differ in their last sample only, which a signal of 11 samples does not have."""
    layer = Dictionary1d(1, 2, 3, stride=2, padding=1, dtype=torch.float64).requires_grad_(False)
    layer.weight = torch.tensor([[[0.6, 0.64, 0.48]], [[0.6, 0.64, -0.48]]], dtype=torch.float64)
    code = torch.zeros(1, 2, 6, dtype=torch.float64)
    code[0, 0, 5] = 1
    assert torch.equal(layer.synthesis(code, (11,)), layer.synthesis(code.flip(1), (11,)))
    assert not torch.equal(layer.synthesis(code, (12,)), layer.synthesis(code.flip(1), (12,)))
    for size, cut in (((11,), 1), ((12,), 0)):
        assert measure([layer], [code], signal_size=size)[0].cut == cut
    with pytest.raises(ValueError, match=r"signal_size must be given for stride \(2,\)"):
        measure([layer], [code])
    first = Dictionary1d(1, 1, 3, padding=1, dtype=torch.float64)  # stride 1: the second one's signal is known
    layer = Dictionary1d(1, 2, 3, stride=2, padding=1, dtype=torch.float64)
    assert len(measure([first, layer], [torch.ones(1, 1, 11), code])) == 2


def test_bad_arguments_are_refused():
    layer, code = Dictionary1d(1, 2, 3), torch.zeros(1, 2, 10)
    for dictionaries, codes, message in (
        ([], [], "as many codes"),
        ([layer], [code, code], "1 dictionaries need as many codes, got 2"),
        ([layer], [torch.zeros(1, 3, 10)], r"codes\[0\] must have 2 atoms, got shape \(1, 3, 10\)"),
        ([layer], [torch.zeros(1, 2, 3, 3)], "atoms"),
        ([layer], [code[:0]], r"shape \(0, 2, 10\)"),
        ([layer], [code / 0], "NaN"),
        ([layer], [code.to(torch.complex64)], "real"),
        ([layer, layer], [code, code], r"dictionaries\[1\] must take the 2 atoms"),
        ([layer, Dictionary1d(2, 2, 3)], [code, code], r"codes\[1\] must have \(8,\) positions"),
        ([torch.nn.ReLU()], [code], "got ReLU"),
        ([torch.nn.Conv1d(1, 2, 3)], [code], "got Conv1d"),
    ):
        with pytest.raises(ValueError, match=message):
            measure(dictionaries, codes)
    with pytest.raises(ValueError, match=r"must have \(18,\) positions for a signal of size \(20,\)"):
        measure([layer], [code], signal_size=(20,))
    for numbers in (
        (1.1, 1, 1, 1, 1),
        (-0.1, 1, 1, 1, 1),
        (0.1, -1, 1, 1, 1),
        (0.1, 2.5, 1, 1, 1),
        (0.1, 1, True, 1, 1),
        (0.1, 1, 1, 2, 1),
        (0.1, 1, 1, 0, 1),
    ):
        with pytest.raises(ValueError, match="must be"):
            LayerQuantities(*numbers)
