"""Folders of corrupted images as they are published: CIFAR-10-C, CIFAR-100-C, Tiny-ImageNet-C and ImageNet-C."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from csc_nets.data.files import ImageFiles, find_classes, find_images
from csc_nets.evaluation.corruptions.registry import check_severity, list_corruptions
from csc_nets.functional.checks import as_count
from csc_nets.registry import unknown_name

__all__ = ["PublishedCorruptions"]

_OWNER = "PublishedCorruptions"
_SEVERITIES = 5


class PublishedCorruptions:
    """A folder of corrupted images, read batch by batch.

    Args:
        root: of CIFAR-10-C or CIFAR-100-C, with ``NAME.npy`` and ``labels.npy``, or of ImageNet-C or Tiny-ImageNet-C,
            with ``NAME/SEVERITY/CLASS/*.JPEG``. Other files and folders in it are passed by.
        batch_size: images in a batch.
        class_names: folders of the classes in the order of the labels; None for the alphabetical order of those in the
            first folder. Arrays have numbers for labels and need none.

    Attributes:
        names: corruptions that the folder has, in the order of `list_corruptions`.

    Raises:
        FileNotFoundError: no such folder, or nothing of this kind in it.
        ValueError: a batch size that is none; while reading, a file of another type or size.

    Example::

        published = PublishedCorruptions("CIFAR-10-C")
        for name in published.names:
            for severity in range(1, 6):
                for images, labels in published.batches(name, severity):
                    ...
    """

    def __init__(self, root: str | Path, *, batch_size: int = 500, class_names: Sequence[str] | None = None) -> None:
        self.root = Path(root)
        self.batch_size = as_count(batch_size, f"{_OWNER}: batch_size")
        if not self.root.is_dir():
            raise FileNotFoundError(f"{_OWNER}: folder {self.root.absolute()} is missing")
        self._in_arrays = (self.root / "labels.npy").is_file()
        self.names = [name for name in list_corruptions() if self._place(name).exists()]
        if not self.names:
            raise FileNotFoundError(
                f"{_OWNER}: no corruption in {self.root.absolute()}, expected labels.npy and NAME.npy as in CIFAR-10-C "
                "or NAME/SEVERITY/CLASS/*.JPEG as in ImageNet-C; NAME is one of list_corruptions()"
            )
        if class_names is None and not self._in_arrays:
            class_names = find_classes(_OWNER, self._place(self.names[0]) / "1")
        self.class_names = list(class_names or ())

    def _place(self, name: str) -> Path:
        return self.root / f"{name}.npy" if self._in_arrays else self.root / name

    def batches(self, name: str, severity: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Images ``(N, 3, H, W)`` in [0, 1] and their classes ``(N,)``, on the CPU, in the order of the files.

        Args:
            name: one of `names`.
            severity: 1 to 5.
        """
        if name not in self.names:
            raise unknown_name(_OWNER, "corruption", name, self.names)
        read = self._from_arrays if self._in_arrays else self._from_files
        for pixels, labels in read(name, check_severity(_OWNER, severity)):
            yield pixels.float().div_(255), labels

    def _from_arrays(self, name: str, severity: int) -> Iterator[tuple[Tensor, Tensor]]:
        images, labels = _array(self._place(name)), _array(self.root / "labels.npy")
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or len(images) % _SEVERITIES:
            raise ValueError(
                f"{_OWNER}: {self._place(name).absolute()} must be uint8 (5 N, H, W, 3), severity by severity, got "
                f"{images.dtype} {images.shape}"
            )
        if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
            raise ValueError(
                f"{_OWNER}: {(self.root / 'labels.npy').absolute()} must be integers ({len(images)},), as the images "
                f"of {name}, got {labels.dtype} {labels.shape}"
            )
        count = len(images) // _SEVERITIES
        for first in range((severity - 1) * count, severity * count, self.batch_size):
            part = slice(first, min(first + self.batch_size, severity * count))
            pixels = torch.from_numpy(np.array(images[part])).permute(0, 3, 1, 2)
            yield pixels, torch.from_numpy(labels[part].astype(np.int64))

    def _from_files(self, name: str, severity: int) -> Iterator[tuple[Tensor, Tensor]]:
        found = find_images(_OWNER, self._place(name) / str(severity), self.class_names)
        files = ImageFiles(_OWNER, found, lambda picture: picture, in_chans=3)
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            for first in range(0, len(files), self.batch_size):
                part = range(first, min(first + self.batch_size, len(files)))
                pixels = list(threads.map(files.read, part))
                for index, image in zip(part, pixels, strict=True):
                    if image.shape != pixels[0].shape:
                        raise ValueError(
                            f"{_OWNER}: images must have one size, got {tuple(image.shape)} in "
                            f"{found.paths[index].absolute()} and {tuple(pixels[0].shape)} before"
                        )
                yield torch.stack(pixels), torch.tensor(found.labels[part.start : part.stop])


def _array(path: Path) -> np.ndarray:
    """An array of a .npy file, mapped: nothing in it is called, and its memory ends where the file does."""
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise
    except (OSError, ValueError, EOFError, SyntaxError, OverflowError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{_OWNER}: cannot read {path.absolute()} ({reason})") from None
