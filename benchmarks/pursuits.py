"""How far a layer's pursuit gets in how much time: the objective over the optimum, against FISTA.

    python benchmarks/pursuits.py [--quick] [--json FILE] [--threads N] [--images FOLDER] [--out FILE.png]

Layers: a stem on colour crops of a photograph and a layer behind it, each with random atoms and with atoms that were
learned on the objective; 32 x 32, zero padding, non-negative codes. Calibrated coefficients and learned atoms come from
the left halves of two photographs, what is timed from the right halves (of ``--images``: from half of the pictures, and
from the others). A row tells the time of a pursuit and that of FISTA with the fewest steps that give as low an
objective: the ratio is what a code of that quality costs compared with FISTA. The suboptimality is the sum of the
objectives over the sum of the least ones, minus 1. Douglas-Rachford is ``functional.douglas_rachford`` with rho of its
own choice. ``--out`` draws all curves.
"""

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import timing
import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_images
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image

from csc_nets.functional import douglas_rachford, fista
from csc_nets.layers import CSC2d

FISTA_STEPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48)
COLOURS = {"fista": "#555555", "calibrated": "#D55E00", "whitened": "#0072B2", "douglas_rachford": "#009E73"}


def crops(count: int, folder: Path | None = None) -> tuple[Tensor, Tensor]:
    """Standardised colour crops ``(count, 3, 32, 32)`` of the left and of the right halves of two photographs.

    Of a folder of pictures, crops of ``count`` pictures and of as many others, in the order of a fixed shuffle.
    """
    generator = torch.Generator().manual_seed(0)
    halves: list[list[Tensor]] = [[], []]
    if folder is None:
        for image in load_sample_images().images:
            x = F.avg_pool2d(torch.tensor(image).permute(2, 0, 1)[None].float(), 3)[0]
            x = (x - x.mean((1, 2), keepdim=True)) / x.std((1, 2), keepdim=True)
            for half, part in zip(halves, x.chunk(2, dim=2), strict=True):
                corners = [torch.randint(n - 31, (count // 2,), generator=generator).tolist() for n in part.shape[1:]]
                half += [part[:, i : i + 32, j : j + 32] for i, j in zip(*corners, strict=True)]
        return torch.stack(halves[0]), torch.stack(halves[1])
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if len(files) < 2 * count:
        raise SystemExit(f"{folder}: {len(files)} pictures (jpg, png), at least {2 * count} are needed")
    for k, index in enumerate(torch.randperm(len(files), generator=generator)[: 2 * count].tolist()):
        x = decode_image(str(files[index]), ImageReadMode.RGB).float()
        i, j = (int(torch.randint(n - 31, (), generator=generator)) for n in x.shape[1:])
        x = (x - x.mean((1, 2), keepdim=True)) / x.std((1, 2), keepdim=True).clamp_min(1)
        halves[k % 2].append(x[:, i : i + 32, j : j + 32])
    return torch.stack(halves[0]), torch.stack(halves[1])


def learn(x: Tensor, atoms: int, lam: float, updates: int = 150) -> Tensor:
    """Atoms that make the objective small on signals, from random ones on."""
    torch.manual_seed(0)
    layer = CSC2d(x.shape[1], atoms, 3, padding=1, lam=lam, steps=8)
    optimizer = torch.optim.Adam(layer.dictionary.parameters(), lr=0.01)
    for _ in range(updates):
        batch = x[torch.randperm(len(x))[:8]]
        with torch.no_grad():
            z = layer(batch)
        optimizer.zero_grad()
        layer.objective(batch, z).mean().backward()
        optimizer.step()
    return layer.atoms.detach().clone()


def features(x: Tensor) -> Tensor:
    """What a random stem of 32 channels makes of images, standardised, at half the size."""
    torch.manual_seed(1)
    z = F.conv2d(x, torch.randn(32, 3, 3, 3), padding=1)
    return F.relu((z - z.mean((0, 2, 3), keepdim=True)) / z.std((0, 2, 3), keepdim=True))[:, :, ::2, ::2].contiguous()


def case(name: str, known: Tensor, new: Tensor, weight: Tensor, lam: float, rounds: int) -> list[dict[str, Any]]:
    """Points of all curves of one layer: pursuit, steps, suboptimality, seconds of every round."""
    known, new = (x.to(memory_format=torch.channels_last) for x in (known, new))

    def layer(pursuit: str, steps: int) -> CSC2d:
        made = CSC2d(weight.shape[1], len(weight), 3, padding=1, lam=lam, steps=steps, pursuit=pursuit)
        made.dictionary.weight = weight
        made.dictionary.refresh()
        if hasattr(made.pursuit, "calibrate"):
            made.calibrate(known)
        return made.to(memory_format=torch.channels_last).eval()

    pursuits = ["calibrated"] + ["whitened"] * (weight.shape[1] <= 8)
    layers = {("fista", t): layer("fista", t) for t in FISTA_STEPS}
    layers |= {(pursuit, t): layer(pursuit, t) for pursuit, t in product(pursuits, (1, 2, 3, 4))}
    calls: dict[tuple[str, int], Callable[[], Tensor]] = {
        key: (lambda made=made: made(new))  # type: ignore[misc]
        for key, made in layers.items()
    }
    dictionary = layers["fista", 1].dictionary
    for t in (2, 4):
        calls["douglas_rachford", t] = lambda t=t: douglas_rachford(new, dictionary, lam, steps=t, nonneg=True)  # type: ignore[misc]
    objective = layers["fista", 1].objective
    with torch.no_grad():
        best = fista(new, dictionary, lam, steps=100 if rounds == 2 else 400, nonneg=True, restart=True)
        least = objective(new, best).sum()
        excess = {key: float(objective(new, call()).sum() / least) - 1 for key, call in calls.items()}
        seconds = dict(zip(calls, timing.interleaved(list(calls.values()), rounds, "cpu"), strict=True))
    return [
        {"case": f"{name}, lam {lam}", "pursuit": p, "steps": t, "excess": excess[p, t], "seconds": seconds[p, t]}
        for p, t in calls
    ]


def rows(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every point against the fewest steps of FISTA with as low an objective."""
    made = []
    for point in points:
        fista = [f for f in points if f["pursuit"] == "fista" and f["case"] == point["case"]]
        equal = next((f for f in fista if f["excess"] <= point["excess"]), None)
        if point["pursuit"] == "fista" and point["steps"] != 2:
            continue
        name = f"{point['case']}: {point['pursuit']} {point['steps']} to {point['excess']:.3f}"
        name += f" (fista {equal['steps']})" if equal else f" (fista more than {fista[-1]['steps']})"
        made.append(timing.row(name, point["seconds"], (equal or fista[-1])["seconds"]))
    return made


def draw(points: list[dict[str, Any]], out: Path) -> None:
    """Suboptimality against time, a panel for each layer and lam."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(point["case"] for point in points))
    columns = min(4, len(names))
    figure, panels = plt.subplots(-(-len(names) // columns), columns, figsize=(3.6 * columns, 6.4), squeeze=False)
    for panel, name in zip(panels.flat, names, strict=False):
        for pursuit, colour in COLOURS.items():
            chosen = [p for p in points if p["case"] == name and p["pursuit"] == pursuit]
            if not chosen:
                continue
            x = [1e3 * sorted(p["seconds"])[len(p["seconds"]) // 2] for p in chosen]
            panel.plot(x, [p["excess"] for p in chosen], "o-", ms=4, color=colour, label=pursuit)
            for x_i, p in zip(x, chosen, strict=True):
                panel.annotate(p["steps"], (x_i, p["excess"]), (3, 3), textcoords="offset points", fontsize=6)
        panel.set(xscale="log", yscale="log", title=name, xlabel="ms", ylabel="objective over optimum - 1")
        panel.title.set_fontsize(9)
        panel.grid(alpha=0.3)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="lower center", ncols=len(COLOURS))
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    figure.savefig(out, dpi=110)
    print(f"wrote {out}")


def main() -> None:
    parser = timing.parser(__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="draw the curves into this file")
    parser.add_argument("--images", type=Path, help="a folder of pictures (default: scikit-learn's two photographs)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    count, rounds = (8, 2) if options.quick else (16, 5)
    known, new = crops(count, options.images)
    stages = [("stem 3->64", known, new)]
    if not options.quick:
        stages.append(("mid 32->64", features(known), features(new)))
    points: list[dict[str, Any]] = []
    for name, x, y in stages:
        for lam in (0.1,) if options.quick else (0.1, 0.5):
            random = F.normalize(torch.randn(64, x.shape[1] * 9, generator=torch.Generator().manual_seed(2)))
            points += case(f"{name} random", x, y, random.view(64, -1, 3, 3), lam, rounds)
            if not options.quick:
                points += case(f"{name} learned", x, y, learn(x, 64, lam), lam, rounds)
    timing.report(rows(points), options.json, "FISTA")
    if options.out:
        draw(points, options.out)


if __name__ == "__main__":
    main()
