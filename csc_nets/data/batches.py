"""Iterables of batches: from tensors in memory, or from files through worker processes."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from csc_nets.data.preprocess import Preprocess
from csc_nets.data.sampling import EpochPlan, EpochSampler, seeded_generator

Batch = tuple[Tensor, Tensor]


class Batches(ABC):
    """Preprocessed batches ``(images float32 (N, C, H, W), labels int64 (N,))`` of one split, one pass an epoch.

    Every pass is another epoch: a complete pass raises the epoch number by one, and `set_epoch` puts it anywhere.
    Images, order and augmentation of a batch depend on (seed, epoch, batch number) only. The state says how far the
    pass has come, so that training resumed from a checkpoint inside an epoch continues with the next batch.

    Args:
        sampler: The order of each epoch.
        batch_size: Images in a batch.
        preprocess: From stored pixels to the network's input.
        drop_last: Whether an incomplete last batch is left out.
        device: Where batches are made.
    """

    batch_sampler = None
    """Lightning looks at this attribute wherever it finds a ``sampler``."""

    def __init__(
        self, sampler: EpochSampler, batch_size: int, preprocess: Preprocess, *, drop_last: bool, device: torch.device
    ) -> None:
        self.sampler, self.batch_size, self.drop_last, self.device = sampler, batch_size, drop_last, device
        self.preprocess = preprocess.to(device)
        self._served = 0
        self._resume: dict[str, int] = {}

    def __len__(self) -> int:
        full, rest = divmod(len(self.sampler), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[Batch]:
        # A generator: the epoch is read at the first batch, after Lightning has set it.
        epoch = self.sampler.epoch
        first = self._resume.get("batch", 0) if self._resume.get("epoch") == epoch else 0
        self._served, self._resume = first, {}
        window = slice(first * self.batch_size, len(self) * self.batch_size)
        plan = EpochPlan(*(part[window] for part in self.sampler.plan(least=len(self))))
        draws = self.split(plan.draws.to(self.device))
        for number, (images, labels) in enumerate(self.stored(plan)):
            self._served = first + number + 1
            yield self.preprocess(images, draws[number]), labels
        self._served = 0
        self.sampler.set_epoch(epoch + 1)

    def split(self, part: Tensor) -> tuple[Tensor, ...]:
        """Cuts what there is of each image into batches: as many in all processes, which wait for each other."""
        if self.sampler.shuffle or self.sampler.world_size == 1:
            return part.split(self.batch_size)
        return part.tensor_split(len(self))

    @abstractmethod
    def stored(self, plan: EpochPlan) -> Iterator[Batch]:
        """Batches of stored pixels and labels on ``self.device`` in the order of the plan."""

    def set_epoch(self, epoch: int) -> None:
        self.sampler.set_epoch(epoch)

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.sampler.epoch, "batch": self._served}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._resume = dict(state)


class TensorBatches(Batches):
    """Batches of a split that lies in memory, on the CPU or on the accelerator.

    Args:
        images: Stored pixels ``(N, C, H, W)``, moved to ``device`` once.
        labels: Classes, int64 ``(N,)``.
        options: See `Batches`.
    """

    def __init__(self, images: Tensor, labels: Tensor, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.images, self.labels = images.to(self.device), labels.to(self.device)

    def stored(self, plan: EpochPlan) -> Iterator[Batch]:
        for index in self.split(plan.order.to(self.device)):
            yield self.images.index_select(0, index), self.labels.index_select(0, index)


class StreamBatches(Batches):
    """Batches of a split that is read from files by worker processes.

    Args:
        dataset: Gives ``(uint8 (C, H, W), label)`` for ``(index, key)``; an unreadable file raises a ValueError.
        num_workers: Worker processes; 0 reads in this process.
        worker_timeout: Seconds to wait for a batch of the workers; 0 for ever.
        options: See `Batches`.
    """

    def __init__(
        self, dataset: Dataset, *args: Any, num_workers: int, worker_timeout: float = 0, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self.dataset, self.num_workers, self.worker_timeout = dataset, num_workers, worker_timeout

    def stored(self, plan: EpochPlan) -> Iterator[Batch]:
        chunks = zip(self.split(plan.order), self.split(plan.keys), strict=True)
        loader = DataLoader(
            self.dataset,
            batch_sampler=[list(zip(o.tolist(), k.tolist(), strict=True)) for o, k in chunks],
            num_workers=self.num_workers,
            pin_memory=self.device.type == "cuda",
            timeout=self.worker_timeout if self.num_workers else 0,
            generator=seeded_generator(self.sampler.seed, 2, self.sampler.epoch),
        )
        try:
            for images, labels in loader:
                yield images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
        except ValueError as error:
            # A worker wraps the message into its traceback; the last line is the message.
            message = str(error).strip().splitlines()[-1]
            raise ValueError(message.removeprefix("ValueError: ")) from None
        except RuntimeError as error:
            if "timed out" not in str(error):
                raise
            raise TimeoutError(
                f"no batch has come from the {self.num_workers} worker processes for {self.worker_timeout:g} seconds: "
                "look at the disk, or wait longer with data.worker_timeout (0: for ever)"
            ) from None
