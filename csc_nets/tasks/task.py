"""What every training task shares: the optimiser, reproducible randomness, a guard on the loss, the checkpoint."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import lightning as L
import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard

from csc_nets.data import ImageDataModule
from csc_nets.tasks.divergence import Divergence
from csc_nets.tasks.optimization import build_optimizer, idle_decay, learning_rate_factor
from csc_nets.tasks.precise_batch_norm import renew_statistics

__all__ = ["Task"]

_FIRST_IMAGES = 1000  # a million patches of CIFAR
_IMAGES_AT_ONCE = 256


class Task(L.LightningModule):
    """Trains ``model`` by SGD or AdamW under a learning-rate schedule; subclasses say what the loss is.

    Random numbers of an epoch depend on ``(seed, epoch, rank)`` alone, because torch is seeded afresh at each epoch's
    start. Together with a data module that does the same, a run that was killed and resumed from its last checkpoint
    ends with the numbers of an uninterrupted one.

    A checkpoint holds, under ``hyper_parameters``, the model's name and arguments as plain values: all that
    :func:`csc_nets.load` needs.

    Args:
        model: a network of :func:`csc_nets.create_model`, or any other one.
        optimizer: ``"sgd"`` or ``"adamw"``.
        lr: peak learning rate.
        weight_decay: acts on plain weights only, see :func:`csc_nets.tasks.parameter_groups`.
        decay_atoms: whether weight decay acts on the tensors behind atoms, too, which keeps the atoms' effective
            learning rate; see :func:`csc_nets.tasks.parameter_groups`.
        momentum: of SGD, and the first beta of AdamW.
        nesterov: Nesterov's form of SGD's momentum.
        schedule: ``"cosine"`` or ``"linear"`` (per step), ``"step"`` or ``"constant"``.
        warmup_epochs: length of the linear warm-up, in epochs; fractions are fine.
        min_lr: learning rate at the end of ``"cosine"`` and ``"linear"``.
        milestones: epochs at which ``"step"`` multiplies the rate by ``gamma``.
        gamma: see ``milestones``.
        bias_rate: learning rate of the biases of batch norms as a multiple of ``lr``.
        precise_batch_norm: take the statistics of batch norms afresh from so many training images before each
            validation in training, see :func:`~csc_nets.tasks.precise_batch_norm.renew_statistics`; 0 leaves them the
            running averages. Checkpoints keep them, so that later tests are with them.
        seed: of all randomness in training steps.
        channels_last: keep weights in channels-last memory order (faster on GPUs in low precision, with a data module
            that does the same for images).
    """

    monitor: str
    """Validation number by which the best checkpoint is chosen."""
    monitor_mode: str
    """``"max"`` or ``"min"``."""
    shardable = False
    """Whether the weights may be spread over processes, so that none has all of them."""
    plugins: Sequence[str] = ()
    """Files and modules that a program imported for the network; a checkpoint names them, for an error message."""

    def __init__(
        self,
        model: nn.Module,
        *,
        optimizer: Literal["sgd", "adamw"] = "sgd",
        lr: float = 0.1,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        nesterov: bool = True,
        schedule: Literal["cosine", "linear", "step", "constant"] = "cosine",
        warmup_epochs: float = 0.0,
        min_lr: float = 0.0,
        milestones: Sequence[float] = (),
        gamma: float = 0.1,
        bias_rate: float = 1.0,
        decay_atoms: bool = False,
        precise_batch_norm: int = 0,
        seed: int = 0,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.optimizer_args: dict[str, Any] = {
            "name": optimizer,
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "nesterov": nesterov,
            "bias_rate": bias_rate,
            "decay_atoms": decay_atoms,
        }
        build_optimizer(model, **self.optimizer_args)  # refuses bad values before any data are read
        if not warmup_epochs >= 0:
            raise ValueError(f"warmup_epochs must be >= 0, got {warmup_epochs}")
        if not 0 <= min_lr <= lr:
            raise ValueError(f"min_lr must be in [0, lr = {lr}], got {min_lr}")
        learning_rate_factor(0, total=1, warmup=0, schedule=schedule, final=0, milestones=(), gamma=gamma)
        if not isinstance(precise_batch_norm, int) or precise_batch_norm < 0:
            raise ValueError(f"precise_batch_norm must be a whole number of images >= 0, got {precise_batch_norm!r}")
        self.precise_batch_norm = precise_batch_norm
        self.model = model.to(memory_format=torch.channels_last) if channels_last else model
        self.schedule, self.warmup_epochs, self.min_lr = schedule, warmup_epochs, min_lr
        self.milestones, self.gamma = list(milestones), gamma
        self.seed, self.channels_last = seed, channels_last
        self.divergence = Divergence()
        self._sharded, self._size = False, 1
        self._shared: torch.Generator | None = None

    def forward(self, images: Tensor) -> Tensor:
        """The network's output."""
        return self.model(images)

    def compile_model(self) -> None:
        """Compiles what training calls, in place."""
        self.model.compile()

    def configure_model(self) -> None:
        """Spreads weights over processes, with ``trainer.strategy=fsdp2``, for a training.

        Raises:
            ValueError: a task whose steps need all weights in each process.
        """
        strategy = self.trainer.strategy
        if not isinstance(strategy, ModelParallelStrategy) or self.trainer.state.fn != "fit" or self._sharded:
            return
        if not self.shardable:
            raise ValueError(f"{type(self).__name__} runs on several devices with trainer.strategy=ddp, got fsdp2")
        if norms := getattr(strategy, "_layer_sync", None):
            self.model = norms.apply(self.model)
        fully_shard(self.model, mesh=strategy.device_mesh["data_parallel"])
        self._sharded = True

    def configure_optimizers(self) -> Any:
        """The optimiser and a schedule that moves at every step."""
        optimizer = build_optimizer(self.model, **self.optimizer_args)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self.rate_schedule())
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def idle_decay(self) -> str | None:
        """Why ``decay_atoms`` was asked for and changes nothing; None where it does, or nobody asked."""
        asked, rate = self.optimizer_args["decay_atoms"], self.optimizer_args["weight_decay"]
        return idle_decay(self.model, rate) if asked else None

    def rate_schedule(self) -> Callable[[int], float]:
        """From the number of steps taken to the learning rate as a share of its peak."""
        total = int(self.trainer.estimated_stepping_batches)  # reads the data, which num_training_batches needs
        # Of an epoch that runs to its end: max_steps may end the training inside one.
        per_epoch = math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
        return partial(
            learning_rate_factor,
            total=total,
            warmup=round(self.warmup_epochs * per_epoch),
            schedule=self.schedule,
            final=self.min_lr / self.optimizer_args["lr"],
            milestones=[epoch * per_epoch for epoch in self.milestones],
            gamma=self.gamma,
        )

    def on_train_start(self) -> None:
        """Shows training images to a network that starts from some, by its ``fit_images``."""
        fit_images = getattr(self.model, "fit_images", None)
        if fit_images is not None and self.trainer.global_step == 0:
            images = self._training_images("model.fit_images", _FIRST_IMAGES)
            fit_images(self.trainer.strategy.broadcast(images))  # the same in all processes

    def on_validation_epoch_start(self) -> None:
        """Takes statistics of batch norms afresh, where that is asked for."""
        if self.precise_batch_norm and self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            images = self._training_images("task.precise_batch_norm", self.precise_batch_norm)
            with self.trainer.precision_plugin.forward_context():
                renew_statistics(self.model, images.split(_IMAGES_AT_ONCE), self.trainer.strategy.reduce)

    def _training_images(self, what: str, count: int) -> Tensor:
        data = getattr(self._trainer, "datamodule", None)
        if not isinstance(data, ImageDataModule):
            raise ValueError(f"{what} needs a data module of csc_nets.data, got {type(data).__name__}")
        return data.training_images(count).to(self.device)

    def on_train_epoch_start(self) -> None:
        """Makes the epoch's random numbers a function of ``(seed, epoch, rank)``."""
        seed = np.random.SeedSequence([self.seed, self.current_epoch, self.global_rank]).generate_state(1)[0]
        torch.manual_seed(int(seed))
        self._shared = self._generator(self.seed, self.current_epoch, 0)

    def _generator(self, *key: int) -> torch.Generator:
        seed = np.random.SeedSequence(list(key)).generate_state(1)[0]
        return torch.Generator(self.device).manual_seed(int(seed))

    @property
    def processes(self) -> int:
        """Processes of the training; 1 without a trainer."""
        return self.trainer.world_size if self._trainer is not None else 1

    def draw(self, random: Callable[..., Tensor], like: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Random numbers for each image of a batch, the same for an image whatever the number of processes.

        Position i of process r of W is position r + W i of the batch of all.

        Args:
            random: ``torch.rand`` or ``torch.randn``.
            like: for the shape, type and device; an image in each row.
            generator: the same in all processes; None for that of the epoch.
        """
        shape = (self.processes * len(like), *like.shape[1:])
        generator = generator or self._shared
        device = like.device if generator is None else generator.device
        return random(shape, generator=generator, device=device)[self.global_rank :: self.processes].to(like)

    def everyone(self, mine: Tensor) -> Tensor:
        """The rows of all processes, in the order that one process with the whole batch would have them.

        Only those of this process have a gradient.
        """
        if self.processes == 1:
            return mine
        rows = [torch.empty_like(mine) for _ in range(self.processes)]
        dist.all_gather(rows, mine.detach().contiguous())
        rows[self.global_rank] = mine
        return torch.stack(rows, 1).flatten(0, 1)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Counts the images of a batch."""
        self._size = len(batch[0])

    def on_validation_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Counts the images of a batch."""
        self._size = len(batch[0])

    def on_test_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Counts the images of a batch."""
        self._size = len(batch[0])

    def log(self, name: str, value: Any, *args: Any, **options: Any) -> None:
        """As Lightning has it, for processes with different numbers of images too.

        Lightning takes the mean of these numbers as a whole number. Of multiples of the processes it is exact.
        """
        if options.get("sync_dist") and self.processes > 1:
            options["batch_size"] = self.processes * (options.get("batch_size") or self._size)
        super().log(name, value, *args, **options)

    def log_training_loss(self, loss: Tensor) -> Tensor:
        """Logs ``train/loss`` and hands it back.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        # Reading the loss makes a GPU wait; a network that has broken down stays broken, so now and then is enough.
        if (not loss.is_cuda or self.global_step % 16 == 0) and not torch.isfinite(loss):
            raise FloatingPointError(
                f"the training loss is {loss.item()} at step {self.global_step} (epoch {self.current_epoch}, "
                f"learning rate {self._learning_rate():.3g}): {self._advice()}"
            )
        self.log("loss", loss, prog_bar=True, logger=False)
        self.log("train/loss", loss, on_step=False, on_epoch=True, sync_dist=True)
        return loss

    def on_train_epoch_end(self) -> None:
        """Logs the learning rate at the epoch's end.

        Raises:
            FloatingPointError: the training has diverged, see :class:`~csc_nets.tasks.divergence.Divergence`.
        """
        self.log("lr", self._learning_rate(), sync_dist=True)
        # All processes must agree: one that went on alone would wait for the others for ever.
        if self.trainer.strategy.reduce_boolean_decision(self.divergence.end_epoch(), all=False):
            raise FloatingPointError(
                f"the training has diverged: epoch {self.current_epoch} ended with losses above "
                f"{self.divergence.factor:g} times that of an untrained network (learning rate "
                f"{self._learning_rate():.3g}): {self._advice()}"
            )

    def _advice(self) -> str:
        clip = "trainer.gradient_clip_val=1 " if self.automatic_optimization else ""
        return f"try a smaller task.lr, task.warmup_epochs=1, {clip}or trainer.precision=32-true"

    def _learning_rate(self) -> float:
        found: Any = self.optimizers()
        return (found[0] if isinstance(found, list) else found).param_groups[0]["lr"]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Records what rebuilds the network, and what tells divergence."""
        checkpoint["divergence"] = self.divergence.state_dict()
        checkpoint["hyper_parameters"] = {
            "model_name": getattr(self.model, "model_name", type(self.model).__name__),
            "model_args": dict(getattr(self.model, "model_args", {})),
        }
        if self.plugins:
            checkpoint["hyper_parameters"]["plugins"] = list(self.plugins)
        data = getattr(self._trainer, "datamodule", None)
        if isinstance(data, ImageDataModule):
            sizes = {"batch_size": data.batch_size, "configured": data.configured_batch_size}
            checkpoint["trained"] = {"processes": self.processes, **sizes}
            checkpoint["hyper_parameters"]["images"] = {
                "mean": [*data.mean],
                "std": [*data.std],
                "input_size": [data.in_chans, data.image_size, data.image_size],
                "crop_pct": [getattr(data, "crop_share", 1.0)],
            }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Goes on with the loss of the beginning of the run."""
        self.divergence.load_state_dict(checkpoint.get("divergence") or {})
