"""Training of an autoencoder whose code is sparse, for all rates at once."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from csc_nets.tasks.autoencoding import AutoencodingTask
from csc_nets.tasks.masks import check_mask, fill_by_interpolation, random_masks
from csc_nets.tasks.precision import exact
from csc_nets.tasks.registry import register_task

__all__ = ["SparseAutoencodingTask"]

START_IMAGES = 1000
"""Training images, at least, whose colours and patches the atoms start from."""


@register_task(name="sparse_autoencoding")
class SparseAutoencodingTask(AutoencodingTask):
    r"""Dictionary learning for every rate, on batches ``(images (N, C, H, W), labels)``; labels are unused.

    .. math:: \min_D \; E_\lambda \sum_j \min_{z_j} \frac{1}{2 \lambda} \|x_j - D z_j\|^2 + \|z_j\|_0

    Each image of a batch gets a weight of its own, drawn evenly on a logarithmic scale. Its code is found by the
    network's pursuit, which fits its values to the support or is followed by the network's ``refit``, and the
    optimiser takes a step on D for these codes, which are constants (Danskin's theorem, as in
    :class:`csc_nets.tasks.DictionaryLearningTask`). The unit of the sum is a non-zero, so no rate outweighs the
    others. Before the first step the atoms start from the colours, and where the network says so the patches, of the
    training images.

    Every ``revive_every`` steps of the first half, atoms that no code has used since the last time become patches of
    what is left of the images of the last batch.

    With ``mask`` a share of the pixels is hidden from the code, other ones in each step, and the error counts all
    pixels (masked autoencoding). A test run then says how well hidden pixels come back.

    Logs ``train/loss``; ``val/objective`` (in non-zeros an image, for weights evenly spread over the range) and
    ``val/psnr`` at the network's own lam; for a test run what :class:`csc_nets.tasks.AutoencodingTask` logs, and with
    ``mask`` the PSNR of the hidden pixels of each batch, ``test/inpainting_psnr``, and that of their linear
    interpolation, ``test/interpolation_psnr``.

    Args:
        model: a network as :class:`csc_nets.models.SparseAutoencoder`.
        lam: the range of the weights, lowest and highest.
        revive_every: steps; 0 for never.
        mask: share of the pixels that is hidden, in [0, 1).
        mask_size: side of the hidden squares in pixels.
        **common: see :class:`csc_nets.tasks.AutoencodingTask`.

    Raises:
        ValueError: another kind of network, or a value out of range.
    """

    monitor = "val/objective"
    monitor_mode = "min"

    def __init__(
        self,
        model: nn.Module,
        *,
        lam: Sequence[float] = (1e-3, 0.3),
        revive_every: int = 200,
        mask: float = 0.0,
        mask_size: int = 1,
        **common: Any,
    ) -> None:
        if not hasattr(model, "start_from"):
            raise ValueError(f"task sparse_autoencoding needs a sparse autoencoder, got {type(model).__name__}")
        super().__init__(model, **common)
        if len(lam) != 2 or not 0 < lam[0] <= lam[1] < math.inf:
            raise ValueError(f"lam must be two numbers with 0 < lowest <= highest, got {list(lam)}")
        if isinstance(revive_every, bool) or not isinstance(revive_every, int) or revive_every < 0:
            raise ValueError(f"revive_every must be an int >= 0, got {revive_every!r}")
        check_mask(mask, mask_size)
        self.mask, self.mask_size = mask, mask_size
        self.range, self.revive_every = (float(lam[0]), float(lam[1])), revive_every
        for i, scale in enumerate(model.dictionary.scales):  # type: ignore[union-attr, arg-type]
            self.register_buffer(f"used_{i}", torch.zeros(scale.out_channels))

    def on_fit_start(self) -> None:
        """Colours and patches of training images for a network that was not trained yet."""
        super().on_fit_start()
        if self.trainer.ckpt_path is None and self.global_step == 0:
            batches: list[Tensor] = []
            for images, _ in self.trainer.datamodule.train_dataloader():  # type: ignore[attr-defined]
                batches.append(self.everyone(images))
                if sum(map(len, batches)) >= START_IMAGES:
                    break
            self.model.start_from(torch.cat(batches))  # type: ignore[operator]

    def weights(self, count: int, spread: Tensor) -> Tensor:
        """Weights ``(N, 1, 1, 1)`` at the places ``spread`` in [0, 1] of the logarithmic range."""
        low, high = (math.log(value) for value in self.range)
        return torch.exp(low + (high - low) * spread).view(count, 1, 1, 1)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Squared error of one batch over its weights, at the codes of the present atoms."""
        images, _ = batch
        model: Any = self.model
        lam = self.weights(len(images), self.draw(torch.rand, images[:, 0, 0, 0]))
        with torch.no_grad():
            seen = random_masks(images, self.mask, self.mask_size, draw=self.draw) if self.mask else None
            z = model.encode(images, lam=lam, mask=seen)
            for i, code in enumerate(model.dictionary.codes(z)):
                used = (code != 0).sum((0, 2, 3))
                if self.processes > 1:  # here and not later: each forward overwrites buffers by the first process's
                    used = self.trainer.strategy.reduce(used, reduce_op="sum")
                self.get_buffer(f"used_{i}").add_(used)
        residual = images - model.decode(z, images.shape[2:])
        self._last = residual.detach()
        errors = exact(residual).square().sum((1, 2, 3)) / (2 * lam.flatten())
        loss = errors.mean()
        zero = exact(images).square().sum((1, 2, 3)) / (2 * lam.flatten())
        self.divergence.see(loss, zero.mean())  # the objective of the code zero
        return self.log_training_loss(loss)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """A step of the optimiser, then new starts for atoms that nothing uses."""
        super().optimizer_step(*args, **kwargs)
        step = self.global_step + 1
        if self.revive_every and step % self.revive_every == 0 and 2 * step <= self.trainer.estimated_stepping_batches:
            self.revive()

    @torch.no_grad()
    def revive(self) -> None:
        """Makes patches of the last residual of the atoms that were not used since the last time."""
        model: Any = self.model
        residual = self.everyone(self._last)
        for i, scale in enumerate(model.dictionary.scales):
            used, weight = self.get_buffer(f"used_{i}"), scale.get_parameter("parametrizations.weight.original")
            idle, size = (used == 0).nonzero().flatten(), scale.geometry.kernel_size[0]
            # Atoms of a second stage are no patches of pixels.
            fits = min(residual.shape[2:]) >= size and weight.shape[1] == residual.shape[1]
            if len(idle) and fits and weight.requires_grad:
                cut = residual.unfold(2, size, size).unfold(3, size, size).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
                order = cut.flatten(1).norm(dim=1).argsort(descending=True)[: len(idle)]
                fresh = cut[order]
                fresh = fresh[fresh.flatten(1).norm(dim=1) > 1e-6]
                weight[idle[: len(fresh)]] = fresh / fresh.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            used.zero_()
        model.dictionary.refresh()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Objective over the range of weights, and PSNR at the network's own."""
        images, _ = batch
        model: Any = self.model
        spread = torch.linspace(0, 1, self.processes * len(images), device=images.device)
        lam = self.weights(len(images), spread[self.global_rank :: self.processes])
        z = model.encode(images, lam=lam)
        error = exact(images - model.decode(z, images.shape[2:])).square().sum((1, 2, 3)) / (2 * lam.flatten())
        objective = error + (z != 0).sum((1, 2, 3))
        self.log("val/objective", objective.mean(), prog_bar=True, sync_dist=True)
        self.log("val/psnr", self.psnr(exact(self(images)), exact(images)), sync_dist=True)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """As of autoencoding; with ``mask`` also how well hidden pixels come back."""
        super().test_step(batch, batch_idx)
        if self.mask:
            images, model = batch[0], self.model
            generator = torch.Generator().manual_seed(batch_idx)
            seen = random_masks(images, self.mask, self.mask_size, generator, self.draw)
            z = model.encode(images, mask=seen)  # type: ignore[operator]
            missing = (~seen).expand_as(images)
            ways = {"inpainting": model.decode(z, images.shape[2:])}  # type: ignore[operator]
            ways["interpolation"] = fill_by_interpolation(images, seen)
            for name, back in ways.items():
                error = (self.pixels(exact(back)) - self.pixels(exact(images)))[missing].square().mean()
                self.log(f"test/{name}_psnr", -10 * error.clamp_min(1e-10).log10(), sync_dist=True)
