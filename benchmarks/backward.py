"""Time, memory and exactness of the gradients of a CSC layer: recompute and implicit over plain unrolling.

    python benchmarks/backward.py [--quick] [--json FILE] [--threads N] [--device cuda]

Rows are `ours`, `reference` and their ratio. Time is one forward and backward pass, interleaved. "kept" are the bytes
that autograd saves; "peak" is the growth of the resident set of a fresh process that has made a pass of two steps on
one signal before. "implicit" runs the same steps without gradient, "equilibrium" as many as its tolerance takes:
"analyses" counts those of its forward and of its backward pass, one for each step, look at the gap, or step of the
linear solver (unrolling has one for each step in the forward pass).
"gradient error" is the relative one of the atoms' gradient, the layer solved to 1e-11 in float64 being exact.
"""

import argparse
import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import timing
import torch
from torch import Tensor, nn

from csc_nets.functional import ConvGeometry
from csc_nets.layers import CSC2d

STEPS, SIZE = 64, 32
# channels of the signal, lam of the rows that need a solution, tolerance that 64 steps of FISTA come near to, batch (a
# fixed 45 MB of torch's work space count in a peak)
LAYERS = [(3, 1.0, 2e-2, 32), (64, 0.5, 1e-3, 8)]
SPARSE = 4.4  # lam at which few steps are a solution: memory does not depend on it


def build(channels: int, lam: float, device: str, **options: object) -> nn.Module:
    torch.manual_seed(0)
    layer = CSC2d(channels, 64, 3, padding=1, lam=lam, device=device, **options)  # type: ignore[arg-type]
    return layer.to(memory_format=torch.channels_last)


def signals(channels: int, batch: int, device: str) -> Tensor:
    torch.manual_seed(1)
    x = torch.randn(batch, channels, SIZE, SIZE, device=device).to(memory_format=torch.channels_last)
    return x.requires_grad_()


def once(layer: nn.Module, x: Tensor) -> None:
    layer(x).square().sum().backward()


def peak(channels: int, steps: int, backward: str, batch: int, device: str) -> float:
    """Megabytes, in this process: call it in a fresh one."""
    x = signals(channels, batch, device)
    once(build(channels, SPARSE, device, steps=2), x[:1])
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        start = torch.cuda.memory_allocated()
        once(build(channels, SPARSE, device, steps=steps, gradient=backward), x)
        return (torch.cuda.max_memory_allocated() - start) / 1e6
    # Not ru_maxrss, which a process inherits from the one that started it.
    Path("/proc/self/clear_refs").write_text("5")
    start = resident("VmRSS")
    once(build(channels, SPARSE, device, steps=steps, gradient=backward), x)
    return resident("VmHWM") - start


def resident(key: str) -> float:
    """Megabytes of this process: VmRSS now, VmHWM the most since the mark was cleared."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[key].split()[0]) / 1e3


def fresh_peak(*case: object) -> float:
    command = [sys.executable, __file__, "--peak", *(str(value) for value in case)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def kept(layer: nn.Module, x: Tensor) -> float:
    """Megabytes of distinct storages that autograd saves."""
    storages: dict[int, Tensor] = {}

    def pack(t: Tensor) -> Tensor:
        storages[t.untyped_storage().data_ptr()] = t
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        layer(x)
    return sum(t.untyped_storage().nbytes() for t in storages.values()) / 1e6


def analyses(call: Callable[[], object]) -> int:
    """How often signals are correlated with the atoms."""
    count, plain = 0, ConvGeometry.analysis

    def counted(*arguments: Any, **options: Any) -> Tensor:
        nonlocal count
        count += 1
        return plain(*arguments, **options)

    with mock.patch.object(ConvGeometry, "analysis", counted):
        call()
    return count


def row(name: str, ours: float, reference: float, unit: str) -> dict[str, object]:
    return {"name": name, "ours": ours, "reference": reference, "ratio": ours / reference, "unit": unit}


def gradient(layer: nn.Module, x: Tensor) -> Tensor:
    g = torch.linspace(-1, 1, 64, dtype=x.dtype, device=x.device).view(-1, 1, 1)
    return torch.autograd.grad((layer(x) * g).sum(), list(layer.parameters()))[0]


def errors(channels: int, layers: list[nn.Module], device: str) -> list[float]:
    """Relative errors of the atoms' gradient of two signals of 16x16."""
    x = signals(channels, 2, device).detach()[..., :16, :16].contiguous(memory_format=torch.channels_last)
    exact = copy.deepcopy(layers[-1]).double()
    exact.tol = 1e-11
    best = gradient(exact, x.double())
    return [float((gradient(layer, x) - best).norm() / best.norm()) for layer in layers]


def cases(channels: int, lam: float, tol: float, batch: int, rounds: int, quick: bool, device: str) -> list[dict]:
    name, x = f"{channels}->64 k3 {SIZE}x{SIZE}", signals(channels, batch, device)
    unroll, recompute = (build(channels, lam, device, steps=STEPS, gradient=b) for b in ("unroll", "recompute"))
    equilibrium = build(channels, lam, device, steps=None, tol=tol)
    candidates: list[tuple[str, nn.Module]] = [
        (f"recompute, {STEPS} steps", recompute),
        (f"equilibrium to {tol:.0e}", equilibrium),
    ]
    if tol <= 1e-3:  # then 64 steps are a solution
        candidates.append((f"implicit, {STEPS} steps", build(channels, lam, device, steps=STEPS, gradient="implicit")))
    calls: list[Callable[[], None]] = [
        lambda layer=layer: once(layer, x) for layer in (unroll, *dict(candidates).values())
    ]
    calls.append(lambda: equilibrium(x))
    names = [*dict(candidates), f"equilibrium to {tol:.0e}, forward alone"]
    reference, *seconds = timing.interleaved(calls, rounds, device)
    rows = [timing.row(f"{name}, {which}, time", s, reference) for which, s in zip(names, seconds, strict=True)]
    forward, both = analyses(lambda: equilibrium(x)), analyses(lambda: once(equilibrium, x))
    rows.append(row(f"{name}, equilibrium, analyses: forward, backward", forward, both - forward, "1"))
    rows.append(row(f"{name}, recompute, kept", kept(recompute, x), kept(unroll, x), "MB"))
    peaks = [fresh_peak(channels, STEPS, backward, batch, device) for backward in ("recompute", "unroll")]
    rows.append(row(f"{name}, recompute, peak", *peaks, "MB"))
    if not quick:
        peaks = [fresh_peak(channels, steps, "implicit", batch, device) for steps in (256, 16)]
        rows.append(row(f"{name}, implicit, peak of 256 over 16 steps", *peaks, "MB"))
        for accuracy, steps in ((1e-2, 64), (1e-3, 256), (1e-4, 1024)):
            equilibrium.tol, recompute.steps = accuracy, steps  # the gradient of unrolling, in less memory
            off, ours = errors(channels, [recompute, equilibrium], device)
            rows.append(row(f"{name}, gradient error, equilibrium to {accuracy:.0e}, {steps} steps", ours, off, "1"))
    return rows


def main() -> None:
    if sys.argv[1:2] == ["--peak"]:
        channels, steps, backward, batch, device = sys.argv[2:]
        torch.set_num_threads(1)
        print(peak(int(channels), int(steps), backward, int(batch), device))
        return
    options: argparse.Namespace = timing.parser(__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for layer in LAYERS[:1] if options.quick else LAYERS:
        *which, batch = layer
        rows += cases(*which, 2 if options.quick else batch, 3 if options.quick else 5, options.quick, options.device)
    timing.report(rows, options.json, "unroll")


if __name__ == "__main__":
    main()
