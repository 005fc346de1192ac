"""Training of a sparse autoencoder on the activations of a network."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from csc_nets.tasks.precision import exact
from csc_nets.tasks.registry import register_task
from csc_nets.tasks.task import Task

__all__ = ["ActivationsTask"]


@register_task(name="activations")
class ActivationsTask(Task):
    r"""Codes what a layer says, on batches ``(images (N, C, H, W), labels)``.

    Activations go through a buffer of vectors: each step puts those of its images in random places and draws a batch
    from all of it, so that a batch mixes many images. Before the first step the autoencoder takes its mean, scale and
    atoms from the buffer. Every ``revive_every`` steps of the first three quarters, atoms that no code has used since
    the last time move to the vectors that are explained worst.

    Logs ``train/loss``; and for validation and test, means over batches,

    - ``explained``: explained variance, :math:`1 - \sum \|x - \hat x\|^2 / \sum \|x - \bar x\|^2`; ``unexplained``,
    - ``atoms``: non-zeros of a code, at a position; ``dead``: share of the atoms that no image of the split used,
    - ``loss_plain``, ``loss_patched``, ``acc_plain``, ``acc_patched``: the network's own cross-entropy and accuracy,
      without and with the reconstruction in place of the activations.

    Args:
        model: a network as :class:`csc_nets.models.CodedActivations`.
        buffer: vectors that are kept.
        vectors: of a batch.
        sparsity: weight of the encoder's own term in the loss.
        revive_every: steps; 0 for never.
        **common: see :class:`csc_nets.tasks.Task`.

    Raises:
        ValueError: another kind of network, or a value out of range.
    """

    monitor = "val/unexplained"
    monitor_mode = "min"

    def __init__(
        self,
        model: nn.Module,
        *,
        buffer: int = 65536,
        vectors: int = 1024,
        sparsity: float = 1.0,
        revive_every: int = 200,
        **common: Any,
    ) -> None:
        if not hasattr(model, "sae"):
            raise ValueError(
                f"task activations needs a network with a sparse autoencoder, such as coded_activations, got "
                f"{type(model).__name__}"
            )
        super().__init__(model, **common)
        for name, value, least in (("buffer", buffer, 1), ("vectors", vectors, 1), ("revive_every", revive_every, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be an int >= {least}, got {value!r}")
        if not 0 <= sparsity < float("inf"):
            raise ValueError(f"sparsity must be a finite number >= 0, got {sparsity!r}")
        self.buffer_size, self.vectors, self.sparsity, self.revive_every = buffer, vectors, sparsity, revive_every
        atoms = len(model.sae.coder.atoms)  # type: ignore[union-attr, arg-type]
        self.used: Tensor
        self.seen: Tensor
        self.register_buffer("used", torch.zeros(atoms))
        self.register_buffer("seen", torch.zeros(atoms), persistent=False)
        self._buffer: Tensor | None = None

    def stream(self, activations: Tensor) -> Tensor:
        """Puts activations in the buffer, and draws a batch from it."""
        new, kept = self.model.sae.samples(activations), self._buffer  # type: ignore[union-attr, operator]
        new = new[torch.randperm(len(new), device=new.device)[: self.buffer_size]]
        if kept is None or len(kept) < self.buffer_size:
            kept = new if kept is None else torch.cat([kept, new])[-self.buffer_size :]
        else:
            kept[torch.randperm(len(kept), device=new.device)[: len(new)]] = new
        self._buffer = kept
        return kept[torch.randint(len(kept), (self.vectors,), device=new.device)]

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The loss of the autoencoder for vectors of the buffer."""
        model: Any = self.model
        vectors = self.stream(exact(model.activations(batch[0])))
        if self.global_step == 0:
            model.sae.start_from(self._buffer)
        loss, z = model.sae.loss(vectors, self.sparsity)
        with torch.no_grad():
            self.used += (z != 0).sum((0, *range(2, z.ndim)))
        self.divergence.see(loss, loss.new_tensor(2.0))  # twice the variance: of two codes that say nothing
        return self.log_training_loss(loss)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """A step of the optimiser, then new places for atoms that nothing uses."""
        super().optimizer_step(*args, **kwargs)
        step, total = self.global_step + 1, self.trainer.estimated_stepping_batches
        if self.revive_every and step % self.revive_every == 0:
            if 4 * step <= 3 * total and self._buffer is not None:
                model: Any = self.model
                drawn = torch.randint(len(self._buffer), (4 * self.vectors,), device=self._buffer.device)
                model.sae.revive(self._buffer[drawn], self.used == 0)
            self.used.zero_()

    def on_validation_epoch_start(self) -> None:
        """Forgets which atoms were used."""
        self.seen.zero_()

    def on_test_epoch_start(self) -> None:
        """Forgets which atoms were used."""
        self.seen.zero_()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """What the codes keep."""
        self._measure("val", *batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """What the codes keep."""
        self._measure("test", *batch)

    def on_validation_epoch_end(self) -> None:
        """Atoms that nothing used."""
        self.log("val/dead", (self.seen == 0).float().mean(), sync_dist=True)

    def on_test_epoch_end(self) -> None:
        """Atoms that nothing used."""
        self.log("test/dead", (self.seen == 0).float().mean(), sync_dist=True)

    def _measure(self, split: str, images: Tensor, labels: Tensor) -> None:
        model: Any = self.model
        x = model.sae.samples(exact(model.activations(images)))
        z = model.sae(x)
        self.seen += (z != 0).sum((0, *range(2, z.ndim)))
        error = (x - model.sae.synthesize(z, x.shape[2:])).square().sum()
        unexplained = error / (x - x.mean(0)).square().sum().clamp_min(torch.finfo(x.dtype).tiny)
        found = {"unexplained": unexplained, "explained": 1 - unexplained}
        found["atoms"] = (z != 0).sum(1).float().mean()
        for name, logits in (("plain", model.unpatched(images)), ("patched", model(images))):
            found[f"loss_{name}"] = cross_entropy(exact(logits), labels)
            found[f"acc_{name}"] = (logits.argmax(1) == labels).float().mean()
        for name, value in found.items():
            self.log(f"{split}/{name}", value, prog_bar=name in ("explained", "acc_patched"), sync_dist=True)
