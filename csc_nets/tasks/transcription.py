"""Training of a closed loop: a game of encoder against decoder over coding rates."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from csc_nets.functional import coding_rate, ctrl_binary, ctrl_multi
from csc_nets.tasks.autoencoding import AutoencodingTask
from csc_nets.tasks.optimization import build_optimizer

__all__ = ["TranscriptionTask"]


class TranscriptionTask(AutoencodingTask):
    r"""Closed-loop transcription of batches ``(images (N, C, H, W), labels (N,))``, pixels from -1 to 1.

    With features :math:`Z = f(x)` and those of what the loop makes of them, :math:`\hat Z = f(g(Z))`, encoder f and
    decoder g play

    .. math:: \max_f \min_g T(Z, \hat Z)

    with the coding rates T of :func:`~csc_nets.functional.ctrl_binary` or :func:`~csc_nets.functional.ctrl_multi`
    (Dai et al., `CTRL <https://arxiv.org/abs/2111.06636>`_, Entropy 2022; with sparse coding `CSC-CTRL
    <https://arxiv.org/abs/2302.09347>`_). There is no loss on pixels. A batch is ``encoder_steps`` steps of the
    encoder, whose gradient goes through both uses of f, the decoder's output held fixed, and one of the decoder, Z held
    fixed.

    The rates are those of the whole batch over all processes, in float32 whatever the precision of the networks.

    Logs ``train/loss`` (T at the decoder's step), ``train/rate`` and ``train/rate_hat`` (R of both sets, in nats) and
    ``train/dimension``, :math:`n^2 / \|Z Z^T\|_F^2`, the number of directions that features use: 1 if all are the same,
    d if they fill the space. Validation and test are those of an autoencoder, with ``val/alignment`` and
    ``test/alignment``, the mean cosine of the features of an image and of its transcription.

    Args:
        model: a network as :class:`~csc_nets.models.ClosedLoop`: ``encode``, ``decode``, ``players``.
        objective: ``"binary"``, without labels, or ``"multi"``, with them.
        eps: precision of the rates.
        encoder_steps: steps of the encoder for one of the decoder.
        micro_batch: images that pass the networks at once; None for the whole batch. The rates need all features of a
            batch together, images do not: with smaller parts features are computed first, then the gradient of the
            rates, then each part a second time with its share of the gradient. It is the same gradient but for the
            statistics of batch norms, which are then those of a part.
        collapse_steps: batches after which a game that has collapsed stops.
        collapse_dimension: ``train/dimension`` below which it has.
        **common: see :class:`csc_nets.tasks.AutoencodingTask`.

    Raises:
        ValueError: the model is no closed loop, or a value is out of range.
        FloatingPointError: in training, if the game has collapsed or a rate is not finite.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        objective: str = "binary",
        eps: float = 0.5,
        encoder_steps: int = 1,
        micro_batch: int | None = None,
        collapse_steps: int = 200,
        collapse_dimension: float = 1.5,
        **common: Any,
    ) -> None:
        missing = [name for name in ("encode", "decode", "players") if not hasattr(model, name)]
        if missing:
            raise ValueError(f"task transcription needs a closed loop, got {type(model).__name__}")
        super().__init__(model, **common)
        if objective not in ("binary", "multi"):
            raise ValueError(f"objective must be 'binary' or 'multi', got {objective!r}")
        if isinstance(eps, bool) or not 0 < eps < math.inf:
            raise ValueError(f"eps must be a finite number > 0, got {eps!r}")
        wholes = {"encoder_steps": encoder_steps, "micro_batch": micro_batch or 1, "collapse_steps": collapse_steps}
        for name, value in wholes.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an int >= 1, got {value!r}")
        if micro_batch is not None and micro_batch < 2:
            raise ValueError(f"micro_batch must be None or an int >= 2, for batch norms, got {micro_batch!r}")
        if not 0 <= collapse_dimension < math.inf:
            raise ValueError(f"collapse_dimension must be a finite number >= 0, got {collapse_dimension!r}")
        self.automatic_optimization = False
        self.objective, self.eps, self.encoder_steps, self.micro_batch = objective, eps, encoder_steps, micro_batch
        self.collapse_steps, self.collapse_dimension = collapse_steps, collapse_dimension
        self.collapsed: Tensor
        self.register_buffer("collapsed", torch.zeros((), dtype=torch.int64))  # batches in a row, for a resumed run

    def configure_optimizers(self) -> Any:
        """An optimiser and a schedule, which moves once a batch, for each player."""
        if self.trainer.max_steps > 0:  # it would count the steps of both players
            raise ValueError(
                f"task transcription needs trainer.max_epochs, got trainer.max_steps={self.trainer.max_steps}"
            )
        factor = self.rate_schedule()
        optimizers = [build_optimizer(self.model, **self.optimizer_args, among=p) for p in self.model.players()]  # type: ignore[operator]
        return optimizers, [torch.optim.lr_scheduler.LambdaLR(optimizer, factor) for optimizer in optimizers]

    def compile_model(self) -> None:
        """Compiles stages and decoder: the game does not call the model as a whole."""
        for child in self.model.children():
            for part in child if isinstance(child, nn.ModuleList) else [child]:
                part.compile()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The steps of both players on one batch; T of the last."""
        images, labels = batch
        players: Any = self.optimizers()
        encoder, decoder = players
        for _ in range(self.encoder_steps):
            encoder.zero_grad()
            z, _, _ = self.play(images, labels, "encoder")
            encoder.step()
        decoder.zero_grad()
        with _frozen(self.model.players()[0]):  # type: ignore[operator]
            z, z_hat, value = self.play(images, labels, "decoder")
        decoder.step()
        for schedule in self.lr_schedulers():  # type: ignore[union-attr]
            schedule.step()

        with torch.autocast(z.device.type, enabled=False):
            dimension = len(z) ** 2 / (z @ z.T).square().sum()
        if self._processes > 1:  # all of them stop, or none
            dimension = self.all_gather(dimension).mean()  # type: ignore[union-attr]
        self.log("train/rate", coding_rate(z, self.eps), on_step=False, on_epoch=True, sync_dist=True)
        self.log("train/rate_hat", coding_rate(z_hat, self.eps), on_step=False, on_epoch=True, sync_dist=True)
        self.log("train/dimension", dimension, on_step=False, on_epoch=True, sync_dist=True)
        self._guard(dimension)
        return self.log_training_loss(value)

    def play(self, images: Tensor, labels: Tensor, player: str) -> tuple[Tensor, Tensor, Tensor]:
        """Adds to the gradients of a player's parameters: the encoder climbs, the decoder descends.

        Args:
            images: ``(N, C, H, W)``.
            labels: ``(N,)``.
            player: ``"encoder"`` or ``"decoder"``.

        Returns:
            Features of the images and of their transcriptions, ``(N, d)`` in float32, without gradient, and T.
        """
        parts = images.split(self.micro_batch or len(images))
        whole = len(parts) == 1
        with torch.set_grad_enabled(whole):
            passed = [self._transcribe(part, player) for part in parts]
        z, z_hat = (_exact(torch.cat(features).detach()) for features in zip(*passed, strict=True))
        value, gradients = self._rates(z, z_hat, labels)
        sign = -1.0 if player == "encoder" else 1.0
        shares = [gradient.split([len(part) for part in parts]) for gradient in gradients]
        for i, part in enumerate(parts):
            pair = passed[i] if whole else self._transcribe(part, player)
            terms = zip(pair, (share[i] for share in shares), strict=True)
            # The gradient of this is what the rates ask of the features of this part.
            self.manual_backward(sum(sign * (_exact(f) * g).sum() for f, g in terms if f.requires_grad))
        return z, z_hat, value

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """What an autoencoder is validated on, and the alignment."""
        super().validation_step(batch, batch_idx)
        self.log("val/alignment", self._alignment(batch[0]), sync_dist=True)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """What an autoencoder is tested on, and the alignment."""
        super().test_step(batch, batch_idx)
        self.log("test/alignment", self._alignment(batch[0]), sync_dist=True)

    def _transcribe(self, x: Tensor, player: str) -> tuple[Tensor, Tensor]:
        """Features of images and of their transcriptions, with the gradient of one player."""
        model: Any = self.model
        encoding = player == "encoder" and torch.is_grad_enabled()
        decoding = player == "decoder" and torch.is_grad_enabled()
        with torch.set_grad_enabled(encoding):
            z = model.encode(x)
        with torch.set_grad_enabled(decoding):
            x_hat = model.decode(z.detach(), x.shape[2:])
        return z, model.encode(x_hat)

    def _rates(self, z: Tensor, z_hat: Tensor, labels: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """T of the batch of all processes, and its gradient with respect to the features of this one."""
        with torch.enable_grad():
            leaves = z.requires_grad_(), z_hat.requires_grad_()
            every = [self._everyone(leaf) for leaf in leaves]
            if self.objective == "binary":
                value = ctrl_binary(every[0], every[1], self.eps)
            else:
                value = ctrl_multi(every[0], every[1], self._everyone(labels), self.eps)
            gradients = torch.autograd.grad(value, leaves)
        z.requires_grad_(False), z_hat.requires_grad_(False)
        # Distributed training averages gradients over processes, where the rates want their sum.
        return value.detach(), tuple(gradient * self._processes for gradient in gradients)

    def _everyone(self, mine: Tensor) -> Tensor:
        """Rows of all processes; only those of this one have a gradient."""
        if self._processes == 1:
            return mine
        rows = list(self.all_gather(mine.detach()))  # type: ignore[arg-type]
        rows[self.global_rank] = mine
        return torch.cat(rows)

    @property
    def _processes(self) -> int:
        return self.trainer.world_size if self._trainer is not None else 1

    def _alignment(self, x: Tensor) -> Tensor:
        model: Any = self.model
        z = model.encode(x)
        z_hat = model.encode(model.decode(z, x.shape[2:]))
        return (normalize(_exact(z), dim=1) * normalize(_exact(z_hat), dim=1)).sum(1).mean()

    def _guard(self, dimension: Tensor) -> None:
        low = dimension < self.collapse_dimension
        self.collapsed.copy_(torch.where(low, self.collapsed + 1, 0))
        # Reading a value makes a GPU wait.
        if (not low.is_cuda or self.global_step % 16 == 0) and self.collapsed >= self.collapse_steps:
            raise FloatingPointError(
                f"the game has collapsed: for {int(self.collapsed)} batches all features have been next to the same "
                f"({dimension.item():.3g} directions, fewer than collapse_dimension={self.collapse_dimension}): try a "
                "larger data.batch_size, a smaller task.lr, or task.momentum=0.5"
            )


def _exact(features: Tensor) -> Tensor:
    """Half precision as float32."""
    return features.to(torch.promote_types(features.dtype, torch.float32))


@contextmanager
def _frozen(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Inside, no gradient is computed for these."""
    trained = [p for p in parameters if p.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
