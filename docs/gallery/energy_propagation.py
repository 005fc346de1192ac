"""Where the energy of a signal goes in a modulus cascade, beside what the theorems promise: four pictures and tables.

    python docs/gallery/energy_propagation.py [--quick] [--images FOLDER] [--out FILE.png]

- FILE.png: energy that is left behind n layers, W_n, and energy that leaves as features, for noise that is white up to
  the frequency L on a torus of length 16 with 1024 samples, and the bounds of W_n.
- FILE_depth.png: layers that the bounds ask for until the features hold a share of the energy, in one and two
  dimensions.
- FILE_images.png: the same energies for photographs, whose means are taken off, and directional wavelets of J scales;
  Bruna and Mallat's figures for Caltech-101 (Invariant Scattering Convolution Networks, 2013, table 1) for comparison.
  Photographs are read from FOLDER, or are crops of the two that come with scikit-learn.
- FILE_stability.png: how far features move when the signal is shifted, or deformed by a sine.

matplotlib is needed, Pillow for a folder of photographs.
"""

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from csc_nets.functional import (
    FilterBank,
    scattering_energy,
    wavelet_bank,
    wavelet_bank_2d,
    weyl_heisenberg_bank,
)
from csc_nets.theory import (
    deform,
    deformation_bound,
    depth_for_energy,
    feature_distance,
    spectral_decay_bound,
    support_base,
    translation_bound,
)
from csc_nets.theory.energy.decay_bounds import Family

TORUS = {"gap": 1.0, "sampling_rate": 64.0}
FAMILIES = {"weyl_heisenberg": ("Weyl-Heisenberg", weyl_heisenberg_bank), "wavelet": ("wavelets", wavelet_bank)}
# The supports of the lowest filters are [1, 3] and [1/2, 2].
BASES = {"weyl_heisenberg": support_base(1, 3), "wavelet": support_base(0.5, 2)}
SHARES = (0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
# Bruna and Mallat 2013, table 1: % of the energy behind m = 0, 1, 2, 3 moduli, for J = 1 to 7.
CALTECH = {
    1: (95.1, 4.86, 0.0, 0.0),
    2: (87.56, 11.97, 0.35, 0.0),
    3: (76.29, 21.92, 1.54, 0.02),
    4: (61.52, 33.87, 4.05, 0.16),
    5: (44.6, 45.26, 8.9, 0.61),
    6: (26.15, 57.02, 14.4, 1.54),
    7: (0.0, 73.37, 21.98, 3.56),
}
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9")


def power_spectrum(x: Tensor) -> Tensor:
    axes = tuple(range(1, x.ndim))
    return torch.fft.fftn(x, dim=axes).abs().square() / x[0].numel()


def noise(bank: FilterBank, limit: float, samples: int) -> Tensor:
    """White up to a frequency, of energy 1."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, *bank.size, generator=generator, dtype=torch.float64)
    x = torch.fft.ifft(torch.fft.fft(x) * (bank.radius() <= limit)).real
    return x / x.norm(dim=1, keepdim=True)


def bounds(x: Tensor, bank: FilterBank, depth: int, family: Family, base: float | None = None) -> list[float]:
    """Bounds of the energy behind 1, ..., depth layers, mean over the signals."""
    power, radius = power_spectrum(x), bank.radius()
    return [
        spectral_decay_bound(n, power, radius, family, gap=bank.gap, base=base).mean().item()
        for n in range(1, depth + 1)
    ]


def decay(samples: int, depth: int) -> list[dict[str, Any]]:
    """Measured energies and bounds, a row for each family and bandwidth."""
    rows = []
    for limit in (4, 16):
        for family, (name, make) in FAMILIES.items():
            bank = make(1024, **TORUS)
            x = noise(bank, limit, samples)
            energy = scattering_energy(x, bank, depth, prune=1e-12)
            balance = energy.features.sum(1) + energy.propagated[:, -1] + energy.pruned.sum(1)
            rows.append(
                {
                    "name": f"{name}, L = {limit}",
                    "propagated": energy.propagated.mean(0).tolist(),
                    "features": energy.features.mean(0).tolist(),
                    "pruned": energy.pruned.sum(1).max().item(),
                    "balance": (balance / energy.total - 1).abs().max().item(),
                    "published": bounds(x, bank, depth, family),
                    "general": bounds(x, bank, depth, "general"),
                    "derived": bounds(x, bank, depth, "analytic", BASES[family]),
                }
            )
    return rows


def depth_tables() -> dict[str, list[int]]:
    """Layers for each share, with L = delta."""
    cases: dict[str, dict[str, Any]] = {
        "d = 1, wavelets, a = 5/3": {"family": "wavelet"},
        "d = 1, windows, a = 3/2": {"family": "weyl_heisenberg"},
        "d = 1, general": {"family": "general"},
        "d = 1, wavelets, ours": {"family": "analytic", "base": BASES["wavelet"]},
        "d = 1, windows, ours": {"family": "analytic", "base": BASES["weyl_heisenberg"]},
        "d = 1, any filters, ours": {"family": "analytic"},
        "d = 2, general": {"family": "general", "dim": 2},
        "d = 2, any filters, ours": {"family": "analytic", "dim": 2},
        "d = 2, wavelets, ours": {"family": "analytic", "dim": 2, "base": support_base(0.5, 2, dim=2)},
    }
    return {name: [int(depth_for_energy(share, **case)) for share in SHARES] for name, case in cases.items()}


def photographs(folder: Path | None, side: int, most: int) -> Tensor:
    """Grey crops ``(N, side, side)`` of mean 0 and energy 1."""
    import numpy as np

    if folder is None:
        from sklearn.datasets import load_sample_images

        arrays = [image.mean(2) for image in load_sample_images().images]
        corners = [(i, j) for i in range(0, 427 - side, side) for j in range(0, 640 - side, side)]
        crops = [array[i : i + side, j : j + side] for i, j in corners for array in arrays]
    else:
        from PIL import Image

        files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"))
        if not files:
            raise SystemExit(f"energy_propagation.py: no .jpg, .png or .webp in {folder}")
        crops = []
        for path in files[:most]:
            image = Image.open(path).convert("L")
            scale = side / min(image.size)
            image = image.resize((max(side, round(image.width * scale)), max(side, round(image.height * scale))))
            left, top = (image.width - side) // 2, (image.height - side) // 2
            crops.append(np.asarray(image.crop((left, top, left + side, top + side))))
    x = torch.stack([torch.tensor(np.asarray(crop), dtype=torch.float64) for crop in crops[:most]])
    x = x - x.mean((1, 2), keepdim=True)
    return x / x.flatten(1).norm(dim=1).view(-1, 1, 1)


def image_energies(x: Tensor, scales: Sequence[int], angles: int, depth: int) -> list[dict[str, Any]]:
    rows = []
    # The widest ring is the finest, from 1/8 to the corner of the spectrum at sqrt(1/2) cycles a pixel.
    base = support_base(1 / 8, math.sqrt(1 / 2), half_angle=math.pi / angles)
    for scale in scales:
        bank = wavelet_bank_2d(tuple(x.shape[1:]), scale, angles)
        energy = scattering_energy(x, bank, depth, prune=1e-6)
        rows.append(
            {
                "J": scale,
                "features": energy.features.mean(0).tolist(),
                "propagated": energy.propagated.mean(0).tolist(),
                "pruned": energy.pruned.sum(1).mean().item(),
                "general": bounds(x, bank, depth, "general"),
                "derived": bounds(x, bank, depth, "analytic", base),
            }
        )
    return rows


def stability(samples: int, depth: int, levels: int) -> dict[str, Any]:
    """Distances of features, relative to the norm of the signal."""
    bank = wavelet_bank(1024, **TORUS)
    shifts = [1 / 64 * 2**k for k in range(levels)]
    x = noise(bank, 16, samples)
    moved = torch.stack([feature_distance(x, x.roll(round(64 * t), 1), bank, depth).mean(0) for t in shifts])
    wave = torch.sin(2 * math.pi * torch.arange(1024, dtype=torch.float64) / 1024)
    strengths = [10 ** (-3.5 + 0.5 * k) for k in range(levels)]
    warped = {}
    for limit in (2, 4, 16):
        y = noise(bank, limit, samples)
        rows = []
        for strength in strengths:
            z = deform(y, 64 * strength * wave[None])
            both = feature_distance(y, z, bank, depth).norm(dim=1).mean().item(), (y - z).norm(dim=1).mean().item()
            # The steepest slope of the sine, which has one period on the torus of length 16.
            steepest = 2 * math.pi / 16 * strength
            rows.append((*both, deformation_bound(limit, strength, steepest) if steepest < 1 else math.inf))
        warped[limit] = rows
    small = [k for k, strength in enumerate(strengths) if 16 * strength <= 0.1]
    constants = {limit: max(rows[k][0] / (limit * strengths[k]) for k in small) for limit, rows in warped.items()}
    slopes = {
        limit: math.log(rows[small[-1]][0] / rows[0][0]) / math.log(strengths[small[-1]] / strengths[0])
        for limit, rows in warped.items()
    }
    return {
        "shifts": shifts,
        "translation": moved.tolist(),
        "translation_bound": [translation_bound(bank, t) for t in shifts],
        "strengths": strengths,
        "deformation": warped,
        "constants": constants,
        "slopes": slopes,
    }


def grid(axis: Any) -> None:
    axis.grid(alpha=0.25, lw=0.6)


def draw_decay(rows: list[dict[str, Any]], out: Path) -> None:
    """Energies on a logarithmic axis above, and with the bounds on a linear one below."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, len(rows), figsize=(3.6 * len(rows), 6.6), sharex=True, sharey="row")
    for above, below, row in zip(*axes, rows, strict=True):
        depth = len(row["features"])
        layers = range(1, depth + 1)
        for axis in (above, below):
            axis.plot(range(depth + 1), row["propagated"], color=COLOURS[0], marker="o", lw=1.5)
            axis.plot(range(depth), row["features"], color=COLOURS[1], marker="s", mfc="white", ms=8, ls="", zorder=1)
            grid(axis)
        below.plot(layers, row["general"], color="#555555", ls=":", marker="s", ms=4)
        below.plot(layers, row["published"], color=COLOURS[2], ls="--", marker="v")
        below.plot(layers, row["derived"], color=COLOURS[3], ls="-.", marker="^")
        above.set_title(row["name"], fontsize=10)
        above.set_yscale("log")
        above.set_ylim(1e-10, 5)
        below.set_ylim(0, 1.05)
        below.set_xlabel("layers n")
        below.set_xticks(range(depth + 1))
    for axis in axes[:, 0]:
        axis.set_ylabel("share of the energy")
    labels = ["left behind n layers, $W_n$", "features of layer n"]
    labels += ["bound for any filters, published", "bound for these, published", "bound for these, ours"]
    figure.legend(axes[1][0].get_lines(), labels, loc="lower center", ncols=5, fontsize=9, frameon=False)
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    figure.savefig(out, dpi=110)


def draw_depth(tables: dict[str, list[int]], out: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4.2))
    for axis, dim in zip(axes, ("d = 1", "d = 2"), strict=True):
        mine = {name.removeprefix(dim + ", "): row for name, row in tables.items() if name.startswith(dim)}
        for i, (name, row) in enumerate(mine.items()):
            style = {"ls": "-", "marker": "o"} if "ours" in name else {"ls": "--", "marker": "v"}
            axis.plot(range(len(SHARES)), row, color=COLOURS[i % 3], label=name, ms=5, **style)
        axis.set_yscale("log")
        axis.set_xticks(range(len(SHARES)), [f"{share:.0%}" for share in SHARES])
        axis.set_xlabel("share of the energy in the features")
        axis.set_title(f"{dim}, signals up to L = δ", fontsize=10)
        axis.legend(fontsize=8, frameon=False)
        grid(axis)
    axes[0].set_ylabel("layers that the bound asks for")
    figure.tight_layout()
    figure.savefig(out, dpi=110)


def draw_images(rows: list[dict[str, Any]], out: Path) -> None:
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2))
    for m in range(len(rows[0]["features"])):
        x = [row["J"] for row in rows]
        left.plot(x, [100 * row["features"][m] for row in rows], color=COLOURS[m], marker="o", label=f"m = {m}")
        if m < 4:
            known = [(j, CALTECH[j][m]) for j in x if CALTECH[j][m] > 0]
            left.plot(*zip(*known, strict=True), color=COLOURS[m], ls="--", marker="x", alpha=0.8)
    left.plot([], [], color="#555555", ls="--", marker="x", label="Bruna, Mallat,\nCaltech-101, splines")
    left.set_yscale("log")
    left.set_ylim(1e-2, 130)
    left.set_xticks([row["J"] for row in rows])
    left.set_xlabel("scales J")
    left.set_ylabel("% of the energy in features of order m")
    left.set_title("Photographs, mean taken off", fontsize=10)
    left.legend(fontsize=8, frameon=False, loc="lower right")
    for i, row in enumerate(rows):
        depth = len(row["features"])
        right.plot(range(depth + 1), row["propagated"], color=COLOURS[i], marker="o", label=f"J = {row['J']}")
        right.plot(range(1, depth + 1), row["derived"], color=COLOURS[i], ls="--", marker="^", ms=4)
    right.plot([], [], color="#555555", ls="--", marker="^", ms=4, label="bound, ours")
    right.set_yscale("log")
    right.set_xticks(range(depth + 1))
    right.set_xlabel("layers n")
    right.set_ylabel("share of the energy left, $W_n$")
    right.set_title("Energy behind n layers", fontsize=10)
    right.legend(fontsize=8, frameon=False, loc="lower left")
    for axis in (left, right):
        grid(axis)
    figure.tight_layout()
    figure.savefig(out, dpi=110)


def draw_stability(numbers: dict[str, Any], out: Path) -> None:
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2))
    for n, values in enumerate(zip(*numbers["translation"], strict=True)):
        left.plot(numbers["shifts"], values, color=COLOURS[n], marker="o", label=f"features of layer {n}")
    left.plot(numbers["shifts"], numbers["translation_bound"], color="black", ls="--", label="bound 2π|t|K")
    left.set_xlabel("shift t (the gap is 1 cycle per unit)")
    left.set_ylabel("distance of features / norm of the signal")
    left.set_title("Translation, noise up to L = 16", fontsize=10)
    for i, (limit, rows) in enumerate(numbers["deformation"].items()):
        measured, plain, bounds = zip(*rows, strict=True)
        right.plot(numbers["strengths"], measured, color=COLOURS[i], marker="o", label=f"R = {limit}")
        right.plot(numbers["strengths"], plain, color=COLOURS[i], ls=":")
        right.plot(numbers["strengths"], bounds, color=COLOURS[i], ls="--")
    for style, name in (({"marker": "o"}, "features"), ({"ls": ":"}, "the signal itself"), ({"ls": "--"}, "bound")):
        right.plot([], [], color="#555555", label=name, **style)
    right.set_xlabel("largest displacement ‖τ‖∞")
    right.set_title("Deformation by one period of a sine, noise up to R", fontsize=10)
    for axis in (left, right):
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_ylim(3e-4, 20)
        axis.legend(fontsize=8, frameon=False, ncols=2, loc="upper left")
        grid(axis)
    figure.tight_layout()
    figure.savefig(out, dpi=110)


def report(results: dict[str, Any]) -> None:
    """Prints every number of the pictures."""
    for row in results["decay"]:
        print(f"{row['name']}: balance closes to {row['balance']:.1e}, pruned {row['pruned']:.1e}")
        for key in ("propagated", "features", "published", "general", "derived"):
            print(f"  {key:11}" + "".join(f"{value:11.3g}" for value in row[key]))
    print(f"{'layers for a share of':26}" + "".join(f"{share:>19.0%}" for share in SHARES))
    for name, row in results["depth"].items():
        print(f"{name:26}" + "".join(f"{value:>19,}" for value in row))
    for row in results["images"]:
        print(
            f"photographs, J = {row['J']}: features % " + " ".join(f"{100 * v:.2f}" for v in row["features"]), end="; "
        )
        print("left " + " ".join(f"{v:.2g}" for v in row["propagated"]), end="; ")
        print("bounds " + " ".join(f"{v:.2g}" for v in row["derived"]), f"; pruned {row['pruned']:.1e}")
    numbers = results["stability"]
    worst = max(
        value / bound
        for values, bound in zip(numbers["translation"], numbers["translation_bound"], strict=True)
        for value in values
    )
    print(f"translation: largest distance over bound {worst:.3f}")
    for limit, constant in numbers["constants"].items():
        print(f"deformation, R = {limit}: C = {constant:.2f} (bound 2 pi), order {numbers['slopes'][limit]:.3f}")


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs everything; returns the printed numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer signals, layers and scales, under 30 s")
    parser.add_argument("--images", type=Path, help="folder of photographs")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "images" / "energy_propagation.png")
    options = parser.parse_args(argv)
    try:
        import matplotlib
    except ImportError:
        raise SystemExit("energy_propagation.py draws with matplotlib: pip install matplotlib") from None
    matplotlib.use("Agg")
    torch.set_num_threads(1)
    start = time.perf_counter()
    x = photographs(options.images, 32 if options.quick else 128, 4 if options.quick else 24)
    results: dict[str, Any] = {
        "decay": decay(2 if options.quick else 10, 3 if options.quick else 4),
        "depth": depth_tables(),
        "images": image_energies(x, (1, 2) if options.quick else (1, 2, 3, 4, 5), 4 if options.quick else 6, 4),
        "stability": stability(2 if options.quick else 8, 3, 4 if options.quick else 7),
    }
    report(results)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    pictures = {"": (draw_decay, "decay"), "_depth": (draw_depth, "depth")}
    pictures |= {"_images": (draw_images, "images"), "_stability": (draw_stability, "stability")}
    for suffix, (draw, key) in pictures.items():
        draw(results[key], options.out.with_name(options.out.stem + suffix + ".png"))
    print(f"wrote {options.out} and three more, {time.perf_counter() - start:.0f} s")
    return results


if __name__ == "__main__":
    main()
