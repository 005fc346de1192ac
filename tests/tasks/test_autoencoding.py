import lightning as L
import pytest
import torch
from torch import nn

from csc_nets.data import TensorDataModule
from csc_nets.models import create_model
from csc_nets.tasks import AutoencodingTask

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class Shift(nn.Module):
    """Returns the image plus a constant."""

    def __init__(self, by):
        super().__init__()
        self.by = nn.Parameter(torch.tensor(by))

    def encode(self, x):
        return x

    def forward(self, x):
        return x + self.by


def numbers_of(model, x, **options):
    data = TensorDataModule(
        x, torch.arange(len(x)) % 2, test=(x, torch.zeros(len(x)).long()), val_fraction=0.5, **options
    )
    task = AutoencodingTask(model, mean=data.mean, std=data.std)
    (numbers,) = L.Trainer(**QUIET).test(task, datamodule=data, verbose=False)
    return numbers


@pytest.mark.parametrize("size", [8, 15, 16, 28])
def test_the_identity_is_perfect_at_every_size(size):
    numbers = numbers_of(Shift(0.0), torch.rand(6, 1, size, size))
    assert numbers["test/reconstruction_error"] == 0
    assert numbers["test/ssim"] == pytest.approx(1)
    assert "test/density" not in numbers


def test_a_constant_error_of_a_tenth_is_twenty_decibel_in_pixels():
    # In normalised units the shift is 0.1 / std.
    x = torch.rand(6, 3, 16, 16) * 0.8
    numbers = numbers_of(Shift(0.1 / 0.25), x, mean=[0.5, 0.4, 0.3], std=[0.25] * 3)
    assert numbers["test/psnr"] == pytest.approx(20, abs=1e-3)
    normalised = (x - torch.tensor([0.5, 0.4, 0.3]).view(-1, 1, 1)) / 0.25
    error = (0.4**2 * normalised[0].numel() / normalised.square().sum((1, 2, 3))).mean().item()
    assert numbers["test/reconstruction_error"] == pytest.approx(error, rel=1e-4)


def test_pixels_are_clipped_to_what_a_picture_can_show():
    assert numbers_of(Shift(5.0), torch.ones(4, 1, 8, 8), mean=[0.0], std=[1.0])["test/psnr"] > 60


def test_training_lowers_the_error_and_the_codes_are_counted():
    torch.manual_seed(0)
    x = torch.rand(32, 1, 8, 8)
    data = TensorDataModule(x, torch.arange(32) % 2, test=(x, torch.arange(32) % 2), batch_size=8, val_fraction=0.25)
    model = create_model("csc_autoencoder", in_chans=1, widths=[8])
    task = AutoencodingTask(model, lr=0.01, optimizer="adamw", schedule="constant")
    trainer = L.Trainer(max_epochs=8, num_sanity_val_steps=0, **QUIET)
    (before,) = trainer.validate(task, datamodule=data, verbose=False)
    trainer.fit(task, datamodule=data)
    (after,) = trainer.validate(task, datamodule=data, verbose=False)
    assert after["val/loss"] < 0.5 * before["val/loss"]
    (numbers,) = trainer.test(task, datamodule=data, verbose=False)
    assert 0 < numbers["test/density"] < 1


def test_a_classifier_is_refused():
    with pytest.raises(ValueError, match="needs an autoencoder, got CSCSmall"):
        AutoencodingTask(create_model("csc_small", widths=[4]))
