"""Unsupervised training of a convolutional dictionary."""

from typing import Any

import torch
from torch import Tensor, nn

from csc_nets.functional import unit_norm
from csc_nets.tasks.autoencoding import AutoencodingTask
from csc_nets.tasks.pictures import atom_grids
from csc_nets.tasks.precision import exact
from csc_nets.tasks.registry import register_task
from csc_nets.tasks.reseeding import move, moves_to_centre, rarely_used, redundant, residual_atoms

__all__ = ["DictionaryLearningTask"]


@register_task(name="dictionary_learning")
class DictionaryLearningTask(AutoencodingTask):
    r"""Online dictionary learning on batches ``(images (N, C, H, W), labels)``; labels are unused.

    .. math:: \min_D \sum_j \min_{z_j} \tfrac12 \|x_j - D z_j\|^2 + \lambda \|z_j\|_1, \qquad \|d_m\| = 1

    For each batch: the codes by the model's pursuit, without gradient; one step of the optimiser on D for these codes;
    atoms back to unit norm. At optimal codes that gradient is the gradient of the inner minimum (Danskin's theorem).
    Mairal, Bach, Ponce, Sapiro, `Online Learning for Matrix Factorization and Sparse Coding
    <https://arxiv.org/abs/0908.0050>`_; first-order steps on a convolutional D as in Liu, Garcia-Cardona, Wohlberg,
    Yin, `First- and Second-Order Methods for Online Convolutional Dictionary Learning
    <https://arxiv.org/abs/1709.00106>`_. With D a product of several dictionaries it is the learning of the multi-layer
    model, see :class:`csc_nets.models.CSCDictionary`.

    Every ``reseed_every`` steps of the first half of the training, atoms get a new start from patches of the last
    batch's residual (:func:`csc_nets.tasks.reseeding.residual_atoms`; at most one for each image of the batch): those
    whose coefficients since the last time sum to at most ``reseed_below`` of the average atom's, and those that a
    busier atom of their layer, moved, resembles by more than ``reseed_similar`` in the image. Atoms of the deepest
    dictionary are moved to the middle of their windows (:func:`csc_nets.tasks.reseeding.moves_to_centre`). Where atoms
    are about as large as the image they are compared as they lie, and not moved. A dictionary that is kept fixed
    (``requires_grad_(False)``) stays as it is.

    Deeper atoms that shall have few non-zeros begin dense; their number falls geometrically over the first ``sparsify``
    of the training. Validation, test and a loaded network have the wanted number at all times.

    Logs ``train/loss`` (the objective per image) and ``train/density`` (share of non-zeros in the deepest code);
    ``val/objective``, ``val/psnr`` (dB) and ``val/density``; for a test run what
    :class:`csc_nets.tasks.AutoencodingTask` logs and ``test/objective``. A logger that takes images gets the effective
    atoms of every layer after each validation.

    Args:
        model: a network as :class:`csc_nets.models.CSCDictionary`: ``encode(x)``, ``objective(x, z)``,
            ``reconstruct(x, z)``, ``residual(x, z)``, ``codes(z, size)``, ``project()``, and ``dictionaries``.
        reseed_every: steps; 0 for never.
        reseed_below: between 0 (only atoms that were never used) and 1.
        reseed_similar: a correlation above 0; 1 for never.
        sparsify: share of the training; 0 for the wanted number from the start.
        **common: see :class:`csc_nets.tasks.AutoencodingTask`.

    Raises:
        ValueError: the model has no dictionary to learn, or a value is out of range.
    """

    monitor = "val/objective"
    monitor_mode = "min"

    def __init__(
        self,
        model: nn.Module,
        *,
        reseed_every: int = 50,
        reseed_below: float = 0.1,
        reseed_similar: float = 0.95,
        sparsify: float = 0.5,
        **common: Any,
    ) -> None:
        missing = [name for name in ("dictionaries", "encode", "objective", "project") if not hasattr(model, name)]
        if missing:
            raise ValueError(f"task dictionary_learning needs a dictionary model, got {type(model).__name__}")
        super().__init__(model, **common)
        if isinstance(reseed_every, bool) or not isinstance(reseed_every, int) or reseed_every < 0:
            raise ValueError(f"reseed_every must be an int >= 0, got {reseed_every!r}")
        if not 0 <= reseed_below <= 1:
            raise ValueError(f"reseed_below must be in [0, 1], got {reseed_below!r}")
        if not reseed_similar > 0:
            raise ValueError(f"reseed_similar must be greater than 0, got {reseed_similar!r}")
        if not 0 <= sparsify <= 1:
            raise ValueError(f"sparsify must be in [0, 1], got {sparsify!r}")
        self.reseed_every, self.reseed_below, self.reseed_similar = reseed_every, reseed_below, reseed_similar
        self.sparsify = sparsify
        # Sums since the last reseeding, in buffers: a resumed run goes on with them.
        for i, dictionary in enumerate(model.dictionaries):  # type: ignore[arg-type]
            self.register_buffer(f"mass_{i}", torch.zeros(dictionary.out_channels))
        self._images: Tensor | None = None

    def on_train_start(self) -> None:
        """Lets sparse atoms begin dense; a resumed run goes on with its own number."""
        super().on_train_start()
        if self.global_step == 0:
            self.model.project(0.0 if self.sparsify else 1.0)  # type: ignore[operator]

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Objective per image at the codes of one batch; its gradient takes the codes as constants."""
        images, _ = batch
        model: Any = self.model
        with torch.no_grad():
            z = model.encode(images)
            for i, code in enumerate(model.codes(z, images.shape[2:])):
                mass = code.abs().sum((0, 2, 3))
                if self._trainer is not None:
                    # Here and not later: the first process's buffers overwrite those of the others in each forward.
                    mass = self.trainer.strategy.reduce(mass, reduce_op="sum")
                self.get_buffer(f"mass_{i}").add_(mass)
        self._images = images
        self.log("train/density", (z != 0).float().mean(), on_step=False, on_epoch=True, sync_dist=True)
        loss = model.objective(images, z).mean()
        self.divergence.see(
            loss, 0.5 * exact(images).square().flatten(1).sum(1).mean()
        )  # the objective of the code zero
        return self.log_training_loss(loss)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """A step of the optimiser, then unit norm, then new starts for atoms that hardly anything uses."""
        super().optimizer_step(*args, **kwargs)
        step, total = self.global_step + 1, self.trainer.estimated_stepping_batches
        self.model.project(self._progress())  # type: ignore[operator]
        if self.reseed_every and step % self.reseed_every == 0 and 2 * step <= total:
            self.reseed()

    def _progress(self) -> float:
        """How far the atoms with few non-zeros have come, after the step that is being taken."""
        whole = self.sparsify * self.trainer.estimated_stepping_batches
        return (self.global_step + 1) / whole if whole else 1.0

    @torch.no_grad()
    def reseed(self) -> None:
        """Gives a new start to the atoms that did little since the last time."""
        model: Any = self.model
        assert self._images is not None
        residual = self.everyone(model.residual(self._images, model.encode(self._images)))
        size, stride = residual.shape[2:], (1, 1)
        for i, dictionary in enumerate(model.dictionaries):
            g = dictionary.geometry
            size, stride = g.code_size(size), (stride[0] * g.stride[0], stride[1] * g.stride[1])
            atoms, weight = model.effective_atoms(i), dictionary.get_parameter("parametrizations.weight.original")
            mass = self.get_buffer(f"mass_{i}").clone()
            self.get_buffer(f"mass_{i}").zero_()
            if not weight.requires_grad:
                continue
            # A code can make up for a move of the atom only where there are other positions to go to.
            room = all(n > 2 * ((e - 1) // s) for n, e, s in zip(size, atoms.shape[2:], stride, strict=True))
            if room and i == len(model.dictionaries) - 1:
                moves = moves_to_centre(dictionary.weight, g.stride)
                weight.copy_(move(weight, moves))
                for moment in self._moments(weight):
                    moment.copy_(move(moment, moves))
            copies = redundant(unit_norm(atoms), stride if room else atoms.shape[2:], mass, self.reseed_similar)
            idle = torch.cat([rarely_used(mass, self.reseed_below), copies]).unique()
            if len(idle):
                fresh = residual_atoms(model.dictionaries, residual, i, len(idle))
                weight[idle[: len(fresh)]] = fresh
                for moment in self._moments(weight):  # they are of the atoms that were there
                    moment[idle[: len(fresh)]] = 0
        model.project(self._progress())

    def _moments(self, weight: Tensor) -> list[Tensor]:
        """What the optimiser remembers of the gradients of a tensor, entry by entry."""
        found: Any = self.optimizers(use_pl_optimizer=False)
        states = [o.state.get(weight, {}) for o in (found if isinstance(found, list) else [found])]
        return [v for state in states for v in state.values() if isinstance(v, Tensor) and v.shape == weight.shape]

    def on_validation_start(self) -> None:
        """The step size for the atoms of evaluation, which are sparser than those of training for a while."""
        self.model.coder.dictionary.refresh()  # type: ignore[union-attr, operator]

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Objective, PSNR and density."""
        images, _ = batch
        model: Any = self.model
        z = model.encode(images)
        self.log("val/objective", model.objective(images, z).mean(), prog_bar=True, sync_dist=True)
        self.log("val/psnr", self.psnr(exact(model.reconstruct(images, z)), exact(images)), sync_dist=True)
        self.log("val/density", (z != 0).float().mean(), sync_dist=True)

    def on_validation_end(self) -> None:
        """Shows the atoms to every logger that takes images."""
        for logger in self.loggers:
            if hasattr(logger, "log_image") and not self.trainer.sanity_checking:
                for name, grid in atom_grids(self.model).items():
                    logger.log_image(name, [grid.cpu().permute(1, 2, 0).numpy()], step=self.global_step)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """What an autoencoder is tested on, and the objective."""
        super().test_step(batch, batch_idx)
        images, _ = batch
        model: Any = self.model
        self.log("test/objective", model.objective(images, model.encode(images)).mean(), sync_dist=True)
