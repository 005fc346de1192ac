"""Training of a classifier."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics.classification import MulticlassAccuracy
from torchvision.transforms import v2

from csc_nets.tasks.code_statistics import observe_codes
from csc_nets.tasks.task import Task

__all__ = ["ClassificationTask"]


class ClassificationTask(Task):
    """Cross-entropy training of a classifier on batches ``(images (N, C, H, W), labels (N,))``.

    Logs ``train/loss``; ``val/loss`` and ``val/acc``; and for a test run

    - ``test/loss`` and ``test/acc``, the share of right answers,
    - ``test/density``, the share of non-zero code coefficients, a mean over test images and CSC layers,
    - ``test/reconstruction_error``, ``||x - D z||^2 / ||x||^2`` with x the input of a CSC layer and z its code, a mean
      over test images and CSC layers. The last two are left out for networks without CSC layers.

    Args:
        model: network from images to logits, with an attribute ``num_classes``.
        label_smoothing: share of the target that is spread over all classes, in [0, 1).
        mixup_alpha: MixUp's Beta parameter (Zhang et al., 2018), 0 for none.
        cutmix_alpha: CutMix's Beta parameter (Yun et al., 2019), 0 for none; with both, each batch takes one at random.
        **common: see :class:`csc_nets.tasks.Task`.

    Raises:
        ValueError: the model is no classifier, or a number is out of range.
    """

    monitor = "val/acc"
    monitor_mode = "max"

    def __init__(
        self,
        model: nn.Module,
        *,
        label_smoothing: float = 0.0,
        mixup_alpha: float = 0.0,
        cutmix_alpha: float = 0.0,
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
        self.label_smoothing = label_smoothing
        mixes = [v2.MixUp(alpha=float(mixup_alpha), num_classes=num_classes)] if mixup_alpha else []
        mixes += [v2.CutMix(alpha=float(cutmix_alpha), num_classes=num_classes)] if cutmix_alpha else []
        self.mix = v2.RandomChoice(mixes) if mixes else None
        self.val_acc = MulticlassAccuracy(num_classes, average="micro")
        self.test_acc = MulticlassAccuracy(num_classes, average="micro")

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Loss of one batch, with mixing and label smoothing."""
        images, labels = self.mix(*batch) if self.mix else batch
        loss = cross_entropy(self(images), labels, label_smoothing=self.label_smoothing)
        return self.log_training_loss(loss)

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
        self.test_acc(logits, labels)
        self.log("test/loss", cross_entropy(logits, labels), sync_dist=True)
        self.log("test/acc", self.test_acc)
        if codes:
            self.log("test/density", torch.stack([c.density for c in codes]).mean(), sync_dist=True)
            error = torch.stack([c.reconstruction_error for c in codes]).mean()
            self.log("test/reconstruction_error", error, sync_dist=True)
