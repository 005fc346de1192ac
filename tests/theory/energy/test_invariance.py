"""Translations and deformations: exact covariance, closed forms, and bounds against measured features."""

import math

import pytest
import torch

from csc_nets.functional import scattering_energy, scattering_features, wavelet_bank, wavelet_bank_2d
from csc_nets.functional import weyl_heisenberg_bank as windows
from csc_nets.theory import deform, deformation_bound, feature_distance, translation_bound

BANKS = [
    wavelet_bank(256, gap=1.0, sampling_rate=32.0),
    windows(256, gap=1.0, sampling_rate=32.0),
    wavelet_bank_2d(32, 2, 4),
]
NAMES = ["wavelet", "weyl_heisenberg", "images"]


def noise(bank, limit=math.inf, samples=3):
    axes = tuple(range(1, len(bank.size) + 1))
    spectrum = torch.fft.fftn(torch.randn(samples, *bank.size, dtype=torch.float64), dim=axes)
    return torch.fft.ifftn(spectrum * (bank.radius() <= limit), dim=axes).real


@pytest.fixture(params=BANKS, ids=NAMES)
def bank(request):
    return request.param


def test_features_move_with_the_signal(bank):
    axes = tuple(range(-len(bank.size), 0))
    x, shift = noise(bank), (5, -3)[: len(axes)]
    moved = scattering_features(x.roll(shift, axes), bank, 3).features
    for here, there in zip(scattering_features(x, bank, 3).features, moved, strict=True):
        assert (there - here.roll(shift, axes)).abs().max() < 1e-12


def test_invariance(bank):
    x = noise(bank)
    norm = x.flatten(1).norm(dim=1, keepdim=True)
    reached = scattering_energy(x, bank, 3).propagated[:, :3].sqrt()
    ratios = []
    for samples in (1, 2, 4):
        length = samples / bank.sampling_rate
        distance = feature_distance(x, x.roll(samples, -1), bank, 3)
        bound = translation_bound(bank, length)
        assert bool((distance <= bound * reached).all())
        assert bool((distance <= bound * norm).all())
        ratios.append((distance / (bound * reached)).max().item())
    assert max(ratios) > 0.05  # not for lack of anything to bound
    assert translation_bound(bank, -0.5, 4.0) == translation_bound(bank, 0.125)


def test_the_translation_bound_is_nearly_reached():
    """By a wave at the frequency where the low-pass times the frequency is largest."""
    bank = wavelet_bank(1024, gap=1.0, sampling_rate=64.0)
    peak = (bank.low * bank.radius()).argmax()
    x = torch.cos(2 * math.pi * bank.frequencies()[0, peak].abs() * torch.arange(1024).double() / 64)[None]
    ratio = feature_distance(x, x.roll(1, -1), bank, 1) / (translation_bound(bank, 1 / 64) * x.norm())
    assert 0.99 < ratio.item() <= 1


def test_features_do_not_expand_distances(bank):
    x, y = noise(bank), noise(bank)
    for a, b in ((x, y), (x, x + 1e-3 * y), (x, -x), (x, 0 * x)):
        assert bool((feature_distance(a, b, bank, 3).norm(dim=1) <= (a - b).flatten(1).norm(dim=1) * (1 + 1e-12)).all())


def test_deform_in_closed_form():
    n = torch.arange(48, dtype=torch.float64)
    tau = 2 * torch.sin(2 * math.pi * n / 48 + 0.4)
    wave = torch.cos(2 * math.pi * 5 * n / 48 + 0.1)
    expected = torch.cos(2 * math.pi * 5 * (n - tau) / 48 + 0.1)
    torch.testing.assert_close(deform(wave[None], tau[None])[0], expected, rtol=0, atol=1e-12)
    y, x = torch.meshgrid(torch.arange(12.0).double(), torch.arange(15.0).double(), indexing="ij")
    field = torch.stack([torch.sin(2 * math.pi * x / 15), 0.5 * torch.cos(2 * math.pi * y / 12)])

    def image(y, x):
        return torch.cos(2 * math.pi * (2 * y / 12 - 3 * x / 15) + 0.2) + torch.sin(2 * math.pi * x / 15)

    torch.testing.assert_close(
        deform(image(y, x)[None], field)[0], image(y - field[0], x - field[1]), rtol=0, atol=1e-12
    )
    for size in ((9,), (8,), (6, 5)):
        x = torch.randn(2, *size, dtype=torch.float64)
        shift = (2.0, -1.0)[: len(size)]
        moved = x.roll([int(s) for s in shift], tuple(range(1, x.ndim)))
        torch.testing.assert_close(deform(x, torch.tensor(shift)), moved, rtol=0, atol=1e-12)


@pytest.mark.parametrize("limit", [2.0, 8.0])
def test_deformations_of_band_limited_signals(limit):
    bank = wavelet_bank(512, gap=1.0, sampling_rate=64.0)
    length = 512 / 64
    x = noise(bank, limit)
    norm = x.norm(dim=1)
    shape = torch.sin(2 * math.pi * 2 * torch.arange(512).double() / 512)
    strengths = [1e-4, 1e-3, 1e-2, 3e-2]  # units of length
    steepest = 2 * math.pi * 2 / length
    distances = []
    for strength in strengths:
        distance = feature_distance(x, deform(x, strength * 64 * shape[None]), bank, 3).norm(dim=1) / norm
        bound = deformation_bound(limit, strength, strength * steepest)
        assert bool((distance <= bound).all())
        distances.append(distance)
    # Linear in the displacement; the low-pass sees to it that fast signals stay farther below the bound.
    assert (distances[1] / distances[0]).mean().item() == pytest.approx(10, rel=0.01)
    assert (distances[0] / deformation_bound(limit, strengths[0])).min() > 0.3 / limit


def test_deformation_bound():
    assert deformation_bound(3.0, 0.1) == pytest.approx(0.6 * math.pi)
    assert deformation_bound(1.0, 1.0, 0.25, dim=2) == pytest.approx(2 * math.pi * math.sqrt(2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: deformation_bound(1.0, 1.0, 0.5, dim=2), "jacobian < 1 / dim"),
        (lambda: deformation_bound(-1.0, 1.0), "bandwidth=-1.0"),
        (lambda: translation_bound(BANKS[0], 1.0, 0.5), "pooling"),
        (lambda: deform(torch.ones(2, 8), torch.ones(8)), r"\(2, 8\) and \(8,\)"),
        (lambda: deform(torch.ones(2, 2, 2, 2), torch.ones(3)), "1 or 2 axes"),
        (lambda: translation_bound(wavelet_bank(64, gap=1 / 16), math.nan), "shift must be a finite number, got nan"),
        (lambda: deformation_bound(math.nan, 1.0), "bandwidth=nan"),
        (lambda: deformation_bound(1.0, math.inf), "displacement=inf"),
        (
            lambda: feature_distance(torch.zeros(1, 64), torch.zeros(2, 64), wavelet_bank(64, gap=1 / 16), 1),
            r"of one shape, got \(1, 64\) and \(2, 64\)",
        ),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
