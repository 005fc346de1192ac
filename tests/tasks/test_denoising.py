"""The denoising task: its loss without clean images, its numbers, its projection, and its way back."""

import math

import lightning as L
import pytest
import torch
from torch import nn

from csc_nets.data import TensorDataModule
from csc_nets.models import Denoiser, create_model
from csc_nets.tasks import DenoisingTask
from csc_nets.tasks.denoising import mc_sure

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class Scale(nn.Module):
    """Shrinks images by a factor, whatever the noise level; counts projections."""

    def __init__(self, by=1.0):
        super().__init__()
        self.by = nn.Parameter(torch.tensor(by))
        self.projections = 0

    def forward(self, x, sigma=None):
        return self.by * x

    def project(self):
        self.projections += 1


def data_of(x=None, size=16, **options):
    x = torch.rand(8, 1, size, size, generator=torch.Generator().manual_seed(0)) if x is None else x
    y = torch.zeros(len(x)).long()
    return TensorDataModule(x, y, val=(x[:2], y[:2]), test=(x[:4], y[:4]), batch_size=4, **options)


def test_the_identity_has_the_psnr_of_the_noise():
    task = DenoisingTask(Scale(), test_noise=[15, 25.5])
    (numbers,) = L.Trainer(**QUIET).test(task, datamodule=data_of(size=64), verbose=False)
    assert numbers["test/psnr_25.5"] == pytest.approx(20, abs=0.1)
    assert numbers["test/psnr_15"] == pytest.approx(-20 * math.log10(15 / 255), abs=0.1)
    assert numbers["test/psnr"] == pytest.approx((numbers["test/psnr_15"] + numbers["test/psnr_25.5"]) / 2, abs=1e-4)
    assert numbers["test/gain"] == pytest.approx(0, abs=1e-5)


def test_numbers_are_of_pixels_and_the_same_every_time():
    plain = DenoisingTask(Scale(0.9))
    normalised = DenoisingTask(Scale(0.9), mean=[0.5], std=[0.25])
    trainer = L.Trainer(**QUIET)
    (a,) = trainer.test(plain, datamodule=data_of(), verbose=False)
    (b,) = trainer.test(normalised, datamodule=data_of(mean=[0.5], std=[0.25]), verbose=False)
    (c,) = trainer.test(plain, datamodule=data_of(), verbose=False)
    assert a == c and a == pytest.approx(b, rel=1e-4)


@pytest.mark.parametrize("factor", [0.0, 0.7, 1.0])
def test_the_loss_without_clean_images_is_the_mean_squared_error(factor):
    clean, sigma = torch.rand(4, 1, 128, 128), torch.tensor([0.05, 0.1, 0.2, 0.3]).view(4, 1, 1, 1)
    noisy = clean + sigma * torch.randn_like(clean)
    denoise = lambda x: factor * x  # noqa: E731
    expected = (denoise(noisy) - clean).square().mean()
    # In expectation both are (1 - a)^2 |x|^2 + a^2 sigma^2.
    assert mc_sure(denoise, noisy, sigma).item() == pytest.approx(expected.item(), abs=2e-3)


def test_the_loss_without_clean_images_finds_wieners_factor():
    # Images of variance v: the best factor is v / (v + sigma^2), by the noisy images alone.
    clean = 0.2 * torch.randn(8, 1, 64, 64)
    noisy = clean + 0.1 * torch.randn_like(clean)
    factors = torch.linspace(0.5, 1, 26)
    losses = [mc_sure(lambda x, a=a: a * x, noisy, 0.1).item() for a in factors]
    assert factors[torch.tensor(losses).argmin()].item() == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("loss", ["mse", "mc_sure"])
def test_training_improves_a_denoiser_and_projects_after_each_step(loss):
    model = create_model("cdlnet", steps=2, atoms=8)
    task = DenoisingTask(model, loss=loss, lr=1e-2, test_noise=[25], schedule="constant")
    trainer = L.Trainer(max_epochs=40, **QUIET)
    phase = torch.rand(8, 2, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    along = torch.linspace(0, 6, 16)
    x = 0.5 + 0.25 * (torch.sin(along + 6 * phase[:, 0]) + torch.sin(along[:, None] + 6 * phase[:, 1]))
    data = data_of(x=x)
    trainer.fit(task, datamodule=data)
    assert min(model.coder.pursuit.floors.min(), model.coder.pursuit.slopes.min()) >= 0
    (numbers,) = trainer.test(task, datamodule=data, verbose=False)
    assert numbers["test/gain"] > 1
    counted = Scale()
    L.Trainer(max_epochs=3, **QUIET).fit(DenoisingTask(counted), datamodule=data_of())
    assert counted.projections == 6


def test_gradients_are_clipped():
    seen = []

    class Watched(DenoisingTask):
        def configure_gradient_clipping(self, *args, **kwargs):
            super().configure_gradient_clipping(*args, **kwargs)
            seen.append(self.model.by.grad.abs().item())

    L.Trainer(max_epochs=1, **QUIET).fit(Watched(Scale(5.0), clip=0.01), datamodule=data_of())
    assert max(seen) <= 0.01 + 1e-6


class Exploding(DenoisingTask):
    """Spoils its network at one step."""

    at, how = 3, 100.0

    def on_train_batch_end(self, *args):
        if self.global_step == self.at:
            with torch.no_grad():
                self.model.by.fill_(self.how)


@pytest.mark.parametrize("how", [100.0, math.nan])
def test_after_an_explosion_it_returns_to_the_best_weights_with_a_smaller_rate(how, capsys):
    task = Exploding(Scale(0.9), lr=1e-4, schedule="constant")
    task.how = how
    trainer = L.Trainer(max_epochs=4, **QUIET)
    trainer.fit(task, datamodule=data_of())
    assert 0.8 < task.model.by.item() < 1
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.8e-4)
    assert "back to the best weights" in capsys.readouterr().out


def test_it_does_not_return_for_ever():
    class Broken(Scale):
        def forward(self, x, sigma=None):
            return super().forward(x) * math.nan

    with pytest.raises(FloatingPointError, match=r"smaller task\.lr"):
        L.Trainer(max_epochs=20, **QUIET).fit(DenoisingTask(Broken()), datamodule=data_of())


def test_a_resumed_run_knows_what_to_return_to(tmp_path):
    task = DenoisingTask(Scale(0.9), lr=1e-3)
    trainer = L.Trainer(max_epochs=2, **QUIET)
    trainer.fit(task, datamodule=data_of())
    task._rate = 0.64
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    again = DenoisingTask(Scale(0.9), lr=1e-3)
    L.Trainer(max_epochs=3, **QUIET).fit(again, datamodule=data_of(), ckpt_path=tmp_path / "x.ckpt")
    assert again._rate == 0.64 and again._best["psnr"] >= task._best["psnr"]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"noise": [30, 20]}, "noise must be"),
        ({"noise": []}, r"noise must be a number >= 0, or two, the smaller first, got \[\]"),
        ({"noise": [5, 10, 50]}, r"noise must be .* got \[5, 10, 50\]"),
        ({"noise": ["5", "10"]}, "noise must be"),
        ({"test_noise": []}, "test_noise must be"),
        ({"loss": "l1"}, "loss must be one of mse, mc_sure"),
        ({"clip": 0}, "clip must be"),
        ({"fall": 0}, "fall must be"),
        ({"shrink": 1.5}, "shrink must be"),
    ],
)
def test_bad_values_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DenoisingTask(Scale(), **options)


def test_a_network_without_noise_level_is_refused():
    with pytest.raises(ValueError, match="takes sigma, got CSCSmall"):
        DenoisingTask(create_model("csc_small"))


def test_a_network_of_ones_own(tmp_path):
    class Blur(Denoiser):
        def __init__(self):
            super().__init__([nn.Conv2d(1, 1, 3, padding=1)], [1], [1], in_chans=1, input_size=16)

        def restore(self, x, level, mask):
            return self.stages[0](x)

    L.Trainer(max_epochs=1, **QUIET).fit(DenoisingTask(Blur()), datamodule=data_of())


class Seen(Scale):
    """The observed values, and 0 where there are none."""

    def forward(self, x, sigma=None, mask=None):
        return self.by * (x if mask is None else x * mask)


def test_hidden_pixels_count_and_are_not_seen():
    """Of ones without noise, a network that returns what it sees misses the hidden share, exactly in each image."""
    for hidden, missing, channels in ((0.25, 0.25, 1), (0.3, round(0.3 * 64**2) / 64**2, 1), ("mosaic", 2 / 3, 3)):
        x = torch.ones(4, channels, 64, 64)
        task = DenoisingTask(Seen(), hidden=hidden, noise=0, test_noise=[0])
        (got,) = L.Trainer(**QUIET).test(task, datamodule=data_of(x), verbose=False)
        assert got["test/psnr"] == pytest.approx(-10 * math.log10(missing), abs=1e-4)
        assert "test/gain" not in got  # the noisy image has no value there
        loss = DenoisingTask(Seen(), hidden=hidden, noise=0).training_step((x, torch.zeros(4).long()), 0)
        assert loss.item() == pytest.approx(missing, abs=1e-6)


def test_a_denoiser_learns_its_thresholds():
    """Without thresholds an unrolled network is a linear filter; a new one starts there."""
    model = create_model("cdlnet", steps=3, atoms=8, kernel_size=3)
    x = (torch.rand(16, 1, 4, 4, generator=torch.Generator().manual_seed(1)) > 0.5).float()
    data = data_of(nn.functional.interpolate(x, scale_factor=4))
    task = DenoisingTask(model, noise=30, test_noise=[30], lr=1e-2, clip=None)
    L.Trainer(**QUIET, max_epochs=40).fit(task, datamodule=data)
    (learned,) = L.Trainer(**QUIET).test(task, datamodule=data, verbose=False)
    with torch.no_grad():
        model.coder.pursuit.floors.zero_()
        model.coder.pursuit.slopes.zero_()
    (linear,) = L.Trainer(**QUIET).test(task, datamodule=data, verbose=False)
    assert learned["test/psnr"] > linear["test/psnr"] + 0.2


def test_what_cannot_be_hidden():
    with pytest.raises(ValueError, match=r"hidden must be a share of the pixels in \[0, 1\) or 'mosaic', got 1"):
        DenoisingTask(Seen(), hidden=1)
    with pytest.raises(ValueError, match=r"in \[0, 1\) or 'mosaic', got 'mosaics'"):
        DenoisingTask(Seen(), hidden="mosaics")
    with pytest.raises(ValueError, match=r"hidden=0\.5 needs a network that takes a mask, got Scale"):
        DenoisingTask(Scale(), hidden=0.5)
    with pytest.raises(ValueError, match="mc_sure is derived for whole images"):
        DenoisingTask(Seen(), hidden=0.5, loss="mc_sure")
    with pytest.raises(ValueError, match="for images of 3 channels, got a network for 1"):
        DenoisingTask(create_model("cdlnet", steps=1, atoms=2), hidden="mosaic")


def test_a_network_learns_to_fill():
    model = create_model("cdlnet", steps=3, atoms=8, kernel_size=3)
    x = torch.linspace(0, 1, 16).expand(16, 1, 16, 16).clone()
    task = DenoisingTask(model, hidden=0.5, noise=1, test_noise=[1], lr=1e-2)
    data = data_of(x)
    (before,) = L.Trainer(**QUIET).test(task, datamodule=data, verbose=False)
    L.Trainer(**QUIET, max_epochs=40).fit(task, datamodule=data)
    (after,) = L.Trainer(**QUIET).test(task, datamodule=data, verbose=False)
    assert after["test/psnr"] > before["test/psnr"] + 4


@pytest.mark.parametrize(
    "sigma", [-1.0, "0.1", True, float("nan"), torch.ones(2), torch.ones(3, 1, 1, 1), -torch.ones(2, 1, 1, 1)]
)
def test_bad_noise_levels_of_an_estimated_risk_are_refused(sigma):
    with pytest.raises(ValueError, match="mc_sure: sigma must be"):
        mc_sure(lambda y: y, torch.rand(2, 1, 4, 4), sigma)
