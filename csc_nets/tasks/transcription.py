"""Training of a closed loop: a game of encoder against decoder over coding rates."""

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.nn.functional import mse_loss, normalize
from torch.nn.parallel import DistributedDataParallel

from csc_nets.functional import ctrl_terms, rate_reduction, sample_distance
from csc_nets.tasks.autoencoding import AutoencodingTask
from csc_nets.tasks.optimization import build_optimizer
from csc_nets.tasks.precision import exact
from csc_nets.tasks.registry import register_task

__all__ = ["TranscriptionTask"]


@register_task(name="transcription")
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

    The rates are those of the whole batch over all processes, in float32 whatever the precision of the networks. The
    gradients of a player are summed over processes once a step, in one message (strategy ``ddp``; its own reduction,
    which after each backward pass moves the gradients of both players, is left out).

    Logs ``train/loss``, T at the decoder's step, and what it is made of, in nats: ``train/rate`` and
    ``train/rate_hat``, R of both sets; ``train/distance``, their rate distance, with labels summed over classes; with
    labels ``train/reduction`` and ``train/reduction_hat``; with ``sample_weight`` the term S, ``train/sample``.
    ``train/dimension`` and ``train/dimension_hat`` are :math:`(\mathrm{tr}\, Z Z^T)^2 / \|Z Z^T\|_F^2`, the number of
    directions that features use: 1 if all are the same, d if they fill the space, 0 if all are zero. Validation and
    test are those of an autoencoder, with SSIM, and with ``val/alignment`` and ``test/alignment``, the mean cosine of
    the features of an image and of its transcription.

    A game collapses where an encoder gives all images the same features, or none at all, or where a decoder makes the
    same of all features. Both are seen in the dimensions, the second in that of the transcriptions. That T vanishes is
    no collapse: without labels it does so too where the players agree.

    Args:
        model: a network as :class:`~csc_nets.models.ClosedLoop`: ``encode``, ``decode``, ``players``.
        objective: ``"binary"``, without labels, or ``"multi"``, with them.
        eps: precision of the rates.
        sample_weight: weight :math:`\lambda` of the term S, the mean of
            :func:`~csc_nets.functional.sample_distance` over the images. The game alone compares sets of features, and
            may return another image of the class; with the term it returns the same one. From Tong et al., `u-CTRL
            <https://arxiv.org/abs/2210.16782>`_, whose second term, on augmented images, is left out. 0 is the
            published game.
        sample_players: who minimises S: ``"both"``, the encoder climbs :math:`T - \lambda S` and the decoder
            descends :math:`T + \lambda S`; or ``"decoder"``, the encoder climbs T. It does not count with weight 0. On
            digits ``"both"`` had the higher PSNR at its best and fell more afterwards.
        encoder_steps: steps of the encoder for one of the decoder.
        reduction_steps: steps before them in which the encoder only sets the classes of the images apart, climbing
            their rate reduction; with ``"multi"``. (CTRL on CIFAR-10 takes one.)
        micro_batch: images that pass the networks at once; None for the whole batch. The rates need all features of a
            batch together, images do not: with smaller parts features are computed first, then the gradient of the
            rates, then each part a second time with its share of the gradient. It is the same gradient but for the
            statistics of batch norms, which are then those of a part, and the power iterations, which move between.
        collapse_steps: batches after which a game that has collapsed stops.
        collapse_dimension: ``train/dimension`` or ``train/dimension_hat`` below which it has.
        **common: see :class:`csc_nets.tasks.AutoencodingTask`.

    Raises:
        ValueError: the model is no closed loop, or a value is out of range; in training, several processes that are not
            those of ``ddp``.
        FloatingPointError: in training, if the game has collapsed or features are not finite.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        objective: str = "binary",
        eps: float = 0.5,
        sample_weight: float = 0.0,
        sample_players: Literal["both", "decoder"] = "both",
        encoder_steps: int = 1,
        reduction_steps: int = 0,
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
        if isinstance(sample_weight, bool) or not 0 <= sample_weight < math.inf:
            raise ValueError(f"sample_weight must be a finite number >= 0, got {sample_weight!r}")
        if sample_players not in ("both", "decoder"):
            raise ValueError(f"sample_players must be 'both' or 'decoder', got {sample_players!r}")
        wholes = {"encoder_steps": encoder_steps, "micro_batch": micro_batch or 1, "collapse_steps": collapse_steps}
        for name, value in wholes.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an int >= 1, got {value!r}")
        if isinstance(reduction_steps, bool) or not isinstance(reduction_steps, int) or reduction_steps < 0:
            raise ValueError(f"reduction_steps must be an int >= 0, got {reduction_steps!r}")
        if reduction_steps and objective != "multi":
            raise ValueError(f"reduction_steps={reduction_steps} needs objective='multi', got {objective!r}")
        if micro_batch is not None and micro_batch < 2:
            raise ValueError(f"micro_batch must be None or an int >= 2, for batch norms, got {micro_batch!r}")
        if not 0 <= collapse_dimension < math.inf:
            raise ValueError(f"collapse_dimension must be a finite number >= 0, got {collapse_dimension!r}")
        self.automatic_optimization = False
        self.objective, self.eps, self.micro_batch = objective, eps, micro_batch
        self.sample_weight, self.sample_players = sample_weight, sample_players
        self.encoder_steps, self.reduction_steps = encoder_steps, reduction_steps
        self.collapse_steps, self.collapse_dimension = collapse_steps, collapse_dimension
        self.collapsed: Tensor
        self.register_buffer("collapsed", torch.zeros((), dtype=torch.int64))  # batches in a row, for a resumed run

    def configure_optimizers(self) -> Any:
        """An optimiser and a schedule, which moves once a batch, for each player."""
        if self.trainer.max_steps > 0:  # it would count the steps of both players
            raise ValueError(
                f"task transcription needs trainer.max_epochs, got trainer.max_steps={self.trainer.max_steps}"
            )
        if self.processes > 1 and not isinstance(self.trainer.strategy, DDPStrategy):
            raise ValueError(
                f"task transcription runs on several devices with trainer.strategy=ddp, got "
                f"{type(self.trainer.strategy).__name__}"
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
        for player in ["reduction"] * self.reduction_steps + ["encoder"] * self.encoder_steps:
            encoder.zero_grad()
            self.play(images, labels, player)
            encoder.step()
        decoder.zero_grad()
        with _frozen(self.model.players()[0]):  # type: ignore[operator]
            _, _, terms = self.play(images, labels, "decoder")
        decoder.step()
        for schedule in self.lr_schedulers():  # type: ignore[union-attr]
            schedule.step()
        loss = terms.pop("loss")
        logged = {f"train/{name}": value for name, value in terms.items()}
        self.log_dict(logged, on_step=False, on_epoch=True, sync_dist=True)
        self._guard(terms)
        return self.log_training_loss(loss)

    def play(self, images: Tensor, labels: Tensor, player: str) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Adds to the gradients of a player's parameters: the encoder climbs, the decoder descends.

        Args:
            images: ``(N, C, H, W)``.
            labels: ``(N,)``.
            player: ``"encoder"``, ``"decoder"``, or ``"reduction"`` for an encoder that sees the images alone.

        Returns:
            Features of the images and of their transcriptions, ``(N, d)`` in float32, without gradient, and T, under
            ``"loss"``, with the numbers that ``training_step`` logs.

        Raises:
            FloatingPointError: features are not finite.
        """
        parts = images.split(self.micro_batch or len(images))
        whole = len(parts) == 1
        with torch.set_grad_enabled(whole):
            passed = [self._transcribe(part, player) for part in parts]
        z, z_hat = (exact(torch.cat(features).detach()) for features in zip(*passed, strict=True))
        terms, gradients = self._rates(z, z_hat, labels, player)
        sign = 1.0 if player == "decoder" else -1.0
        shares = [gradient.split([len(part) for part in parts]) for gradient in gradients]
        with self._without_reduction():
            for i, part in enumerate(parts):
                pair = passed[i] if whole else self._transcribe(part, player)
                pulls = zip(pair, (share[i] for share in shares), strict=True)
                # The gradient of this is what the rates ask of the features of this part.
                self.manual_backward(sum(sign * (exact(f) * g).sum() for f, g in pulls if f.requires_grad))
        self._add_up(self.model.players()[player == "decoder"])  # type: ignore[operator]
        return z, z_hat, terms

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """What an autoencoder is validated on, SSIM and the alignment."""
        images = exact(batch[0])
        x_hat, alignment = self._loop(batch[0])
        self.log("val/loss", mse_loss(x_hat, images), sync_dist=True)
        self.log("val/psnr", self.psnr(x_hat, images), prog_bar=True, sync_dist=True)
        self.log("val/ssim", self.ssim(x_hat, images), sync_dist=True)
        self.log("val/alignment", alignment, sync_dist=True)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """What an autoencoder is tested on, and the alignment."""
        super().test_step(batch, batch_idx)
        self.log("test/alignment", self._loop(batch[0])[1], sync_dist=True)

    def _transcribe(self, x: Tensor, player: str) -> tuple[Tensor, Tensor]:
        """Features of images and of their transcriptions, with the gradient of one player."""
        model: Any = self.model
        encoding = player != "decoder" and torch.is_grad_enabled()
        decoding = player == "decoder" and torch.is_grad_enabled()
        with torch.set_grad_enabled(encoding):
            z = model.encode(x)
        if player == "reduction":
            return z, z.detach()
        with torch.set_grad_enabled(decoding):
            x_hat = model.decode(z.detach(), x.shape[2:])
        return z, model.encode(x_hat)

    def _rates(
        self, z: Tensor, z_hat: Tensor, labels: Tensor, player: str
    ) -> tuple[dict[str, Tensor], tuple[Tensor, ...]]:
        """What is logged of the batch of all processes, and T's gradient with respect to the features of this one."""
        with torch.enable_grad():
            leaves = z.requires_grad_(), z_hat.requires_grad_()
            every = [self.everyone(leaf) for leaf in leaves]
            if not all(bool(features.isfinite().all()) for features in every):
                raise FloatingPointError(
                    f"features are not finite at step {self.global_step} (epoch {self.current_epoch}): try a smaller "
                    "task.lr, task.warmup_epochs=1, or trainer.precision=32-true"
                )
            classes = self.everyone(labels) if self.objective == "multi" else None
            if player == "reduction" and classes is not None:
                terms = {"reduction": rate_reduction(every[0], classes, self.eps)}
            else:
                terms = ctrl_terms(every[0], every[1], classes, self.eps)
            value = torch.stack(
                [terms[name] for name in ("distance", "reduction", "reduction_hat") if name in terms]
            ).sum()
            goal = value
            if self.sample_weight and player != "reduction":
                terms["sample"] = sample_distance(every[0], every[1], self.eps).mean()
                share = 1.0 if player == "decoder" else -1.0 if self.sample_players == "both" else 0.0
                goal = value + share * self.sample_weight * terms["sample"]
            gradients = torch.autograd.grad(goal, leaves, allow_unused=True, materialize_grads=True)
        z.requires_grad_(False), z_hat.requires_grad_(False)
        terms = {"loss": value, **terms, "dimension": _dimension(every[0]), "dimension_hat": _dimension(every[1])}
        return {name: term.detach() for name, term in terms.items()}, gradients

    def _without_reduction(self) -> AbstractContextManager[None]:
        """Keeps distributed training from reducing gradients by itself."""
        wrapped = self.trainer.strategy.model if self.processes > 1 else None
        return wrapped.no_sync() if isinstance(wrapped, DistributedDataParallel) else nullcontext()

    def _add_up(self, parameters: Sequence[nn.Parameter]) -> None:
        """Sums gradients over processes: each has those of its own images."""
        if self.processes == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        total = self.trainer.strategy.reduce(torch.cat([g.flatten() for g in gradients]), reduce_op="sum")
        for gradient, part in zip(gradients, total.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def _loop(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the loop makes of images, and the mean cosine of the features of both."""
        model: Any = self.model
        z = model.encode(x)
        x_hat = model.decode(z, x.shape[2:])
        z_hat = model.encode(x_hat)
        return exact(x_hat), (normalize(exact(z), dim=1) * normalize(exact(z_hat), dim=1)).sum(1).mean()

    def _guard(self, terms: dict[str, Tensor]) -> None:
        name = min(("dimension", "dimension_hat"), key=lambda name: float(terms[name]))
        self.collapsed.copy_(self.collapsed + 1 if terms[name] < self.collapse_dimension else torch.tensor(0))
        if self.collapsed >= self.collapse_steps:
            whose = "images" if name == "dimension" else "transcriptions"
            raise FloatingPointError(
                f"the game has collapsed: for {int(self.collapsed)} batches the features of all {whose} have been next "
                f"to the same ({terms[name].item():.3g} directions, fewer than collapse_dimension="
                f"{self.collapse_dimension}): try a larger data.batch_size, a smaller task.lr, or task.momentum=0.5"
            )


def _dimension(features: Tensor) -> Tensor:
    """Participation ratio of the eigenvalues of ``Z^T Z``."""
    z = features.detach()
    with torch.autocast(z.device.type, enabled=False):
        gram = z @ z.T if len(z) < z.shape[1] else z.T @ z
        return (gram.trace() ** 2 / gram.square().sum()).nan_to_num(0.0)


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
