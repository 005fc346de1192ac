"""The small labelled sets that torchvision knows: read once, kept in memory."""

from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor
from torchvision import datasets

from csc_nets.data.channels import to_channels, to_channels_of
from csc_nets.data.facts import FACTS
from csc_nets.data.idx_files import MD5, check_idx_files
from csc_nets.data.module import ImageDataModule, Split
from csc_nets.data.registry import register_dataset
from csc_nets.data.sampling import held_out_indices
from csc_nets.data.tensors import TensorSplit, checked_split

# Class in torchvision and the arguments that select its training and its test part.
SOURCES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "mnist": ("MNIST", {"train": True}, {"train": False}),
    "fashion_mnist": ("FashionMNIST", {"train": True}, {"train": False}),
    "cifar10": ("CIFAR10", {"train": True}, {"train": False}),
    "cifar100": ("CIFAR100", {"train": True}, {"train": False}),
    "svhn": ("SVHN", {"split": "train"}, {"split": "test"}),
    "stl10": ("STL10", {"split": "train"}, {"split": "test"}),
}


class VisionDataModule(ImageDataModule):
    """MNIST, FashionMNIST, CIFAR-10, CIFAR-100, SVHN or STL-10, read through torchvision.

    None of them has a validation split: a stratified share of the training images is held out. Crop and mirror default
    to what is customary for the set.

    Args:
        name: ``"mnist"``, ``"fashion_mnist"``, ``"cifar10"``, ``"cifar100"``, ``"svhn"`` or ``"stl10"``.
        root: Folder with the files in torchvision's layout.
        download: Whether missing files are fetched into ``root``.
        val_fraction: Share of every class that is validated on, in (0, 1).
        split_seed: Decides which images are held out; keep it fixed when runs are compared.
        in_chans: Channels that networks get, 1 or 3; None for those of the images. Grey images are repeated, colours
            become their luma.
        image_size: Height and width of the images, which cannot be another one.
        verify: Whether the files of MNIST and Fashion-MNIST must be the published ones, byte by byte; torchvision looks
            at those of CIFAR itself.
        options: See `ImageDataModule`.

    Raises:
        FileNotFoundError: When a stage is set up and files are missing or damaged; says what belongs where.
        ValueError: When a stage is set up and files are not the published ones.
    """

    def __init__(
        self,
        name: str,
        *,
        root: str | Path = "data",
        download: bool = False,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        in_chans: int | None = None,
        image_size: int | None = None,
        verify: bool = True,
        **options: Any,
    ) -> None:
        facts = FACTS[name]
        channels = facts.in_chans if in_chans is None else in_chans
        if channels not in (1, 3):
            raise ValueError(f"{name}: in_chans must be 1 or 3, got {in_chans!r}")
        defaults: dict[str, Any] = {
            "mean": to_channels_of(facts.mean, facts.in_chans, channels),
            "std": to_channels_of(facts.std, facts.in_chans, channels),
            "crop_padding": facts.crop_padding,
            "flip": facts.flip,
        }
        super().__init__(
            name=name,
            class_names=facts.class_names,
            in_chans=channels,
            image_size=facts.image_size,
            **defaults | options,
        )
        allowed = f"{facts.image_size}, that of its images"
        self._require(image_size in (None, facts.image_size), "image_size", image_size, allowed)
        self.root, self.download = Path(root).expanduser(), download
        self.val_fraction, self.split_seed, self.verify = val_fraction, split_seed, verify
        self._require(0 < val_fraction < 1, "val_fraction", val_fraction, "between 0 and 1")

    def prepare_data(self) -> None:
        """Fetch the files where ``download`` asks for it; a trainer calls this in one process only."""
        if self.download:
            for training in (True, False):
                self._read(training, download=True)

    def load(self, split: str) -> dict[str, Split]:
        if split == "test":
            return {"test": self._read(training=False)}
        images, labels = self._read(training=True)
        kept, held = held_out_indices(self.name, labels, self.val_fraction, self.split_seed)
        return {"train": TensorSplit(images[kept], labels[kept]), "val": TensorSplit(images[held], labels[held])}

    def _read(self, training: bool, download: bool = False) -> TensorSplit:
        facts = FACTS[self.name]
        source, *arguments = SOURCES[self.name]
        try:
            data = getattr(datasets, source)(self.root, download=download, **arguments[0 if training else 1])
        except (RuntimeError, OSError, ValueError, AssertionError, EOFError, UnpicklingError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            advice = "check the network or fetch them by hand" if download else "put them there or set download=True"
            raise FileNotFoundError(
                f"{self.name}: files are missing or damaged, expected under {self.root.absolute()}: {facts.files}; "
                f"{advice} ({reason})"
            ) from None
        if self.verify and self.name in MD5:
            check_idx_files(self.name, Path(data.raw_folder), training)
        images, labels = _pixels(data.data), torch.as_tensor(data.targets if hasattr(data, "targets") else data.labels)
        shape = (facts.in_chans, facts.image_size, facts.image_size)
        part = f"{self.name}: {'training' if training else 'test'} files"
        images, labels = checked_split(part, images, labels, num_classes=self.num_classes, shape=shape)
        return TensorSplit(to_channels(self.name, images, self.in_chans), labels)


for _name in SOURCES:
    register_dataset(partial(VisionDataModule, _name), name=_name)


def _pixels(data: Any) -> Tensor:
    images = torch.as_tensor(data)
    if images.ndim == 3:  # MNIST keeps (N, H, W)
        return images[:, None]
    if images.shape[-1] == 3:  # CIFAR keeps (N, H, W, C)
        images = images.permute(0, 3, 1, 2)
    return images.contiguous()
