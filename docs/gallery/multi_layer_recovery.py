"""Which pursuit finds the true codes of a multi-layer model, and what the theorems promise: two pictures and tables.

    python docs/gallery/multi_layer_recovery.py [--quick] [--out FILE.png]

Signals obey the model exactly (sparse codes, synthesised through two or three dictionaries) plus noise of local level
eps_0. Three layered pursuits look for the codes:

- hard and soft thresholding, the latter the forward pass of a CNN. Thresholds come from the window that the theorem
  allows (its middle for hard, near its lower end for soft, whose error grows with them); where the window is empty,
  the best threshold there is, which needs the true code: midway between the smallest correlation of a true atom and
  the largest of any other.
- basis pursuit, with the penalty 4 e_i, e_i being the largest correlation of an atom with the error of the layer
  before (noise in the first), solved to a certified accuracy. The theorem's own penalty is 4 eps_i with a bound
  eps_i of e_i; its proof needs no more than e_i.

FILE.png shows how often all supports are exact and how large the error of the deepest code is; FILE_tightness.png how
close the worst errors come to the bounds, over all signals for which a theorem holds, half of them with noise shaped
like an atom. matplotlib is needed.
"""

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from csc_nets.functional import fista, hard_threshold, soft_threshold, solve
from csc_nets.layers import Dictionary1d
from csc_nets.theory import (
    Guarantee,
    LayerQuantities,
    Signals,
    basis_pursuit,
    basis_pursuit_noiseless,
    global_stability,
    hard_thresholding,
    mutual_coherence,
    patch_norm,
    sample_dictionaries,
    sample_signals,
    soft_thresholding,
    stripe_norm,
)

# Colours of Okabe and Ito, which colour-blind people tell apart; markers differ too. The two thresholdings often agree:
# the first is drawn wide, the second on top of it.
METHODS = {
    "hard": ("layered hard thresholding", "#D55E00", {"marker": "s", "ms": 9, "lw": 4}),
    "soft": ("layered soft thresholding (CNN)", "#0072B2", {"marker": "o", "ms": 5, "lw": 1.5}),
    "pursuit": ("layered basis pursuit", "#009E73", {"marker": "^", "ms": 6, "lw": 1.5}),
}
POSITION = {"hard": 0.5, "soft": 0.05}  # of the threshold in its window
NEEDLE = 1  # errors of the deepest code are taken needle by needle


@dataclass(frozen=True)
class Outcome:
    """What one pursuit made of a batch: booleans and numbers ``(N,)``."""

    exact: Tensor
    error: Tensor
    bound: Tensor  # inf where the theorem does not hold
    ratio: Tensor  # the largest of all layers' error / bound, nan where it does not hold
    entry_ratio: Tensor


def draw(dictionaries: Sequence[Dictionary1d], samples: int, most: int, noise: float, seed: int) -> Signals:
    options = {"per_stripe": most, "noise": noise, "seed": seed}
    return sample_signals(dictionaries, samples, 512, magnitudes=(1.0, 1.5), **options)


def measured(dictionaries: Sequence[Dictionary1d], signals: Signals) -> list[list[LayerQuantities]]:
    """The layers' numbers for each signal by itself."""
    columns = []
    for i, (dictionary, code) in enumerate(zip(dictionaries, signals.codes, strict=True)):
        grid, size = dictionary.geometry, code.abs().flatten(1)
        window = dictionaries[i + 1].geometry.kernel_size if i + 1 < len(dictionaries) else NEEDLE
        numbers = zip(
            stripe_norm(code, grid.kernel_size, grid.stride).tolist(),
            patch_norm(code, window).tolist(),
            torch.where(size > 0, size, math.inf).amin(1).tolist(),
            size.amax(1).tolist(),
            strict=True,
        )
        columns.append([LayerQuantities(mutual_coherence(dictionary), *row) for row in numbers])
    return [list(layers) for layers in zip(*columns, strict=True)]


def column(guarantees: Sequence[Guarantee], layer: int, key: str) -> Tensor:
    """One quantity of one layer for all signals, ``(N,)``."""
    return torch.tensor([float(g.layers[layer][key]) for g in guarantees], dtype=torch.float64)


def best_threshold(correlation: Tensor, code: Tensor) -> Tensor:
    """Midway between the smallest correlation on the support and the largest off it."""
    size = correlation.abs()
    least = torch.where(code != 0, size, math.inf).flatten(1).amin(1)
    most = torch.where(code == 0, size, 0.0).flatten(1).amax(1)
    return (least + most) / 2


def run(
    method: str,
    dictionaries: Sequence[Dictionary1d],
    signals: Signals,
    layers: Sequence[list[LayerQuantities]],
    noise: float,
    theorem_penalty: bool = False,
) -> Outcome:
    """Runs a pursuit on all signals and holds its errors against the theorem's bounds."""
    if method == "pursuit":
        guarantees = [basis_pursuit(row, noise) for row in layers]
    else:
        theorem = hard_thresholding if method == "hard" else soft_thresholding
        guarantees = [theorem(row, noise, position=POSITION[method]) for row in layers]
    exact = torch.ones(len(layers), dtype=torch.bool)
    error = bound = ratio = entry_ratio = torch.zeros(len(layers), dtype=torch.float64)
    estimate, before = signals.observed, signals.signal
    for i, (dictionary, code) in enumerate(zip(dictionaries, signals.codes, strict=True)):
        correlation = dictionary.analysis(estimate)
        if method == "pursuit":
            level = dictionary.analysis(estimate - before).abs().flatten(1).amax(1)
            penalty = 4 * level
            if theorem_penalty:
                given = column(guarantees, i, "penalty")
                penalty = torch.where(given < math.inf, given, penalty)
            estimate = pursue(estimate, dictionary, penalty.view(-1, 1, 1))
        else:
            allowed = column(guarantees, i, "holds") > 0
            threshold = torch.where(allowed, column(guarantees, i, "threshold"), best_threshold(correlation, code))
            shrink = hard_threshold if method == "hard" else soft_threshold
            estimate = shrink(correlation, threshold.view(-1, 1, 1))
        exact &= ((estimate.abs() > 1e-9) == (code != 0)).flatten(1).all(1)
        window = dictionaries[i + 1].geometry.kernel_size if i + 1 < len(dictionaries) else NEEDLE
        error = patch_norm(estimate - code, window, 2)
        bound = column(guarantees, i, "error")
        ratio = torch.maximum(ratio, error / bound)
        entries = (estimate - code).abs().flatten(1).amax(1)
        entry_ratio = torch.maximum(entry_ratio, entries / column(guarantees, i, "entry_error"))
        before = code
    holds = torch.tensor([g.holds for g in guarantees])
    nan = torch.tensor(math.nan, dtype=torch.float64)
    return Outcome(exact, error, bound, torch.where(holds, ratio, nan), torch.where(holds, entry_ratio, nan))


def pursue(signal: Tensor, dictionary: Dictionary1d, penalty: Tensor) -> Tensor:
    """Basis pursuit whose error against the exact minimiser is far below the penalty."""
    energy = signal.square().flatten(1).sum(1).amax().item() / 2
    tol = min(max(1e-4 * penalty.min().item() ** 2 / max(energy, 1e-30), 1e-13), 1e-4)
    try:
        return solve(signal, dictionary, penalty, tol=tol, steps=3000)
    except RuntimeError:  # a crowded code far outside of the theorems
        return fista(signal, dictionary, penalty, steps=3000)


def sweep(
    setting: str, dictionaries: Sequence[Dictionary1d], points: Sequence[tuple[int, float]], samples: int, axis: int
) -> list[dict[str, Any]]:
    """Every method at every point (non-zeros per stripe, eps_0); ``axis`` says which of the two is swept."""
    rows = []
    for number, point in enumerate(points):
        most, noise = point
        signals = draw(dictionaries, samples, most, noise, number)
        numbers = measured(dictionaries, signals)
        stripes = torch.tensor([[float(layer.stripe) for layer in layers] for layers in numbers]).mean(0).tolist()
        for method in METHODS:
            found = run(method, dictionaries, signals, numbers, noise)
            row = {"setting": setting, "level": point[axis], "stripes": stripes, "method": method}
            means = {"holds": found.bound < math.inf, "exact": found.exact, "error": found.error, "bound": found.bound}
            row |= {key: value.double().mean().item() for key, value in means.items()}
            rows.append(row | {"ratio": found.ratio.nan_to_num(0.0).max().item()})
    return rows


def shaped_noise(signals: Signals, dictionary: Dictionary1d, noise: float, seed: int) -> Signals:
    """The same signals with noise that is an atom against a coefficient of the first code: the worst for one entry."""
    generator = torch.Generator().manual_seed(seed)
    score = torch.rand(signals.codes[0].shape, generator=generator, dtype=torch.float64) * (signals.codes[0] != 0)
    at = score.flatten(1).argmax(1, keepdim=True)
    code = torch.zeros_like(score).flatten(1)
    code.scatter_(1, at, -noise * signals.codes[0].flatten(1).gather(1, at).sign())
    made = dictionary.synthesis(code.view_as(score), signals.signal.shape[2:])
    # Scaled to the level: an atom's patch holds all of it.
    level = patch_norm(made, dictionary.geometry.kernel_size, 2).view(-1, 1, 1)
    return Signals(signals.signal, signals.codes, made * noise / level)


def stability_ratio(dictionaries: Sequence[Dictionary1d], signals: Signals, seed: int) -> Tensor:
    """Error over bound of global stability, for noise that leads to other codes of the same sparsity, ``(N,)``.

    The other codes are the true ones plus delta on the support of the deepest; noise is half of what delta makes. Both
    then explain Y equally well, and every constraint of the theorem is met.
    """
    generator = torch.Generator().manual_seed(seed)
    deepest = signals.codes[-1]
    delta = torch.randn(deepest.shape, generator=generator, dtype=torch.float64) * (deepest != 0) * 0.1
    gaps = [delta]
    sizes = [signals.signal.shape[2:], *(code.shape[2:] for code in signals.codes[:-1])]
    for dictionary, size in zip(dictionaries[::-1], sizes[::-1], strict=True):
        gaps.insert(0, dictionary.synthesis(gaps[0], size))
    noise = (gaps[0] / 2).flatten(1).norm(dim=1)
    numbers = measured(dictionaries, signals)
    # The other intermediate codes may need more non-zeros than the true ones; the theorem is about the larger number.
    other = Signals(signals.signal, [code + gap for code, gap in zip(signals.codes, gaps[1:], strict=True)], gaps[0])
    worst = []
    for n, (mine, others) in enumerate(zip(numbers, measured(dictionaries, other), strict=True)):
        layers = [a if a.stripe >= b.stripe else b for a, b in zip(mine, others, strict=True)]
        guarantee = global_stability(layers, noise[n].item())
        errors = [gap[n].norm().item() for gap in gaps[1:]]
        bounds = [layer["error"] for layer in guarantee.layers]
        ratios = [e / b for e, b in zip(errors, bounds, strict=True)]
        worst.append(max(ratios) if guarantee.holds else math.nan)
    return torch.tensor(worst, dtype=torch.float64)


def tightness(settings: dict[str, Sequence[Dictionary1d]], samples: int) -> dict[str, Tensor]:
    """Errors over bounds of each theorem, for all signals where it holds."""
    found: dict[str, list[Tensor]] = {name: [] for name in THEOREMS}
    for seed, (dictionaries, most, noise) in enumerate(
        (d, k, e) for d in settings.values() for k in (1, 2) for e in (1e-3, 3e-2)
    ):
        signals = draw(dictionaries, samples, most, noise, 100 + seed)
        numbers = measured(dictionaries, signals)
        found["global"].append(stability_ratio(dictionaries, signals, seed))
        for noisy in (signals, shaped_noise(signals, dictionaries[0], noise, seed)):
            found["hard"].append(run("hard", dictionaries, noisy, numbers, noise).ratio)
            found["soft"].append(run("soft", dictionaries, noisy, numbers, noise).ratio)
            pursuit = run("pursuit", dictionaries, noisy, numbers, noise, theorem_penalty=True)
            found["pursuit"].append(pursuit.ratio)
            found["entry"].append(pursuit.entry_ratio)
    joined = {name: torch.cat(values) for name, values in found.items()}
    return {name: values[~values.isnan()] for name, values in joined.items()}


def noiseless(dictionaries: Sequence[Dictionary1d], most: int, samples: int) -> dict[str, float]:
    """Basis pursuit without noise, whose bound is 0: errors with a small penalty, where the theorem holds."""
    signals = draw(dictionaries, samples, most, 0.0, 7)
    holds = torch.tensor([basis_pursuit_noiseless(row).holds for row in measured(dictionaries, signals)])
    estimate, before = signals.signal[holds], signals.signal[holds]
    penalty, error = 1e-4, 0.0
    for dictionary, code in zip(dictionaries, signals.codes, strict=True):
        level = dictionary.analysis(estimate - before).abs().amax().item()
        strength = torch.full((len(estimate), 1, 1), max(penalty, 4 * level), dtype=torch.float64)
        estimate, before = pursue(estimate, dictionary, strength), code[holds]
        error = max(error, (estimate - before).abs().max().item())
    return {"signals": int(holds.sum()), "penalty": penalty, "error": error}


THEOREMS = {
    "global": ("global stability, l2 norm", "#CC79A7"),
    "hard": ("hard thresholding, l2 norm of a patch", METHODS["hard"][1]),
    "soft": ("soft thresholding, l2 norm of a patch", METHODS["soft"][1]),
    "pursuit": ("basis pursuit, l2 norm of a patch", METHODS["pursuit"][1]),
    "entry": ("basis pursuit, largest entry", "#56B4E9"),
}


def draw_recovery(panels: Sequence[tuple[str, str, list[dict[str, Any]]]], out: Path) -> None:
    """Two axes for each panel (title, label of the x axis, rows): rate above, error and bounds below."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, len(panels), figsize=(4.4 * len(panels), 6.6), sharex="col", squeeze=False)
    for i, (title, label, rows) in enumerate(panels):
        above, below = axes[0][i], axes[1][i]
        levels = sorted({row["level"] for row in rows})
        for method, (name, colour, style) in METHODS.items():
            mine = [row for row in rows if row["method"] == method]
            x = [row["level"] for row in mine]
            above.plot(x, [100 * row["exact"] for row in mine], color=colour, label=name, **style)
            below.plot(x, [row["error"] for row in mine], color=colour, **style)
            sure = [row for row in mine if row["holds"] == 1]
            if sure:
                # From the left edge to halfway between the last level where the theorem holds and the next one.
                last = levels.index(max(row["level"] for row in sure))
                edge = math.sqrt(levels[last] * levels[min(last + 1, len(levels) - 1)])
                left = levels[0] / (levels[1] / levels[0]) ** 0.5
                for axis in (above, below):
                    axis.axvspan(left, edge, color=colour, alpha=0.13, lw=0)
                bounds = [row["bound"] for row in sure]
                dashed = {"color": colour, "ls": "--", "mfc": "white", "marker": style["marker"]}
                below.plot([row["level"] for row in sure], bounds, **dashed)
        above.set_title(title, fontsize=10)
        below.set_xlabel(label)
        for axis in (above, below):
            axis.set_xscale("log")
            axis.grid(alpha=0.25, lw=0.6)
            axis.set_xlim(levels[0] / (levels[1] / levels[0]) ** 0.5, levels[-1] * 1.15)
        below.set_yscale("log")
        if levels[0] >= 1:
            below.set_xticks(levels, [str(level) for level in levels])
            below.minorticks_off()
    axes[0][0].set_ylabel("all supports exact (% of signals)")
    axes[1][0].set_ylabel("error of the deepest code\n(largest l2 norm of a needle)")
    handles, labels = axes[0][0].get_legend_handles_labels()
    grey = {"color": "#555555", "ls": "--", "marker": "o", "mfc": "white"}
    handles += [plt.Line2D([], [], **grey), plt.Rectangle((0, 0), 1, 1, color="#555555", alpha=0.2, lw=0)]
    labels += ["bound of the theorem (mean)", "shaded in its colour: the theorem holds for every signal"]
    figure.legend(handles, labels, loc="lower center", ncols=3, fontsize=9, frameon=False)
    figure.tight_layout(rect=(0, 0.09, 1, 1))
    figure.savefig(out, dpi=110)


def draw_tightness(ratios: dict[str, Tensor], out: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7.5, 3.6))
    rows = [(name, values) for name, values in ratios.items() if len(values)][::-1]
    for height, (name, values) in enumerate(rows):
        colour = THEOREMS[name][1]
        counts = torch.histc(values.float(), 50, 0, 1)
        edges = torch.linspace(0, 1, 51)
        axis.fill_between(
            edges[:-1], height, height + 0.8 * counts / counts.max(), step="post", color=colour, alpha=0.8, lw=0
        )
        axis.plot([values.max()] * 2, [height, height + 0.8], color=colour, lw=1.5, ls=":")
        axis.text(1.02, height + 0.25, f"max {values.max():.2f}\n{len(values)} signals", fontsize=8, va="center")
    axis.axvline(1, color="black", lw=1.2)
    axis.set_yticks([h + 0.3 for h in range(len(rows))], [THEOREMS[name][0] for name, _ in rows])
    axis.tick_params(axis="y", length=0)
    axis.set_xlim(0, 1.25)
    axis.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    axis.set_xlabel("error / bound, in the worst layer of each signal")
    axis.set_title("How close errors come to the bounds of the theorems", fontsize=10)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(out, dpi=110)


def print_rows(rows: Sequence[dict[str, Any]]) -> None:
    print(f"{'setting':22} {'level':>7} {'k by layer':>15} {'method':8} {'holds':>6} {'exact':>6} ", end="")
    print(f"{'error':>8} {'bound':>8} {'max err/bound':>13}")
    for row in rows:
        stripes = " ".join(f"{k:.1f}" for k in row["stripes"])
        print(
            f"{row['setting']:22} {row['level']:7.4g} {stripes:>15} {row['method']:8} {row['holds']:6.0%} "
            f"{row['exact']:6.0%} {row['error']:8.4f} {row['bound']:8.4f} {row['ratio']:13.3f}"
        )


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs everything; returns the printed numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer signals and levels, under 30 s")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "images" / "recovery.png")
    options = parser.parse_args(argv)
    try:
        import matplotlib
    except ImportError:
        raise SystemExit("multi_layer_recovery.py draws with matplotlib: pip install matplotlib") from None
    matplotlib.use("Agg")
    torch.set_num_threads(1)
    start = time.perf_counter()
    steps, samples = (150, 8) if options.quick else (1000, 100)
    two = sample_dictionaries((12, 6), (128, 32), (8, 1), steps=steps)
    three = sample_dictionaries((12, 6, 3), (128, 32, 16), (8, 1, 1), steps=steps)
    shared = sample_dictionaries((12, 12), (128, 32), (8, 1), nonzeros=4, steps=steps)
    for name, dictionaries in {"two layers": two, "three layers": three, "shared channels": shared}.items():
        print(f"{name}: coherences {', '.join(f'{mutual_coherence(d):.3f}' for d in dictionaries)}")
    counts = [1, 4, 16] if options.quick else [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48]
    levels = [1e-3, 1e-1] if options.quick else [1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1]
    quiet, crowded = 1e-3, 4 if options.quick else 16
    panels = [
        ("two layers, ε₀ = 0.001", [(k, quiet) for k in counts], two, 0),
        ("three layers, ε₀ = 0.001", [(k, quiet) for k in counts if k <= crowded], three, 0),
        ("two layers, 2 non-zeros in a stripe", [(2, e) for e in levels], two, 1),
    ]
    axes = ["non-zeros in a stripe of the deepest code", "local noise level ε₀ (l2 norm of a patch)"]
    recovery, drawn = [], []
    for title, points, dictionaries, axis in panels:
        rows = sweep(title.split(",")[0] + (", noise" if axis else ", k"), dictionaries, points, samples, axis)
        recovery += rows
        drawn.append((title, axes[axis], rows))
    print_rows(recovery)
    ratios = tightness({"two": two, "three": three, "shared": shared}, 4 if options.quick else 80)
    exactness = noiseless(two, 5, samples)
    print(f"{'theorem':40} {'signals':>8} {'median err/bound':>17} {'max':>6}")
    for name, values in ratios.items():
        print(f"{THEOREMS[name][0]:40} {len(values):8} {values.median():17.3f} {values.max():6.3f}")
    print("basis pursuit without noise, bound 0:", ", ".join(f"{key} {value:.3g}" for key, value in exactness.items()))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    draw_recovery(drawn, options.out)
    second = options.out.with_name(options.out.stem + "_tightness.png")
    draw_tightness(ratios, second)
    print(f"wrote {options.out} and {second}, {time.perf_counter() - start:.0f} s")
    return {
        "recovery": recovery,
        "tightness": {name: values.tolist() for name, values in ratios.items()},
        "noiseless": exactness,
    }


if __name__ == "__main__":
    main()
