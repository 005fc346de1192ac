"""Photographs come back from CNNs of random filters, and from a trained one: what each layer keeps of them.

    python docs/gallery/inversion.py [--images FOLDER] [--run RUN_FOLDER] [--quick] [--out FILE.png]

FILE.png: the error of the image against iterations. Left, a network of random filters whose layers code their input by
more and more steps of model-based iterative hard thresholding, from one, two and three layers down, decoded by one
unpooling and one transposed convolution a layer. Right, networks of torchvision with random weights as they are: the
decoder goes on by conjugate gradients.

FILE_pictures.png: photographs, and what came back of them: from each depth with one step and with the most steps of the
left side, then from each block of the VGG-16 of the right side.

Prints these errors and, layer by layer, how well each input comes back from its pooled code, with the network's own
filters, with Gaussian ones and from noise: for the VGG-16 and for the trained network of --run.

Photographs: those of FOLDER, scaled to 64 x 64 pixels; the two that scikit-learn embeds if there is none.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_sample_images
from torch import Tensor, nn
from torchvision.io import ImageReadMode, decode_image
from torchvision.models import resnet18, vgg16
from torchvision.transforms import v2

from csc_nets import create_model, load
from csc_nets.evaluation import invert, invert_layers, relative_error

VGG_POOLS = {"block 1": "features.4", "block 2": "features.9", "block 3": "features.16", "block 4": "features.23"}
VGG_CONVOLUTIONS = ["features.0", "features.5", "features.10", "features.17", "features.24"]
RESNET = {"maxpool": "maxpool", "layer1": "layer1", "layer2": "layer2"}


def photographs(folder: Path | None, size: int, count: int) -> Tensor:
    """Images ``(N, 3, size, size)`` with pixels in [0, 1]."""
    if folder is None:
        raw = [torch.from_numpy(image.copy()).permute(2, 0, 1) for image in load_sample_images().images]
    else:
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
        spread = torch.linspace(0, len(files) - 1, min(count, len(files))).long().tolist()
        raw = [decode_image(str(files[i]), ImageReadMode.RGB) for i in spread]
    change = v2.Compose([v2.Resize(size, antialias=True), v2.CenterCrop(size), v2.ToDtype(torch.float32, scale=True)])
    return torch.stack([change(image) for image in raw[:count]])


def by_steps(x: Tensor, steps: Sequence[int]) -> tuple[dict[str, list[float]], dict[str, Tensor]]:
    """Errors of a random network by depth, one for each number of steps, and the pictures of the first and last."""
    errors: dict[str, list[float]] = {}
    pictures: dict[str, Tensor] = {}
    for count in steps:
        torch.manual_seed(0)
        model = create_model("invertible_cnn", steps=count, sign="signed", norm=False).eval()
        for depth in range(3):
            with torch.no_grad():
                back = model.reconstruct(x, depth)  # type: ignore[operator]
            errors.setdefault(f"{depth + 1} layers" if depth else "1 layer", []).append(_mean_error(back, x))
            if count in (steps[0], steps[-1]):
                pictures[f"{depth + 1}: {count} step{'s' * (count > 1)}"] = back
    return errors, dict(sorted(pictures.items()))


def by_conjugate_gradients(
    model: nn.Module, layers: dict[str, str], x: Tensor, steps: int
) -> tuple[dict[str, list[float]], dict[str, Tensor]]:
    """Errors of the image after 1, 2, ... steps of the decoder from each layer, and the last pictures."""
    errors: dict[str, list[float]] = {name: [] for name in layers}
    pictures = {}
    for name, layer in layers.items():
        curve = errors[name]
        pictures[name] = invert(model, x, layer, steps=steps, trace=lambda v, c=curve: c.append(_mean_error(v, x)))
    return errors, pictures


def _mean_error(estimate: Tensor, truth: Tensor) -> float:
    return relative_error(estimate, truth).mean().item()


def draw_curves(left: dict[str, list[float]], steps: Sequence[int], right: dict[str, list[float]], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4), sharey=True)
    for name, curve in left.items():
        axes[0].plot(steps, curve, "o-", label=name)
    for name, curve in right.items():
        axes[1].plot(range(1, len(curve) + 1), curve, "--" if name.startswith("ResNet") else "-", label=name)
    axes[0].set(xscale="log", yscale="log", xlabel="steps of iterative hard thresholding in each layer")
    axes[0].set_ylabel("relative error of the image")
    axes[0].set_title("random filters, better codes, one-step decoder")
    axes[1].set(xscale="log", xlabel="conjugate gradient steps of the decoder")
    axes[1].set_title("random CNNs as they are, better decoder")
    for axis in axes:
        axis.set_ylim(1e-3, 1.2)
        axis.grid(alpha=0.3)
        axis.legend()
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)


def draw_pictures(x: Tensor, pictures: dict[str, Tensor], shift: Tensor, scale: float, file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = {"photograph": x, **pictures}
    figure, axes = plt.subplots(
        len(x), len(columns), figsize=(1.35 * len(columns), 1.45 * len(x) + 0.3), squeeze=False, layout="constrained"
    )
    for j, (name, images) in enumerate(columns.items()):
        axes[0, j].set_title(name, fontsize=9)
        for i, image in enumerate(images):
            axes[i, j].imshow((image * scale + shift).clamp(0, 1).permute(1, 2, 0))
            axes[i, j].set_axis_off()
    figure.savefig(file, dpi=80)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs everything; returns the printed numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="a folder with photographs")
    parser.add_argument("--run", type=Path, help="a run folder of train.py, of a network for colour images")
    parser.add_argument("--quick", action="store_true", help="small images and few steps, under 30 s")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "images" / "inversion.png")
    options = parser.parse_args(argv)
    quick = options.quick
    pixels = photographs(options.images, 32 if quick else 64, 2 if quick else 6)
    shift, scale = pixels.mean((0, 2, 3))[:, None, None], pixels.std().item()
    x = (pixels - shift) / scale

    steps = [1, 4] if quick else [1, 2, 5, 10, 20, 50, 100]
    left, pictures = by_steps(x, steps)
    torch.manual_seed(0)
    vgg, resnet = vgg16(num_classes=10).eval(), resnet18(num_classes=10).eval()
    pools = dict(list(VGG_POOLS.items())[: 1 if quick else None])
    count = 3 if quick else 50
    curves, backs = by_conjugate_gradients(vgg, pools, x, count)
    more, _ = by_conjugate_gradients(resnet, dict(list(RESNET.items())[: 1 if quick else None]), x, count)
    right = {f"VGG-16, {k}": v for k, v in curves.items()} | {f"ResNet-18, {k}": v for k, v in more.items()}
    for name, curve in left.items():
        print(f"{name:<20}", *(f"{n}: {e:.3f} " for n, e in zip(steps, curve, strict=True)))
    for name, curve in right.items():
        shown = [n for n in (1, 2, 3, 5, 10, 20, 50) if n <= len(curve)]
        print(f"{name:<20}", *(f"{n}: {curve[n - 1]:.3f} " for n in shown))
    draw_curves(left, steps, right, options.out)
    pictures |= {f"VGG {name}": back for name, back in backs.items()}
    draw_pictures(
        x[:4],
        {k: v[:4] for k, v in pictures.items()},
        shift,
        scale,
        options.out.with_name(f"{options.out.stem}_pictures{options.out.suffix}"),
    )

    tables = {"VGG-16, random": invert_layers(vgg, x[:4], layers=VGG_CONVOLUTIONS[: 2 if quick else 4])}
    if options.run:
        trained = load(options.run)
        tables[f"{options.run.name}, trained"] = invert_layers(trained, x[:4])
    for name, table in tables.items():
        print(f"\n{name}\n{table}")
    return {"steps": left, "decoder": right, "tables": {name: table.rows for name, table in tables.items()}}


if __name__ == "__main__":
    main()
