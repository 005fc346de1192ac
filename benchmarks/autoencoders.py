"""A sparse autoencoder beside what one would write without it, on images that none of them was trained on.

    python benchmarks/autoencoders.py [--quick] [--json FILE] [--data digits|mnist|sample_images|cifar10|FOLDER]
                                      [--seconds N] [--root ROOT] [--shares S ...]

At 2, 5 and 10 % (digits and MNIST: 15 %) of the number of pixels times channels, with as many numbers for each image,
or with one weight, tolerance or threshold for all images:

- convolutions: of stride 2 with ReLU, to a bottleneck of as many numbers, trained by Adam for N seconds of CPU time,
  for each rate anew;
- patches: scikit-learn's dictionary of 256 atoms of 8 x 8 pixels, ``MiniBatchDictionaryLearning``, and its orthogonal
  matching pursuit, ``orthogonal_mp_gram``, with the tolerance that leaves as many numbers;
- transform: the best of DCT and principal components, each measure for itself;
- encoding: milliseconds an image of CPU time, all images at once.

The sparse autoencoder is not trained: its atoms come from the colours of the training images, for digits and MNIST from
their patches, too. Photographs are coded by 20, 6 and 1 sweeps. FOLDER holds ``train/*.jpg``, of which the last tenth,
at most 100, is the test, by four squares of 32 pixels each; or ``train/CLASS/*.jpg`` and ``val/CLASS/*.jpg``, which are
taken whole. ``ours`` and ``reference`` are PSNR in dB: of all images together, and the mean over images.
"""

import math
import time
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import timing
import torch
from rate_distortion import at_count
from torch import Tensor, nn

from csc_nets.data import create_datamodule
from csc_nets.evaluation import BlockTransform, RatePoint, keep_largest, measure
from csc_nets.models import create_model

SIDE = 32
SHARES = {"digits": (0.15,), "mnist": (0.15,)}
# Options of the network by the side of the images; those of digits and MNIST are their recipes'.
PHOTOGRAPHS: dict[str, dict[str, Any]] = {
    "20 sweeps": {"steps": 20},
    "6 sweeps": {"pursuit": {"name": "block_coordinate", "count": 6, "start": 10.0}},
    "1 sweep": {"steps": 1},
}
MATCHING = {"name": "stagewise", "at_once": 1}
NETWORKS = {
    8: {"matching": {"sizes": [8], "patches": [1000], "pursuit": MATCHING | {"count": 16, "start": 1.0, "fits": 4}}},
    28: {
        "matching": {
            "sizes": [7, 14],
            "frequencies": [7, 2],
            "patches": [1000, 500],
            "pursuit": MATCHING | {"count": 30, "start": 100.0, "fits": 3},
        }
    },
}
BLOCKS = {8: (4, 8), 28: (7, 14, 28)}


def images_of(name: str, root: str | None) -> tuple[Tensor, Tensor]:
    """Training and test images ``(N, C, H, W)`` in [0, 1]."""
    if Path(name).is_dir():
        return folder(Path(name))
    options = {"root": root} if root else {}
    data = create_datamodule(name, **options | ({"image_size": SIDE} if name == "sample_images" else {}))
    data.setup()
    train, test = (data.split(part).images for part in ("train", "test"))
    return train[:5000].float() / 255, test[:200].float() / 255


def folder(root: Path) -> tuple[Tensor, Tensor]:
    """As :func:`images_of`, of files."""
    from PIL import Image
    from torchvision.transforms.v2.functional import pil_to_tensor

    def read(file: Path) -> Tensor:
        return pil_to_tensor(Image.open(file).convert("RGB")).float() / 255

    if (root / "val").is_dir():
        train, test = (sorted((root / part).glob("*/*.jpg")) for part in ("train", "val"))
        return tuple(torch.stack([read(f) for f in s[:: len(s) // n]]) for s, n in ((train, 5000), (test, 100)))  # type: ignore[return-value]
    crops = []
    for image in map(read, sorted((root / "train").glob("*.jpg"))):
        tiles = image.unfold(1, SIDE, SIDE).unfold(2, SIDE, SIDE).permute(1, 2, 0, 3, 4).flatten(0, 1)
        crops.append(tiles[len(tiles) // 2 :: len(tiles) // 8][:4])
    last = min(100, len(crops) // 10)
    return torch.cat(crops[:-last]), torch.cat(crops[-last:])


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
        rows = self.cut(images).flatten(0, 1).numpy()
        learner = MiniBatchDictionaryLearning(atoms, alpha=1.0, max_iter=20, batch_size=512, random_state=0)
        chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:20000].numpy()
        self.atoms = learner.fit(rows[chosen]).components_.astype("float32")
        self.gram = self.atoms @ self.atoms.T

    def cut(self, images: Tensor) -> Tensor:
        """Rows ``(N, patches, C b b)``."""
        b = self.size
        more = [-n % b for n in images.shape[2:]]
        images = nn.functional.pad(images, (0, more[1], 0, more[0]))
        return images.unfold(2, b, b).unfold(3, b, b).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)

    def code(self, images: Tensor, tolerance: float) -> Tensor:
        """Codes ``(N, patches, atoms)``, each patch with the squared error ``tolerance`` at most."""
        from sklearn.linear_model import orthogonal_mp_gram

        cut = self.cut(images)
        rows = cut.flatten(0, 1).numpy()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = orthogonal_mp_gram(self.gram, self.atoms @ rows.T, tol=tolerance, norms_squared=(rows**2).sum(1))
        return torch.from_numpy(found.T.copy()).float().view(*cut.shape[:2], -1)

    def at_count(self, images: Tensor, count: float, rounds: int) -> tuple[Tensor, float]:
        """The code with at most ``count`` non-zeros an image on average, and its tolerance, by bisection."""
        low, high = -14.0, 14.0
        best = self.code(images, math.exp(high))
        for _ in range(rounds):
            middle = (low + high) / 2
            code = self.code(images, math.exp(middle))
            if code.count_nonzero() <= count * len(images):
                best, high = code, middle
            else:
                low = middle
        return best, math.exp(high)

    def images(self, code: Tensor, like: Tensor) -> Tensor:
        b, (n, c, h, w) = self.size, like.shape
        rows, columns = -(-h // b), -(-w // b)
        cut = (code @ torch.from_numpy(self.atoms)).view(n, rows, columns, c, b, b)
        return cut.permute(0, 3, 1, 4, 2, 5).reshape(n, c, rows * b, columns * b)[..., :h, :w]


@torch.no_grad()
def rows(options) -> list[dict[str, object]]:  # type: ignore[no-untyped-def]
    train, test = images_of(options.data, options.root)
    test = test[:: len(test) // 12] if options.quick else test[:: max(1, len(test) // 100)]
    seconds = 1.0 if options.quick else options.seconds
    mean, std = (value.view(-1, 1, 1) for value in (train.mean((0, 2, 3)), train.std((0, 2, 3))))
    x, normal = (test - mean) / std, (train - mean) / std
    size, channels = test.shape[2], test.shape[1]
    networks = {}
    for name, given in NETWORKS.get(size, PHOTOGRAPHS).items():
        networks[name] = create_model("sparse_autoencoder", in_chans=channels, **given).eval()
        networks[name].start_from(normal)  # type: ignore[operator]
    patches = Patches(normal, 64 if options.quick else 256)
    blocks = BLOCKS.get(size, (8, 16, 32))
    transforms = [BlockTransform.dct(train, b) for b in blocks]
    transforms.append(BlockTransform.principal_components(train, blocks[0]))
    found: list[dict[str, object]] = []

    def pixels(back: Tensor) -> Tensor:
        return back[..., :size, :size] * std + mean

    def add(name: str, mine: RatePoint, others: list[RatePoint]) -> None:
        for key, title in (("psnr_of_all", "of all"), ("psnr_mean", "mean")):
            a, b = getattr(mine, key), max(getattr(other, key) for other in others)
            row = {"name": f"{name}, {title}", "ours": a, "reference": b, "ratio": a / b, "unit": "dB"}
            found.append(row)

    def spent(encode) -> float:  # type: ignore[no-untyped-def]
        start = time.process_time()
        encode()
        return (time.process_time() - start) / len(x)

    shares = options.shares or SHARES.get(options.data, (0.02, 0.05, 0.10))
    rounds = 6 if options.quick else 12
    for share in shares[: 1 if options.quick else None]:
        count = round(share * test[0].numel())
        with torch.enable_grad():
            network = train_plain(plain(channels, size, count), normal, seconds)
        bottleneck = [measure("", pixels(network(x)), test)]
        lams: dict[str, Tensor] = {}
        for each in (True, False):
            way = f"{share:.0%}, " + ("as many for each" if each else "one weight")
            if each:
                code = torch.cat([patches.at_count(one[None], count, rounds)[0] for one in x])
            else:
                code, tolerance = patches.at_count(x, count, rounds)
            learned = [measure("", pixels(patches.images(code, test)), test, codes=[code])]
            kept = [(t, keep_largest(t.analysis(test), count, each=each)) for t in transforms]
            fixed = [measure("", t.synthesis(z, (size, size)), test, codes=[z]) for t, z in kept]
            for name, model in networks.items():
                code, lams[name] = at_count(model, x, count, each=each, rounds=rounds)
                mine = measure("", pixels(model.decode(code, test.shape[2:])), test, codes=[code])  # type: ignore[operator]
                others = {"patches": learned, "transform": fixed} | ({"convolutions": bottleneck} if each else {})
                for other, points in others.items():
                    add(f"{way}, {name} / {other}", mine, points)
        times = [spent(lambda: patches.code(x, tolerance)) for _ in range(3)]  # noqa: B023
        for name, model in networks.items():
            own = [spent(lambda: model.encode(x, lam=lams[name])) for _ in range(3)]  # type: ignore[operator] # noqa: B023
            found.append(timing.row(f"{share:.0%}, encoding, {name} / patches", own, times) | {"unit": "ms"})
    return found


def main() -> None:
    parser = timing.parser(__doc__.splitlines()[0])
    parser.add_argument("--data", default="sample_images")
    parser.add_argument("--root")
    parser.add_argument("--shares", type=float, nargs="+")
    parser.add_argument("--seconds", type=float, default=25.0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    timing.report(rows(options), options.json, "other")


if __name__ == "__main__":
    main()
