"""Training of a denoiser."""

import copy
import inspect
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from csc_nets.data import ImageDataModule
from csc_nets.functional import as_weight
from csc_nets.functional.checks import is_number
from csc_nets.functional.inputs import broadcasts
from csc_nets.tasks.image_quality import psnr, ssim
from csc_nets.tasks.masks import bayer_masks, check_mask, random_masks
from csc_nets.tasks.precision import exact
from csc_nets.tasks.registry import register_task
from csc_nets.tasks.task import Task

__all__ = ["DenoisingTask", "mc_sure"]

_LOSSES = ("mse", "mc_sure")
_STEP = 1e-3  # of the finite difference in the Monte Carlo divergence
_MOST_RETURNS = 20


@register_task(name="denoising")
class DenoisingTask(Task):
    """Training on images ``(N, C, H, W)`` to which white Gaussian noise is added; labels are unused.

    Each training image gets a noise level of its own, uniform in a range, and the network is told it. Noise levels of
    the arguments are in grey levels, of which white is 255, as in the literature; the network's are in the units of
    its images, where white is 1.

    After each step of the optimiser the network's ``project()`` is called. Trainings of unrolled networks with a large
    learning rate explode now and then. So when the validation PSNR falls by more than ``fall``, or a loss is not
    finite, the network and the optimiser return to the state of the best validation, and the learning rate shrinks by
    ``shrink``. This is the recipe of CDLNet, arXiv 2112.00913.

    Logs ``train/loss``; ``val/psnr`` in dB and ``val/ssim``, means over ``val_noise`` and all images; for a test run
    ``test/psnr``, ``test/ssim`` and, without ``hidden``, ``test/gain`` (dB over the noisy image), means over
    ``test_noise``. Each number also stands alone for each noise level, such as ``test/psnr_25``. Outputs are not
    clipped. The noise of an image is the same in every validation and test.

    Args:
        model: network that is called as ``model(images, sigma=...)``, see :class:`csc_nets.models.Denoiser`.
        noise: smallest and largest noise level of training images, or one for both.
        val_noise: noise levels to validate at; None for the middle of ``noise``.
        test_noise: noise levels to test at.
        hidden: what is missing of each image, in training, validation and test: a share of its pixels in [0, 1), the
            same number in each image at places drawn at random, or ``"mosaic"``, two of three colours of each pixel as
            in a camera. The loss counts them, too.
        loss: ``"mse"``, or ``"mc_sure"``, which sees no clean image, see :func:`mc_sure`.
        clip: largest norm of the gradient of all parameters; None for no limit. ``trainer.gradient_clip_val`` goes
            first.
        fall: dB.
        shrink: factor, in (0, 1].
        mean, std: that the data were normalised with.
        **common: see :class:`csc_nets.tasks.Task`.

    Raises:
        ValueError: the model takes no noise level, or a value is out of range.
    """

    monitor = "val/psnr"
    monitor_mode = "max"

    def __init__(
        self,
        model: nn.Module,
        *,
        noise: float | Sequence[float] = (20.0, 30.0),
        val_noise: Sequence[float] | None = None,
        test_noise: Sequence[float] = (15.0, 25.0, 50.0),
        hidden: float | Literal["mosaic"] = 0.0,
        loss: Literal["mse", "mc_sure"] = "mse",
        clip: float | None = 0.05,
        fall: float = 2.0,
        shrink: float = 0.8,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        **common: Any,
    ) -> None:
        super().__init__(model, **common)
        if "sigma" not in inspect.signature(model.forward).parameters:
            raise ValueError(f"task denoising needs a network that takes sigma, got {type(model).__name__}")
        ends = [noise] if is_number(noise) else list(noise) if isinstance(noise, Sequence) else []
        if len(ends) not in (1, 2) or not all(map(is_number, ends)) or not 0 <= ends[0] <= ends[-1] < math.inf:
            raise ValueError(f"noise must be a number >= 0, or two, the smaller first, got {noise!r}")
        low, high = ends[0], ends[-1]
        self.noise = (float(low), float(high))
        self.val_noise = [(low + high) / 2] if val_noise is None else list(val_noise)
        self.test_noise = list(test_noise)
        for name, levels in (("val_noise", self.val_noise), ("test_noise", self.test_noise)):
            if not levels or not all(0 <= level < math.inf for level in levels):
                raise ValueError(f"{name} must be one or more finite numbers >= 0, got {levels!r}")
        if loss not in _LOSSES:
            raise ValueError(f"loss must be one of {', '.join(_LOSSES)}, got {loss!r}")
        if clip is not None and not clip > 0:
            raise ValueError(f"clip must be None or a number above 0, got {clip!r}")
        if not fall > 0:
            raise ValueError(f"fall must be a number of dB above 0, got {fall!r}")
        if not 0 < shrink <= 1:
            raise ValueError(f"shrink must be in (0, 1], got {shrink!r}")
        check_mask(hidden, 1, name="hidden", words=["mosaic"])
        if hidden and loss == "mc_sure":
            raise ValueError(f"loss=mc_sure is derived for whole images, got hidden={hidden!r}")
        if hidden and "mask" not in inspect.signature(model.forward).parameters:
            raise ValueError(f"hidden={hidden!r} needs a network that takes a mask, got {type(model).__name__}")
        if hidden == "mosaic" and getattr(model, "in_chans", 3) != 3:
            raise ValueError(f"hidden='mosaic' is for images of 3 channels, got a network for {model.in_chans}")
        self.hidden = hidden
        self.loss, self.clip, self.fall, self.shrink = loss, clip, fall, shrink
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(list(mean)).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(list(std)).view(-1, 1, 1), persistent=False)
        self._rate, self._returns, self._validated = 1.0, 0, False
        self._best: dict[str, Any] = {}

    def forward(self, images: Tensor, sigma: Any = None, mask: Tensor | None = None) -> Tensor:
        """The network's output."""
        return self.model(images, sigma=sigma) if mask is None else self.model(images, sigma=sigma, mask=mask)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor | None:
        """The loss of one batch."""
        images = self.pixels(batch[0])
        low, high = self.noise
        sigma = (low + (high - low) * self.draw(torch.rand, images[:, 0, 0, 0])) / 255
        spread = sigma.view(-1, 1, 1, 1)
        noisy = images + spread * self.draw(torch.randn, images)
        seen = self._seen(images)
        if self.loss == "mc_sure":
            loss = mc_sure(lambda x: exact(self(x, sigma)), noisy, spread, self.draw(torch.randn, images))
        else:
            loss = mse_loss(exact(self(noisy, sigma, seen)), images)
        if self._trainer is not None and self.processes == 1 and not bool(torch.isfinite(loss)):
            self._return(f"a loss of {loss.item()}")
            return None
        return self.log_training_loss(loss)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """A step of the optimiser, then the network's projection."""
        super().optimizer_step(*args, **kwargs)
        project: Callable[[], None] | None = getattr(self.model, "project", None)
        if project is not None:
            project()

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        """The trainer's limit, or the task's."""
        limit = self.clip if gradient_clip_val is None else gradient_clip_val
        self.clip_gradients(optimizer, limit, gradient_clip_algorithm or "norm")

    def rate_schedule(self) -> Callable[[int], float]:
        """The schedule, times what is left of the rate after explosions."""
        planned = super().rate_schedule()
        return lambda step: self._rate * planned(step)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """PSNR and structural similarity."""
        self._log_quality("val", batch[0], batch_idx, self.val_noise, ("psnr", "ssim"))

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """PSNR, structural similarity, and the gain over the noisy image."""
        wanted = ("psnr", "ssim") if self.hidden else ("psnr", "ssim", "gain")
        self._log_quality("test", batch[0], batch_idx, self.test_noise, wanted)

    def _log_quality(
        self, stage: str, batch: Tensor, batch_idx: int, levels: Sequence[float], wanted: Sequence[str]
    ) -> None:
        images = self.pixels(batch)
        rows = []
        with self._naming(stage, images, batch_idx):
            for level in levels:
                noisy, clean = self._denoised(images, level, batch_idx)
                quality = psnr(clean, images)
                row = {"psnr": quality, "ssim": ssim(clean, images), "gain": quality - psnr(noisy, images)}
                rows.append({name: row[name].mean() for name in wanted})
        options: dict[str, Any] = {"sync_dist": True, "batch_size": len(images)}
        for name in wanted:
            shown = (stage, name) == ("val", "psnr")
            self.log(f"{stage}/{name}", torch.stack([row[name] for row in rows]).mean(), prog_bar=shown, **options)
            for level, row in zip(levels, rows, strict=True):
                self.log(f"{stage}/{name}_{level:g}", row[name], **options)

    def _naming(self, stage: str, images: Tensor, batch_idx: int) -> AbstractContextManager[None]:
        """Names the file of a photograph, one a batch, that the network cannot take."""
        data = getattr(self._trainer, "datamodule", None)
        if len(images) > 1 or not isinstance(data, ImageDataModule):
            return nullcontext()
        return data.naming(stage, self.processes * batch_idx + self.global_rank)

    def on_train_start(self) -> None:
        """What to return to before the first validation."""
        super().on_train_start()
        if not self._best:
            self._remember(-math.inf)

    def on_validation_epoch_end(self) -> None:
        """Says that there is a new number to look at."""
        self._validated = not self.trainer.sanity_checking

    def on_train_epoch_end(self) -> None:
        """Remembers the best state, or returns to it."""
        super().on_train_epoch_end()
        if not self._validated:
            return
        self._validated = False
        now = float(self.trainer.callback_metrics["val/psnr"])
        if now > self._best["psnr"]:
            self._remember(now)
        elif not now >= self._best["psnr"] - self.fall:
            self._return(f"a validation PSNR of {now:.2f} dB after {self._best['psnr']:.2f} dB")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what a resumed run needs to return to the best state."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["denoising"] = {"best": self._best, "rate": self._rate, "returns": self._returns}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores it."""
        known = checkpoint.get("denoising")
        if known:
            self._best, self._rate, self._returns = known["best"], known["rate"], known["returns"]

    def pixels(self, images: Tensor) -> Tensor:
        """Undoes the normalisation: pixels with white at 1."""
        return images * self.std + self.mean

    def _denoised(self, images: Tensor, level: float, batch_idx: int) -> tuple[Tensor, Tensor]:
        """Noisy and denoised images, with noise that depends on the level and the batch alone."""
        generator = torch.Generator().manual_seed(batch_idx)
        noisy = images + level / 255 * self.draw(torch.randn, images, generator)
        seen = self._seen(images, generator)
        return noisy, exact(self(noisy, level / 255, seen))

    def _seen(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor | None:
        """What the network sees of noisy images; None is all of them."""
        if self.hidden == "mosaic":
            return bayer_masks(images)
        return random_masks(images, self.hidden, 1, generator, self.draw) if self.hidden else None

    def _remember(self, score: float) -> None:
        optimizer: Any = self.optimizers()
        state = {"model": self.model.state_dict(), "optimizer": optimizer.optimizer.state_dict()}
        self._best = {"psnr": score, **copy.deepcopy(state)}

    def _return(self, reason: str) -> None:
        self._returns += 1
        if self._returns > _MOST_RETURNS:
            raise FloatingPointError(
                f"{reason}, after {_MOST_RETURNS} returns to earlier weights: try a smaller task.lr"
            )
        optimizer: Any = self.optimizers()
        rates = [group["lr"] for group in optimizer.optimizer.param_groups]
        self.model.load_state_dict(self._best["model"])
        optimizer.optimizer.load_state_dict(copy.deepcopy(self._best["optimizer"]))
        for group, rate in zip(optimizer.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * self.shrink
        self._rate *= self.shrink
        print(f"{reason} at step {self.global_step}: back to the best weights, learning rate x {self.shrink:g}")


def mc_sure(
    denoise: Callable[[Tensor], Tensor], noisy: Tensor, sigma: float | Tensor, probe: Tensor | None = None
) -> Tensor:
    r"""Stein's unbiased estimate of the mean squared error, from noisy images alone, 0-d.

    .. math:: \mathrm{mean}\,(y - f(y))^2 - \sigma^2 + \tfrac2h\, \mathrm{mean}\,
              \sigma^2\, b \odot \bigl(f(y + h b) - f(y)\bigr), \qquad b \sim N(0, I)

    The last term is a Monte Carlo estimate of the divergence of f, with :math:`h = 10^{-3}`. Ramani, Blu, Unser,
    "Monte-Carlo SURE", 2008.

    Args:
        denoise: f.
        noisy: y, ``(N, C, H, W)`` with white at 1.
        sigma: noise level in the same units, a number or ``(N, 1, 1, 1)``.
        probe: b; None to draw it.

    Raises:
        ValueError: a noise level that is negative, not finite or of another shape.
    """
    if (
        isinstance(sigma, Tensor)
        and sigma.ndim
        and (sigma.ndim != noisy.ndim or not broadcasts(sigma.shape, noisy.shape))
    ):
        allowed = (len(noisy), *(1,) * (noisy.ndim - 1))
        raise ValueError(f"mc_sure: sigma must be a number or of shape {allowed}, got shape {tuple(sigma.shape)}")
    sigma = as_weight(sigma, noisy.ndim, "mc_sure: sigma")
    probe = torch.randn_like(noisy) if probe is None else probe
    clean = denoise(noisy)
    difference = denoise(noisy + _STEP * probe) - clean
    variance = sigma * sigma
    return ((noisy - clean).square() - variance + 2 / _STEP * variance * probe * difference).mean()
