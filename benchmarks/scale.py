"""How the cost of a layer grows with atoms, image size, steps and batch, beside its floor; with fitted exponents.

    python benchmarks/scale.py [--quick] [--json FILE] [--picture docs/images/scale.png] [--threads N] [--device cuda]

One of four numbers is varied at a time, the others stay: 3 channels, 64 atoms of 3x3, 32x32 pixels, 4 steps of FISTA, 8
images (1 where the size is varied). The floor is that of ``layer.py``: the convolutions of the steps and nothing else.
Beside the time (CPU time on one thread) a row has two counts of bytes, which do not depend on the machine:

- saved: what a training step keeps for its backward pass, distinct storages, input and parameters not counted;
- peak: the most that tensors take at once in a pass (what libraries allocate for themselves is not seen);

and two that do, a call: page faults, and milliseconds that the system rather than the program ran ("system").

An exponent is the slope of the least-squares line through the upper half of a curve, both axes logarithmic: 1 where
the cost doubles with the number. That of small codes leaves out the points whose code takes 32 MiB or more.
"""

import contextlib
import math
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import timing
import torch
from layer import floor, trained
from torch import Tensor

from csc_nets.layers import CSC2d

BASE = {"atoms": 64, "size": 32, "steps": 4, "batch": 8}
AXES = {
    "atoms": [2**i for i in range(4, 12)],
    "size": [2**i for i in range(5, 10)],
    "steps": [2**i for i in range(7)],
    "batch": [2**i for i in range(10)],
}
CHANNELS, KERNEL = 3, 3
LARGE = 2**25  # bytes that the C library gives back to the system as soon as they are free: see csc_nets.memory


def saved_bytes(call: Callable[[], Tensor], known: list[Tensor]) -> int:
    """Bytes of the distinct storages that a pass keeps for its backward pass, those of known tensors not counted."""
    storages: dict[int, int] = {}

    def keep(t: Tensor) -> Tensor:
        storages[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        call()
    for t in known:
        storages.pop(t.untyped_storage().data_ptr(), None)
    return sum(storages.values())


def peak_bytes(call: Callable[[], object], device: str) -> int:
    """Most bytes that tensors take at once during a call, those that were there before not counted."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    activity = [torch.profiler.ProfilerActivity.CPU]
    with _silent(), torch.profiler.profile(activities=activity, profile_memory=True, acc_events=True) as profile:
        call()
    events = profile.profiler.kineto_results.events()  # type: ignore[union-attr]
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    now = most = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


def from_system(call: Callable[[], object], calls: int = 4) -> dict[str, float]:
    """Page faults and milliseconds in the system of one call, on average."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(calls):
        call()
    after = resource.getrusage(resource.RUSAGE_SELF)
    faults, seconds = after.ru_minflt - before.ru_minflt, after.ru_stime - before.ru_stime
    return {"faults": faults / calls, "system": 1e3 * seconds / calls}


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without what the profiler's library writes to stderr."""
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def measure(numbers: dict[str, int], train: bool, device: str, rounds: int) -> dict[str, Any]:
    """One point of the curves."""
    torch.manual_seed(0)
    atoms, size, steps, batch = (numbers[key] for key in BASE)
    csc = CSC2d(CHANNELS, atoms, KERNEL, padding=KERNEL // 2, lam=0.1, steps=steps).to(device)
    csc = csc.to(memory_format=torch.channels_last).train(train)
    x = torch.randn(batch, CHANNELS, size, size, device=device).to(memory_format=torch.channels_last)
    weight = csc.atoms.detach().clone(memory_format=torch.channels_last)
    calls: list[Callable[[], Tensor]] = [lambda: csc(x), lambda: floor(x, weight, 1, KERNEL // 2, steps)]
    if not train:
        with torch.no_grad():
            seconds = timing.interleaved(calls, rounds, device)
            return timing.row("", *seconds) | from_system(calls[0]) | {"peak": peak_bytes(calls[0], device)}
    x.requires_grad_(), weight.requires_grad_()
    cotangent = torch.randn_like(calls[0]())
    passes = [trained(call, cotangent) for call in calls]
    seconds = timing.interleaved(passes, rounds, device)
    counted = from_system(passes[0]) | {"peak": peak_bytes(passes[0], device)}
    return timing.row("", *seconds) | counted | {"saved": saved_bytes(calls[0], [x, *csc.parameters()])}


def exponent(points: list[tuple[float, float]]) -> float:
    """Slope of the least-squares line through the upper half of a curve, in logarithms."""
    upper = [(math.log(x), math.log(y)) for x, y in sorted(points)[min(len(points) // 2, len(points) - 2) :]]
    x_mean, y_mean = (sum(values) / len(upper) for values in zip(*upper, strict=True))
    rise = sum((x - x_mean) * (y - y_mean) for x, y in upper)
    return rise / sum((x - x_mean) ** 2 for x, _ in upper)


def exponents(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each curve: ours and the floor's; for bytes the reference is 1, in proportion."""
    curves: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        curves.setdefault((row["axis"], row["mode"]), []).append(row)
    found = []
    for (axis, mode), points in curves.items():
        small = [p for p in points if p["code"] < LARGE]
        for what, chosen in (("time", points), ("time of small codes", small), ("saved", points), ("peak", points)):
            ours, reference = (what, "") if what in ("saved", "peak") else ("ours", "reference")
            if ours not in points[0] or (chosen is small and len(small) in (0, 1, len(points))):
                continue
            a = exponent([(p["x"], p[ours]) for p in chosen])
            b = exponent([(p["x"], p[reference]) for p in chosen]) if reference else 1.0
            row = {"name": f"exponent of {what} in {axis}, {mode}", "ours": a, "reference": b, "ratio": a / b}
            found.append(row | {"unit": "exponent"})
    return found


def main() -> None:
    parser = timing.parser(__doc__.splitlines()[0])
    parser.add_argument("--picture", type=Path, help="draw the curves, as plot.py does (needs matplotlib and --json)")
    options = parser.parse_args()
    if options.picture and not options.json:
        parser.error("--picture needs --json: it is drawn from the rows in that file")
    torch.set_num_threads(options.threads)
    rows: list[dict[str, Any]] = []
    for axis, values in AXES.items():
        for x in values[1:4:2] if options.quick else values:
            numbers = BASE | ({"batch": 1} if axis == "size" else {}) | {axis: x}
            for train in (False, True):
                mode = "train" if train else "eval"
                row = measure(numbers, train, options.device, 2 if options.quick else 5)
                row["code"] = 4 * numbers["atoms"] * numbers["size"] ** 2 * numbers["batch"]
                rows.append(row | {"name": f"{axis} {x}, {mode}", "axis": axis, "mode": mode, "x": x})
                line = f"{rows[-1]['name']:<18} {row['ours']:9.2f} ms, {row['ratio']:.2f} x floor"
                print(f"{line}, {row['faults']:.0f} page faults, {row['system']:.1f} ms in the system", flush=True)
    print()
    timing.report(rows + exponents(rows), options.json, "floor")
    if options.picture:
        import plot

        plot.main([str(options.json), "--out", str(options.picture)])


if __name__ == "__main__":
    main()
