"""Image files on disk: which there are, and how one becomes uint8 pixels."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms.v2.functional import pil_to_tensor

BILINEAR = Image.Resampling.BILINEAR
MODES = {1: "L", 3: "RGB"}


class FileList(NamedTuple):
    """Image files and their classes."""

    paths: list[Path]
    labels: list[int]


def find_classes(name: str, folder: Path) -> list[str]:
    """Sub-folders of a split in alphabetical order, as torchvision's ImageFolder numbers them.

    A folder without sub-folders is one class that bears its name.

    Raises:
        FileNotFoundError: In one line, if the folder is missing.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{name}: folder {folder.absolute()} is missing, expected one sub-folder a class in it")
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    return names or [folder.name]


def find_images(name: str, folder: Path, class_names: list[str]) -> FileList:
    """Image files of a split, sorted by class and path.

    Args:
        name: Stands in front of the message.
        folder: Folder of the split.
        class_names: Classes in the order of the labels.

    Raises:
        FileNotFoundError: In one line, if the folder or all images in it, or in one of its classes, are missing.
        ValueError: In one line, if it has a class that is not in ``class_names``.
    """
    found = find_classes(name, folder)
    flat = not any((folder / label).is_dir() for label in found)
    if not flat and (unknown := sorted(set(found) - set(class_names))):
        raise ValueError(f"{name}: {folder.absolute()} has class {unknown[0]!r}, which the training folder has not")
    files, empty = FileList([], []), []
    for label, class_name in enumerate(class_names[:1] if flat else class_names):
        inside = folder if flat else folder / class_name
        images = [path for path in sorted(inside.rglob("*")) if is_image(path.relative_to(inside)) and path.is_file()]
        if not images and inside.is_dir():
            empty.append(inside)
        files.paths.extend(images)
        files.labels.extend([label] * len(images))
    if not files.paths:
        allowed = " ".join(IMG_EXTENSIONS)
        raise FileNotFoundError(f"{name}: no image under {folder.absolute()}, expected files ending in {allowed}")
    if empty:
        raise FileNotFoundError(f"{name}: no image under {empty[0].absolute()}, expected at least one for each class")
    return files


def is_image(path: Path) -> bool:
    """Whether a path has the name of an image and no part of it is hidden."""
    return path.suffix.lower() in IMG_EXTENSIONS and not any(part.startswith(".") for part in path.parts)


def as_eight_bit(image: Image.Image, mode: str) -> Image.Image:
    """Converts to ``mode``, 16-bit grey by its upper eight bits (PIL would clip it). Transparency is dropped.

    Raises:
        ValueError: 32 bits a pixel, whose range nobody knows.
    """
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"32 bits a pixel (mode {image.mode}), expected 8 or 16")
    return image.convert(mode)


def central_square(picture: Image.Image, size: int, share: float) -> Image.Image:
    """The central square of ``share`` of the shorter side, resized to ``size`` pixels (bilinear, antialiased)."""
    side = share * min(picture.size)
    left, top = (picture.width - side) / 2, (picture.height - side) / 2
    box = (left, top, left + side, top + side)
    return picture if picture.size == (size, size) and share == 1 else picture.resize((size, size), BILINEAR, box)


class ImageFiles(Dataset):
    """Decoded images of a file list, by index and random key.

    Args:
        name: Stands in front of the message.
        files: Paths and classes.
        transform: PIL image to PIL image of one size; draws from torch's random numbers, which the key seeds.
        in_chans: 1 for grey, 3 for colour.
    """

    def __init__(
        self, name: str, files: FileList, transform: Callable[[Image.Image], Image.Image], in_chans: int
    ) -> None:
        self.name, self.files, self.transform, self.in_chans = name, files, transform, in_chans

    def __len__(self) -> int:
        return len(self.files.paths)

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor, int]:
        """Image and class of ``(index, key)``; the same item always gives the same pixels.

        Raises:
            ValueError: In one line with the path, if the file cannot be read.
        """
        index, key = item
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(key)
            return self.read(index), self.files.labels[index]

    def read(self, index: int) -> Tensor:
        """Pixels of one file with whatever random numbers come next."""
        path = self.files.paths[index]
        try:
            with Image.open(path) as image:
                picture = as_eight_bit(image, MODES[self.in_chans])
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            reason = "not an image" if isinstance(error, Image.UnidentifiedImageError) else str(error).splitlines()[0]
            raise ValueError(f"{self.name}: cannot read the image {path.absolute()} ({reason})") from None
        return pil_to_tensor(self.transform(picture))

    def decode_all(self) -> tuple[Tensor, Tensor]:
        """All images uint8 ``(N, C, S, S)`` and classes int64 ``(N,)``; for a transform that draws nothing."""
        first = self.read(0)
        images = first.new_empty(len(self), *first.shape)

        def fill(indices: range) -> None:
            for index in indices:
                images[index] = self.read(index)

        # Decoding leaves the interpreter lock, but for thumbnails passing the lock around costs more than it gains.
        workers = (os.cpu_count() or 1) if first.shape[-1] >= 64 else 1
        with ThreadPoolExecutor(workers) as threads:
            list(threads.map(fill, [range(start, len(self), workers) for start in range(workers)]))
        return images, torch.tensor(self.files.labels)
