import math

import pytest
import torch
from torch import nn

from csc_nets.evaluation import reconstruct_images, scaled_lam, sweep_noise
from csc_nets.layers import MultiLayerCSC
from csc_nets.models import create_model


class Rolled(nn.Module):
    """Returns the images of a batch in another order, times a factor; features are the pixels."""

    def __init__(self, by=0, factor=1.0):
        super().__init__()
        self.by, self.factor = nn.Parameter(torch.tensor(by, dtype=torch.float32)), factor

    def encode(self, x):
        return x.flatten(1)

    def forward(self, x):
        return self.factor * x.roll(int(self.by), 0)


def half(x):
    """Images in [-1, 1] to pixels."""
    return (x / 2 + 0.5).clamp(0, 1)


@pytest.fixture
def images():
    return 2 * torch.rand(130, 1, 8, 8, generator=torch.Generator().manual_seed(0)) - 1


def test_a_perfect_loop(images):
    found = reconstruct_images(Rolled(), [(images[:70], None), (images[70:], None)], half)
    assert found.psnr.shape == (130,) and (found.psnr == math.inf).all()
    for values, wanted in ((found.ssim, 1), (found.error, 0), (found.alignment, 1), (found.recognised, 1)):
        torch.testing.assert_close(values, torch.full((130,), float(wanted)))
    assert found.density == {}


def test_half_of_every_pixel(images):
    found = reconstruct_images(Rolled(factor=0.5), [(images, None)], half, limit=110)
    x = images[:110]
    torch.testing.assert_close(found.psnr, -10 * (x.square().flatten(1).mean(1) / 16).log10())  # pixels are x / 2
    torch.testing.assert_close(found.error, torch.full((110,), 0.25))
    torch.testing.assert_close(found.alignment, torch.ones(110))


def test_other_images_are_not_recognised(images):
    assert reconstruct_images(Rolled(by=1), [(images, None)], half).recognised.sum() == 0


@pytest.mark.parametrize("size", [1, 30, 130])
def test_groups_to_be_recognised_in_do_not_depend_on_batches(images, size):
    """What comes back is the next image: not recognised but, by chance, where that is in another group of 100."""

    class Next(Rolled):
        def forward(self, x):
            places = (images[None] == x[:, None]).flatten(2).all(2).int().argmax(1)
            return images[(places + 1) % len(images)]

    found = reconstruct_images(Next(), [(part, None) for part in images.split(size)], half).recognised
    assert found.shape == (130,) and not found[:99].any() and not found[100:129].any()


def test_densities_are_means_over_images_of_batches_of_any_size():
    torch.manual_seed(0)
    model = create_model("csc_autoencoder", in_chans=1, widths=[4, 6]).eval()
    images = torch.randn(7, 1, 16, 16)
    whole = reconstruct_images(model, [(images, None)], half)
    parts = reconstruct_images(model, [(images[:5], None), (images[5:], None)], half)
    assert len(whole.density) == 2 and all(0 < share < 1 for share in whole.density.values())
    assert parts.density == pytest.approx(whole.density)
    torch.testing.assert_close(parts.psnr, whole.psnr)


def test_what_cannot_be_measured_is_refused(images):
    with pytest.raises(ValueError, match="from an autoencoder, got Linear"):
        reconstruct_images(nn.Linear(2, 2), [(images, None)], half)
    with pytest.raises(ValueError, match="no images"):
        reconstruct_images(Rolled(), [], half)


def test_noise_through_the_identity_is_the_noise():
    grey = torch.zeros(20, 1, 16, 16)  # far from black and white, where pixels are clipped
    rows, tiles = sweep_noise(Rolled(), grey, half, [0.5], sigmas=[0.0, 0.1])
    assert [row["sigma"] for row in rows] == [0.0, 0.1] and rows[0]["psnr"] == math.inf
    assert rows[1]["psnr"] == pytest.approx(20, abs=0.3) and rows[1]["noisy_psnr"] == rows[1]["psnr"]
    assert tiles.shape == (2, 2, 1, 16, 16) and torch.equal(tiles[:, 0], tiles[:, 1])


def test_the_sweep_multiplies_lam_and_puts_it_back():
    torch.manual_seed(0)
    model = create_model("csc_autoencoder", in_chans=1, widths=[4, 6], lam=0.2).eval()
    images = torch.randn(4, 1, 16, 16)
    rows, _ = sweep_noise(model, images, half, [0.5], sigmas=[0.1], factors=[0.5, 1, 3])
    assert rows[0]["density"] > rows[1]["density"] > rows[2]["density"] > 0
    model.set_lam(0.6)
    (again,), _ = sweep_noise(model, images, half, [0.5], sigmas=[0.1])
    assert again["psnr"] == pytest.approx(rows[2]["psnr"]) and again["density"] == pytest.approx(rows[2]["density"])
    with pytest.raises(RuntimeError), scaled_lam(model, 2.0):
        raise RuntimeError
    assert all(m.lam == pytest.approx(0.6) for m in model.modules() if hasattr(m, "lam"))


def test_bad_sweeps_are_refused(images):
    with pytest.raises(ValueError, match="has no CSC layers, whose lam could be multiplied by 2"):
        sweep_noise(Rolled(), images, half, [0.5], sigmas=[0.1], factors=[2])
    for sigma in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="must be lists of numbers >= 0"):
            sweep_noise(Rolled(), images, half, [0.5], sigmas=[0.1, sigma])


def test_lam_of_several_dictionaries_is_scaled_too():
    model = create_model("ml_csc_mnist", in_chans=1)
    (layer,) = (module for module in model.modules() if isinstance(module, MultiLayerCSC))
    own = layer.lam
    with scaled_lam(model, 2.0):
        torch.testing.assert_close(layer.lam, tuple(2 * part for part in own))
    torch.testing.assert_close(layer.lam, own)
