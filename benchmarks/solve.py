"""Time to solve convolutional sparse coding of a photograph, beside sporco's ADMM and our FISTA.

    python benchmarks/solve.py [--quick] [--json FILE] [--threads N] [--size 128]

A grey photograph, high-passed; atoms are patches of another one; circular borders, float32. The reference minimum is
ours in float64. Per target (objective over minimum, minus 1) the least number of steps is found beforehand, the same
way for everybody, and a run of that many steps is timed, preparations and the code included. The certified row is
``csc_nets.solve``, which finds out by itself when to stop. sporco (pip install sporco) is left out if absent.
"""

import argparse
import importlib
import math
from collections.abc import Callable
from typing import Any

import timing
import torch
from sklearn.datasets import load_sample_images
from torch import Tensor

import csc_nets
from csc_nets.functional import douglas_rachford, fista
from csc_nets.layers import Dictionary2d

CASES = [(128, 32, 8, 0.05), (128, 32, 8, 0.2), (256, 64, 11, 0.05), (256, 64, 11, 0.2)]
TARGETS = (1e-4, 1e-6)


def photograph(index: int, size: int) -> Tensor:
    """Grey values in [0, 1] without their local mean (a Gaussian of 4 pixels), ``(size, size)``."""
    image = torch.tensor(load_sample_images().images[index]).double().mean(2)[100 : 100 + size, 200 : 200 + size] / 255
    low = torch.exp(-2 * (math.pi * 4 * torch.fft.fftfreq(size)) ** 2).double()
    return image - torch.fft.ifft2(torch.fft.fft2(image) * low[:, None] * low).real


def patches(count: int, size: int) -> Tensor:
    """Unit patches of the other photograph that are not flat, ``(count, 1, size, size)``."""
    image, generator, found = photograph(1, 320), torch.Generator().manual_seed(0), []
    while len(found) < count:
        i, j = torch.randint(0, 320 - size, (2,), generator=generator).tolist()
        patch = image[i : i + size, j : j + size]
        if patch.norm() > 0.02 * size:
            found.append(patch / patch.norm())
    return torch.stack(found)[:, None]


def layer(atoms: Tensor) -> Dictionary2d:
    count, _, size, _ = atoms.shape
    dictionary = Dictionary2d(1, count, size, padding="same", padding_mode="circular", unit_norm=False).to(atoms)
    dictionary.weight.data.copy_(atoms)
    dictionary.refresh()
    return dictionary


def first(values: list[float], best: float, target: float) -> int | None:
    """The first step at which the objective is within the target."""
    return next((k for k, value in enumerate(values, 1) if value <= best * (1 + target)), None)


class Sporco:
    """ADMM with its automatic penalty and relaxation, statistics switched off while it is timed."""

    def __init__(self, x: Tensor, atoms: Tensor, lam: float, threads: int) -> None:
        self.solver: Any = importlib.import_module("sporco.admm.cbpdn").ConvBPDN
        importlib.import_module("sporco.fft").pyfftw_threads = threads
        self.x, self.atoms, self.lam = x[0, 0].numpy(), atoms[:, 0].permute(1, 2, 0).contiguous().numpy(), lam

    def run(self, steps: int, callback: Callable[[Any], bool] | None = None) -> None:
        options = {"Verbose": False, "MaxMainIter": steps, "RelStopTol": 0.0, "FastSolve": True, "HighMemSolve": True}
        self.solver(
            self.atoms, self.x, self.lam, self.solver.Options({**options, "Callback": callback}), dimK=0
        ).solve()

    def trace(self, steps: int, best: float) -> list[float]:
        """Objectives of every step, in float64, until the tightest target is met."""
        spectra = torch.fft.rfft2(torch.tensor(self.atoms).double().permute(2, 0, 1), s=self.x.shape)
        x, values = torch.tensor(self.x).double(), []

        def look(run: Any) -> bool:
            z = torch.tensor(run.Y).double().squeeze().permute(2, 0, 1)
            back = torch.fft.irfft2((torch.fft.rfft2(z) * spectra).sum(0), s=x.shape)
            values.append(((x - back).square().sum() / 2 + self.lam * z.abs().sum()).item())
            return values[-1] <= best * (1 + min(TARGETS))

        self.run(steps, look)
        return values


def minimum(x: Tensor, atoms: Tensor, lam: float) -> float:
    """The least objective, to about 1e-9 of it."""
    dictionary, x, z, last = layer(atoms.double()), x.double(), None, math.inf
    while True:
        trace: list[Tensor] = []
        z = douglas_rachford(x, dictionary, lam, steps=400, init=z, trace=trace)
        value = trace[-1].item()
        if last - value <= 1e-9 * value:
            return min(value, last)
        last = value


def case(options: argparse.Namespace, size: int, count: int, width: int, lam: float) -> list[dict[str, object]]:
    atoms = patches(count, width).float()
    x, dictionary = photograph(0, size).float()[None, None], layer(atoms)
    best = minimum(x, atoms, lam)
    traces: dict[str, list[float]] = {}
    values: list[Tensor] = []
    douglas_rachford(x, dictionary, lam, steps=400, trace=values)
    ours = [v.item() for v in values]
    runs: dict[str, Callable[[int], object]] = {}
    try:
        peer = Sporco(x, atoms, lam, options.threads)
        traces["sporco"], runs["sporco"] = peer.trace(600, best), peer.run
    except ImportError:
        print("sporco is not installed: left out")
    if size <= 128 and not options.quick:
        values = []
        with torch.no_grad():
            fista(x, dictionary, lam, steps=800, restart=True, trace=values)
        traces["our FISTA"] = [v.item() for v in values]

        def plain(steps: int) -> object:
            with torch.no_grad():
                return fista(x, dictionary, lam, steps=steps, restart=True)

        runs["our FISTA"] = plain
    rows = []
    name = f"{size}x{size}, {count} atoms {width}x{width}, lam {lam}"
    for target in TARGETS[: 1 if options.quick else None]:
        k = first(ours, best, target)
        for peer_name, trace in traces.items():
            n = first(trace, best, target)
            if k is None or n is None:
                print(f"{name}: {target:g} not reached in {len(ours)} of our steps or {len(trace)} of {peer_name}")
                continue
            run = runs[peer_name]
            seconds = timing.interleaved(
                [lambda k=k: douglas_rachford(x, dictionary, lam, steps=k), lambda n=n, run=run: run(n)],  # type: ignore[misc]
                3 if options.quick or size > 128 else 5,
                "cpu",
            )
            rows.append(timing.row(f"{name}, {target:g}, {peer_name} ({k} to {n} steps)", *seconds, unit="s"))
    if "sporco" in traces and (n := first(traces["sporco"], best, 1e-4)) is not None:
        seconds = timing.interleaved([lambda: csc_nets.solve(x, dictionary, lam), lambda: peer.run(n)], 3, "cpu")
        rows.append(timing.row(f"{name}, solve(tol=1e-4) certified, over sporco to 1e-4", *seconds, unit="s"))
    return rows


def main() -> None:
    parser = timing.parser(__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, help="photographs of this size only: 128 or 256")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cases = [(64, 32, 8, 0.2)] if options.quick else [c for c in CASES if options.size in (None, c[0])]
    rows = [r for c in cases for r in case(options, *c)]
    if rows:
        timing.report(rows, options.json, "peer")


if __name__ == "__main__":
    main()
