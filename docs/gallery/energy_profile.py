"""Where four networks lose the energy of their input: scattering, random and trained filters, sparse codes.

    python docs/gallery/energy_profile.py [--quick] [--runs FOLDER...] [--out FILE.png]

Small networks, trained on the 8 x 8 digits of scikit-learn but for one CNN that stays as it was drawn. ``--runs``
profiles trained networks instead, folders that train.py left, on noise.

FILE.png: the share of the energy behind every operation, each measured against the most that it could pass, coloured
by what the operation is. Prints the table of every network.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import csc_nets
from csc_nets.theory import EnergyProfile, energy_profile

COLOURS = {
    "filters": "#0072B2",
    "stride": "#56B4E9",
    "rectification": "#E69F00",
    "shrinkage": "#F0E442",
    "pooling": "#009E73",
    "residual": "#CC79A7",
    "paths": "#D55E00",
    "branches": "#000000",
    "centring": "#999999",
}


def cnn() -> nn.Module:
    """Three strided convolutions, batch norm and ReLU."""
    widths = [1, 32, 64, 64]
    layers: list[nn.Module] = []
    for i in range(3):
        layers += [nn.Conv2d(widths[i], widths[i + 1], 3, 1 if i == 0 else 2, 1)]
        layers += [nn.BatchNorm2d(widths[i + 1]), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def networks() -> dict[str, nn.Module]:
    """One of each kind, for grey images of 8 x 8 pixels."""
    sdnet = csc_nets.create_model("sdnet18", in_chans=1, widths=[16, 16, 32, 32], depths=[1, 1, 1, 1])
    scattering = csc_nets.create_model("scattering", in_chans=1, input_size=8, bank="wavelet")
    return {"scattering": scattering, "random CNN": cnn(), "trained CNN": cnn(), "SDNet": sdnet}


def digits() -> tuple[Tensor, Tensor]:
    """Images ``(1797, 1, 8, 8)``, standardised, and labels."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32)[:, None]
    return (images - images.mean()) / images.std(), torch.tensor(found.target)


def train(model: nn.Module, images: Tensor, labels: Tensor, epochs: int) -> None:
    """AdamW with a learning rate that falls to 0."""
    steps = epochs * (len(images) // 64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        batch = torch.randint(len(images), (64,))
        optimizer.zero_grad()
        cross_entropy(model(images[batch]), labels[batch]).backward()
        optimizer.step()
        schedule.step()


def draw(profiles: dict[str, EnergyProfile], file: Path) -> None:
    """Shares over the operations, and bars of what each cause left."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(profiles), figsize=(3.6 * len(profiles), 3.4), sharey=True, squeeze=False)
    for axis, (name, profile) in zip(axes[0], profiles.items(), strict=True):
        rows = [row for row in profile.rows if row.on_path and row.cause != "scale"]
        shares = [1.0, *(max(row.share, 1e-12) for row in rows)]
        axis.plot(range(len(shares)), shares, color="0.6", linewidth=1, zorder=1)
        for cause, colour in COLOURS.items():
            points = [(i, row.share) for i, row in enumerate(rows, start=1) if row.cause == cause]
            if points:
                axis.scatter(*zip(*points, strict=True), s=22, color=colour, label=cause, zorder=2)
        axis.set(yscale="log", title=name, xlabel="operation")
        axis.grid(axis="y", color="0.9")
        axis.locator_params(axis="x", integer=True)
        axis.legend(fontsize=8, loc="lower left")
    axes[0, 0].set_ylabel("share of the energy that is left")
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)


def from_runs(folders: Sequence[Path]) -> dict[str, EnergyProfile]:
    """Profiles of trained networks on noise of the size and the channels that they take."""
    profiles = {}
    for folder in folders:
        model = csc_nets.load(folder)
        channels, height, width = model.pretrained_cfg["input_size"]
        profiles[folder.name] = energy_profile(model, torch.randn(16, channels, height, width))
    return profiles


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs everything; returns the printed numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="train for one epoch, under 30 s")
    parser.add_argument("--runs", type=Path, nargs="+", help="run folders of trained networks")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "images" / "energy_profile.png")
    options = parser.parse_args(argv)
    torch.manual_seed(0)
    accuracies: dict[str, float] = {}
    if options.runs:
        profiles = from_runs(options.runs)
    else:
        profiles = {}
        images, labels = digits()
        for name, model in networks().items():
            if name != "random CNN":
                train(model, images[:1400], labels[:1400], 1 if options.quick else 20)
            with torch.no_grad():
                right = model.eval()(images[1400:]).argmax(1) == labels[1400:]
            accuracies[name] = right.float().mean().item()
            profiles[name] = energy_profile(model, images[1400:1528])
    for name, profile in profiles.items():
        accuracy = f", {100 * accuracies[name]:.1f} % right" if name in accuracies else ""
        print(f"\n{name}{accuracy}\n\n{profile}")
    draw(profiles, options.out)
    return {
        name: {"share": profile.rows[-1].share, "causes": profile.causes, "accuracy": accuracies.get(name)}
        for name, profile in profiles.items()
    }


if __name__ == "__main__":
    main()
