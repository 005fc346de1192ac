"""Training of a classifier."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.parametrize import is_parametrized
from torchmetrics.classification import MulticlassAccuracy
from torchvision.transforms import v2

from csc_nets.data import ImageDataModule
from csc_nets.layers import given_lam
from csc_nets.tasks.adversarial import Adversary
from csc_nets.tasks.code_statistics import csc_layers, keep_codes, observe_codes, prior_layers
from csc_nets.tasks.registry import register_task
from csc_nets.tasks.task import Task
from csc_nets.tasks.views import TestViews, averaged_logits, check_views

__all__ = ["ClassificationTask"]


@register_task(name="classification")
class ClassificationTask(Task):
    r"""Cross-entropy training of a classifier on batches ``(images (N, C, H, W), labels (N,))``.

    For networks of :class:`~csc_nets.layers.SparsePriorConv2d` two terms may be added to the loss, our reading of
    "maintaining sparse priors" (Bowren, arXiv 2108.06622):

    .. math:: \mathrm{CE} + w_p \operatorname{mean}_l \operatorname{mean}\Bigl(\sum_i \lambda_{l,i} a_{l,i} -
              \log \lambda_{l,i}\Bigr) + w_o \operatorname{mean}_l \|\Phi_l^T \Phi_l - I\|_F^2

    the negative log prior of the codes, a mean over layers, samples and positions, and what keeps one step exact.

    With ``adversarial_eps`` the network trains on attacked images, see :class:`~csc_nets.tasks.Adversary`. The attack
    goes up the plain cross-entropy, after mixing, in pixels from 0 to 1. Validation and tests are on clean images.

    Logs ``train/loss``, with both terms, and ``train/negative_log_prior`` and ``train/orthogonality`` where they have a
    weight; ``val/loss`` and ``val/acc``; and for a test run

    - ``test/loss`` and ``test/acc``, the share of right answers,
    - ``test/density``, the share of non-zero code coefficients, a mean over test images and CSC layers,
    - ``test/reconstruction_error``, ``||x - D z||^2 / ||x||^2`` with x the input of a CSC layer and z its code, a mean
      over test images and CSC layers. The last two are left out for networks without CSC layers.

    Args:
        model: network from images to logits, with an attribute ``num_classes``.
        label_smoothing: share of the target that is spread over all classes, in [0, 1).
        mixup_alpha: MixUp's Beta parameter (Zhang et al., 2018), 0 for none.
        cutmix_alpha: CutMix's Beta parameter (Yun et al., 2019), 0 for none; with both, each batch takes one at random.
        prior_weight: :math:`w_p`. It has to be small: the prior alone is best off with no codes and rates without
            bound. A compiled network runs uncompiled in training where it is not 0.
        orthogonality_weight: :math:`w_o`.
        adversarial_eps: largest size of an attack on training images, in pixels from 0 to 1; 0 for none.
        adversarial_norm: its norm, ``"linf"`` or ``"l2"``.
        adversarial_steps: gradient steps of the attack. A training step costs about so many times more.
        adversarial_step_size: length of such a step; None for ``2.5 adversarial_eps / adversarial_steps``.
        lam_range: smallest and largest sparsity weight of a training image, so that the network works at each of them
            at test time. Each image has one of its own in all coding layers, drawn at random with a uniform logarithm.
            Validation and tests are at the layers' own ``lam``. None trains at that, too. A compiled network runs
            uncompiled in training with it.
        test_views: views of each test image whose logits are averaged: 1, the image; 2, its mirror image, too; 6, both
            also moved by a pixel up and left, and down and right. Validation takes one.
        **common: see :class:`csc_nets.tasks.Task`.

    Raises:
        ValueError: the model is no classifier, a number is out of range, one of the terms has a weight and the model
            no layer with a sparse prior, or it has no coding layer for ``lam_range``, or one that learns its ``lam``.
    """

    monitor = "val/acc"
    monitor_mode = "max"
    shardable = True

    def __init__(
        self,
        model: nn.Module,
        *,
        label_smoothing: float = 0.0,
        mixup_alpha: float = 0.0,
        cutmix_alpha: float = 0.0,
        prior_weight: float = 0.0,
        orthogonality_weight: float = 0.0,
        adversarial_eps: float = 0.0,
        adversarial_norm: str = "linf",
        adversarial_steps: int = 7,
        adversarial_step_size: float | None = None,
        lam_range: Sequence[float] | None = None,
        test_views: TestViews = 1,
        **common: Any,
    ) -> None:
        super().__init__(model, **common)
        num_classes = getattr(model, "num_classes", 0)
        if not num_classes:
            raise ValueError(f"task classification needs a classifier, got {type(model).__name__}")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
        for name, alpha in {"mixup_alpha": mixup_alpha, "cutmix_alpha": cutmix_alpha}.items():
            if not alpha >= 0:
                raise ValueError(f"{name} must be >= 0, got {alpha}")
        for name, weight in {"prior_weight": prior_weight, "orthogonality_weight": orthogonality_weight}.items():
            if not 0 <= weight < math.inf:
                raise ValueError(f"{name} must be a finite number >= 0, got {weight}")
            if weight and not prior_layers(model):
                raise ValueError(f"{name} needs a network with SparsePriorConv2d layers, got {type(model).__name__}")
        if not 0 <= adversarial_eps < math.inf:
            raise ValueError(f"adversarial_eps must be a finite number >= 0, got {adversarial_eps}")
        self.adversary: Adversary | None = None
        if adversarial_eps:
            self.adversary = Adversary.create(
                adversarial_norm, adversarial_eps, adversarial_steps, adversarial_step_size
            )
            self.shardable = False  # the gradient by the images runs apart from the step's
        self.lam_range = None if lam_range is None else _checked_range(model, lam_range)
        check_views(test_views)
        self.test_views = test_views
        self.label_smoothing, self.num_classes = label_smoothing, int(num_classes)
        self.prior_weight, self.orthogonality_weight = prior_weight, orthogonality_weight
        mixes = [v2.MixUp(alpha=float(mixup_alpha), num_classes=num_classes)] if mixup_alpha else []
        mixes += [v2.CutMix(alpha=float(cutmix_alpha), num_classes=num_classes)] if cutmix_alpha else []
        self.mix = v2.RandomChoice(mixes) if mixes else None
        self.val_acc = MulticlassAccuracy(num_classes, average="micro")
        self.test_acc = MulticlassAccuracy(num_classes, average="micro")

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Loss of one batch, with mixing, label smoothing and the terms of the priors."""
        images, labels = self.mix(*batch) if self.mix else batch
        layers = prior_layers(self.model)
        terms: dict[str, tuple[float, Tensor]] = {}
        with self.random_lam(images):
            if self.adversary is not None:
                images = self._attacked(self.adversary, images, labels)
            if self.prior_weight:
                with keep_codes(layers) as codes:
                    logits = self(images)
                values = torch.stack([layer.negative_log_prior(code).mean() for layer, code in codes])
                terms["train/negative_log_prior"] = self.prior_weight, values.mean()
            else:
                logits = self(images)
        if self.orthogonality_weight:
            values = torch.stack([layer.orthogonality() for layer in layers])
            terms["train/orthogonality"] = self.orthogonality_weight, values.mean()
        loss = cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        for name, (weight, term) in terms.items():
            self.log(name, term, on_step=False, on_epoch=True, sync_dist=True)
            loss = loss + weight * term
        self.divergence.see(loss, math.log(self.num_classes))  # the loss of calling all classes alike
        return self.log_training_loss(loss)

    def _attacked(self, adversary: Adversary, images: Tensor, labels: Tensor) -> Tensor:
        data = getattr(self._trainer, "datamodule", None)
        if not isinstance(data, ImageDataModule):
            raise ValueError(f"adversarial_eps needs a data module of csc_nets.data, got {type(data).__name__}")
        return adversary.attack(
            self.model, images, labels, data.mean, data.std, lambda random: self.draw(random, images)
        )

    @contextmanager
    def random_lam(self, images: Tensor) -> Iterator[None]:
        """Inside, each image has a sparsity weight of its own, with ``lam_range``."""
        if self.lam_range is None:
            yield
            return
        low, high = self.lam_range
        place = self.draw(torch.rand, images.new_empty(len(images), dtype=torch.float32))
        lam = low * (high / low) ** place
        layers = csc_layers(self.model).values()
        with given_lam(layers, lambda layer, x, mask: lam.to(x.dtype).view(-1, *(1,) * (x.ndim - 1))):
            yield

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Plain cross-entropy and accuracy."""
        images, labels = batch
        logits = self(images)
        self.val_acc(logits, labels)
        self.log("val/loss", cross_entropy(logits, labels), sync_dist=True)
        self.log("val/acc", self.val_acc, prog_bar=True)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Plain cross-entropy, accuracy, and what the codes look like."""
        images, labels = batch
        with observe_codes(self.model) as codes:
            logits = self(images)
        if self.test_views > 1:  # codes are those of the image as it is
            logits = averaged_logits(self, images, self.test_views)
        self.test_acc(logits, labels)
        self.log("test/loss", cross_entropy(logits, labels), sync_dist=True)
        self.log("test/acc", self.test_acc)
        if codes:
            self.log("test/density", torch.stack([c.density for c in codes]).mean(), sync_dist=True)
            error = torch.stack([c.reconstruction_error for c in codes]).mean()
            self.log("test/reconstruction_error", error, sync_dist=True)


def _checked_range(model: nn.Module, lam_range: Sequence[float]) -> tuple[float, float]:
    numbers = [value for value in lam_range if not isinstance(value, bool)]
    if len(numbers) != 2 or len(lam_range) != 2 or not 0 < numbers[0] <= numbers[1] < math.inf:
        raise ValueError(f"lam_range must be two numbers above 0, the smaller first, got {list(lam_range)}")
    layers = csc_layers(model)
    if not layers:
        raise ValueError(f"lam_range needs a network with coding layers, got {type(model).__name__}")
    learned = [name for name, layer in layers.items() if is_parametrized(layer, "lam")]
    if learned:
        raise ValueError(f"lam_range gives layers their lam, and {learned[0]} learns its own")
    return float(numbers[0]), float(numbers[1])
