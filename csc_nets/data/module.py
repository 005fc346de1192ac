"""The Lightning data module that all image sets share."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import isfinite
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import Dataset

from csc_nets.data.batches import Batches, StreamBatches, TensorBatches
from csc_nets.data.preprocess import PADDING_MODES, Preprocess
from csc_nets.data.sampling import EpochSampler


class TensorSplit(NamedTuple):
    """A split in memory: pixels ``(N, C, H, W)``, uint8 or float with white at 1, and classes, int64 ``(N,)``."""

    images: Tensor
    labels: Tensor


class FileSplit(NamedTuple):
    """A split in files: a sized dataset for training and one for evaluation, see `StreamBatches`."""

    training: Dataset
    evaluation: Dataset
    length: int


Split = TensorSplit | FileSplit
STAGES = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("test",)}


class ImageDataModule(LightningDataModule, ABC):
    """Batches ``(images float32 (N, C, H, W), labels int64 (N,))`` of the splits train, val and test.

    Order and augmentation are pure functions of ``(seed, epoch, batch)``. Splits are loaded when a stage first needs
    them. The loaders work with and without a trainer; without one, call `setup` and then `train_dataloader`.

    Args:
        name: Stands in front of error messages.
        class_names: One name a class.
        in_chans: Channels of an image.
        image_size: Height and width in pixels.
        mean: Mean of each channel where white is 1.
        std: Standard deviation of each channel where white is 1.
        batch_size: Training images in a batch.
        eval_batch_size: Evaluation images in a batch; None for twice ``batch_size``.
        crop_padding: Pixels of padding that the random training crop is taken from; 0 for no crop.
        padding_mode: ``"zeros"`` or ``"reflect"``.
        flip: Whether training images are mirrored left to right with probability one half; ``"alternate"`` mirrors an
            image in every other epoch.
        cutout: Side in pixels of the square put to zero in training images; 0 for none.
        channels_last: Whether images are stored in ``torch.channels_last``.
        device: Where splits in memory lie and batches are made: ``"auto"`` (the trainer's GPU if it uses one, else the
            CPU), ``"cpu"``, or ``"cuda"`` with or without a number.
        seed: Decides order and augmentation.
        drop_last: Whether training leaves out the incomplete last batch of an epoch.
        num_workers: Worker processes of a split that is read from files.
        worker_timeout: Seconds to wait for a batch of theirs before the run ends with an error; 0 for ever.

    Raises:
        ValueError: If an argument is out of its range, in one line that names it.
    """

    def __init__(
        self,
        *,
        name: str,
        class_names: Sequence[str],
        in_chans: int,
        image_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        batch_size: int = 128,
        eval_batch_size: int | None = None,
        crop_padding: int = 0,
        padding_mode: Literal["zeros", "reflect"] = "zeros",
        flip: bool | Literal["alternate"] = False,
        cutout: int = 0,
        channels_last: bool = False,
        device: str | torch.device = "auto",
        seed: int = 0,
        drop_last: bool = True,
        num_workers: int = 2,
        worker_timeout: float = 300.0,
    ) -> None:
        super().__init__()
        in_chans, image_size, batch_size = _builtin(in_chans), _builtin(image_size), _builtin(batch_size)
        eval_batch_size, crop_padding, cutout = _builtin(eval_batch_size), _builtin(crop_padding), _builtin(cutout)
        seed, num_workers = _builtin(seed), _builtin(num_workers)
        self.name: str = name
        self.class_names, self.num_classes = list(class_names), len(class_names)
        self.in_chans, self.image_size = in_chans, image_size
        self.mean, self.std = tuple(map(float, mean)), tuple(map(float, std))
        self.batch_size = self.configured_batch_size = batch_size
        self.eval_batch_size = 2 * batch_size if eval_batch_size is None else eval_batch_size
        self.channels_last, self.device, self.seed = channels_last, device, seed
        self.drop_last, self.num_workers, self.worker_timeout = drop_last, num_workers, worker_timeout
        self.augmentation: dict[str, Any] = {
            "crop_padding": crop_padding,
            "padding_mode": padding_mode,
            "flip": bool(flip),
            "cutout": cutout,
        }
        self._require(flip in (True, False, "alternate"), "flip", flip, "true, false or 'alternate'")
        self.alternate = flip == "alternate"
        for label, values in (("mean", self.mean), ("std", self.std)):
            allowed = f"one finite number for each of the {in_chans} channels"
            self._require(len(values) == in_chans and all(map(isfinite, values)), label, values, allowed)
        self._require(min(self.std) > 0, "std", self.std, "numbers above 0")
        self._require_whole("batch_size", batch_size, 1)
        self._require_whole("eval_batch_size", self.eval_batch_size, 1)
        self._require(padding_mode in PADDING_MODES, "padding_mode", padding_mode, f"one of {', '.join(PADDING_MODES)}")
        # Reflection does not repeat the border pixel, so it has one pixel less to give.
        self._require_whole("crop_padding", crop_padding, 0, image_size - (padding_mode == "reflect"))
        self._require_whole("cutout", cutout, 0, image_size)
        self._require_whole("seed", seed, 0)
        self._require_whole("num_workers", num_workers, 0)
        fits = isinstance(worker_timeout, int | float) and isfinite(worker_timeout) and worker_timeout >= 0
        self._require(fits, "worker_timeout", worker_timeout, "a finite number of seconds >= 0")
        available = ["auto", "cpu", *(["cuda"] if torch.cuda.is_available() else [])]
        self._require(
            str(device).partition(":")[0] in available, "device", str(device), f"one of {', '.join(available)}"
        )
        self._splits: dict[str, Split] = {}

    def _require(self, condition: bool, argument: str, value: object, allowed: str) -> None:
        if not condition:
            raise ValueError(f"{self.name}: {argument} must be {allowed}, got {value!r}")

    def _require_whole(self, argument: str, value: object, low: int, high: int | None = None) -> None:
        allowed = f"a whole number >= {low}" if high is None else f"a whole number from {low} to {high}"
        fits = isinstance(value, int) and low <= value and (high is None or value <= high)
        self._require(fits, argument, value, allowed)

    @abstractmethod
    def load(self, split: str) -> dict[str, Split]:
        """Load a split ("train", "val" or "test"); whatever other splits come with it are kept as well."""

    def setup(self, stage: str | None = None) -> None:
        """Load the splits of a stage ("fit", "validate", "test" or "predict"), or all of them."""
        for split in STAGES[stage] if stage else ("train", "val", "test"):
            self.split(split)

    def split(self, name: str) -> Split:
        """A split as it is stored, before augmentation and normalisation."""
        if name not in self._splits:
            self._splits.update(self.load(name))
        return self._splits[name]

    @property
    def has_test(self) -> bool:
        """Whether there are test images; where there are none, the validation images are tested on."""
        return True

    @property
    def only_test(self) -> bool:
        """Whether the data are a folder of test images only, without folders for the splits."""
        return False

    def test_names(self) -> list[str] | None:
        """A name for each test image, in order; None where images have none."""
        return None

    def file(self, split: str, index: int) -> Path | None:
        """The file of an image of a split, in the order of evaluation; None where it has none of its own."""
        return None

    @contextmanager
    def naming(self, split: str, index: int) -> Iterator[None]:
        """Puts the file of an image in front of an error that looking at this image raises.

        Args:
            split: ``"val"`` or ``"test"``.
            index: of the image in the order of evaluation.
        """
        try:
            yield
        except (ValueError, RuntimeError) as error:
            file = self.file(split, index)
            if file is None:
                raise
            raise ValueError(f"{self.name}: {file}: {error}") from error

    def keep_split(self, file: Path, *, write: bool = True) -> None:
        """Holds out the images that a file names, whatever has come to the data since; nothing where splits are fixed.

        Call it before the splits are read.

        Args:
            file: of the run that these data are for.
            write: make the file, where it is missing.
        """

    def train_dataloader(self) -> Batches:
        """Batches of training images, in a new order each epoch, augmented."""
        return self._batches("train")

    def val_dataloader(self) -> Batches:
        """Batches of validation images, in order."""
        return self._batches("val")

    def test_dataloader(self) -> Batches:
        """Batches of test images, in order; those of validation where there are none."""
        return self._batches("test")

    def predict_dataloader(self) -> Batches:
        """Batches of test images, in order."""
        return self._batches("test")

    def test_images(self, count: int) -> Tensor:
        """Normalised images ``(N, C, H, W)`` of the first test batch, on the CPU, at most ``count``.

        They are spread over the batch, because neighbours may look alike.
        """
        self.setup("test")
        images, _ = next(iter(self.test_dataloader()))
        return images.cpu()[torch.linspace(0, len(images) - 1, min(count, len(images))).long()]

    def training_images(self, count: int) -> Tensor:
        """Images ``(N, C, H, W)`` as the network sees them in training, augmented and normalised, at most ``count``.

        They are the first ones of the first epoch, whatever has been read since. With several processes each one has
        its own.
        """
        batches: list[Tensor] = []
        for images, _ in self.train_dataloader():
            batches.append(images)
            if sum(map(len, batches)) >= count:
                break
        return torch.cat(batches)[:count]

    def denormalize(self, images: Tensor) -> Tensor:
        """Undo the normalisation, for pictures.

        Args:
            images: Normalised images ``(..., C, H, W)``.

        Returns:
            Images on the scale from black 0 to white 1, clamped to it.
        """
        mean, std = (images.new_tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return (images * std + mean).clamp(0, 1)

    def _batches(self, name: str) -> Batches:
        stored, training, trainer = self.split(name), name == "train", self.trainer
        length = stored.length if isinstance(stored, FileSplit) else len(stored.labels)
        sampler = EpochSampler(
            length,
            seed=self.seed,
            shuffle=training and not getattr(trainer, "overfit_batches", 0),
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
            alternate=self.alternate and training,
        )
        drop_last = training and self.drop_last
        if drop_last and len(sampler) < self.batch_size:
            raise ValueError(
                f"{self.name}: batch_size must be at most {len(sampler)}, the training images of a process, "
                f"got {self.batch_size} (or set drop_last=False)"
            )
        white = 255.0 if isinstance(stored, FileSplit) or stored.images.dtype == torch.uint8 else 1.0
        augmentation = self.augmentation if training else {}
        preprocess = Preprocess(self.mean, self.std, white=white, channels_last=self.channels_last, **augmentation)
        size = self.batch_size if training else self.eval_batch_size
        options: dict[str, Any] = {"drop_last": drop_last, "device": self._device()}
        if isinstance(stored, TensorSplit):
            return TensorBatches(*stored, sampler, size, preprocess, **options)
        dataset = stored.training if training else stored.evaluation
        workers: dict[str, Any] = {"num_workers": self.num_workers, "worker_timeout": self.worker_timeout}
        return StreamBatches(dataset, sampler, size, preprocess, **workers, **options)

    def _device(self) -> torch.device:
        if self.device != "auto":
            return torch.device(self.device)
        root = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        return root if root.type == "cuda" else torch.device("cpu")


def _builtin(value: Any) -> Any:
    """A whole number of numpy as Python's, which torch asks for; everything else as it is."""
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else value
