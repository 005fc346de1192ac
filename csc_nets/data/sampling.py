"""Which image comes when: the held-out splits and the order of every epoch, as pure functions of a seed."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from csc_nets.data.preprocess import DRAWS, MIRROR


def seeded_generator(*key: int) -> torch.Generator:
    """A CPU generator seeded by non-negative whole numbers, unrelated for unequal keys such as (0, 1) and (1, 0)."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))


def stratified_split(labels: Tensor, fractions: Sequence[float], seed: int = 0) -> list[Tensor]:
    """Split images so that every part holds the same share of every class.

    Args:
        labels: Class of each image, int64 ``(N,)``.
        fractions: Share of each held-out part: a part of share ``f`` takes ``round(f n)`` of a class with ``n`` images.
        seed: Decides which images are taken.

    Returns:
        ``1 + len(fractions)`` ascending index tensors: what remains, then the held-out parts. They are disjoint and
        cover all images.
    """
    generator = seeded_generator(seed, 1)
    parts: list[list[Tensor]] = [[] for _ in range(len(fractions) + 1)]
    for value in labels.unique().tolist():
        members = (labels == value).nonzero()[:, 0]
        members = members[torch.randperm(len(members), generator=generator)]
        held_out: list[int] = []
        for fraction in fractions:  # rounding up twice must not ask for more than there is
            held_out.append(min(round(fraction * len(members)), len(members) - sum(held_out)))
        for part, piece in zip(parts, members.split([len(members) - sum(held_out), *held_out]), strict=True):
            part.append(piece)
    return [torch.cat(part).sort().values for part in parts]


def held_out_indices(name: str, labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Training and validation images of a set that has no validation split of its own.

    Args:
        name: Stands in front of the message.
        labels: Class of each image, int64 ``(N,)``.
        fraction: Share of every class that is validated on, in (0, 1).
        seed: Decides which images are taken.

    Raises:
        ValueError: In one line, if the share is out of range or leaves either part empty.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"{name}: val_fraction must be between 0 and 1, got {fraction}")
    kept, held = stratified_split(labels, [fraction], seed)
    if min(len(kept), len(held)) == 0:
        raise ValueError(f"{name}: val_fraction must leave training and validation images, got {fraction}")
    return kept, held


class EpochPlan(NamedTuple):
    """What one process serves in one epoch."""

    order: Tensor
    """Index of the image at each position, int64 ``(length,)``."""
    draws: Tensor
    """Uniform numbers of the image at each position, float32 ``(length, DRAWS)``."""
    keys: Tensor
    """A seed for the image at each position, int64 ``(length,)``, for transforms that draw their own numbers."""


class EpochSampler:
    """The order of each epoch, a pure function of ``(seed, epoch)``.

    A run that is stopped and resumed at epoch k therefore sees the batches an uninterrupted run sees. Lightning calls
    `set_epoch` at the start of every epoch.

    With several processes each one takes every ``world_size``-th position. In training all take equally many, and the
    few positions left over are dropped. In evaluation every image comes once, so that some processes have one less.

    Args:
        length: Images in the split.
        seed: Decides order and augmentation.
        shuffle: Whether the order is random; evaluation keeps the stored order.
        rank: Number of this process.
        world_size: Number of processes.
        alternate: Whether an image that is mirrored in one epoch is not mirrored in the next: whatever the first epoch
            drew, every two epochs show both. Source: Keller Jordan, arXiv 2404.00498, section 3.6.
    """

    def __init__(
        self,
        length: int,
        *,
        seed: int = 0,
        shuffle: bool,
        rank: int = 0,
        world_size: int = 1,
        alternate: bool = False,
    ) -> None:
        self.length, self.seed, self.shuffle, self.alternate = length, seed, shuffle, alternate
        self.rank, self.world_size = rank, world_size
        self.epoch = 0

    def __len__(self) -> int:
        """Positions of a process in one epoch, of that with most."""
        return self.length // self.world_size if self.shuffle else -(-self.length // self.world_size)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def plan(self, least: int = 0) -> EpochPlan:
        """Order and random numbers of the current epoch.

        Args:
            least: positions at least; where there are fewer images for this process, some come twice.
        """
        generator = seeded_generator(self.seed, 0, self.epoch)
        n = self.length
        order = torch.randperm(n, generator=generator) if self.shuffle else torch.arange(n)
        draws = torch.rand(n, DRAWS, generator=generator)
        keys = torch.randint(2**31, (n,), generator=generator)
        if self.alternate:
            first = torch.rand(n, generator=seeded_generator(self.seed, 3))
            draws[:, MIRROR] = (first[order] + self.epoch % 2 / 2) % 1
        mine = self.rank + self.world_size * torch.arange(len(self))
        mine = mine[mine < n] if int((mine < n).sum()) >= least else mine % n
        return EpochPlan(order[mine], draws[mine], keys[mine])
