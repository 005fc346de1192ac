"""Training of an autoencoder."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from csc_nets.tasks.code_statistics import observe_codes
from csc_nets.tasks.image_quality import psnr, ssim
from csc_nets.tasks.registry import register_task
from csc_nets.tasks.task import Task

__all__ = ["AutoencodingTask"]


@register_task(name="autoencoding")
class AutoencodingTask(Task):
    """Mean-squared-error training of an autoencoder on batches ``(images (N, C, H, W), labels)``; labels are unused.

    The loss compares normalised images. Logs ``train/loss``; ``val/loss`` and ``val/psnr``; and for a test run

    - ``test/loss``,
    - ``test/psnr`` (dB) and ``test/ssim``: of images brought back to the range [0, 1] and clipped there, a mean over
      images (SSIM of images under 16 pixels uses a Gaussian of 0.5 in place of 1.5 pixels). SSIM is that of
      torchmetrics, with mirrored borders; ``test/ssim_interior`` that of the paper, of windows within the image,
    - ``test/density``, the share of non-zero code coefficients, a mean over test images and CSC layers,
    - ``test/reconstruction_error``, ``||x - x_hat||^2 / ||x||^2`` of the whole network, a mean over test images.

    Args:
        model: network from images to images of the same shape, with a method ``encode``.
        mean: mean per channel that the data were normalised with.
        std: standard deviation per channel that the data were normalised with.
        **common: see :class:`csc_nets.tasks.Task`.

    Raises:
        ValueError: the model is no autoencoder.
    """

    monitor = "val/psnr"
    monitor_mode = "max"

    def __init__(
        self, model: nn.Module, *, mean: Sequence[float] = (0.0,), std: Sequence[float] = (1.0,), **common: Any
    ) -> None:
        super().__init__(model, **common)
        if not hasattr(model, "encode"):
            raise ValueError(f"task autoencoding needs an autoencoder, got {type(model).__name__}")
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(list(mean)).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(list(std)).view(-1, 1, 1), persistent=False)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Mean squared error of one batch."""
        images, _ = batch
        return self.log_training_loss(mse_loss(self(images).float(), images))

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Mean squared error and PSNR."""
        images, _ = batch
        x_hat = self(images).float()
        self.log("val/loss", mse_loss(x_hat, images), sync_dist=True)
        self.log("val/psnr", self.psnr(x_hat, images), prog_bar=True, sync_dist=True)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """How well images come back, and what the codes look like."""
        images, _ = batch
        with observe_codes(self.model) as codes:
            x_hat = self(images).float()
        error = (images - x_hat).square().flatten(1).sum(1) / images.square().flatten(1).sum(1).clamp_min(1e-12)
        self.log("test/loss", mse_loss(x_hat, images), sync_dist=True)
        self.log("test/psnr", self.psnr(x_hat, images), sync_dist=True)
        self.log("test/ssim", self.ssim(x_hat, images), sync_dist=True)
        self.log("test/ssim_interior", self.ssim(x_hat, images, interior=True), sync_dist=True)
        self.log("test/reconstruction_error", error.mean(), sync_dist=True)
        if codes:
            self.log("test/density", torch.stack([c.density for c in codes]).mean(), sync_dist=True)

    def psnr(self, x_hat: Tensor, x: Tensor) -> Tensor:
        """Mean over images of the peak signal-to-noise ratio, in dB, of pixels in [0, 1]."""
        return psnr(self.pixels(x_hat), self.pixels(x)).mean()

    def ssim(self, x_hat: Tensor, x: Tensor, *, interior: bool = False) -> Tensor:
        """Mean over images of the structural similarity of pixels in [0, 1]."""
        return ssim(self.pixels(x_hat), self.pixels(x), interior=interior).mean()

    def pixels(self, images: Tensor) -> Tensor:
        """Undoes the normalisation: pixels in [0, 1]."""
        return (images * self.std + self.mean).clamp(0, 1)
