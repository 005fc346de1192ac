"""Bounds of the energy that is left: closed forms, the inequality that their proof rests on, and measured cascades."""

import math

import pytest
import torch

from csc_nets.functional import scattering_energy, wavelet_bank, wavelet_bank_2d, weyl_heisenberg_bank
from csc_nets.theory import (
    conservation_bounds,
    decay_base,
    decay_radius,
    depth_for_energy,
    energy_decay_bound,
    growth_exponent,
    mean_frequency,
    spectral_decay_bound,
    support_base,
)
from csc_nets.theory.energy.decay_bounds import analytic_step

TORUS = {"gap": 1.0, "sampling_rate": 64.0}  # of length 16, sampled 1024 times
ORTHANT = support_base(0.5, 2, dim=2)


def spectrum(x, bank):
    axes = tuple(range(-len(bank.size), 0))
    return torch.fft.fftn(x, dim=axes).abs().square() / bank.low.numel()


def coloured(bank, slope, limit=math.inf, samples=3):
    """Real noise with the spectrum |omega|^-slope up to a frequency, of energy 1."""
    axes = tuple(range(-len(bank.size), 0))
    shape = bank.radius().clamp_min(bank.radius()[bank.radius() > 0].min()) ** (-slope / 2) * (bank.radius() <= limit)
    x = torch.fft.ifftn(torch.fft.fftn(torch.randn(samples, *bank.size).double(), dim=axes) * shape, dim=axes).real
    return x / x.flatten(1).norm(dim=1).view(-1, *(1,) * len(axes))


def test_alpha_and_published_bases():
    assert [growth_exponent(d) for d in (1, 2, 3)] == pytest.approx([1, 0.2075, 0.1315], abs=1e-4)
    assert 2 ** growth_exponent(2) == pytest.approx(math.sqrt(4 / 3))
    assert decay_base(ratio=2) == pytest.approx(5 / 3) and decay_base(width=1) == 1.5
    for r in (1.1, 2, 7):
        assert decay_base(ratio=r) == pytest.approx(support_base(1 / r, r))
    assert support_base(1, 3) == pytest.approx(2)
    assert support_base(1, 1) == math.inf and support_base(1, 1, dim=2) == pytest.approx(math.sqrt(2))
    assert pytest.approx(1 / math.sqrt(1 - 0.32)) == ORTHANT
    assert support_base(1, 3, dim=2) == pytest.approx(support_base(1, 3, half_angle=math.pi / 4))
    assert support_base(1, 3) == support_base(1, 3, half_angle=0)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_one_shift_brings_the_whole_support_near_zero(dim):
    """The base is the largest one for which there is a shift, and that shift is the derivation's."""
    p, q = 0.7, 2.5
    a = support_base(p, q, dim=dim)
    direction = torch.rand(20000, dim, dtype=torch.float64)
    direction = torch.cat([direction, torch.eye(dim, dtype=torch.float64)])
    radius = torch.cat([torch.rand(20000).double() * (q - p) + p, torch.full((dim,), p)])
    w = torch.cat([direction / direction.norm(dim=1, keepdim=True) * radius[:, None], q * torch.eye(dim).double()])
    if dim > 1:
        w = torch.cat([w, p * torch.eye(dim).double()])
    diagonal = torch.ones(dim, dtype=torch.float64) / math.sqrt(dim)
    best = math.inf
    for t in [*torch.linspace(0, q, 400).tolist(), 2 * p * q / math.sqrt(dim) / (p + q)]:
        worst = ((w - t * diagonal).norm(dim=1) / w.norm(dim=1)).max().item()
        best = min(best, worst)
    assert best == pytest.approx(1 / a, rel=1e-6)


def test_numbers_beyond_those_of_floats():
    assert decay_radius(5000, "wavelet") == math.inf and energy_decay_bound(5000, 1.0, "wavelet") == 0
    assert support_base(1, 1e200) == 1 and support_base(1e-200, 1e-200) == math.inf
    assert support_base(1e-200, 2e-200) == pytest.approx(3) and decay_base(ratio=1e200) == 1
    assert decay_radius(5000, "analytic", base=2.0) == decay_radius(5000, "analytic", base=2.0, dim=2) == math.inf
    assert decay_radius(10**400) == math.inf
    for wrong in (2.5, True):
        with pytest.raises(ValueError, match="layers must be an int >= 1, got"):
            decay_radius(wrong)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_a_base_takes_over_from_the_steps_for_good(dim):
    radius, base = 1.0, 1.05
    for n in range(2, 200):
        radius = max(analytic_step(radius, dim), base * radius)
        assert decay_radius(n, "analytic", dim=dim, base=base) == pytest.approx(radius, rel=1e-9)
    assert decay_radius(10**9, "analytic", dim=dim, base=1 + 1e-9) > 1e8  # at once


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_many_layers_are_taken_at_once_where_steps_hardly_change(dim):
    radius, layers = 1.0, 1
    while radius < 5000:
        radius, layers = analytic_step(radius, dim), layers + 1
    found = decay_radius(layers, "analytic", dim=dim)
    assert radius * (1 - 1e-6) < found <= radius
    assert int(depth_for_energy(0.99999, "analytic", dim=2)) == pytest.approx(400_038, abs=2)  # of 400,000 steps


def test_what_is_no_spectrum_and_no_frame_is_refused():
    with pytest.raises(ValueError, match="power must be finite and not all zero"):
        mean_frequency(torch.zeros(2, 8), torch.arange(8.0))
    with pytest.raises(ValueError, match=r"expected 0 <= A <= B < inf for every layer, got \(-1, 2\)"):
        conservation_bounds([(1, 1), (-1, 2)])
    with pytest.raises(ValueError, match="dim must be an int >= 1, got nan"):
        growth_exponent(math.nan)


def test_radii():
    assert [decay_radius(n, gap=2.0) for n in (1, 2, 7)] == [2, 4, 14]
    assert decay_radius(16, dim=2) == pytest.approx(16**0.2075, rel=1e-3)
    # The polynomial is ahead in the second and third layer.
    assert [decay_radius(n, "wavelet") for n in (2, 3, 4)] == pytest.approx([2, 3, (5 / 3) ** 3])
    assert [decay_radius(n, "weyl_heisenberg") for n in (3, 4, 5)] == pytest.approx([3, 4, 1.5**4])
    assert decay_radius(3, "wavelet", base=4.0, gap=0.5) == 8
    for dim in (1, 2, 3):
        for n in range(1, 30):
            x = decay_radius(n + 1, "analytic", dim=dim)
            assert x / support_base(1, x, dim=dim) == pytest.approx(decay_radius(n, "analytic", dim=dim))
            assert x >= decay_radius(n + 1, dim=dim)
        step = decay_radius(2001, "analytic", dim=dim) - decay_radius(2000, "analytic", dim=dim)
        assert step == pytest.approx(2 / dim, rel=1e-2)
    assert decay_radius(9, "analytic", base=5.0, gap=3.0) == pytest.approx(3 * 5**8)


CASES = [
    (weyl_heisenberg_bank(1024, **TORUS), "analytic", 2.0),
    (weyl_heisenberg_bank(1024, **TORUS), "weyl_heisenberg", None),
    (wavelet_bank(1024, **TORUS), "wavelet", None),
    (wavelet_bank(1024, **TORUS, ratio=1.25), "analytic", support_base(0.8, 1.25)),
    (wavelet_bank_2d(32, 3, 4), "analytic", None),
    (wavelet_bank_2d(32, 2, 8), "analytic", None),
    (weyl_heisenberg_bank((32, 32), gap=1 / 8), "analytic", None),
]
NAMES = ["wh-derived", "wh", "wavelet", "wavelet-narrow", "wavelet-2d", "wavelet-2d-8", "wh-2d"]


@pytest.mark.parametrize(("bank", "family", "base"), CASES, ids=NAMES)
def test_step_of_the_proof(bank, family, base):
    """Filters that move frequencies by nu, under the cut-off of one layer, are under the next one's, at every bin."""
    frequencies, radius, dim = bank.frequencies(), bank.radius(), len(bank.size)
    edge = (2 * frequencies.abs() == bank.sampling_rate).any(0)  # Nyquist has both signs, no shift fits both
    exponent = 1.0001 + dim // 2

    def cut(distance, reach):
        return 1 - (1 - distance / reach).clamp_min(0) ** (2 * exponent)

    for n in (1, 2, 3, 5):
        before, after = (decay_radius(m, family, gap=bank.gap, dim=dim, base=base) for m in (n, n + 1))
        total = torch.zeros_like(radius)
        for g in bank.high:
            inside = (g != 0) & (radius < after) & ~edge
            away = torch.full_like(radius, math.inf)
            if inside.any():
                middle, cosine = _cone(frequencies[:, inside])
                p, q = radius[inside].min(), radius[inside].max()
                shift = 2 * p * q * cosine / (p + q) * middle
                away = (frequencies - shift.view(-1, *(1,) * dim)).norm(dim=0)
                assert (away / radius)[inside].max() <= before / after + 1e-9
            one = g.square() * cut(away, before)
            total = total + one + one.flip(tuple(range(dim))).roll((1,) * dim, tuple(range(dim)))
        assert bool((total <= cut(radius, after) + 1e-9)[~edge].all())


def _cone(at):
    """Middle of the directions of frequencies ``(dims, n)``, and the cosine of the largest angle with it."""
    if len(at) == 1:
        return torch.ones(1, dtype=torch.float64), 1.0
    around = torch.atan2(at[0].sum(), at[1].sum())
    away = torch.remainder(torch.atan2(at[0], at[1]) - around + math.pi, 2 * math.pi) - math.pi
    around = around + (away.max() + away.min()) / 2
    middle = torch.stack([around.sin(), around.cos()])
    return middle, (middle @ at / at.norm(dim=0)).min()


@pytest.mark.parametrize(("bank", "family", "base"), CASES, ids=NAMES)
@pytest.mark.parametrize("wide", [1.5, 4, 12])
def test_measured_energy_is_below_the_bounds(bank, family, base, wide):
    dim, limit = len(bank.size), wide * bank.gap
    x = coloured(bank, 0.0, limit)
    depth = 3 if dim == 1 else 2
    energy = scattering_energy(x, bank, depth).propagated
    assert energy[:, 1].min() > 0.01  # the limit is above the gap
    for n in range(1, depth + 1):
        exact = spectral_decay_bound(n, spectrum(x, bank), bank.radius(), family, gap=bank.gap, base=base)
        loose = energy_decay_bound(n, limit, family, gap=bank.gap, dim=dim, base=base)
        assert bool((energy[:, n] <= exact + 1e-15).all())
        assert bool((exact <= loose + 1e-15).all())
        general = energy_decay_bound(n, limit, gap=bank.gap, dim=dim)
        assert loose <= general


@pytest.mark.parametrize(
    ("family", "limit", "published"),
    [
        ("weyl_heisenberg", 4, (0.931, 0.896, 0.839)),
        ("wavelet", 4, (0.931, 0.884, 0.795)),
        ("weyl_heisenberg", 16, (0.987, 0.980, 0.968)),
        ("wavelet", 16, (0.987, 0.978, 0.959)),
    ],
)
def test_known_bounds_of_white_noise(family, limit, published):
    """One draw was measured elsewhere, with the radius a^(N-1) alone; 40 draws tell the spread of a draw."""
    bank = wavelet_bank(1024, **TORUS)
    power, radius = spectrum(coloured(bank, 0.0, limit, samples=40), bank), bank.radius()
    base = {"weyl_heisenberg": 1.5, "wavelet": 5 / 3}[family]
    for n, value in enumerate(published, start=1):
        share = (power * (1 - (1 - radius / base ** (n - 1)).clamp_min(0) ** 2.0002)).sum(1)
        assert share.mean().item() == pytest.approx(value, abs=3 * share.std().item())
        ours = spectral_decay_bound(n, power, radius, family)
        # The larger of the two radii is never worse.
        assert bool((ours <= share + 1e-12).all())
        assert n in (2, 3) or bool((ours >= share - 1e-12).all())


def test_limits():
    assert energy_decay_bound(1, 2.0) == 1  # beyond the radius nothing is promised
    assert energy_decay_bound(1, 0.0) == 0
    assert energy_decay_bound(10**7, 1.0) == pytest.approx(2.0002e-7, rel=1e-4)
    assert energy_decay_bound(4, 1.0, exponent=3.0) == pytest.approx(1 - 0.75**6)
    power = torch.tensor([1.0, 0, 0, 2.0, 0], dtype=torch.float64)
    radius = torch.tensor([0.0, 1, 2, 3, 4], dtype=torch.float64)
    assert spectral_decay_bound(6, power, radius).item() == pytest.approx(2 * (1 - 0.5**2.0002))
    assert spectral_decay_bound(6, power, radius, bounds=[(0.5, 3.0)]).item() == pytest.approx(6 * (1 - 0.5**2.0002))
    batch = spectral_decay_bound(6, torch.stack([power, 0 * power])[:, None], radius)
    assert batch.shape == (2, 1) and batch[1].item() == 0
    image = torch.stack([power] * 2)
    assert spectral_decay_bound(6, image, torch.stack([radius] * 2)).shape == ()


def test_mean_frequency():
    power = torch.tensor([[1.0, 0, 3.0]], dtype=torch.float64)
    radius = torch.tensor([0.0, 1, 2], dtype=torch.float64)
    assert mean_frequency(power, radius).item() == pytest.approx(1.5)
    assert mean_frequency(power, radius, 1.0).item() == pytest.approx(math.sqrt(3))
    values = [mean_frequency(power, radius, s).item() for s in (0.1, 0.5, 1, 2)]
    assert values == sorted(values)


@pytest.mark.parametrize("smoothness", [0.2, 0.45, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("slope", [0.5, 1.0, 2.0, 4.0])
def test_signals_that_are_not_band_limited(smoothness, slope):
    bank = wavelet_bank(512, gap=1 / 32)
    x = coloured(bank, slope)
    energy = scattering_energy(x, bank, 4).propagated
    power, radius = spectrum(x, bank), bank.radius()
    frequency = mean_frequency(power, radius, smoothness)
    for n in (1, 2, 3, 4):
        exact = spectral_decay_bound(n, power, radius, "wavelet", gap=bank.gap)
        for i in range(len(x)):
            bound = energy_decay_bound(n, frequency[i].item(), "wavelet", gap=bank.gap, smoothness=smoothness)
            assert energy[i, n].item() <= exact[i].item() <= bound + 1e-12
            assert bound <= 1


def test_smooth_rate():
    deep = [energy_decay_bound(n, 3.0, "wavelet", smoothness=0.25) for n in (20, 21)]
    assert deep[0] / deep[1] == pytest.approx(math.sqrt(5 / 3))
    assert energy_decay_bound(100, 3.0, smoothness=4.0) == pytest.approx(2.0002 * 3 / 100)


def test_balance_of_any_bank():
    bank = wavelet_bank_2d(16, 1, 4)
    uneven = [type(bank)(0.9 * bank.low, factor * bank.high) for factor in (0.8, 1.1, 1.3)]
    least, most = conservation_bounds([layer.bounds for layer in uneven])
    assert (least, most) == pytest.approx((0.64 * 0.81 * 0.81, 1.21 * 1.69))
    energy = scattering_energy(torch.randn(4, 16, 16, dtype=torch.float64), uneven, 3)
    share = (energy.features.sum(1) + energy.propagated[:, -1]) / energy.total
    assert bool((share >= least).all()) and bool((share <= most).all())
    assert conservation_bounds([]) == (1, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: decay_radius(2, "wavelet", dim=2), "'wavelet' filters is for dim=1, got dim=2"),
        (lambda: energy_decay_bound(2, 1.0, "weyl_heisenberg", dim=3), "dim=3"),
        (lambda: decay_radius(2, "gabor"), "'gabor'"),
        (lambda: decay_radius(0), "layers must be an int >= 1, got 0"),
        (lambda: decay_radius(1, gap=0.0), "gap=0.0"),
        (lambda: decay_radius(1, dim=0), "dim=0"),
        (lambda: decay_radius(1, base=2.0), "none of 'general', got 2.0"),
        (lambda: decay_radius(1, "wavelet", base=1.0), "base"),
        (lambda: energy_decay_bound(1, -1.0), "bandwidth"),
        (lambda: energy_decay_bound(1, 1.0, smoothness=0.0), "smoothness"),
        (lambda: energy_decay_bound(1, 1.0, exponent=1.0), "exponent must be above 1 for 1 axes, got 1.0"),
        (lambda: energy_decay_bound(1, 1.0, dim=2, exponent=2.0), "exponent"),
        (lambda: mean_frequency(torch.ones(3), torch.ones(3), 0.0), "smoothness"),
        (lambda: growth_exponent(0), "dim"),
        (lambda: decay_base(), "either"),
        (lambda: decay_base(ratio=2.0, width=1.0), "either"),
        (lambda: decay_base(ratio=1.0), "ratio"),
        (lambda: decay_base(width=2.0), "width"),
        (lambda: support_base(0.0, 1.0), "lower"),
        (lambda: support_base(1.0, 2.0, half_angle=2.0), "half_angle"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
