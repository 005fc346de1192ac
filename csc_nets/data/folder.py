"""Any tree of image files, in memory where it fits and streamed from disk where it does not."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from socket import gethostname
from typing import Any, Literal

import torch
from torchvision.transforms import v2

from csc_nets.data.facts import IMAGENET_MEAN, IMAGENET_STD
from csc_nets.data.files import (
    MODES,
    FileList,
    ImageFiles,
    bits_in_use,
    central_square,
    find_classes,
    find_images,
)
from csc_nets.data.kept_split import apply_split, read_split, taken, write_split
from csc_nets.data.module import FileSplit, ImageDataModule, Split, TensorSplit
from csc_nets.data.registry import register_dataset
from csc_nets.data.sampling import held_out_indices

IN_MEMORY_BYTES = 2 * 10**9
"""Decoded size up to which ``in_memory=None`` keeps a tree in memory."""


@register_dataset(name="image_folder")
class ImageFolderDataModule(ImageDataModule):
    """A tree ``root/{train,val,test}/CLASS/*.jpg``; classes are numbered as torchvision's ImageFolder numbers them.

    - Without ``val/`` a stratified share of the training images is validated on.
    - Without ``test/`` the validation images are tested on: such a test figure is a validation figure.
    - A split whose folder holds images and no sub-folders is one class, for autoencoding.

    In memory, every image is decoded once (the central square, resized to ``image_size``) and batches are
    made where the tensors lie. Streamed, worker processes decode every image every epoch, which alone allows
    ``crop_scale``. The other augmentation is the same in both cases and is done on whole batches.

    Args:
        root: Folder that holds ``train/``.
        image_size: Height and width in pixels.
        in_chans: 1 for grey, 3 for colour.
        in_memory: Whether images are decoded once and kept as uint8; None for yes if all splits together take at most
            2 GB (2e9 bytes) at this ``image_size`` and ``crop_scale`` is None.
        crop_scale: Smallest and largest share of the area that a random resized training crop takes (Szegedy
            et al. 2015, *Going Deeper with Convolutions*); None for the central square.
        crop_share: Share of the shorter side that the central square takes, in (0, 1].
        val_fraction: Share of every class that is validated on where there is no ``val/``, in (0, 1).
        split_seed: Decides which images are held out.
        mean: Mean of each channel where white is 1; None for ImageNet's (their average where grey).
        std: Standard deviation of each channel; None for ImageNet's (their average where grey).
        bits: Bits that the values of 16-bit grey images use, 8 to 16; None for 16, if some value needs that many.
        options: See `ImageDataModule`; ``flip`` is on unless given.

    Raises:
        FileNotFoundError: In one line, if a folder or its images are missing.
        ValueError: In one line, if an argument is out of range, a class of ``val/`` or ``test/`` is not in ``train/``,
            or, when it is read, a file is not an image or is cut short.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        image_size: int = 224,
        in_chans: int = 3,
        in_memory: bool | None = None,
        crop_scale: Sequence[float] | None = None,
        crop_share: float = 1.0,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        flip: bool | Literal["alternate"] = True,
        bits: int | None = None,
        name: str = "image_folder",
        **options: Any,
    ) -> None:
        self.root = Path(root).expanduser()
        grey = in_chans == 1
        super().__init__(
            name=name,
            class_names=find_classes(name, self.root / "train"),
            in_chans=in_chans,
            image_size=image_size,
            mean=mean or ((sum(IMAGENET_MEAN) / 3,) if grey else IMAGENET_MEAN),
            std=std or ((sum(IMAGENET_STD) / 3,) if grey else IMAGENET_STD),
            flip=flip,
            **options,
        )
        self._require(self.in_chans in MODES, "in_chans", in_chans, "1 or 3")
        self._require_whole("image_size", self.image_size, 1)
        self._require(0 < crop_share <= 1, "crop_share", crop_share, "above 0 and at most 1")
        self.crop_scale = None if crop_scale is None else (float(crop_scale[0]), float(crop_scale[-1]))
        if self.crop_scale is not None:
            low, high = self.crop_scale
            self._require(0 < low <= high <= 1, "crop_scale", crop_scale, "two shares, 0 < smallest <= largest <= 1")
            self._require(not in_memory, "in_memory", in_memory, "False or None with crop_scale")
        if bits is not None:
            self._require_whole("bits", bits, 8, 16)
        self.bits = bits
        self.in_memory, self.crop_share = in_memory, crop_share
        self._require(0 < val_fraction < 1, "val_fraction", val_fraction, "between 0 and 1")
        self.val_fraction, self.split_seed = val_fraction, split_seed
        self._lists: dict[str, FileList] = {}
        self._sides: dict[str, dict[str, str]] | None = None

    @property
    def files(self) -> dict[str, FileList]:
        """Files of train, val and test."""
        if not self._lists:
            lists = {
                split: find_images(self.name, self.root / split, self.class_names)
                for split in ("train", "val", "test")
                if split == "train" or (self.root / split).is_dir()
            }
            if "val" not in lists:
                lists |= self._held_out(lists["train"])
            self._lists = {"test": lists["val"]} | lists
        return self._lists

    @property
    def has_test(self) -> bool:
        return (self.root / "test").is_dir()

    def keep_split(self, file: Path, *, write: bool = True) -> None:
        """Without ``val/``: holds out the images that ``file`` names; where it is missing, writes it.

        The random share depends on how many images there are. A run that is resumed or evaluated after images have
        come must not train on those that it was validated on.
        """
        if (self.root / "val").is_dir():
            return
        if file.is_file():
            self._sides, self._lists = read_split(file), {}
        elif write:
            text = write_split(self.root, self.files["train"].paths, self.files["val"].paths)
            # The name says who writes, as those of all temporary files of a run.
            temporary = file.with_name(f".{file.name}.{gethostname()}.{os.getpid()}.tmp")
            temporary.write_text(text)
            temporary.replace(file)

    def _held_out(self, everything: FileList) -> dict[str, FileList]:
        """Training and validation images of a tree without ``val/``."""
        if self._sides is not None:
            parts = apply_split(self.root, everything, self._sides)
            if not all(parts):
                raise ValueError(
                    f"{self.name}: the images that the run held out are not under {self.root / 'train'} any more"
                )
        else:
            labels = torch.tensor(everything.labels)
            drawn = held_out_indices(self.name, labels, self.val_fraction, self.split_seed)
            parts = (drawn[0].tolist(), drawn[1].tolist())
        return {split: taken(everything, index) for split, index in zip(("train", "val"), parts, strict=True)}

    @property
    def decoded_bytes(self) -> int:
        """Size of all images as uint8 pixels."""
        distinct = {id(files): len(files.paths) for files in self.files.values()}
        return sum(distinct.values()) * self.in_chans * self.image_size**2

    def load(self, split: str) -> dict[str, Split]:
        files = self.files[split]
        evaluation = partial(central_square, size=self.image_size, share=self.crop_share)
        bits = bits_in_use(self.name, self.files["train"]) if self.bits is None else self.bits
        dataset = ImageFiles(self.name, files, evaluation, self.in_chans, bits)
        keep = self.in_memory
        if keep is None:
            keep = self.crop_scale is None and self.decoded_bytes <= IN_MEMORY_BYTES
        loaded: Split
        if keep:
            loaded = TensorSplit(*dataset.decode_all())
        else:
            training = dataset
            if self.crop_scale is not None:
                crop = v2.RandomResizedCrop(self.image_size, self.crop_scale)
                training = ImageFiles(self.name, files, crop, self.in_chans, bits)
            loaded = FileSplit(training, dataset, len(dataset))
        return {other: loaded for other, same in self.files.items() if same is files}


@register_dataset
def imagenet(
    *, root: str | Path, crop_scale: Sequence[float] | None = (0.08, 1.0), crop_share: float = 0.875, **options: Any
) -> ImageFolderDataModule:
    """ImageNet (ILSVRC 2012) as an image folder: 1,000 sub-folders in ``root/train/`` and the same in ``root/val/``.

    Random resized crops and mirroring for training, the central 224 pixels of 256 for evaluation. The labels of the
    official test set are not public, so the validation images are tested on. ``torchvision.datasets.ImageNet`` unpacks
    the official archives into this layout.

    Args:
        root: Folder that holds ``train/`` and ``val/``.
        crop_scale: Smallest and largest share of the area that a training crop takes.
        crop_share: Share of the shorter side that the central square takes.
        options: See `ImageFolderDataModule`.

    Raises:
        FileNotFoundError: In one line, if a folder is missing.
    """
    for split in ("train", "val"):
        folder = Path(root).expanduser() / split
        if not folder.is_dir():
            raise FileNotFoundError(
                f"imagenet: folder {folder.absolute()} is missing, expected its 1,000 class folders n01440764 to "
                f"n15075141; torchvision.datasets.ImageNet({str(root)!r}, split={split!r}) unpacks the official archive"
            )
    return ImageFolderDataModule(root=root, crop_scale=crop_scale, crop_share=crop_share, name="imagenet", **options)
