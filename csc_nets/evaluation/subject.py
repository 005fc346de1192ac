"""What a report is on, and what it comes to."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision.utils import save_image

from csc_nets.data import ImageDataModule

__all__ = ["IMAGES", "Result", "Subject"]

IMAGES = 10_000
"""Images of a split, at most, in reports on many."""

Result = tuple[str, list[dict[str, Any]]]
"""Text, and its numbers as rows."""


@dataclass(frozen=True)
class Subject:
    """What a report is on.

    Attributes:
        model: a network, in evaluation mode.
        data: what it is shown.
        images: test images to look at, or to show.
        picture: file for the report's picture.
        network: what judges images that the model makes, see :func:`~csc_nets.evaluation.feature_space`.
    """

    model: nn.Module
    data: ImageDataModule
    images: int
    picture: Path
    network: str | Path | None

    def components(self, features: Tensor) -> int:
        """Directions of a class of features ``(n, d)``: 10 in the literature, for 128 dimensions."""
        return max(1, min(10, features.shape[1] // 4))

    def save(self, tiles: Tensor) -> None:
        """A picture of tiles ``(rows, columns, C, H, W)`` in [0, 1], small ones enlarged."""
        flat = interpolate(tiles.flatten(0, 1), scale_factor=max(1, -(-64 // tiles.shape[-1])))
        save_image(flat, self.picture, nrow=tiles.shape[1], padding=4, pad_value=1)
