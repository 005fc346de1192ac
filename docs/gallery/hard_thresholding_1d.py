"""Inverting a layer of random filters in one dimension by iterative hard thresholding: two pictures and tables.

    python docs/gallery/hard_thresholding_1d.py [--quick] [--out FILE.png]

The simulation of Gilbert et al. (https://arxiv.org/abs/1705.08664, Figure 2): K = 96 Gaussian filters of 5 samples on
M = 32 input channels of 32 samples; codes with one non-zero in the shifts of a filter, 10 in all, uniform in [-1, 1].
One step of hard thresholding is convolution, pooling by absolute value over all shifts, the 10 largest filters,
unpooling, transposed convolution.

FILE.png has the three histograms of that figure, beside what the paper says of them, and the error of further steps.
FILE_coherence.png has filters that share a part, so that they are more and more alike, and two ways to find the code
that bear it better: further steps, and sparse code recovery (Algorithm 2 of the paper: two Lasso problems, with
lambda = 1 % of the smallest at which the code is zero). matplotlib is needed.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from csc_nets.functional import (
    as_adjoint_pair,
    iterative_hard_thresholding,
    lam_max,
    one_per_block,
    solve,
    sparse_code_recovery,
    unit_norm,
)
from csc_nets.theory import mutual_coherence, random_filters, sample_model_code

LENGTH, SIGNAL, NONZEROS = 5, 32, 10
SHIFTS = SIGNAL - LENGTH + 1
PROJECT = partial(one_per_block, k=NONZEROS)
STEPS = (1, 2, 3, 5, 10)
# Input channels M, filters K, scaling.
SETTINGS = ((32, 96, "variance"), (32, 96, "unit"), (96, 32, "variance"), (96, 32, "unit"))


@dataclass(frozen=True)
class Batch:
    """Signals of one draw of filters."""

    weight: Tensor
    code: Tensor
    signal: Tensor

    def error(self, code: Tensor) -> Tensor:
        """Relative errors of the signals that ``code`` makes, ``(N,)``."""
        return relative(as_adjoint_pair(self.weight).synthesis(code, (SIGNAL,)) - self.signal, self.signal)

    def thresholded(self, steps: int = 1, **options: Any) -> Tensor:
        project = partial(PROJECT, **options)
        return iterative_hard_thresholding(self.signal, self.weight, project=project, steps=steps)


def meetings() -> float:
    """Samples at which a filter meets another one, over all pairs of places: 660 of the 28 * 25 without borders."""
    places = torch.arange(SHIFTS)
    return (LENGTH - (places - places[:, None]).abs()).clamp_min(0).sum().item()


def relative(difference: Tensor, whole: Tensor) -> Tensor:
    return difference.flatten(1).norm(dim=1) / whole.flatten(1).norm(dim=1)


def draw(channels: int, filters: int, scaling: str, draws: int, samples: int, away: bool = False) -> list[Batch]:
    """``draws`` of the filters with ``samples`` signals each; ``away``: magnitudes in [0.5, 1] in place of [0, 1]."""
    batches = []
    for seed in range(draws):
        generator = torch.Generator().manual_seed(seed)
        weight = random_filters(filters, channels, LENGTH, scaling, generator=generator)
        code = sample_model_code(samples, filters, (SHIFTS,), NONZEROS, generator=generator)
        code = (code + code.sign()) / 2 if away else code
        batches.append(Batch(weight, code, as_adjoint_pair(weight).synthesis(code, (SIGNAL,))))
    return batches


def each(batches: Sequence[Batch], number: Callable[[Batch], Tensor]) -> Tensor:
    return torch.cat([number(batch) for batch in batches])


def one_step(channels: int, filters: int, scaling: str, draws: int, samples: int) -> dict[str, Any]:
    """The three ratios of Figure 2, per signal, with the switches of the pooling, fixed ones and the true support."""
    batches = draw(channels, filters, scaling, draws, samples)

    def back(batch: Batch) -> Tensor:
        return as_adjoint_pair(batch.weight).analysis(batch.signal)

    def idle(batch: Batch) -> Tensor:
        """The peaks of the filters that have no part in the signal."""
        return batch.thresholded(k=None) * ~batch.code.any(2, keepdim=True)

    return {
        "setting": f"M = {channels}, K = {filters}, {scaling}",
        "closed form": (1 + filters / channels) ** 0.5,
        "with borders": (1 + (filters * meetings() / (SHIFTS * LENGTH) + 1) / (channels * LENGTH)) ** 0.5,
        "synthesis": each(batches, lambda b: relative(b.signal, b.code)),
        "analysis": each(batches, lambda b: relative(back(b), b.code)),
        "on the support": each(batches, lambda b: relative(back(b) * (b.code != 0), b.code)),
        "known switches": each(batches, lambda b: b.error(b.thresholded())),
        "fixed switches": each(batches, lambda b: b.error(b.thresholded(switches="fixed"))),
        "true support": each(batches, lambda b: b.error(back(b) * (b.code != 0))),
        "all filters": each(batches, lambda b: b.error(b.thresholded(k=None))),
        "idle filters": each(batches, lambda b: relative(idle(b), b.code)),
    }


def coherent(share: float, draws: int, samples: int, noise: float) -> dict[str, float]:
    """Median relative errors of the code, for unit filters with this share of their energy in common."""
    found: dict[str, list[Tensor]] = {name: [] for name in METHODS}
    coherence = []
    for batch_number in range(draws):
        generator = torch.Generator().manual_seed(batch_number)
        weight = random_filters(96, 32, LENGTH, "unit", generator=generator)
        common = random_filters(1, 32, LENGTH, "unit", generator=generator)
        weight = unit_norm((1 - share) ** 0.5 * weight + share**0.5 * common)
        coherence.append(mutual_coherence(weight, shifts=False))
        code = sample_model_code(samples, 96, (SHIFTS,), NONZEROS, generator=generator)
        signal = as_adjoint_pair(weight).synthesis(code, (SIGNAL,))
        error = torch.randn(signal.shape, generator=generator, dtype=torch.float64)
        level = noise * signal.flatten(1).norm(dim=1) / error.flatten(1).norm(dim=1)
        signal = signal + level.view(-1, 1, 1) * error
        for name, (method, _) in METHODS.items():
            found[name].append(relative(method(signal, weight) - code, code))
    medians = {name: torch.cat(errors).median().item() for name, errors in found.items()}
    return {"share": share, "noise": noise, "coherence": sum(coherence) / draws} | medians


def threshold(x: Tensor, weight: Tensor, steps: int = 1, step_size: float | None = 1.0) -> Tensor:
    return iterative_hard_thresholding(x, weight, project=PROJECT, steps=steps, step_size=step_size)


METHODS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], dict[str, Any]]] = {
    "one step": (threshold, {"color": "#D55E00", "marker": "s"}),
    "100 steps of size 1/L": (partial(threshold, steps=100, step_size=None), {"color": "#0072B2", "marker": "o"}),
    "Lasso": (lambda x, w: solve(x, w, 0.01 * lam_max(x, w)), {"color": "#777777", "marker": "x", "ls": "--"}),
    "sparse code recovery": (
        lambda x, w: sparse_code_recovery(x, w, 0.01 * lam_max(x, w), PROJECT),
        {"color": "#009E73", "marker": "^"},
    ),
}


def draw_figure(row: dict[str, Any], errors: dict[int, Tensor], out: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(9.6, 6.6))
    synthesis, analysis, error, further = axes.flat
    synthesis.axvline(1, color="black", lw=1, label="published: tightly around 1")
    analysis.axvline(1, color="black", lw=1, label="published: tightly around 1")
    analysis.axvline(row["with borders"], color="black", ls=":", lw=1.3, label="√(1 + K/M), less the borders")
    error.axvspan(0.1, 0.2, color="#F0E442", alpha=0.6, lw=0, label="published, fixed switches")
    error.axvline(2**0.5, color="black", ls=":", lw=1.3, label="√2, an unrelated signal")
    panels = (
        (synthesis, "(a)  ||D z|| / ||z||", (0.8, 1.2), {"synthesis": "random codes"}),
        (analysis, "(b)  ||Dᵀ D z|| / ||z||", (0.6, 2.4), {"on the support": "", "analysis": "all entries"}),
        (
            error,
            "(c)  ||x' - x|| / ||x|| after one step",
            (0, 1.8),
            {"true support": "", "known switches": "", "fixed switches": ""},
        ),
    )
    colours = {"known switches": "#0072B2", "fixed switches": "#D55E00", "analysis": "#D55E00", "synthesis": "#0072B2"}
    for axis, title, (low, high), keys in panels:
        for key, label in keys.items():
            counts = torch.histc(row[key].float(), 90, low, high) / len(row[key]) * 100
            left, colour = torch.linspace(low, high, 91)[:-1], colours.get(key, "#009E73")
            axis.fill_between(left, counts, step="post", color=colour, alpha=0.7, lw=0, label=label or key)
        axis.set_title(title, fontsize=10)
        axis.set_xlim(low, high)
        axis.set_ylim(0, 1.3 * axis.get_ylim()[1])  # room for the legend
        axis.set_ylabel("% of signals")
    steps = list(errors)
    shares = torch.tensor([0.05, 0.5, 0.95, 1.0], dtype=torch.float64)
    low, middle, high, most = torch.stack([e.quantile(shares) for e in errors.values()]).T.clamp_min(1e-16)
    further.fill_between(steps, low, high, color="#0072B2", alpha=0.2, lw=0, label="5 to 95 %")
    further.plot(steps, middle, color="#0072B2", marker="o", ms=4, label="median")
    further.plot(steps, most, color="#D55E00", marker="s", ms=3, lw=1, label="largest")
    further.set_yscale("log")
    further.set_xlabel("steps")
    further.set_title("||x' - x|| / ||x|| after further steps", fontsize=10)
    for axis in axes.flat:
        axis.grid(alpha=0.25, lw=0.6)
        axis.legend(
            fontsize=8, framealpha=0.7, edgecolor="none", loc="lower left" if axis is further else "upper right"
        )
    figure.tight_layout()
    figure.savefig(out, dpi=110)


def draw_coherence(rows: Sequence[dict[str, float]], out: Path) -> None:
    import matplotlib.pyplot as plt

    levels = sorted({row["noise"] for row in rows})
    figure, axes = plt.subplots(1, len(levels), figsize=(9.6, 3.8), sharey=True, squeeze=False)
    for axis, noise in zip(axes[0], levels, strict=True):
        mine = [row for row in rows if row["noise"] == noise]
        for name, (_, style) in METHODS.items():
            errors = [row[name] for row in mine]
            axis.plot([row["coherence"] for row in mine], errors, label=name, ms=5, lw=1.6, **style)
        axis.set_yscale("log")
        axis.set_ylim(5e-5, 3)
        axis.set_xlabel("mutual coherence of the filters, no shifts")
        axis.set_title("signals of the model" if noise == 0 else f"with {noise:.0%} noise", fontsize=10)
        axis.grid(alpha=0.25, lw=0.6)
    axes[0][0].set_ylabel("||z' - z|| / ||z||, median")
    axes[0][0].legend(fontsize=8, frameon=False, loc=(0.45, 0.06))
    figure.tight_layout()
    figure.savefig(out, dpi=110)


def print_one_step(rows: Sequence[dict[str, Any]]) -> None:
    keys = ("on the support", "known switches", "true support", "fixed switches", "all filters", "idle filters")
    headings = ("|Dz|/|z|, 1 %", "99 %", "|D'Dz|/|z|", "closed form", "with borders", *keys, "largest, known")
    print(f"{'medians':24}" + "".join(f"{heading:>16}" for heading in headings))
    for row in rows:
        numbers = row["synthesis"].quantile(torch.tensor([0.01, 0.99], dtype=torch.float64)).tolist()
        numbers += [row["analysis"].median(), row["closed form"], row["with borders"]]
        numbers += [row[key].median() for key in keys] + [row["known switches"].max()]
        print(f"{row['setting']:24}" + "".join(f"{number:16.3f}" for number in numbers))


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs everything; returns the printed numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer signals, under 30 s")
    default = Path(__file__).parents[1] / "images" / "hard_thresholding_1d.png"
    parser.add_argument("--out", type=Path, default=default)
    options = parser.parse_args(argv)
    try:
        import matplotlib
    except ImportError:
        raise SystemExit("hard_thresholding_1d.py draws with matplotlib: pip install matplotlib") from None
    matplotlib.use("Agg")
    torch.set_num_threads(1)
    start = time.perf_counter()
    draws, samples = (10, 20) if options.quick else (100, 20)
    rows = [one_step(*setting, draws, samples) for setting in SETTINGS]
    print_one_step(rows)
    away = draw(32, 96, "unit", draws, samples, away=True)
    bounded = each(away, lambda b: b.error(b.thresholded())).median().item()
    print(f"unit, magnitudes in [0.5, 1], known switches: {bounded:.3f}")
    iterated = {}
    for scaling in ("variance", "unit"):
        batches = draw(32, 96, scaling, draws, samples)
        errors = {steps: each(batches, lambda b, s=steps: b.error(b.thresholded(s))) for steps in range(1, 13)}
        spread = errors[1].view(draws, samples).median(1).values.std()
        print(f"{scaling}: median after " + ", ".join(f"{s} {errors[s].median():.2g}" for s in STEPS), end="")
        print(
            f"; after 10: largest {errors[10].max():.2g}, above 1 %: {(errors[10] > 0.01).double().mean():.2%}", end=""
        )
        print(f"; from draw to draw of the filters the median after 1 has a standard deviation of {spread:.3f}")
        iterated[scaling] = errors
    shares = (0.0, 0.5) if options.quick else (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    levels = (0.0,) if options.quick else (0.0, 0.1)
    sweep = [coherent(share, *((1, 8) if options.quick else (2, 10)), noise) for noise in levels for share in shares]
    print(f"{'in common':>10} {'coherence':>10} {'noise':>6}" + "".join(f"{name:>23}" for name in METHODS))
    for row in sweep:
        medians = "".join(f"{row[name]:23.4f}" for name in METHODS)
        print(f"{row['share']:10.0%} {row['coherence']:10.3f} {row['noise']:6.0%}{medians}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    draw_figure(rows[0], iterated["variance"], options.out)
    second = options.out.with_name(options.out.stem + "_coherence.png")
    draw_coherence(sweep, second)
    print(f"wrote {options.out} and {second}, {time.perf_counter() - start:.0f} s")
    numbers = [
        {key: value.median().item() if isinstance(value, Tensor) else value for key, value in row.items()}
        for row in rows
    ]
    medians = {scaling: {s: e.median().item() for s, e in errors.items()} for scaling, errors in iterated.items()}
    return {"one step": numbers, "steps": medians, "bounded": bounded, "coherence": sweep}


if __name__ == "__main__":
    main()
