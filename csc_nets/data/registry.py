"""Data modules by name."""

from collections.abc import Callable
from difflib import get_close_matches
from functools import partial
from typing import Any

from csc_nets.data.embedded import digits, sample_images
from csc_nets.data.folder import ImageFolderDataModule, imagenet
from csc_nets.data.module import ImageDataModule
from csc_nets.data.vision import SOURCES, VisionDataModule

BUILDERS: dict[str, Callable[..., ImageDataModule]] = {
    "digits": digits,
    "sample_images": sample_images,
    **{name: partial(VisionDataModule, name) for name in SOURCES},
    "imagenet": imagenet,
    "image_folder": ImageFolderDataModule,
}


def list_datasets() -> list[str]:
    """Names that `create_datamodule` knows, sorted."""
    return sorted(BUILDERS)


def create_datamodule(name: str, **options: Any) -> ImageDataModule:
    """Build the data module of a data set.

    Args:
        name: One of `list_datasets`.
        options: ``root`` and ``download`` where files are read, and the options of `ImageDataModule`.

    Raises:
        ValueError: In one line, if the name is unknown or an option is out of range.
        TypeError: If an option is unknown.

    Example:
        >>> data = create_datamodule("digits", batch_size=64)
        >>> images, labels = next(iter(data.train_dataloader()))
        >>> tuple(images.shape), data.num_classes
        ((64, 1, 8, 8), 10)
    """
    if name not in BUILDERS:
        close = get_close_matches(name, BUILDERS)
        hint = f", did you mean {' or '.join(close)}?" if close else ""
        raise ValueError(f"create_datamodule: unknown data set {name!r}{hint} (known: {', '.join(list_datasets())})")
    return BUILDERS[name](**options)
