"""What follows the convolutions of a step, in one kernel and in torch's: where the former pays, and at what bandwidth.

    python benchmarks/shrink.py --device cuda [--quick] [--json FILE] [--compile]

Codes of 64 atoms in channels_last and bfloat16: threshold, sum and momentum, forward and with the gradient of all.
Ours is ``csc_nets.functional.kernels.shrink.shrink``; the reference is what layers do without it. Each row also has the
bandwidth of ours in GB/s, counting what must be read and written at least. The last line says from how many entries on
the kernel is never slower: the constant ``FEWEST`` of that module should be this number. ``--compile`` compiles both,
with CUDA graphs on a GPU.
On a CPU, where layers never take it, the operator in torch's words is timed.
"""

import statistics
from collections.abc import Callable

import timing
import torch
from torch import Tensor

from csc_nets.functional.kernels import shrink

ATOMS, THRESHOLD, INERTIA = 64, 0.1, 0.3


def plain(v: Tensor, y: Tensor, before: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """As :class:`csc_nets.functional.kernels.FoldedStep` does it after a convolution without bias."""
    z = (v + y - bias).relu_()
    return z, torch.lerp(before, z, 1 + INERTIA)


def ours(v: Tensor, y: Tensor, before: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    return shrink.shrink(v, bias, y=y, before=before, inertia=INERTIA)


def case(positions: int, train: bool, device: str, rounds: int, compiled: bool) -> dict[str, object]:
    torch.manual_seed(0)
    codes = [torch.randn(positions, 1, 1, ATOMS, device=device).bfloat16().permute(0, 3, 1, 2) for _ in range(5)]
    v, y, before, *cotangents = (t.requires_grad_(train) for t in codes)
    bias = torch.full((ATOMS, 1, 1), THRESHOLD, device=device, dtype=torch.bfloat16)

    def runner(step: Callable[..., tuple[Tensor, Tensor]]) -> Callable[[], object]:
        step = torch.compile(step, mode="reduce-overhead") if compiled else step
        if not train:
            return lambda: step(v, y, before, bias)
        given = [t.detach() for t in cotangents]
        return lambda: torch.autograd.grad(step(v, y, before, bias), (v, y, before), given)

    with torch.set_grad_enabled(train):
        seconds = timing.interleaved([runner(ours), runner(plain)], rounds, device)
    passes = 5 + (5 if train else 0)  # forward v, y, before -> z, y'; backward g, g', z -> h, -beta g'
    row = timing.row(f"{positions * ATOMS} entries, {'train' if train else 'eval'}", *seconds)
    gigabytes = passes * codes[0].numel() * codes[0].element_size() / 1e9
    return row | {"entries": positions * ATOMS, "gigabytes_per_second": gigabytes / statistics.median(seconds[0])}


def main() -> None:
    parser = timing.parser(__doc__.splitlines()[0])
    parser.add_argument("--compile", action="store_true", help="compile both")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    powers = (14, 18) if options.quick else range(14, 22 if options.device == "cpu" else 30)
    rows = [
        case(2**power // ATOMS, train, options.device, 3 if options.quick else 9, options.compile)
        for power in powers
        for train in (False, True)
    ]
    timing.report(rows, options.json, "torch")
    slower = [int(str(r["entries"])) for r in rows if float(str(r["ratio"])) > 1]
    best = max(float(str(r["gigabytes_per_second"])) for r in rows)
    print(f"never slower above {max(slower, default=0)} entries; at best {best:.0f} GB/s")


if __name__ == "__main__":
    main()
