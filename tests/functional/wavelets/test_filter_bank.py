"""Filter banks against closed forms, and against sums over filters on real signals."""

import math

import pytest
import torch

from csc_nets.functional import FilterBank, wavelet_bank, wavelet_bank_2d, weyl_heisenberg_bank
from csc_nets.functional.wavelets.filter_bank import kymatio_bank

BANKS = {
    "weyl_heisenberg": lambda: weyl_heisenberg_bank(1024, gap=1.0, sampling_rate=64.0),
    "weyl_heisenberg_odd": lambda: weyl_heisenberg_bank(125, gap=0.9, sampling_rate=11.0),
    "weyl_heisenberg_images": lambda: weyl_heisenberg_bank((32, 24), gap=1 / 8),
    "weyl_heisenberg_odd_images": lambda: weyl_heisenberg_bank((21, 32), gap=1 / 10),
    "wavelet": lambda: wavelet_bank(1024, gap=1.0, sampling_rate=64.0),
    "wavelet_cut": lambda: wavelet_bank(375, gap=1.3, sampling_rate=50.0, ratio=1.5),
    "wavelet_images": lambda: wavelet_bank_2d(32, 3, 4),
    "wavelet_odd_images": lambda: wavelet_bank_2d((33, 40), 2, 6),
    "steerable": lambda: wavelet_bank_2d(32, 2, 3, steerable=True),
    "one_angle": lambda: wavelet_bank_2d(16, 1, 1, steerable=True),
}


@pytest.fixture(params=BANKS)
def bank(request):
    return BANKS[request.param]()


def test_energy_of_a_real_signal_is_that_of_its_parts(bank):
    axes = tuple(range(-len(bank.size), 0))
    spectrum = torch.fft.fftn(torch.randn(bank.size, dtype=torch.float64), dim=axes)
    parts = torch.fft.ifftn(spectrum * bank.low, dim=axes), torch.fft.ifftn(spectrum * bank.high, dim=axes)
    total = sum(weight * part.abs().square().sum().item() for weight, part in zip((1, 2), parts, strict=True))
    assert total == pytest.approx(torch.fft.ifftn(spectrum).abs().square().sum().item(), rel=1e-13)
    assert bank.bounds == pytest.approx((1, 1), abs=1e-14)
    sampled = (torch.fft.ifftn(spectrum * response, dim=axes) for response in (bank.low, *bank.high))
    assert all(part.isfinite().all() for part in sampled)


def test_littlewood_paley_sum_is_the_square_of_the_operator():
    """Frame bounds of any bank are the extreme eigenvalues on real signals, here of an uneven one."""
    low = torch.rand(9, dtype=torch.float64)
    small = FilterBank(low + low.flip(0).roll(1), torch.rand(2, 9, dtype=torch.float64))
    signals = torch.eye(9, dtype=torch.float64)
    filters = torch.cat([small.low[None], small.high, small.high])
    outputs = torch.fft.ifft(torch.fft.fft(signals) * filters[:, None]).transpose(0, 1).flatten(1)
    outputs = torch.view_as_real(outputs).flatten(1)
    eigenvalues = torch.linalg.eigvalsh(outputs @ outputs.T)
    assert small.bounds == pytest.approx((eigenvalues[0].item(), eigenvalues[-1].item()), abs=1e-12)
    assert small.parseval().bounds == pytest.approx((1, 1), abs=1e-14)


def test_high_pass_filters_vanish_up_to_the_gap_and_not_beyond(bank):
    radius, passed = bank.radius(), bank.high.abs().amax(0)
    assert bool((passed[radius <= bank.gap] < 1e-12).all())
    assert bank.low[radius <= bank.gap].min().item() == pytest.approx(1, abs=1e-14)
    beyond = radius[radius > bank.gap * (1 + 1e-9)].min()
    assert passed[(radius - beyond).abs() < 1e-9].max() > 1e-3


def test_gap_is_the_one_asked_for_rounded_down_to_the_grid():
    assert wavelet_bank(16, gap=0.1).gap == weyl_heisenberg_bank(16, gap=0.1).gap == 1 / 16
    assert wavelet_bank_2d(32, 2, 4).gap == wavelet_bank_2d((16, 32), 2, 4).gap == 1 / 16
    assert wavelet_bank_2d((8, 8), 2, 4).gap == 0  # asked for 1 / 16, with frequencies 0, 1 / 8, ...


def test_filters_between_the_frequencies_of_the_grid():
    """Of wavelets around 0.02, 0.04, ... those that 16 samples resolve start with the third."""
    with pytest.raises(ValueError, match=r"size \(16,\), got 1 of 6 .* first being {'scale': 1, 'centre': 0.02}"):
        wavelet_bank(16, gap=0.01)
    with pytest.raises(ValueError, match="got 4 of 16 that pass none"):
        wavelet_bank_2d(8, 2, 8)
    with pytest.raises(ValueError, match="of the grid"):
        weyl_heisenberg_bank(16, gap=0.01)
    line = torch.eye(8)[:3] * torch.tensor([1.0, 0.0, 1e-20])[:, None]
    with pytest.raises(ValueError, match="got 2 of 3 that pass none, the first being number 1"):
        FilterBank(torch.ones(8), line)


def test_analytic(bank, request):
    name = request.node.callspec.params["bank"]
    quadrants = bank.leakage()
    assert quadrants.shape == (len(bank),)
    assert bank.leakage(math.pi).max() < 1e-14
    if name in ("steerable", "one_angle"):
        assert quadrants.min() > 0.04
    else:
        assert quadrants.max() < 1e-14


def test_leakage_in_closed_form():
    line = torch.tensor([0.0, 2.0, 0.0, 3.0, 1.0, 0.0])  # frequencies 0, 1, 2, Nyquist, -2, -1
    bank = FilterBank(torch.ones(6), torch.stack([line, torch.ones(6)]))
    assert bank.leakage().tolist() == pytest.approx([1 / 14, 2 / 6])
    plane = torch.zeros(8, 8)
    plane[0, 1], plane[2, 0], plane[0, -1] = 3, 2, 1  # right, up, left
    bank = FilterBank(torch.ones(8, 8), plane[None])
    assert bank.leakage(0).item() == pytest.approx(5 / 14)
    assert bank.leakage().item() == pytest.approx(1 / 14)
    assert bank.leakage(math.pi).item() < 1e-15


def test_weyl_heisenberg_windows():
    bank = weyl_heisenberg_bank(1024, gap=1.0, sampling_rate=64.0)
    w = bank.frequencies()[0]
    for label, response in list(zip(bank.labels, bank.high, strict=True))[:-1]:
        t = w - label["centre"][0]
        torch.testing.assert_close(response, torch.cos(math.pi / 2 * t) * (t.abs() < 1), atol=1e-14, rtol=0)
    last = bank.high[-1]
    assert bank.labels[-1] == {"centre": (32,)}
    assert last[512].item() == pytest.approx(math.sqrt(0.5))  # Nyquist is its own mirror image
    assert last[511].item() == pytest.approx(math.cos(math.pi / 2 / 16))
    # The low-pass is what the others leave, and twice as wide units are the same numbers.
    rest = 1 - bank.high.square().sum(0) - bank.high.square().sum(0).flip(0).roll(1)
    torch.testing.assert_close(bank.low.square(), rest, atol=1e-14, rtol=0)
    torch.testing.assert_close(bank.high, weyl_heisenberg_bank(1024, gap=2.0, sampling_rate=128.0).high)


def test_wavelets():
    bank = wavelet_bank(1024, gap=1.0, sampling_rate=64.0)
    w = bank.frequencies()[0]
    for j, response in enumerate(bank.high[:-1], start=1):
        inside = (w > 2.0 ** (j - 1)) & (w < 2.0 ** (j + 1))
        expected = torch.cos(math.pi / 2 * (w.clamp_min(1e-9).log2() - j)) * inside
        torch.testing.assert_close(response, expected, atol=1e-14, rtol=0)
    assert len(bank) == 5
    narrow = wavelet_bank(1024, gap=1.0, sampling_rate=64.0, ratio=1.25)
    for label, response in list(zip(narrow.labels, narrow.high, strict=True))[:-1]:
        support = w[(response != 0) & (w != -32)]
        assert label["centre"] / 1.25 <= support.min() < support.max() <= label["centre"] * 1.25


def test_wavelets_of_images():
    bank = wavelet_bank_2d(64, 3, 4)
    y, x = bank.frequencies()
    # On the axis of angle 0 the filters of scale j are 1 at their centre 2^-(j+2), and the next scale takes over.
    for j in range(3):
        at = (y == 0) & (x == 2.0 ** -(j + 2))
        row = bank.high[:, at][:, 0]
        assert row.argmax().item() == 4 * j and row.max().item() == pytest.approx(1)
    assert bank.labels[5] == {"scale": 1, "angle": 1}
    assert not bank.low[bank.radius() >= 2.0**-4].any()  # it may be sampled at every 8th pixel
    turned = bank.high[2].T  # a quarter of a turn
    torch.testing.assert_close(turned[1:, 1:], bank.high[0][1:, 1:], atol=1e-14, rtol=0)


def test_steerable():
    """Sums of a filter and its mirror image, turned by any angle, lie in the span of the others."""
    bank = wavelet_bank_2d(32, 1, 3, steerable=True)
    y, x = bank.frequencies()
    ring = (bank.radius() > bank.gap) & (2 * y.abs() < 1) & (2 * x.abs() < 1)
    radial = bank.high.square().sum(0) + bank.high.square().sum(0).flip((0, 1)).roll((1, 1), (0, 1))
    filters = (bank.high + bank.high.flip((1, 2)).roll((1, 1), (1, 2)))[:, ring].T
    turned = (radial.sqrt() * torch.cos(torch.atan2(y, x) - 0.3).square())[ring][:, None]
    residual = turned - filters @ torch.linalg.lstsq(filters, turned).solution
    assert residual.norm() < 1e-12 * turned.norm()


def test_kymatio():
    pytest.importorskip("kymatio.scattering2d.filter_bank", reason="kymatio is not installed")
    bank = kymatio_bank((32, 32), 2, 8)
    low, high = bank.bounds
    assert low < 0.2 and high == pytest.approx(1, abs=1e-3)  # not even nearly tight, in the corners
    assert bank.leakage(math.pi).max().item() == pytest.approx(0.16, abs=0.01)
    assert bank.gap <= 0
    assert bank.parseval().bounds == pytest.approx((1, 1), abs=1e-14)


def test_kymatio_is_optional(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "kymatio.scattering2d.filter_bank", None)
    with pytest.raises(ImportError, match="pip install kymatio"):
        kymatio_bank((32, 32), 2, 8)


def test_precision_and_device():
    bank = weyl_heisenberg_bank(64, gap=0.1).to(dtype=torch.float32)
    assert bank.low.dtype == bank.high.dtype == torch.float32
    assert bank.bounds == pytest.approx((1, 1), abs=1e-6) and bank.gap > 0
    assert bank.to("cpu", torch.float64).high.dtype == torch.float64


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: weyl_heisenberg_bank(64, gap=0.5), "gap must be above 0 and below the largest frequency 0.5, got 0.5"),
        (lambda: weyl_heisenberg_bank(64, gap=-1.0), "gap"),
        (lambda: weyl_heisenberg_bank((8, 8, 8), gap=0.1), r"size .*\(8, 8, 8\)"),
        (lambda: wavelet_bank(64, gap=0.1, ratio=1.0), "ratio"),
        (lambda: wavelet_bank(64, gap=0.1, sampling_rate=math.inf), "sampling_rate"),
        (lambda: wavelet_bank_2d(16, 0, 4), "scales and angles must be >= 1, got 0 and 4"),
        (lambda: wavelet_bank_2d(16, 5, 4), "5 scales need two axes of 64 or more"),
        (lambda: wavelet_bank_2d((64, 64, 64), 2, 4), "two axes"),
        (lambda: FilterBank(torch.ones(8), torch.ones(8)), r"\(8,\)"),
        (lambda: FilterBank(torch.ones(8), torch.ones(2, 8, dtype=torch.complex64)), "real"),
        (lambda: FilterBank(torch.arange(8.0), torch.ones(2, 8)), "same at minus the frequency"),
        (lambda: FilterBank(torch.ones(8), torch.ones(2, 8), [{}]), "2 labels"),
        (lambda: FilterBank(torch.ones(8), torch.ones(2, 8), sampling_rate=0), "sampling_rate"),
        (lambda: FilterBank(torch.zeros(8), torch.eye(8)[:2]).parseval(), "no filter passes 5 of 8"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
