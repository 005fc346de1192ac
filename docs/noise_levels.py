"""Denoisers at noise levels that they were not trained for: PSNR in dB over the noise, as a table and a picture.

    python docs/noise_levels.py --folder SET12 --picture FILE.png --runs cdlnet=RUN dncnn=RUN --each RUN RUN RUN

``--runs`` are networks by the names that they have in the table; they are told the level. ``--hold 25`` adds the first
one once more, told the same level whatever the noise is, so that its thresholds do not follow. ``--each`` are networks
for one level each, which is read from their ``config.yaml``; they are tested at their own level. ``--package
analysis_denoiser`` takes weights from the package; ``--total-variation 15 25 50`` is scikit-image's at these levels.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
import yaml
from gallery_style import set_style
from torch import Tensor

import csc_nets
from csc_nets.data import create_datamodule
from csc_nets.tasks.image_quality import psnr


@torch.no_grad()
def score(denoise: Callable[[Tensor, float], Tensor], images: list[Tensor], level: float) -> float:
    """Mean PSNR over images, with the same noise for every network."""
    generator, values = torch.Generator().manual_seed(0), []
    for image in images:
        noisy = image + level / 255 * torch.randn(image.shape, generator=generator)
        values.append(psnr(denoise(noisy, level / 255), image))
    return torch.cat(values).mean().item()


def best_total_variation(images: list[Tensor], level: float) -> float:
    """As :func:`score`, of scikit-image's total variation with the best of seven weights for these images."""
    from skimage.restoration import denoise_tv_chambolle

    def denoise(x: Tensor, weight: float) -> Tensor:
        clean = denoise_tv_chambolle(x[0, 0].numpy(), weight, eps=1e-4, max_num_iter=300)
        return torch.from_numpy(clean).view_as(x)

    weights = [level / 255 * share for share in (0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85)]
    return max(score(lambda x, _, weight=weight: denoise(x, weight), images, level) for weight in weights)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--folder", type=Path, required=True, help="grey photographs to test on")
    options.add_argument("--runs", nargs="*", default=[], metavar="NAME=RUN")
    options.add_argument(
        "--package", nargs="*", default=[], metavar="NAME", help="networks with weights in the package"
    )
    options.add_argument("--total-variation", nargs="*", type=float, default=[], metavar="LEVEL")
    options.add_argument("--hold", type=float, help="level that the first network is told once more")
    options.add_argument("--each", nargs="*", default=[], metavar="RUN", help="networks for one level each")
    options.add_argument("--levels", nargs="+", type=float, default=[5, 15, 25, 35, 50, 75])
    options.add_argument("--trained", nargs=2, type=float, default=[20, 30], help="levels of training, for the picture")
    options.add_argument("--picture", type=Path)
    chosen = options.parse_args()
    data = create_datamodule("photographs", root=chosen.folder)
    images = [image for image, _ in data.test_dataloader()]
    networks = {name: csc_nets.load(run) for name, run in (item.split("=", 1) for item in chosen.runs)}
    networks |= {name: csc_nets.create_model(name, pretrained=True).eval() for name in chosen.package}
    rows: dict[str, list[tuple[float, float]]] = {
        name: [(level, score(model, images, level)) for level in chosen.levels] for name, model in networks.items()
    }
    if chosen.total_variation:
        rows["total variation"] = [(level, best_total_variation(images, level)) for level in chosen.total_variation]
    if chosen.hold is not None:
        name, first = next(iter(networks.items()))
        held = [(level, score(lambda x, _: first(x, chosen.hold / 255), images, level)) for level in chosen.levels]
        rows[f"{name}, told {chosen.hold:g}"] = held
    each = []
    for run in chosen.each:
        noise = yaml.safe_load((Path(run) / "config.yaml").read_text())["task"]["noise"]
        level = float(noise if isinstance(noise, int | float) else noise[-1])
        each.append((level, score(csc_nets.load(run), images, level)))
    if each:
        rows["a network for each level"] = sorted(each)
    print("| network | " + " | ".join(f"{level:g}" for level in chosen.levels) + " |")
    print("|---|" + "---|" * len(chosen.levels))
    for name, points in rows.items():
        found = dict(points)
        cells = (f"{found[level]:.2f}" if level in found else "-" for level in chosen.levels)
        print(f"| {name} | " + " | ".join(cells) + " |")
    if chosen.picture:
        draw(rows, chosen.trained, chosen.picture)


def draw(rows: dict[str, list[tuple[float, float]]], trained: list[float], file: Path) -> None:
    from matplotlib.figure import Figure

    set_style()
    figure = Figure(figsize=(6, 3.6))
    axis = figure.subplots()
    axis.axvspan(*trained, color="0.9", label="trained for")
    for name, points in rows.items():
        axis.plot(*zip(*points, strict=True), marker="o", label=name)
    axis.set(xlabel="noise in grey levels of 255", ylabel="PSNR in dB")
    axis.legend()
    figure.savefig(file)


if __name__ == "__main__":
    main()
