"""The LISTA family on the published synthetic problem: error of the code after every step.

    python benchmarks/lista.py [--quick] [--json FILE] [--pursuits lista_cp alista] [--seeds 0 1 2] [--snr 30]

The problem of Chen, Liu, Wang and Yin (2018): 250 measurements by a Gaussian dictionary of 500 unit atoms. Each entry
of a code is non-zero with probability 0.1, and then standard normal. There is no noise, or Gaussian noise of ``--snr``
dB.
Pursuits of 16 steps are trained step after step, as published: when a step is added, all parameters so far train with
Adam at 5e-4, then at a fifth and at a fiftieth of it, on fresh batches of 64. ``_ss`` behind a name is support
selection: 1.2 percent more each step, 13 at most.

Rows are NMSE in dB on 1,000 codes that training did not see: ``ours`` after the last step, ``reference`` that of ISTA
after as many, means over the seeds. ``curve`` has every step.
"""

import math
import statistics
from typing import Any

import timing
import torch
from torch import Tensor

from csc_nets.functional import run
from csc_nets.layers import SparseCoding

MEASUREMENTS, ATOMS, DENSITY, LAM = 250, 500, 0.1, 0.4
PURSUITS = ("lista", "lista_cp", "lista_cp_ss", "ti_lista_ss", "alista_ss", "step_lista")
RATES = (5e-4, 1e-4, 1e-5)


def codes(count: int, generator: torch.Generator) -> Tensor:
    z = torch.randn(count, ATOMS, generator=generator)
    return z * (torch.rand(count, ATOMS, generator=generator) < DENSITY)


def measured(z: Tensor, atoms: Tensor, snr: float, generator: torch.Generator) -> Tensor:
    x = z @ atoms
    noise = torch.randn(x.shape, generator=generator)
    return x + noise * (x.square().mean(1, keepdim=True) * 10 ** (-snr / 10)).sqrt() if math.isfinite(snr) else x


def curve(layer: SparseCoding, x: Tensor, z: Tensor) -> list[float]:
    """NMSE in dB after every step."""
    problem, found = layer.problem(x), []
    with torch.no_grad():
        run(problem, layer.pursuit.steps(problem), trace=found.append)
    return [10 * math.log10(float((code - z).square().sum() / z.square().sum())) for code in found]


def train(layer: SparseCoding, atoms: Tensor, snr: float, batches: int, generator: torch.Generator) -> None:
    layer.dictionary.requires_grad_(False)
    for depth in range(1, layer.steps + 1):
        for rate in RATES:
            optimizer = torch.optim.Adam(layer.pursuit.parameters(), rate)
            for _ in range(batches):
                z = codes(64, generator)
                problem = layer.problem(measured(z, atoms, snr, generator))
                code = run(problem, list(layer.pursuit.steps(problem))[:depth])
                optimizer.zero_grad()
                (code - z).square().sum(1).mean().backward()
                optimizer.step()


def case(name: str, seed: int, steps: int, batches: int, snr: float) -> tuple[list[float], list[float]]:
    generator = torch.Generator().manual_seed(seed)
    atoms = torch.nn.functional.normalize(torch.randn(ATOMS, MEASUREMENTS, generator=generator), dim=1)
    z = codes(1000, generator)
    x = measured(z, atoms, snr, generator)

    def build(pursuit: Any) -> SparseCoding:
        layer = SparseCoding(MEASUREMENTS, ATOMS, lam=LAM, nonneg=False)
        layer.dictionary.weight = atoms
        layer.dictionary.refresh()
        layer.pursuit = pursuit
        return layer.eval()

    select = 1.2 if name.endswith("_ss") else 0.0
    ours = build({"name": name.removesuffix("_ss"), "count": steps, "select": select})
    train(ours, atoms, snr, batches, generator)
    return curve(ours, x, z), curve(build({"name": "ista", "count": steps}), x, z)


def main() -> None:
    parser = timing.parser(__doc__.splitlines()[0])
    parser.add_argument("--pursuits", nargs="+", default=PURSUITS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--snr", type=float, default=math.inf, help="in dB; infinite for no noise")
    parser.add_argument("--batches", type=int, default=400, help="for each step and rate")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    steps, batches, seeds = (4, 5, options.seeds[:1]) if options.quick else (16, options.batches, options.seeds)
    rows = []
    for name in options.pursuits[:2] if options.quick else options.pursuits:
        found = [case(name, seed, steps, batches, options.snr) for seed in seeds]
        ours, ista = (
            [statistics.mean(values) for values in zip(*curves, strict=True)] for curves in zip(*found, strict=True)
        )
        row = {"name": name, "ours": ours[-1], "reference": ista[-1], "ratio": ours[-1] / ista[-1], "unit": "dB"}
        rows.append(row | {"curve": ours, "range": [min(c[0][-1] for c in found), max(c[0][-1] for c in found)]})
        print(f"{name:14} {ours[-1]:8.2f} dB after {steps} steps, ISTA {ista[-1]:6.2f}", flush=True)
    if options.json is not None:
        timing.write(rows, options.json)


if __name__ == "__main__":
    main()
