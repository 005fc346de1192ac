"""Time to solve convolutional sparse coding of a photograph, beside sporco's ADMM and deepinv's FISTA.

    python benchmarks/solve.py --device cuda    # 64 photographs of 256x256 at once
    python benchmarks/solve.py [--quick] [--json FILE] [--threads N] [--size 128] [--peer sporco] [--rounds N]

A grey photograph, high-passed; atoms are patches of another one; circular borders, float32. The reference minimum is
ours in float64. Per target (objective over minimum, minus 1) the least number of steps is found beforehand, and a run
of that many steps is timed, preparations and the code included: process CPU time on one thread, wall time on more. In
the certified rows ``csc_nets.solve`` finds out by itself when to stop, and proves it; sporco runs the least number of
steps again, which its user cannot know. FISTA is compared with deepinv's: the same steps, step size and convolutions.
A peer that is not installed is left out.
"""

import argparse
import importlib
import math
import time
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
PEERS = {"sporco": "sporco.admm.cbpdn", "deepinv": "deepinv.optim"}
CERTIFIED = (1e-3, 1e-4)
SAME_STEPS = 100


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


class Deepinv:
    """FISTA on our own convolutions, with the exact step size."""

    def __init__(self, x: Tensor, dictionary: Dictionary2d, lam: float) -> None:
        optim, physics = importlib.import_module("deepinv.optim"), importlib.import_module("deepinv.physics")
        size = tuple(x.shape[2:])
        self.x, self.lam, self.optim = x, lam, optim
        self.step_size = float(0.99 / dictionary.bound(size))
        self.physics: Any = physics.LinearPhysics(
            A=lambda z, **_: dictionary.synthesis(z, size), A_adjoint=lambda r, **_: dictionary.analysis(r)
        )

    def run(self, steps: int) -> Tensor:
        with torch.no_grad():
            return self.optim.optim_builder(
                iteration="FISTA",
                max_iter=steps,
                early_stop=False,
                data_fidelity=self.optim.data_fidelity.L2(),
                prior=self.optim.prior.L1Prior(),
                params_algo={"stepsize": self.step_size, "lambda": self.lam, "g_param": None, "a": 3},
            )(self.x, self.physics)


def minimum(x: Tensor, atoms: Tensor, lam: float) -> float:
    """The least objective, to about 1e-8 of it."""
    z, dictionary, x = douglas_rachford(x, layer(atoms), lam, steps=300).double(), layer(atoms.double()), x.double()
    last = math.inf
    while True:
        trace: list[Tensor] = []
        z = douglas_rachford(x, dictionary, lam, steps=250, init=z, trace=trace)
        value = trace[-1].item()
        if last - value <= 1e-8 * value:
            return min(value, last)
        last = value


def turns(candidates: list[Callable[[], object]], rounds: int) -> list[list[float]]:
    """Seconds of every candidate in every round. Unlike timing.interleaved it does not warm up: runs are long."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    seconds: list[list[float]] = [[] for _ in candidates]
    for _ in range(rounds):
        for record, candidate in zip(seconds, candidates, strict=True):
            start = clock()
            candidate()
            record.append(clock() - start)
    return seconds


def case(options: argparse.Namespace, size: int, count: int, width: int, lam: float) -> list[dict[str, object]]:
    atoms = patches(count, width).float()
    x, dictionary = photograph(0, size).float()[None, None], layer(atoms)
    best = minimum(x, atoms, lam)
    values: list[Tensor] = []
    douglas_rachford(x, dictionary, lam, steps=700, trace=values)
    ours = [v.item() for v in values]
    name, rows, rounds = f"{size}x{size}, {count} atoms {width}x{width}, lam {lam}", [], options.rounds
    targets = TARGETS[: 1 if options.quick else None]

    def run(steps: int) -> Tensor:
        return douglas_rachford(x, dictionary, lam, steps=steps)

    if "sporco" in options.peer:
        peer = Sporco(x, atoms, lam, options.threads)
        trace = peer.trace(700, best)
        for target in targets:
            k, n = first(ours, best, target), first(trace, best, target)
            if k is None or n is None:
                print(f"{name}: {target:g} not reached in {len(ours)} of our steps or {len(trace)} of sporco's")
                continue
            seconds = turns([lambda k=k: run(k), lambda n=n: peer.run(n)], rounds)  # type: ignore[misc]
            rows.append(timing.row(f"{name}, {target:g}, sporco ({k} to {n} steps)", *seconds, unit="s"))
        energy = x.square().sum().item() / 2
        for target in CERTIFIED:
            if (n := first(trace, best, target)) is not None:
                tol = target * best / energy
                pair = [lambda tol=tol: csc_nets.solve(x, dictionary, lam, tol=tol), lambda n=n: peer.run(n)]
                seconds, taken = turns(pair, rounds), []  # type: ignore[arg-type, var-annotated]
                douglas_rachford(x, dictionary, lam, steps=10_000, tol=tol, trace=taken)
                note = f"solve() certifies {target:g} in {len(taken)} steps, sporco's objective in {n}"
                rows.append(timing.row(f"{name}, {note}", *seconds, unit="s"))
    if "deepinv" in options.peer:
        other = Deepinv(x, dictionary, lam)
        pair = [
            lambda: fista(x, dictionary, lam, steps=SAME_STEPS, step_size=other.step_size),
            lambda: other.run(SAME_STEPS),
        ]
        rows.append(timing.row(f"{name}, {SAME_STEPS} steps of FISTA, deepinv", *turns(pair, rounds), unit="s"))
    return rows


def together(options: argparse.Namespace, count: int, lam: float) -> dict[str, object]:
    """A batch of photographs to a certified 1e-4, over one after another, on an accelerator."""
    size = 64 if options.quick else 256
    crops = [photograph(i % 2, size).roll(i, 0) for i in range(count)]
    x = torch.stack(crops)[:, None].float().to(options.device)
    dictionary = layer(patches(64, 11).float()).to(options.device)
    calls = [
        lambda: csc_nets.solve(x, dictionary, lam),
        lambda: [csc_nets.solve(one, dictionary, lam) for one in x.split(1)],
    ]
    seconds = timing.interleaved(calls, options.rounds, options.device)
    return timing.row(
        f"{count} photographs of {size}x{size} at once, lam {lam}, tol 1e-4, one by one", *seconds, unit="s"
    )


def main() -> None:
    parser = timing.parser(__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, help="photographs of this size only: 128 or 256")
    parser.add_argument("--peer", nargs="*", choices=PEERS, default=list(PEERS), help="whom to time (default: all)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of every timing")
    parser.add_argument("--lam", type=float, help="this sparsity weight only: 0.05 or 0.2")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for peer in list(options.peer):
        try:
            importlib.import_module(PEERS[peer])
        except ImportError as error:
            print(f"{peer} is not installed, and left out: {error}")
            options.peer.remove(peer)
    if options.device != "cpu":
        rows = [together(options, 64, lam) for lam in (0.05, 0.2)]
    else:
        cases = [c for c in CASES if options.size in (None, c[0]) and options.lam in (None, c[3])]
        rows = [r for c in ([(64, 32, 8, 0.2)] if options.quick else cases) for r in case(options, *c)]
    if rows:
        timing.report(rows, options.json, "peer")


if __name__ == "__main__":
    main()
