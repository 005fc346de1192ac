"""A sparse autoencoder beside what one would write without it, on images that none of them was trained on.

    python benchmarks/autoencoders.py [--quick] [--json FILE] [--data digits|mnist|sample_images|FOLDER]
                                      [--seconds N] [--root ROOT] [--shares S ...]

At 2, 5 and 10 % (digits: 5, 10 and 15 %) of the number of pixels times channels:

- plain: convolutions of stride 2 with ReLU, to a bottleneck of as many numbers as the code has non-zeros, trained by
  Adam for N seconds of CPU time, for each rate anew;
- patches: scikit-learn's dictionary of 256 atoms of 8 x 8 pixels, ``MiniBatchDictionaryLearning``, with its orthogonal
  matching pursuit to the tolerance that leaves as many numbers;
- encoding: milliseconds an image of CPU time, the sparse autoencoder and scikit-learn.

The sparse autoencoder has one weight for all images and its atoms from the colours of the training images; it is not
trained further. FOLDER holds ``train/*.jpg``; the last tenth, at most 100 of them, is the test. ``ours`` and
``reference`` are the PSNR in dB of all images together, and in the rows ``mean`` the mean over images.
"""

import math
import time
import warnings
from itertools import pairwise
from pathlib import Path

import timing
import torch
from torch import Tensor, nn

from csc_nets.data import create_datamodule
from csc_nets.evaluation import RatePoint, measure
from csc_nets.models import create_model

SIDE = 32
SHARES = {"digits": (0.05, 0.10, 0.15), "mnist": (0.05, 0.10, 0.15)}


def images_of(name: str, root: str | None) -> tuple[Tensor, Tensor]:
    """Training and test images ``(N, C, H, W)`` in [0, 1]."""
    if Path(name).is_dir():
        from PIL import Image
        from torchvision.transforms.v2.functional import pil_to_tensor

        files = sorted(Path(name).glob("train/*.jpg"))
        crops = []
        for file in files:
            image = pil_to_tensor(Image.open(file).convert("RGB")).float() / 255
            tiles = image.unfold(1, SIDE, SIDE).unfold(2, SIDE, SIDE).permute(1, 2, 0, 3, 4).flatten(0, 1)
            crops.append(tiles[len(tiles) // 2 :: len(tiles) // 8][:4])
        last = min(100, len(files) // 10)
        return torch.cat(crops[:-last]), torch.cat(crops[-last:])
    options = {"root": root} if root else {}
    data = create_datamodule(name, **options | ({"image_size": SIDE} if name == "sample_images" else {}))
    data.setup()
    train, test = (data.split(part).images for part in ("train", "test"))
    return train[:5000].float() / 255, test[:200].float() / 255


def plain(channels: int, size: int, bottleneck: int) -> nn.Module:
    """The reader's own autoencoder: to a grid of about four by four positions and back."""
    halvings = max(1, round(math.log2(size / 4)))
    grid = -(-size // 2**halvings)
    widths = [channels, *(32 * 2**i for i in range(halvings))]
    code = max(1, round(bottleneck / grid**2))
    down = [m for a, b in pairwise(widths) for m in (nn.Conv2d(a, b, 3, 2, 1), nn.ReLU())]
    up = [m for a, b in pairwise(widths[::-1]) for m in (nn.ReLU(), nn.ConvTranspose2d(a, b, 4, 2, 1))]
    return nn.Sequential(*down, nn.Conv2d(widths[-1], code, 1), nn.Conv2d(code, widths[-1], 1), *up)


def train_plain(model: nn.Module, images: Tensor, seconds: float) -> nn.Module:
    torch.manual_seed(0)
    optimizer, start = torch.optim.Adam(model.parameters(), lr=2e-3), time.process_time()
    while (spent := (time.process_time() - start) / seconds) < 1:
        optimizer.param_groups[0]["lr"] = 2e-3 * (1 - spent)
        batch = images[torch.randint(len(images), (64,))]
        optimizer.zero_grad()
        loss = (model(batch)[..., : batch.shape[2], : batch.shape[3]] - batch).square().mean()
        loss.backward()
        optimizer.step()
    return model.eval()


class Patches:
    """scikit-learn's dictionary of patches of images ``(N, C, H, W)``."""

    def __init__(self, images: Tensor, atoms: int) -> None:
        from sklearn.decomposition import MiniBatchDictionaryLearning

        self.size = min(8, images.shape[2])
        rows = self.cut(images).numpy()
        learner = MiniBatchDictionaryLearning(
            atoms, alpha=1.0, max_iter=20, batch_size=512, random_state=0, transform_algorithm="omp"
        )
        chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:20000].numpy()
        self.atoms = learner.fit(rows[chosen]).components_

    def cut(self, images: Tensor) -> Tensor:
        b = self.size
        more = [-n % b for n in images.shape[2:]]
        images = nn.functional.pad(images, (0, more[1], 0, more[0]))
        return images.unfold(2, b, b).unfold(3, b, b).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2)

    def code(self, images: Tensor, tolerance: float) -> Tensor:
        from sklearn.decomposition import sparse_encode

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rows = sparse_encode(self.cut(images).numpy(), self.atoms, algorithm="omp", alpha=tolerance)
        return torch.from_numpy(rows).float()

    def images(self, code: Tensor, like: Tensor) -> Tensor:
        b, (n, c, h, w) = self.size, like.shape
        rows, columns = -(-h // b), -(-w // b)
        cut = (code @ torch.from_numpy(self.atoms).float()).view(n, rows, columns, c, b, b)
        return cut.permute(0, 3, 1, 4, 2, 5).reshape(n, c, rows * b, columns * b)[..., :h, :w]


@torch.no_grad()
def at_count(encode, count: float, low: float, high: float, steps: int = 8) -> Tensor:  # type: ignore[no-untyped-def]
    """The code with at most ``count`` non-zeros in all, whose setting is found by bisection."""
    best = None
    for _ in range(steps):
        middle = math.sqrt(low * high)
        code = encode(middle)
        if code.count_nonzero() <= count:
            best, high = code, middle
        else:
            low = middle
    return encode(high) if best is None else best


def rows(options) -> list[dict[str, object]]:  # type: ignore[no-untyped-def]
    train, test = images_of(options.data, options.root)
    test = test[:12] if options.quick else test[:: max(1, len(test) // 100)]
    seconds = 1.0 if options.quick else options.seconds
    mean = train.mean((0, 2, 3)).view(-1, 1, 1)
    std = train.std((0, 2, 3)).view(-1, 1, 1)
    x, normal = (test - mean) / std, (train - mean) / std
    size, channels = test.shape[2], test.shape[1]
    sizes = {8: (4, 8), 28: (7, 14, 28)}.get(size, (8, 16, 32))
    ours = create_model(
        "sparse_autoencoder", in_chans=channels, sizes=sizes, frequencies=sizes[:2] + (8,) * len(sizes[2:])
    )
    ours.eval().start_from(normal)  # type: ignore[operator]
    patches = Patches(normal, 64 if options.quick else 256)
    found: list[dict[str, object]] = []

    def add(name: str, a: RatePoint, b: RatePoint, share: float) -> None:
        for key, title in (("psnr_of_all", "of all"), ("psnr_mean", "mean")):
            mine, other = getattr(a, key), getattr(b, key)
            found.append(
                {"name": f"{name}, {share:.0%}, {title}", "ours": mine, "reference": other, "ratio": mine / other}
                | {"unit": "dB"}
            )

    shares = options.shares or SHARES.get(options.data, (0.02, 0.05, 0.10))
    for share in shares[: 1 if options.quick else None]:
        count = round(share * test[0].numel())
        spent: dict[str, float] = {}

        def timed(name: str, encode, setting: float) -> Tensor:  # type: ignore[no-untyped-def]
            start = time.process_time()
            code = encode(setting)
            spent[name] = time.process_time() - start  # noqa: B023
            return code

        code = at_count(lambda lam: timed("ours", lambda v: ours.encode(x, lam=v), lam), count * len(x), 1e-4, 10.0)  # type: ignore[operator]
        with torch.no_grad():
            mine = measure("", ours.decode(code, test.shape[2:]) * std + mean, test, codes=[code])  # type: ignore[operator]
        network = train_plain(plain(channels, size, count), normal, seconds)
        with torch.no_grad():
            back = network(x)[..., :size, :size] * std + mean
        add("plain convolutions", mine, measure("", back, test), share)
        code = at_count(lambda t: timed("patches", lambda v: patches.code(x, v), t), count * len(x), 1e-2, 1e3)
        add("scikit-learn's patches", mine, measure("", patches.images(code, test) * std + mean, test), share)
        times = [1000 * spent[key] / len(x) for key in ("ours", "patches")]
        found.append(
            {"name": f"encoding, {share:.0%}", "ours": times[0], "reference": times[1], "ratio": times[0] / times[1]}
            | {"unit": "ms"}
        )
    return found


def main() -> None:
    parser = timing.parser(__doc__.splitlines()[0])
    parser.add_argument("--data", default="sample_images")
    parser.add_argument("--root")
    parser.add_argument("--shares", type=float, nargs="+")
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    timing.report(rows(options), options.json, "plain")


if __name__ == "__main__":
    main()
