"""The sparse autoencoder, before any training or of a run, beside block transforms: PSNR at as many non-zeros.

    python benchmarks/rate_distortion.py [--quick] [--json FILE] [--threads N] [--shares 0.02 0.05 0.1] [--stages 1|2]
                                         [--run RUN] [--curve FILE]

The images are the 78 test patches (32 x 32) of scikit-learn's two photographs; the colours' axes and the principal
components come from the training patches. The non-zeros are shared out in two ways: one weight, or one threshold, for
all images; or as many for each image. ``ours`` and ``reference`` are PSNR in dB; the reference is the best of DCT (8,
16, 32) and principal components (8), each measure for itself. With ``--curve`` one network serves all rates: ten
weights from 0.6 down, every third image, and a picture of the curves beside those of the transforms.
"""

import argparse
import math
import time
from pathlib import Path
from typing import Any

import timing
import torch
from torch import Tensor

from csc_nets import load
from csc_nets.data import create_datamodule
from csc_nets.evaluation import BlockTransform, RatePoint, keep_largest, measure
from csc_nets.models import create_model

LAMS = (0.6, 0.2, 0.06, 0.02, 0.006, 0.0015, 0.0003, 0.00006, 0.00001)
STAGES: dict[int, dict[str, Any]] = {1: {}, 2: {"sizes": (8, 16), "frequencies": (8, 16), "above": 8}}


@torch.no_grad()
def at_count(model, images: Tensor, count: int, *, each: bool, rounds: int) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]
    """The code with at most ``count`` non-zeros an image, on average or each, and its weights, by bisection."""
    low, high = (torch.full((len(images), 1, 1, 1), math.log(value)) for value in (1e-4, 10.0))
    best = torch.zeros(1)
    for _ in range(rounds):
        middle = (low + high) / 2
        code = model.encode(images, lam=middle.exp())
        found = (code != 0).sum((1, 2, 3), keepdim=True).float()
        fits = (found if each else found.mean().expand_as(found)) <= count
        best = torch.where(fits, code, best)
        low, high = torch.where(fits, low, middle), torch.where(fits, middle, high)
    return best, high.exp()


@torch.no_grad()
def curve(model, images: Tensor, pixels: Tensor, normal, transforms: dict[str, BlockTransform], file: Path):  # type: ignore[no-untyped-def]
    """Rows of one network at all rates, and their picture."""
    from matplotlib.figure import Figure

    points: dict[str, list[RatePoint]] = {}
    for lam in LAMS:
        code = model.encode(images, lam=lam)
        points.setdefault("one network", []).append(
            measure("", normal(model.decode(code, (32, 32))), pixels, codes=[code])
        )
        count = max(1, round(code.count_nonzero().item() / len(images)))
        for name, transform in transforms.items():
            kept = keep_largest(transform.analysis(pixels), count, each=False)
            points.setdefault(name, []).append(measure("", transform.synthesis(kept, (32, 32)), pixels, codes=[kept]))
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    titles = {"psnr_mean": "mean PSNR (dB)", "psnr_of_all": "PSNR of all (dB)"}
    for axes, (key, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        for name, found in points.items():
            style = {"lw": 2.5, "color": "black"} if name == "one network" else {"lw": 1}
            axes.plot([p.nonzeros for p in found], [getattr(p, key) for p in found], marker=".", label=name, **style)
        axes.set(xscale="log", xlabel="non-zeros for each pixel and channel", ylabel=title)
        axes.set_xticks([0.01, 0.02, 0.05, 0.1, 0.2, 0.5], ["1 %", "2 %", "5 %", "10 %", "20 %", "50 %"])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    figure.savefig(file, dpi=90)
    rows = []
    for i, (lam, ours) in enumerate(zip(LAMS, points.pop("one network"), strict=True)):
        for key in titles:
            own, best = getattr(ours, key), max(getattr(other[i], key) for other in points.values())
            name = f"{key}, lam {lam:g} ({ours.nonzeros:.2%})"
            rows.append({"name": name, "ours": own, "reference": best, "ratio": own / best, "unit": "dB"})
    return rows


def photographs(every: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training and every k-th test patch of two photographs, ``(N, 3, 32, 32)`` in [0, 1]; mean and std of colours."""
    data = create_datamodule("sample_images", image_size=32)
    data.setup()
    train, test = (data.split(part).images.float() / 255 for part in ("train", "test"))
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (data.mean, data.std))
    return train, test[::every], mean, std


@torch.no_grad()
def rows(options: argparse.Namespace) -> list[dict[str, object]]:
    train, test, mean, std = photographs(13 if options.quick else 1)
    arguments = STAGES[options.stages] | ({"steps": 5} if options.quick else {})
    if options.run:
        model = load(options.run)
    else:
        model = create_model("sparse_autoencoder", **arguments)
        model.start_from((train - mean) / std)  # type: ignore[operator]
    model.eval()
    named = {f"DCT {block}": BlockTransform.dct(train, block) for block in (8, 16, 32)}
    named["principal components 8"] = BlockTransform.principal_components(train, 8)
    if options.curve:
        part = test[:: 1 if options.quick else 3]
        return curve(model, (part - mean) / std, part, lambda x: x * std + mean, named, options.curve)
    transforms = list(named.values())
    rounds, found = 6 if options.quick else 9, []
    for share in options.shares[: 1 if options.quick else None]:
        count = round(share * test[0].numel())
        for each in (False, True):
            start = time.process_time()
            code, _ = at_count(model, (test - mean) / std, count, each=each, rounds=rounds)
            spent = (time.process_time() - start) / len(test) / rounds
            back = model.decode(code, (32, 32)) * std + mean  # type: ignore[operator]
            ours = measure("", back, test, codes=[code])
            kept = [(t, keep_largest(t.analysis(test), count, each=each)) for t in transforms]
            others = [measure("", t.synthesis(z, (32, 32)), test, codes=[z]) for t, z in kept]
            way = "as many for each" if each else "one weight"
            for key in ("psnr_mean", "psnr_of_all"):
                own, best = getattr(ours, key), max(getattr(other, key) for other in others)
                name = f"{key}, {way}, {share:.0%} ({ours.nonzeros:.2%}), {1000 * spent:.0f} ms an image"
                found.append({"name": name, "ours": own, "reference": best, "ratio": own / best, "unit": "dB"})
    return found


def main() -> None:
    parser = timing.parser(__doc__.splitlines()[0])
    parser.add_argument("--shares", type=float, nargs="+", default=[0.02, 0.05, 0.1])
    parser.add_argument("--stages", type=int, choices=sorted(STAGES), default=1)
    parser.add_argument("--run", type=Path, help="folder of a training run on sample_images")
    parser.add_argument("--curve", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    timing.report(rows(options), options.json, "transform")


if __name__ == "__main__":
    main()
