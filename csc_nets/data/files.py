"""Image files on disk: which there are, and how one becomes uint8 pixels."""

import os
from collections.abc import Callable, Iterator
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
_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")
"""What is decoded, whatever a file is called: all in this process. Others (EPS) hand the file to a program."""


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
        images = [path for path in sorted(_files_under(inside)) if is_image(path.relative_to(inside))]
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


def _files_under(folder: Path, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[Path]:
    """All files, also in folders that are links; a link to a folder above it is passed by."""
    if not folder.is_dir():
        return
    status = folder.stat()
    inside = above | {(status.st_dev, status.st_ino)}
    for entry in folder.iterdir():
        if not entry.is_dir():
            if entry.is_file():
                yield entry
        elif not entry.name.startswith("."):
            status = entry.stat()
            if (status.st_dev, status.st_ino) not in inside:
                yield from _files_under(entry, inside)


def is_image(path: Path) -> bool:
    """Whether a path has the name of an image and no part of it is hidden."""
    return path.suffix.lower() in IMG_EXTENSIONS and not any(part.startswith(".") for part in path.parts)


def as_eight_bit(image: Image.Image, mode: str, bits: int = 16) -> Image.Image:
    """Converts to ``mode``, 16-bit grey by its upper eight bits (PIL would clip it). Transparency is dropped.

    Args:
        image: any picture.
        mode: ``"L"`` or ``"RGB"``.
        bits: how many of the 16 bits the values use, 8 to 16: cameras and scanners give 10, 12 or 14.

    Raises:
        ValueError: 32 bits a pixel, whose range nobody knows, or a value above that of ``bits``.
    """
    if bits < 16 and is_sixteen_bit_colour(image):
        raise ValueError(f"colours of 16 bits, which can be read with data.bits=16 only, got {bits}: make 8 of them")
    if is_sixteen_bit(image):
        values = np.asarray(image)
        if (highest := int(values.max())) >> bits:
            raise ValueError(f"a value of {highest} in an image of bits={bits}")
        image = Image.fromarray((values >> (bits - 8)).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"32 bits a pixel (mode {image.mode}), expected 8 or 16")
    return image.convert(mode)


def is_sixteen_bit(image: Image.Image) -> bool:
    """Whether a picture has one channel of 16 bits."""
    return image.mode.startswith("I;16")


def is_sixteen_bit_colour(image: Image.Image) -> bool:
    """Whether a picture that is open, and not yet read, has colours of 16 bits, of which PIL reads the upper eight."""
    return image.mode.startswith("RGB") and any(";16" in str(tile[-1]) for tile in getattr(image, "tile", ()))


def bits_in_use(name: str, files: FileList, most: int = 64) -> int:
    """How many bits the values of 16-bit images use: 16, where some value says so or none is of that kind.

    Args:
        name: Stands in front of the message.
        files: Images of training.
        most: Images to look at, spread over all.

    Raises:
        ValueError: In one line, if no value needs the upper bits: the images would be nearly black, and whether they
            are dark or have 12 bits only their owner knows.
    """
    step = max(1, len(files.paths) // most)
    highest = -1
    for path in files.paths[::step]:
        try:
            with Image.open(path, formats=_FORMATS) as image:
                if is_sixteen_bit_colour(image):
                    highest = max(highest, int(np.asarray(image).max()) << 8 | 255)
                elif is_sixteen_bit(image):
                    highest = max(highest, int(np.asarray(image).max()))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            continue  # reported with its name when it is read
    if 0 <= highest < 1 << 14:
        need = next(bits for bits in (8, 10, 12, 14) if highest >> bits == 0)  # what cameras and scanners have
        raise ValueError(
            f"{name}: bits must be given: no value of the 16-bit images is above {highest}, as if they had {need} "
            f"bits; set data.bits={need}, or data.bits=16 if they are dark"
        )
    return 16


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
        bits: Bits that the values of 16-bit images use.
    """

    def __init__(
        self, name: str, files: FileList, transform: Callable[[Image.Image], Image.Image], in_chans: int, bits: int = 16
    ) -> None:
        self.name, self.files, self.transform, self.in_chans, self.bits = name, files, transform, in_chans, bits

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
            with Image.open(path, formats=_FORMATS) as image:
                picture = as_eight_bit(image, MODES[self.in_chans], self.bits)
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
