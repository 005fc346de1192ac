"""Photographs in bits: a sparse autoencoder with an ideal coder beside JPEG, at equal structural similarity.

    python benchmarks/photographs.py --root FOLDER [--quick] [--json FILE] [--weights 0.7 1.2] [--images 5]

FOLDER holds ``train/*.jpg``. The test is the middle 256 x 256 pixels of some of them, drawn at random; the colours of
the atoms and the tables of the coder come from the middle 128 x 128 pixels of 24 others. The code is computed twice for
the training images: with one weight, then with weights in proportion to what a non-zero of each atom costs
(:class:`csc_nets.evaluation.AtomCoder`). ``ours`` and ``reference`` are bits a pixel; JPEG's are interpolated between
its qualities to the same mean SSIM, without headers and tables. Without --root the photographs are scikit-learn's two.
"""

import math
from itertools import pairwise
from pathlib import Path

import timing
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from csc_nets.evaluation import AtomCoder, jpeg, measure
from csc_nets.models import create_model

QUALITIES = (3, 5, 8, 12, 15, 18, 22, 25, 30, 35)


def middle(image: Tensor, side: int) -> Tensor:
    top, left = ((n - side) // 2 for n in image.shape[1:])
    return image[:, top : top + side, left : left + side].float() / 255


def images_of(options) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]
    if options.root is None:
        from sklearn.datasets import load_sample_images

        both = [torch.from_numpy(image.copy()).permute(2, 0, 1) for image in load_sample_images().images]
        return torch.stack([middle(x[..., :320], 128) for x in both]), torch.stack(
            [middle(x[..., 320:], 256) for x in both]
        )
    files = sorted((options.root / "train").glob("*.jpg"))
    order = torch.randperm(len(files), generator=torch.Generator().manual_seed(0)).tolist()
    read = lambda i, side: middle(pil_to_tensor(Image.open(files[i]).convert("RGB")), side)  # noqa: E731
    train = torch.stack([read(i, 128) for i in order[200:224]])
    return train, torch.stack([read(i, 256) for i in order[: options.images]])


@torch.no_grad()
def rows(options) -> list[dict[str, object]]:  # type: ignore[no-untyped-def]
    train, test = images_of(options)
    if options.quick:
        train, test = train[:1], test[:1, :, :64, :64]
    mean, std = train.mean((0, 2, 3)).view(-1, 1, 1), train.std((0, 2, 3)).view(-1, 1, 1)
    model = create_model("sparse_autoencoder", pursuit="stagewise", steps=5 if options.quick else 20, refit=5).eval()
    model.start_from((train - mean) / std)  # type: ignore[operator]
    parts, folds = model.dictionary.codes, model.dictionary.folds  # type: ignore[union-attr]
    pixels = test[:, 0].numel()
    others = [measure("", back, test, bits=bits) for back, bits in (jpeg(test, q) for q in QUALITIES)]
    found: list[dict[str, object]] = []

    def codes(images: Tensor, lam: Tensor) -> Tensor:
        return torch.cat([model.encode((x - mean)[None] / std, lam=lam) for x in images])  # type: ignore[operator]

    for weight in options.weights:
        step, lam = 0.9 * math.sqrt(2 * weight), torch.full((model.num_features,), weight)
        for again in (True, False):
            seen = [(z / step).round() for z in parts(codes(train, lam))]
            coder = AtomCoder.fit(seen)
            if again:
                prices = coder.prices()
                used = [(q != 0).sum((0, 2, 3)) for q in seen]
                total = sum(float((n * price).sum()) for n, price in zip(used, prices, strict=True))
                usual = total / sum(float(n.sum()) for n in used)
                wide = [(p / usual).repeat_interleave(fold**2) for p, fold in zip(prices, folds, strict=True)]
                lam = weight * torch.cat(wide).float()
        z = codes(test, lam)
        indices = (z / step).round()
        back = model.decode(indices * step, test.shape[2:]) * std + mean  # type: ignore[operator]
        ours = measure("", back, test, codes=[z], bits=coder.bits(parts(indices)))
        equal = next(((a, b) for a, b in pairwise(others) if a.ssim <= ours.ssim < b.ssim), None)
        if equal is None:
            print(f"lam {weight:g}: SSIM {ours.ssim:.4f} is beyond JPEG's qualities {QUALITIES}")
            continue
        low, high = equal
        share = (ours.ssim - low.ssim) / (high.ssim - low.ssim)
        bits = low.bits + share * (high.bits - low.bits)
        decibel = low.psnr_of_all + share * (high.psnr_of_all - low.psnr_of_all)
        name = f"lam {weight:g}: SSIM {ours.ssim:.4f}, {ours.psnr_of_all:.2f} dB of all (JPEG {decibel:.2f})"
        found.append({"name": name, "ours": ours.bits, "reference": bits, "ratio": ours.bits / bits, "unit": "bits"})
    print(f"{len(test)} photographs, {pixels} pixels")
    return found


def main() -> None:
    parser = timing.parser(__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path)
    parser.add_argument("--weights", type=float, nargs="+", default=[0.5, 0.7, 1.2, 2.0])
    parser.add_argument("--images", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    timing.report(rows(options), options.json, "JPEG")


if __name__ == "__main__":
    main()
