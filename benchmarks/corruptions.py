"""Milliseconds for each corrupted image of 224 pixels, in a batch, against imagecorruptions-imaug, one by one.

The images are crops of scikit-learn's two photographs. The library takes and gives arrays of 8 bits; ours takes and
gives tensors of floats::

    pip install imagecorruptions-imaug==1.1.5
    python benchmarks/corruptions.py [--quick] [--json FILE] [--device cuda] [--batch 8]
"""

from functools import partial

import numpy as np
import torch
from imagecorruptions import corrupt as reference
from sklearn.datasets import load_sample_images
from timing import interleaved, parser, report, row

from csc_nets.evaluation import corrupt, list_corruptions

SIDE = 224


def crops(count: int) -> np.ndarray:
    """uint8 ``(count, 224, 224, 3)``, from places that are spread over the photographs."""
    photographs = load_sample_images().images
    found = []
    for index in range(count):
        photograph = photographs[index % 2]
        top, left = (37 * index % (n - SIDE) for n in photograph.shape[:2])
        found.append(photograph[top : top + SIDE, left : left + SIDE])
    return np.stack(found)


def one_by_one(images: np.ndarray, name: str, severity: int) -> None:
    for image in images:
        reference(image, severity, name)


def main() -> None:
    options = parser(__doc__.splitlines()[0])
    options.add_argument("--batch", type=int, default=8, help="images in the batch (default 8)")
    options.add_argument("--only", nargs="+", default=list_corruptions(), help="names of corruptions (default all)")
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    arrays = crops(args.batch)
    images = torch.from_numpy(arrays).permute(0, 3, 1, 2).float().div(255).to(args.device)
    few = arrays[:2]
    rows = []
    for name in args.only:
        for severity in (3,) if args.quick else (1, 3, 5):
            pair = [partial(corrupt, images, name, severity), partial(one_by_one, few, name, severity)]
            ours, theirs = interleaved(pair, 1 if args.quick else 7, args.device, 0.02)
            found = row(
                f"{name} {severity}", [t / len(images) for t in ours], [t / len(few) for t in theirs], unit="ms"
            )
            rows.append(found | {"batch": args.batch, "device": args.device})
    report(rows, args.json, "library")


if __name__ == "__main__":
    main()
