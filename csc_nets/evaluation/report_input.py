"""What a report is given, and what it returns."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision.utils import save_image

from csc_nets.data import ImageDataModule
from csc_nets.data.module import FileSplit

__all__ = ["IMAGES", "ReportInput", "Result"]

IMAGES = 10_000
"""The largest number of images of a split that a report looks at."""

Result = tuple[str, list[dict[str, Any]]]
"""What a report returns: a text, and its numbers as rows, dicts of plain values with a ``name`` each."""


@dataclass(frozen=True)
class ReportInput:
    """The network and the data of a report: everything that a report is given.

    Attributes:
        model: the network, in evaluation mode. Gradients are on: a report that needs none says ``torch.no_grad()``.
        data: the data set. ``data.denormalize(images)`` gives pixels in [0, 1], ``data.class_names`` the classes.
        images: number of test images to look at, or to show; ``images=`` of the command line.
        picture: file for the report's picture; its folder exists.
        network: the network in whose feature space images of the model are judged, ``network=`` of the command line;
            see :func:`~csc_nets.evaluation.feature_space`.
        run: the run folder, with ``config.yaml``, ``metrics.json`` and ``metrics.csv``; None where there is none.
    """

    model: nn.Module
    data: ImageDataModule
    images: int
    picture: Path
    network: str | Path | None
    run: Path | None = None

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.model.parameters()).device

    @property
    def tested(self) -> str:
        """What test images are: ``"test"``, or ``"validation"`` where there are no others."""
        return "test" if self.data.has_test else "validation"

    def batches(self, split: str, limit: int = IMAGES) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels of ``"train"`` or ``"test"`` on the network's device.

        Of a split with more than ``limit`` images every k-th one is taken, because folders are sorted by class.
        """
        self.data.setup("fit" if split == "train" else "test")
        stored = self.data.split(split)
        total = stored.length if isinstance(stored, FileSplit) else len(stored.labels)
        step, seen = -(-total // limit), 0
        for images, labels in self.data.train_dataloader() if split == "train" else self.data.test_dataloader():
            first = -seen % step
            seen += len(labels)
            if first < len(labels):
                yield images[first::step].to(self.device), labels[first::step]

    def pixels(self, split: str) -> Iterator[Tensor]:
        """The images of :meth:`batches` as pixels in [0, 1]."""
        return (self.data.denormalize(images) for images, _ in self.batches(split))

    def shown(self) -> Tensor:
        """A few test images to look at."""
        return self.data.test_images(self.images).to(self.device)

    def components(self, features: Tensor) -> int:
        """Number of principal directions of a class of features ``(n, d)``: 10 in the literature, for d = 128."""
        return max(1, min(10, features.shape[1] // 4))

    def save(self, tiles: Tensor) -> None:
        """A picture of tiles ``(rows, columns, C, H, W)`` in [0, 1], small ones enlarged."""
        flat = interpolate(tiles.flatten(0, 1).float().cpu(), scale_factor=max(1, -(-64 // tiles.shape[-1])))
        save_image(flat, self.picture, nrow=tiles.shape[1], padding=4, pad_value=1)
