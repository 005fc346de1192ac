"""Random crops of whole photographs, from a folder or from the two that come with scikit-learn."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2.functional import pil_to_tensor

from csc_nets.data.files import MODES, FileList, ImageFiles, is_image
from csc_nets.data.module import FileSplit, ImageDataModule, Split
from csc_nets.data.registry import register_dataset
from csc_nets.data.sampling import held_out_indices

__all__ = ["PhotographDataModule"]

_BANDS = {"train": (0, 448), "val": (448, 544), "test": (544, 640)}


class RandomCrops(Dataset):
    """Square crops of photographs, each in one of the eight symmetries of the square.

    Args:
        images: uint8 ``(C, H, W)`` each, at least ``size`` pixels a side.
        size: side of a crop in pixels.
        per_image: crops of a photograph in one pass.
    """

    def __init__(self, images: list[Tensor], size: int, per_image: int) -> None:
        self.images, self.size, self.per_image = images, size, per_image

    def __len__(self) -> int:
        return len(self.images) * self.per_image

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor, int]:
        """Crop and class 0 of ``(index, key)``; the key decides the place and the symmetry."""
        index, key = item
        image = self.images[index // self.per_image]
        generator = torch.Generator().manual_seed(key)
        top, left = (int(torch.randint(n - self.size + 1, (), generator=generator)) for n in image.shape[1:])
        crop = image[:, top : top + self.size, left : left + self.size]
        turn, mirror = (int(torch.randint(n, (), generator=generator)) for n in (4, 2))
        crop = torch.rot90(crop, turn, (1, 2))
        return (crop.flip(2) if mirror else crop).contiguous(), 0


class WholeImages(Dataset):
    """Photographs as they are, with class 0.

    Args:
        images: uint8 ``(C, H, W)`` each.
    """

    def __init__(self, images: list[Tensor]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor, int]:
        return self.images[item[0]], 0


@register_dataset(name="photographs")
class PhotographDataModule(ImageDataModule):
    """Whole photographs of any size: random crops to train on, and whole images, one a batch, to validate and test on.

    Pixels are in [0, 1], without further normalisation. Photographs are decoded once and kept in memory as uint8.

    - Without ``root``: scikit-learn's two photographs (427 x 640). Training crops come from the left 448 columns,
      validation is on the next 96 and the test on the last 96, so that no pixel is in two splits.
    - With ``root``: the images under ``root/train``, ``root/val`` and ``root/test``, in sub-folders too. Without
      ``val`` a share of the training images is validated on; without ``test`` the validation images are tested on.
      Without all three a network can be tested on the images under ``root``, and none trained.

    Args:
        root: folder of the photographs; None for the two that come with scikit-learn.
        train, val, test: names of the folders in ``root``.
        image_size: side of a training crop in pixels.
        crops: of each photograph in one epoch.
        in_chans: 1 for grey, 3 for colour.
        val_fraction: share of the training images that is validated on where there is no folder for it, in (0, 1).
        split_seed: decides which images these are.
        options: See `ImageDataModule`; ``eval_batch_size`` is 1.

    Raises:
        FileNotFoundError: In one line, if a folder or its images are missing.
        ValueError: In one line, if an argument is out of range, a photograph is smaller than a crop, or a file is no
            image.
    """

    def __init__(
        self,
        *,
        root: str | Path | None = None,
        train: str = "train",
        val: str = "val",
        test: str = "test",
        image_size: int = 64,
        crops: int = 64,
        in_chans: int = 1,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        num_workers: int = 0,
        eval_batch_size: int | None = None,
        name: str = "photographs",
        **options: Any,
    ) -> None:
        super().__init__(
            name=name,
            class_names=["photograph"],
            in_chans=in_chans,
            image_size=image_size,
            **{"mean": (0.0,) * in_chans, "std": (1.0,) * in_chans, **options},
            num_workers=num_workers,
            eval_batch_size=1,
        )
        self._require(in_chans in MODES, "in_chans", in_chans, "1 or 3")
        self._require(eval_batch_size in (None, 1), "eval_batch_size", eval_batch_size, "1: images differ in size")
        self._require_whole("image_size", image_size, 1)
        self._require_whole("crops", crops, 1)
        self.root = None if root is None else Path(root).expanduser()
        self.folders = {"train": train, "val": val, "test": test}
        self._require(0 < val_fraction < 1, "val_fraction", val_fraction, "between 0 and 1")
        self._files: dict[str, tuple[Path, list[Path]]] = {}
        self.crops, self.val_fraction, self.split_seed = crops, val_fraction, split_seed

    @property
    def only_test(self) -> bool:
        """Whether ``root`` is a folder with none of the three in it: it holds test images only, in sub-folders too."""
        root = self.root
        return root is not None and root.is_dir() and not any((root / name).is_dir() for name in self.folders.values())

    @property
    def has_test(self) -> bool:
        return self.root is None or self.only_test or (self.root / self.folders["test"]).is_dir()

    def load(self, split: str) -> dict[str, Split]:
        if self.root is None:
            photographs = self._embedded()
        else:
            found = self._find(self.root, split)
            self._files |= found
            photographs = {part: self._read(paths) for part, (_, paths) in found.items()}
        return {part: self._served(part, images) for part, images in photographs.items()}

    def _served(self, part: str, images: list[Tensor]) -> FileSplit:
        if part != "train":
            return FileSplit(WholeImages(images), WholeImages(images), len(images))
        sides = [min(image.shape[1:]) for image in images]
        least = min(sides)
        file = self.file(part, sides.index(least))
        allowed = f"at most {least}, the side of {file or 'a photograph'}"
        self._require(self.image_size <= least, "image_size", self.image_size, allowed)
        training = RandomCrops(images, self.image_size, self.crops)
        return FileSplit(training, training, len(training))

    def test_images(self, count: int) -> Tensor:
        """Central parts ``(N, C, H, W)`` of the first test photographs, as large as the smallest allows."""
        self.setup("test")
        stored: Any = self.split("test")
        images = stored.evaluation.images[:count]
        sides = [min(image.shape[axis] for image in images) for axis in (1, 2)]
        starts = [[(n - side) // 2 for n, side in zip(image.shape[1:], sides, strict=True)] for image in images]
        parts = [
            image[:, top : top + sides[0], left : left + sides[1]]
            for image, (top, left) in zip(images, starts, strict=True)
        ]
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return (torch.stack(parts) / 255 - mean) / std

    def test_names(self) -> list[str] | None:
        """Paths of the test photographs in their folder, without the ending; None for the embedded ones."""
        self.setup("test")
        if "test" not in self._files:
            return None
        folder, paths = self._files["test"]
        plain = [path.relative_to(folder).with_suffix("").as_posix() for path in paths]
        whole = [path.relative_to(folder).as_posix() for path in paths]  # a.jpg beside a.png
        return plain if len(set(plain)) == len(plain) else whole

    def file(self, split: str, index: int) -> Path | None:
        return self._files[split][1][index].absolute() if split in self._files else None

    def _embedded(self) -> dict[str, list[Tensor]]:
        from sklearn.datasets import load_sample_images  # here, because it takes a second to import

        pictures = [Image.fromarray(image).convert(MODES[self.in_chans]) for image in load_sample_images().images]
        images = [pil_to_tensor(picture) for picture in pictures]
        return {part: [image[..., first:last] for image in images] for part, (first, last) in _BANDS.items()}

    def _find(self, root: Path, split: str) -> dict[str, tuple[Path, list[Path]]]:
        """Folder and files of a split, and those of others that are not to be had without."""
        if split == "test" and self.only_test:
            return {"test": (root, self._images_under(root))}
        if split == "test" and not self.has_test:
            return {"test": self._find(root, "val")["val"]}
        if split == "test" or (root / self.folders["val"]).is_dir():
            folder = root / self.folders[split]
            return {split: (folder, self._images_under(folder))}
        folder = root / self.folders["train"]
        paths = self._images_under(folder)
        labels = torch.zeros(len(paths), dtype=torch.long)
        parts = held_out_indices(self.name, labels, self.val_fraction, self.split_seed)
        return {part: (folder, [paths[i] for i in index]) for part, index in zip(("train", "val"), parts, strict=True)}

    def _images_under(self, folder: Path) -> list[Path]:
        if not folder.is_dir():
            raise FileNotFoundError(f"{self.name}: folder {folder.absolute()} is missing, expected photographs in it")
        paths = sorted(p for p in folder.rglob("*") if is_image(p.relative_to(folder)) and p.is_file())
        if not paths:
            raise FileNotFoundError(f"{self.name}: no image under {folder.absolute()}")
        return paths

    def _read(self, paths: list[Path]) -> list[Tensor]:
        files = ImageFiles(self.name, FileList(paths, [0] * len(paths)), lambda picture: picture, self.in_chans)
        return [files.read(index) for index in range(len(paths))]
