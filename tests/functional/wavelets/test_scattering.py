"""Modulus cascades against a plain loop over paths, and the balance of their energy."""

import math

import pytest
import torch

from csc_nets.functional import (
    FilterBank,
    scattering_energy,
    scattering_features,
    wavelet_bank,
    wavelet_bank_2d,
    weyl_heisenberg_bank,
)
from csc_nets.functional.wavelets.filter_bank import kymatio_bank

TORUS = {"gap": 1.0, "sampling_rate": 64.0}  # of length 16, sampled 1024 times


def noise(bank, limit, samples, seed=0):
    """Real noise, white up to a frequency, of energy 1."""
    generator = torch.Generator().manual_seed(seed)
    axes = tuple(range(1, len(bank.size) + 1))
    x = torch.randn(samples, *bank.size, generator=generator, dtype=torch.float64)
    x = torch.fft.ifftn(torch.fft.fftn(x, dim=axes) * (bank.radius() <= limit), dim=axes).real
    return x / x.flatten(1).norm(dim=1).view(-1, *(1,) * len(axes))


def by_definition(x, bank, depth):
    """All filters and their mirror images, one signal: features and energies."""
    axes = tuple(range(len(bank.size)))
    mirrored = bank.high.flip(tuple(a + 1 for a in axes)).roll((1,) * len(axes), tuple(a + 1 for a in axes))
    maps, features, energies = [x], [], [x.square().sum().item()]
    for _ in range(depth):
        spectra = [torch.fft.fftn(u) for u in maps]
        features.append(sum(torch.fft.ifftn(s * bank.low).real.square().sum().item() for s in spectra))
        maps = [torch.fft.ifftn(s * g).abs() for s in spectra for g in torch.cat([bank.high, mirrored])]
        energies.append(sum(u.square().sum().item() for u in maps))
    return features, energies


@pytest.mark.parametrize(
    "bank",
    [
        weyl_heisenberg_bank(40, gap=0.125),
        wavelet_bank(33, gap=0.0625),
        wavelet_bank_2d((12, 8), 1, 2),
        FilterBank(torch.linspace(-1, 1, 9, dtype=torch.float64).square().roll(5), torch.rand(2, 9).double()),
    ],
    ids=["weyl_heisenberg", "wavelet", "images", "any"],
)
def test_energy_is_that_of_the_definition(bank, monkeypatch):
    x = torch.randn(3, *bank.size, dtype=torch.float64)
    measured = scattering_energy(x, bank, 3)
    maps = scattering_features(x, bank, 3).features
    for n, signal in enumerate(x):
        features, energies = by_definition(signal, bank, 3)
        assert measured.features[n].tolist() == pytest.approx(features, rel=1e-12)
        assert measured.propagated[n].tolist() == pytest.approx(energies, rel=1e-12)
        assert [layer[n].square().sum().item() for layer in maps] == pytest.approx(features, rel=1e-12)
    monkeypatch.setattr("csc_nets.functional.wavelets.scattering.BLOCK", 1)  # one path at a time
    again = scattering_energy(x, bank, 3)
    torch.testing.assert_close(again.features, measured.features, rtol=1e-13, atol=0)
    torch.testing.assert_close(again.propagated, measured.propagated, rtol=1e-13, atol=0)


@pytest.mark.parametrize(
    "bank",
    [
        weyl_heisenberg_bank(1024, **TORUS),
        wavelet_bank(1024, **TORUS),
        wavelet_bank_2d(64, 3, 4),
        weyl_heisenberg_bank((32, 33), gap=1 / 8),
    ],
    ids=["weyl_heisenberg", "wavelet", "wavelet_images", "weyl_heisenberg_images"],
)
def test_no_energy_is_lost(bank):
    x = torch.randn(2, *bank.size, dtype=torch.float64)
    energy = scattering_energy(x, bank, 3)
    assert not energy.pruned.any()
    balance = energy.features.sum(1) + energy.propagated[:, -1]
    torch.testing.assert_close(balance, x.square().flatten(1).sum(1), rtol=1e-12, atol=0)
    # From layer to layer as well.
    torch.testing.assert_close(
        energy.propagated[:, :-1], energy.features + energy.propagated[:, 1:], rtol=1e-12, atol=0
    )


def test_pruning_says_what_it_dropped():
    bank = weyl_heisenberg_bank(1024, **TORUS)
    x = noise(bank, 16, 2) * torch.tensor([[1.0], [30.0]], dtype=torch.float64)
    exact, pruned = scattering_energy(x, bank, 3), scattering_energy(x, bank, 3, prune=1e-4)
    dropped = pruned.pruned.sum(1)
    assert bool((dropped > 0).all()) and bool((dropped < 0.1 * pruned.total).all())
    assert not pruned.pruned[:, [0, -1]].any()
    balance = pruned.features.sum(1) + pruned.propagated[:, -1] + dropped
    torch.testing.assert_close(balance, x.square().sum(1), rtol=1e-12, atol=0)
    for n in range(4):
        missing = exact.propagated[:, n] - pruned.propagated[:, n]
        assert bool((missing >= -1e-15 * exact.total).all())
        assert bool((missing <= pruned.pruned[:, :n].sum(1) + 1e-12 * exact.total).all())


@pytest.mark.parametrize(
    ("make", "limit", "published"),
    [
        (weyl_heisenberg_bank, 4, (0.666, 0.00106, 0)),
        (wavelet_bank, 4, (0.685, 0.00849, 3e-5)),
        (weyl_heisenberg_bank, 16, (0.934, 0.00222, 0)),
        (wavelet_bank, 16, (0.939, 0.104, 0.00388)),
    ],
)
def test_known_figures(make, limit, published):
    """One draw of noise was measured elsewhere; the mean of 40 is within the spread of a draw of it."""
    bank = make(1024, **TORUS)
    energy = scattering_energy(noise(bank, limit, 40), bank, 3, prune=1e-9).propagated[:, 1:]
    for n, value in enumerate(published):
        spread = 4 * energy[:, n].std().item() + 1e-5
        assert energy[:, n].mean().item() == pytest.approx(value, abs=spread), n


@pytest.mark.parametrize("make", [weyl_heisenberg_bank, wavelet_bank])
def test_nothing_enters_below_the_gap(make):
    bank = make(1024, **TORUS)
    energy = scattering_energy(noise(bank, 1.0, 3), bank, 2)
    assert energy.propagated[:, 1].max() < 1e-28
    torch.testing.assert_close(energy.features[:, 0], energy.total, rtol=1e-13, atol=0)


def test_batch_axes_and_one_bank_per_layer():
    first, second = wavelet_bank(64, gap=0.0625), weyl_heisenberg_bank(64, gap=0.125)
    x = torch.randn(3, 2, 4, 64, dtype=torch.float64)
    whole = scattering_energy(x, [first, second], 2)
    parts = scattering_energy(x.flatten(0, 2), [first, second], 2)
    torch.testing.assert_close(whole.features, parts.features.view(3, 8, 2).sum(1), rtol=1e-12, atol=0)
    scattering = scattering_features(x, [first, second], 2)
    assert [tuple(f.shape) for f in scattering.features] == [(3, 2, 4, 1, 64), (3, 2, 4, len(first), 64)]
    one = torch.fft.ifft(torch.fft.fft(x[1, 0, 3]) * first.high[2]).abs() * math.sqrt(2)
    expected = torch.fft.ifft(torch.fft.fft(one) * second.low).real
    torch.testing.assert_close(scattering.features[1][1, 0, 3, 2], expected, rtol=0, atol=1e-14)
    assert scattering_energy(x[:0], [first, second], 2).features.shape == (0, 2)


def test_paths():
    bank = wavelet_bank_2d(16, 2, 2)
    x = torch.randn(2, 16, 16, dtype=torch.float64)
    scattering = scattering_features(x, bank, 3)
    assert scattering.paths == [[()], [(p,) for p in range(4)], [(p, q) for p in range(4) for q in range(4)]]
    some = scattering_features(x, bank, 3, follow=lambda first, second: second["scale"] > first["scale"])
    assert some.paths[1:] == [[(0,), (1,), (2,), (3,)], [(0, 2), (0, 3), (1, 2), (1, 3)]]
    torch.testing.assert_close(some.features[2], scattering.features[2][:, [2, 3, 6, 7]], rtol=0, atol=1e-15)
    assert scattering_features(x, bank, 3, follow=lambda *_: False).features[2].shape == (2, 0, 16, 16)


@pytest.mark.parametrize("bank", [wavelet_bank(32, gap=0.0625), wavelet_bank_2d(8, 1, 2)], ids=["1d", "2d"])
def test_gradients(bank):
    x = torch.randn(1, *bank.size, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: scattering_features(x, bank, 2).features, (x,))
    zero = torch.zeros(2, *bank.size, dtype=torch.float64, requires_grad=True)
    sum(layer.sum() for layer in scattering_features(zero, bank, 3).features).backward()
    assert bool(zero.grad.isfinite().all())
    # Only the low-pass of the first layer has a slope there.
    torch.testing.assert_close(zero.grad, torch.ones_like(zero) * bank.low.flatten()[0])


def test_pooling():
    banks = [wavelet_bank(64 // 2**n, gap=0.0625) for n in range(3)]
    x = torch.randn(2, 64, dtype=torch.float64)
    scattering = scattering_features(x, banks, 3, pooling=2)
    assert [layer.shape[-1] for layer in scattering.features] == [64, 32, 16]
    modulus = 2 * torch.fft.ifft(torch.fft.fft(x) * banks[0].high[1]).abs()[:, ::2]  # sqrt 2 of each kind
    expected = torch.fft.ifft(torch.fft.fft(modulus) * banks[1].low).real
    torch.testing.assert_close(scattering.features[1][:, 1], expected, rtol=0, atol=1e-14)
    energy = scattering_energy(x, banks, 3, pooling=2)
    sums = torch.stack([layer.square().flatten(1).sum(1) for layer in scattering.features], 1)
    torch.testing.assert_close(energy.features, sums, rtol=1e-12, atol=0)
    # The square of an analytic signal's modulus is sampled finely enough by every second sample, not by every fourth.
    balance = (energy.features.sum(1) + energy.propagated[:, -1]) / energy.total
    assert balance.tolist() == pytest.approx([1, 1], abs=1e-12)
    banks = [wavelet_bank(64 // 4**n, gap=0.0625) for n in range(2)]
    energy = scattering_energy(x, banks, 2, pooling=4)
    balance = (energy.features.sum(1) + energy.propagated[:, -1]) / energy.total - 1
    assert bool((balance.abs() < 0.5).all()) and bool((balance.abs() > 1e-3).all())


def test_kymatio_coefficients():
    """Its own transform, subsampled at the end only, gives the same numbers up to its float32 filters and aliasing."""
    module = pytest.importorskip("kymatio.scattering2d.frontend.torch_frontend", reason="kymatio is not installed")
    x = torch.randn(1, 40, 40, dtype=torch.float64)  # what 32 x 32 is padded to
    theirs = module.ScatteringTorch2D(J=2, shape=(32, 32), L=4, pre_pad=True).double()(x)
    bank = kymatio_bank((40, 40), 2, 4)
    ours = scattering_features(x, bank, 3, follow=lambda first, second: second["scale"] > first["scale"]).features
    inner = torch.cat([layer[..., ::4, ::4] for layer in ours], 1)[..., 1:-1, 1:-1]
    assert theirs.shape == inner.shape == (1, 1 + 8 + 16, 8, 8)
    assert (theirs - inner).norm() < 0.02 * inner.norm()
    torch.testing.assert_close(theirs[:, :5], inner[:, :5], rtol=0, atol=1e-6)  # nothing is subsampled before the end


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 0}, "depth and pooling must be whole numbers >= 1, got 0 and 1"),
        ({"depth": 2.0}, "depth .* got 2.0 and 1"),
        ({"depth": True}, "depth .* got True and 1"),
        ({"pooling": 1.0}, "pooling .* got 2 and 1.0"),
        ({"x": torch.ones(2, 32, dtype=torch.int64)}, "x must be real signals .* got torch.int64"),
        ({"x": torch.ones(2, 32, dtype=torch.float16)}, "float32 or float64, got torch.float16"),
        ({"pooling": 0}, "pooling"),
        ({"banks": []}, "one for each of 2 layers, got 0"),
        ({"pooling": 2}, r"layer 1 needs a bank of size \(16,\)"),
        ({"x": torch.randn(2, 31, dtype=torch.float64)}, r"size \(31,\)"),
        ({"x": torch.randn(2, 32)}, "float32"),
        ({"x": torch.randn(32, dtype=torch.float64)}, r"real signals .* got torch.float64 \(32,\)"),
        ({"x": torch.randn(2, 32, dtype=torch.complex128)}, "real"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    values = {"x": torch.randn(2, 32, dtype=torch.float64), "banks": wavelet_bank(32, gap=0.0625), "depth": 2}
    for function in (scattering_features, scattering_energy):
        with pytest.raises(ValueError, match=message):
            function(**values | arguments)


def test_bad_threshold_is_refused():
    with pytest.raises(ValueError, match="prune"):
        scattering_energy(torch.randn(2, 32, dtype=torch.float64), wavelet_bank(32, gap=0.0625), 2, prune=1.0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_signals_without_an_energy_are_refused(value):
    x = torch.zeros(2, 32, dtype=torch.float64)
    x[1, 3] = value
    with pytest.raises(ValueError, match="x must be finite, got 1 numbers"):
        scattering_energy(x, wavelet_bank(32, gap=0.0625), 2)


def test_paths_without_labels_are_refused():
    bank = wavelet_bank(32, gap=0.0625)
    with pytest.raises(ValueError, match="labels"):
        scattering_features(torch.randn(2, 32).double(), FilterBank(bank.low, bank.high), 2, follow=lambda *_: True)
