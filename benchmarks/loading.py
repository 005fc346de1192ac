"""Images per second of the in-memory batches against a torch DataLoader with torchvision transforms.

Both crop (padding 4), mirror, cut out and normalise synthetic 32x32 colour images in batches of 128 on the CPU. Every
process has one thread, which is what a DataLoader gives its workers::

    python benchmarks/loading.py [--quick] [--json FILE]
"""

import argparse
import json
import time
from collections.abc import Iterable

import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from csc_nets.data import TensorDataModule
from csc_nets.data.facts import FACTS

BATCH = 128
MEAN, STD = FACTS["cifar10"].mean, FACTS["cifar10"].std


class TransformedImages(Dataset):
    """uint8 images that go one by one through torchvision's transforms."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.images, self.labels = images, labels
        cutout = v2.RandomErasing(p=1.0, scale=(1 / 16, 1 / 16), ratio=(1.0, 1.0))  # 8 of 32 pixels a side
        to_float = v2.ToDtype(torch.float32, scale=True)
        crop, mirror = v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip()
        self.transform = v2.Compose([crop, mirror, to_float, v2.Normalize(MEAN, STD), cutout])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.transform(self.images[index]), self.labels[index]


def images_per_second(batches: Iterable[tuple[torch.Tensor, torch.Tensor]], limit: float) -> float:
    """Throughput of the faster of two passes, each broken off after ``limit`` seconds.

    The start of the workers is included, as it comes every epoch.
    """
    best = 0.0
    for _ in range(2):
        start, count = time.perf_counter(), 0
        for images, _ in batches:
            count += len(images)
            if time.perf_counter() - start > limit:
                break
        best = max(best, count / (time.perf_counter() - start))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="10,000 images instead of 50,000, 2 seconds a pass")
    parser.add_argument("--json", metavar="FILE", help="write the rows to FILE")
    options = parser.parse_args()

    torch.set_num_threads(1)
    count = 10_000 if options.quick else 50_000
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.arange(count) % 10
    data = TensorDataModule(
        images,
        labels,
        val=(images[:10], labels[:10]),
        mean=MEAN,
        std=STD,
        batch_size=BATCH,
        crop_padding=4,
        flip=True,
        cutout=8,
        device="cpu",
    )
    limit = 2.0 if options.quick else 30.0
    ours = images_per_second(data.train_dataloader(), limit)

    rows = []
    print(f"{count:,} images, batch {BATCH}, one thread a process")
    print(f"{'DataLoader':<12}{'ours':>12}{'reference':>12}{'ratio':>8}   images/s")
    for workers in (0, 2):
        dataset = TransformedImages(images, labels)
        loader = DataLoader(dataset, BATCH, shuffle=True, drop_last=True, num_workers=workers)
        reference = images_per_second(loader, limit)
        row = {"name": f"loading/workers={workers}", "ours": ours, "reference": reference, "ratio": ours / reference}
        rows.append(row | {"unit": "images/s"})
        print(f"{workers:<2}workers   {ours:>12,.0f}{reference:>12,.0f}{ours / reference:>8.1f}")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=2)


if __name__ == "__main__":
    main()
