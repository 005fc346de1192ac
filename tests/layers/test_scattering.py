import copy
import math

import pytest
import torch
import torch.nn.functional as F

from csc_nets.functional import FilterBank, morlet_bank, scattering_features, wavelet_bank_2d
from csc_nets.layers import Scattering2d


@pytest.fixture
def images():
    return torch.randn(3, 2, 16, 16, generator=torch.Generator().manual_seed(0))


def smooth(images):
    return F.avg_pool2d(F.pad(images, (3,) * 4, mode="reflect"), 7, 1)


def cascade(layer, images):
    """The same paths of the cascade without subsampling, at every 2^J-th pixel."""
    step = 2**layer.scales
    padded = F.pad(images.double(), (step,) * 4, mode="reflect")
    size = padded.shape[2:]
    if layer.bank == "wavelet":
        bank = wavelet_bank_2d(size, layer.scales, layer.angles)
    else:
        wavelets, low = morlet_bank(size, layer.scales, layer.angles)
        labels = [{"scale": j, "angle": i} for j in range(layer.scales) for i in range(layer.angles)]
        bank = FilterBank(low, torch.cat(wavelets) / math.sqrt(2), labels)
    found = scattering_features(
        padded, bank, layer.order + 1, follow=lambda first, second: second["scale"] > first["scale"]
    )
    layers = [f[..., step:-step:step, step:-step:step] for f in found.features]
    return torch.cat(layers, 2)


@pytest.mark.parametrize("bank", ["wavelet", "morlet"])
@pytest.mark.parametrize("scales, order", [(1, 1), (2, 1), (2, 2), (3, 2)])
def test_subsampling_costs_little(bank, scales, order, images):
    layer = Scattering2d(scales, 4, order=order, bank=bank, input_size=16)
    ours, exact = layer(images).unflatten(1, (2, -1)), cascade(layer, images)
    assert ours.shape == exact.shape == (3, 2, layer.paths, 16 // 2**scales, 16 // 2**scales)
    torch.testing.assert_close(ours[:, :, :1].double(), exact[:, :, :1], rtol=1e-4, atol=1e-5)
    error = ((ours - exact).norm() / exact.norm()).item()
    # What the moduli have above the band limit of their grid: nothing at scale 0, which is not subsampled.
    assert error < (1e-5 if scales == 1 else 0.01)
    finest = slice(1, 5)
    torch.testing.assert_close(ours[:, :, finest].double(), exact[:, :, finest], rtol=1e-4, atol=1e-5)
    if order == 2 and scales > 1:
        second = slice(1 + 4 * scales, None)
        assert (ours[:, :, second] - exact[:, :, second]).norm() < 0.05 * exact[:, :, second].norm()


@pytest.mark.parametrize("scales", [2, 3])
def test_coefficients_are_those_of_kymatio(scales):
    frontend = pytest.importorskip("kymatio.scattering2d.frontend.torch_frontend")
    x = torch.randn(2, 3, 32, 32)
    theirs = frontend.ScatteringTorch2D(J=scales, shape=(32, 32), L=8)(x)
    layer = Scattering2d(scales, 8, bank="morlet")
    ours = layer(x).unflatten(1, (3, -1))
    # It takes 3.1415 for pi in the norm of each filter: one more for each order.
    norm = torch.full((layer.paths, 1, 1), math.pi / 3.1415)
    norm[1:] *= math.pi / 3.1415
    norm[1 + 8 * scales :] *= math.pi / 3.1415
    torch.testing.assert_close(ours * norm, theirs, rtol=1e-5, atol=2e-6)


def test_a_constant_has_an_average_and_nothing_else():
    for bank in ("wavelet", "morlet"):
        y = Scattering2d(2, 4, bank=bank, input_size=16)(torch.full((1, 1, 16, 16), 3.0))
        torch.testing.assert_close(y[:, 0], torch.full((1, 4, 4), 3.0), rtol=1e-5, atol=0)
        assert y[:, 1:].abs().max() < 1e-5


def test_the_parseval_frame_keeps_the_energy_that_its_paths_carry(images):
    x = smooth(images)
    x = torch.cat([x, x.flip(-1)], -1)  # periodic after reflection by a whole period
    layer = Scattering2d(2, 4, input_size=(16, 32))
    kept = 4**2 * layer(x).square().sum() / x.square().sum()
    assert 0.9 < kept < 1.1


def test_moduli_contract_and_do_not_see_the_sign(images):
    layer = Scattering2d(2, 4, input_size=16)
    a, b = layer(images), layer(images + 0.1 * images.flip(0))
    assert (a - b).norm() <= images.flip(0).norm() * 0.1
    other = layer(-images).unflatten(1, (2, -1))
    torch.testing.assert_close(other[:, :, 1:], a.unflatten(1, (2, -1))[:, :, 1:], rtol=1e-4, atol=1e-5)


def test_other_sizes_build_their_filters(images):
    x = images[..., :15, :13]
    kept = Scattering2d(2, 4, input_size=(15, 13))
    torch.testing.assert_close(Scattering2d(2, 4, input_size=16)(x), kept(x))
    assert kept(x).shape == (3, 2 * kept.paths, 4, 4)


def test_batches_in_parts_give_the_same(images, monkeypatch):
    layer = Scattering2d(2, 4, input_size=16)
    whole = layer(images)
    monkeypatch.setattr("csc_nets.layers.scattering.CACHED", 1)
    torch.testing.assert_close(layer(images), whole)


def test_gradients(images):
    layer = Scattering2d(2, 2, input_size=8).double()
    x = images[:1, :1, :8, :8].double().requires_grad_()
    assert torch.autograd.gradcheck(layer, x)
    zero = torch.zeros(1, 1, 8, 8, requires_grad=True)
    layer.float()(zero).sum().backward()
    assert zero.grad.isfinite().all()


def test_nothing_is_learned_and_nothing_is_saved():
    layer = Scattering2d(3, 8)
    assert layer.paths == 217 and not list(layer.parameters()) and not layer.state_dict()
    assert copy.deepcopy(layer).extra_repr() == "scales=3, angles=8, order=2, bank='wavelet', input_size=(32, 32)"
    with torch.device("meta"):
        assert Scattering2d(1, 2).rows_0.device.type == "cpu"


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"scales": 0}, "scales >= 1"),
        ({"order": 3}, "order 1 or 2"),
        ({"bank": "haar"}, "wavelet, morlet, got 'haar'"),
        ({"scales": 3, "input_size": 8}, r"9 x 9 pixels or more, 16 where .* got \(8, 8\)"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Scattering2d(**arguments)


@pytest.mark.parametrize("x", [torch.ones(16, 16), torch.ones(1, 1, 16, 16, dtype=torch.int64)])
def test_bad_images_are_refused(x):
    with pytest.raises(ValueError, match=r"expected images \(N, C, H, W\) of floats"):
        Scattering2d(2, 2, input_size=16)(x)


@pytest.mark.parametrize("shape", [(0, 3, 16, 16), (0, 3, 20, 17), (2, 0, 16, 16)])
@pytest.mark.parametrize("order", [1, 2])
def test_an_empty_batch_has_empty_coefficients(shape, order):
    layer = Scattering2d(2, 3, order=order, input_size=16)
    size = [-(-n // 4) for n in shape[2:]]
    assert layer(torch.zeros(shape)).shape == (shape[0], shape[1] * layer.paths, *size)
