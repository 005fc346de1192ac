"""A data module from tensors the user already has."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from csc_nets.data.channels import to_channels, to_channels_of
from csc_nets.data.module import ImageDataModule, Split, TensorSplit
from csc_nets.data.sampling import held_out_indices


def checked_split(name: str, images: Tensor, labels: Tensor, *, num_classes: int, shape: Sequence[int]) -> TensorSplit:
    """Refuse a split in memory that cannot be served.

    Args:
        name: Stands in front of the message, for instance ``"TensorDataModule: train"``.
        images: uint8 or floating ``(N, C, H, W)``.
        labels: Whole numbers ``(N,)``.
        num_classes: Labels are in ``[0, num_classes)``.
        shape: Expected ``(C, H, W)``.

    Raises:
        ValueError: In one line, if the set is empty, shapes or types are wrong, a pixel is not finite, or a label is
            out of range.
    """
    if images.ndim != 4 or tuple(images.shape[1:]) != tuple(shape):
        expected = ", ".join(map(str, shape))
        raise ValueError(f"{name}: expected images of shape (N, {expected}), got {tuple(images.shape)}")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise ValueError(f"{name}: expected uint8 or floating images, got {images.dtype}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"{name}: expected whole-number labels, got {labels.dtype}")
    if tuple(labels.shape) != (len(images),):
        raise ValueError(f"{name}: expected {len(images)} labels of shape ({len(images)},), got {tuple(labels.shape)}")
    if len(images) == 0:
        raise ValueError(f"{name}: expected at least one image, got none")
    if images.is_floating_point() and not bool((finite := images.isfinite().flatten(1).all(1)).all()):
        bad = (~finite).nonzero()[:, 0]
        raise ValueError(
            f"{name}: expected finite images, got NaN or infinity in {len(bad)}, first index {int(bad[0])}"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise ValueError(f"{name}: expected labels from 0 to {num_classes - 1}, got labels from {low} to {high}")
    return TensorSplit(images, labels.long())


class TensorDataModule(ImageDataModule):
    """Batches from image tensors in memory.

    uint8 images are divided by 255; floating images are taken as they stand. Without ``val`` a stratified share of the
    training images is held out. Without ``test`` there is no test set, and asking for one is an error.

    Args:
        x: Training images ``(N, C, H, W)``, square, uint8 or floating and finite.
        y: Training classes, whole numbers ``(N,)`` in ``[0, num_classes)``.
        val: Images and classes to validate on.
        test: Images and classes to test on.
        num_classes: Number of classes; None for one more than the largest training label, or one for each of
            ``class_names``.
        class_names: One name a class; None for the class numbers.
        mean: Mean of each channel of the images given; None for 0.
        std: Standard deviation of each channel; None for 1.
        in_chans: Channels that networks get; None for those of the images. Grey images are repeated, colours become
            their luma.
        image_size: Height and width of the images, which cannot be another one.
        val_fraction: Share of every class that is held out where ``val`` is None, in (0, 1).
        split_seed: Decides which images are held out; keep it fixed when runs are compared.
        options: See `ImageDataModule`.

    Raises:
        ValueError: In one line, if a tensor or an argument cannot be used.

    Example:
        >>> import torch
        >>> data = TensorDataModule(torch.rand(20, 1, 8, 8), torch.arange(20) % 2, val_fraction=0.5, batch_size=5)
        >>> images, labels = next(iter(data.train_dataloader()))
        >>> tuple(images.shape), data.num_classes
        ((5, 1, 8, 8), 2)
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        *,
        val: tuple[Tensor, Tensor] | None = None,
        test: tuple[Tensor, Tensor] | None = None,
        num_classes: int | None = None,
        class_names: Sequence[str] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        in_chans: int | None = None,
        image_size: int | None = None,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        name: str = "TensorDataModule",
        **options: Any,
    ) -> None:
        if x.ndim != 4 or x.shape[2] != x.shape[3]:
            raise ValueError(f"{name}: x must be square images (N, C, H, H), got {tuple(x.shape)}")
        if class_names is None:
            count = num_classes if num_classes is not None else int(y.max()) + 1 if y.numel() else 0
            class_names = [str(number) for number in range(count)]
        elif num_classes not in (None, len(class_names)):
            raise ValueError(f"{name}: num_classes must be the {len(class_names)} of class_names, got {num_classes}")
        own = x.shape[1]
        channels = own if in_chans is None else in_chans
        x = to_channels(name, x, channels)
        super().__init__(
            name=name,
            class_names=class_names,
            in_chans=channels,
            image_size=x.shape[2],
            mean=(0.0,) * channels if mean is None else to_channels_of(mean, own, channels),
            std=(1.0,) * channels if std is None else to_channels_of(std, own, channels),
            **options,
        )
        self._require(image_size in (None, x.shape[2]), "image_size", image_size, f"{x.shape[2]}, that of its images")
        self._require(0 < val_fraction < 1, "val_fraction", val_fraction, "between 0 and 1")
        for split, pair in {"train": (x, y), "val": val, "test": test}.items():
            if pair is not None:
                where, shape, (images, labels) = f"{name}: {split}", x.shape[1:], pair
                images = to_channels(where, images, channels) if images.ndim == 4 and in_chans is not None else images
                self._splits[split] = checked_split(where, images, labels, num_classes=self.num_classes, shape=shape)
        if val is None:
            kept, held = held_out_indices(name, y, val_fraction, split_seed)
            self._splits |= {part: TensorSplit(x[i], y[i].long()) for part, i in (("train", kept), ("val", held))}

    def load(self, split: str) -> dict[str, Split]:
        raise ValueError(f"{self.name}: test must be given as (images, labels) to test, got None")
