"""Do filters keep the norm of codes? Random ones at the sizes of VGG-16, and those of a trained network: two pictures.

    python docs/gallery/model_rip.py [--quick] [--run FOLDER] [--out FILE.png]

- Random filters at the sizes of VGG-16 on 15 x 15 samples, codes with at most one non-zero in windows of 2 x 2 and as
  many as the paper counts in the activations (Gilbert et al., https://arxiv.org/abs/1705.08664, Tables 2 and 4).
- A small CNN, trained here on the digits of scikit-learn, or the network of a run folder on its own test images:
  its filters and random ones in their place, with random codes, with real activations, and with the codes that sparse
  code recovery finds of the real inputs (lambda = 10 % of the smallest at which the code is zero; the residual says how
  much of the input they leave out). FILE.png has the histograms.
- FILE_constant.png: how far codes of k non-zeros deviate at most in the one-dimensional setting of the paper (96
  filters of 5 samples on 32 channels of 32 samples): values drawn or chosen, positions drawn or all the same; beside
  Theorem 3.1 with its constant calibrated, and the values from which on Theorem 3.3 says nothing.

matplotlib is needed.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import csc_nets
from csc_nets.data import create_datamodule
from csc_nets.functional import ConvGeometry, lam_max, one_per_block, sparse_code_recovery
from csc_nets.tasks.run_folder import RunFolder
from csc_nets.theory import (
    RandomLayer,
    RestrictedIsometry,
    calibrate_constant,
    find_code_layers,
    mutual_coherence,
    random_filters,
    restricted_isometry,
)
from csc_nets.theory.isometry.published import VGG16_COHERENCE, VGG16_NONZEROS, VGG16_SHAPES

KINDS = {
    "random codes": "#0072B2",
    "activations": "#D55E00",
    "recovered codes": "#009E73",
}


def vgg16(layers: Sequence[str], draws: int, samples: int) -> list[dict[str, Any]]:
    """Coherence and ratios of random unit filters, one row a layer."""
    rows = []
    for number, name in enumerate(layers):
        generator = torch.Generator().manual_seed(number)
        atoms, channels = VGG16_SHAPES[name]
        coherences = torch.zeros(2)
        for _ in range(draws):
            weight = random_filters(atoms, channels, (3, 3), "unit", generator=generator, dtype=torch.float32)
            coherences += (
                torch.tensor([mutual_coherence(weight, shifts=False, signed=s) for s in (False, True)]) / draws
            )
        # One non-zero in a window at most: above 7 * 7 of 13 * 13 entries every window has one.
        k = min(round(VGG16_NONZEROS[name] / 100 * atoms * 13**2), atoms * 7**2)
        start = time.perf_counter()
        found = restricted_isometry(weight, k, signal_size=(15, 15), window=2, samples=samples, generator=generator)
        seconds = time.perf_counter() - start
        absolute, signed = coherences.tolist()
        rows.append({"layer": name, "absolute": absolute, "signed": signed, "found": found, "seconds": seconds})
    return rows


def trained_on_digits(epochs: int) -> tuple[nn.Module, Tensor]:
    """A CNN of three layers and a batch of test digits."""
    torch.manual_seed(0)
    data = create_datamodule("digits", batch_size=64)
    data.setup()
    widths = (1, 32, 64, 64)
    stages = [nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU()) for a, b in pairwise(widths)]
    model = nn.Sequential(*stages, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * widths[-1], 10))
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    for _ in range(epochs):
        for images, labels in data.train_dataloader():
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
    model.eval()
    batches = list(data.test_dataloader())
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    with torch.no_grad():
        print(f"a CNN trained for {epochs} epochs: {(model(images).argmax(1) == labels).double().mean():.1%} of digits")
    return model, images


def from_run(folder: Path) -> tuple[nn.Module, Tensor]:
    """The network of a run folder and a batch of its test images."""
    config = RunFolder(folder.absolute()).config()
    data = create_datamodule(**config["data"], seed=config["seed"])
    data.prepare_data()
    data.setup()
    return csc_nets.load(folder), next(iter(data.test_dataloader()))[0]


@dataclass(frozen=True)
class Layer:
    """A convolution of a network with unit atoms, an adjoint pair; what it was given and what it made of it."""

    name: str
    weight: Tensor
    geometry: ConvGeometry
    signal: Tensor
    code: Tensor

    def analysis(self, x: Tensor) -> Tensor:
        return self.geometry.analysis(x, self.weight)

    def synthesis(self, z: Tensor, output_size: tuple[int, ...] | None = None) -> Tensor:
        return self.geometry.synthesis(z, self.weight, output_size)


def code_layers(model: nn.Module, images: Tensor) -> list[Layer]:
    """The convolutions that a ReLU follows, of one group, batch norm folded into them."""
    signals: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_pre_hook(lambda _, given, name=name: signals.update({name: given[0]}))
        for name, module in model.named_modules()
    ]
    layers, _ = find_code_layers(model, images)
    for hook in hooks:
        hook.remove()
    return [
        Layer(layer.name, layer.dictionary.weight, layer.dictionary.geometry, signals[layer.name], layer.code)
        for layer in layers
        if layer.name in signals and layer.dictionary.groups == 1 and layer.code.ndim == 4
    ]


@torch.no_grad()
def ratios(layer: Layer, samples: int, few: int) -> dict[str, Any]:
    """The three kinds of codes of one layer, measured."""
    keep = partial(one_per_block, window=2)
    active = keep(layer.code)
    active = active[active.flatten(1).any(1)][:samples]
    k = max(1, round(torch.count_nonzero(active).item() / len(active)))
    x = layer.signal[layer.signal.flatten(1).any(1)][:few]
    size = tuple(x.shape[2:])
    recovered = sparse_code_recovery(x, layer, 0.1 * lam_max(x, layer), partial(keep, k=k), tol=1e-3)
    residual = (layer.synthesis(recovered, size) - x).flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1)
    generator = torch.Generator().manual_seed(0)
    options = {"signal_size": size, "samples": samples, "generator": generator}
    return {
        "k": k,
        "coherence": mutual_coherence(layer, shifts=False),
        "residual": residual.median().item(),
        "random codes": restricted_isometry(layer, k, window=2, **options),
        "activations": restricted_isometry(layer, codes=active, signal_size=size),
        "recovered codes": restricted_isometry(layer, codes=recovered, signal_size=size),
    }


def network(model: nn.Module, images: Tensor, samples: int, few: int) -> list[dict[str, Any]]:
    """The layers of a network with their own filters, and with random ones on the same inputs."""
    rows = []
    for layer in code_layers(model, images):
        generator = torch.Generator().manual_seed(0)
        atoms, channels, *kernel = layer.weight.shape
        weight = random_filters(atoms, channels, kernel, "unit", generator=generator, dtype=layer.weight.dtype)
        other = replace(layer, weight=weight, code=layer.geometry.analysis(layer.signal, weight).relu())
        for filters, some in (("learned", layer), ("random", other)):
            rows.append({"layer": layer.name, "filters": filters, **ratios(some, samples, few)})
    return rows


def constants(counts: Sequence[int], draws: int, samples: int) -> dict[str, Any]:
    """Largest deviations by number of non-zeros in one dimension, medians over draws of filters, and the theorem."""
    layer = RandomLayer(channels=32, filters=96, length=5, signal_length=32, failure=0.5)
    cases = {
        "values and positions drawn": {},
        "values chosen": {"values": "worst"},
        "values chosen, one position": {"values": "worst", "aligned": True},
        "the same, sums of two codes": {"values": "worst", "aligned": True, "differences": True},
    }
    rows: dict[str, list[float]] = {name: [] for name in cases}
    for k in counts:
        for name, options in cases.items():
            found = []
            for seed in range(draws):
                generator = torch.Generator().manual_seed(seed)
                weight = random_filters(96, 32, 5, generator=generator)
                many = {"signal_size": (32,), "samples": samples, "generator": generator, **options}
                found.append(restricted_isometry(weight, k, **many).delta)
            rows[name].append(torch.tensor(found).median().item())
    generator = torch.Generator().manual_seed(0)
    calibrated = {k: calibrate_constant(layer, k, draws=draws, samples=samples, generator=generator) for k in counts}
    layer = replace(layer, constant=max(calibrated.values()))
    theorem = [layer.delta(k) for k in counts]
    needed = layer.channels_needed(10, 0.147)
    return {"k": list(counts), **rows, "theorem": theorem, "calibrated": calibrated, "channels needed": needed}


def draw_histograms(vgg: RestrictedIsometry, rows: Sequence[dict[str, Any]], out: Path) -> None:
    import matplotlib.pyplot as plt

    learned = [row for row in rows if row["filters"] == "learned"][-3:]
    everything = torch.cat([row[kind].ratios for row in rows for kind in KINDS]).log10()
    edges = 10 ** torch.linspace(min(everything.min().item(), -0.5), max(everything.max().item(), 0.5), 120)
    figure, axes = plt.subplots(2, 2, figsize=(9.6, 6.4))
    first = axes.flat[0]
    first.hist(vgg.ratios.tolist(), 40, color=KINDS["random codes"], alpha=0.8)
    first.set_title("random filters, size of VGG-16 conv5_2", fontsize=10)
    first.set_ylabel("number of random codes")
    for axis, row in zip(list(axes.flat)[1:], learned, strict=False):
        partner = next(r for r in rows if r["layer"] == row["layer"] and r["filters"] == "random")
        for kind, colour in KINDS.items():
            for filters, values, style in (("learned", row, {"alpha": 0.6}), ("random", partner, {"histtype": "step"})):
                weights = [100 / len(values[kind].ratios)] * len(values[kind].ratios)
                label = f"{kind}, {filters} filters"
                axis.hist(
                    values[kind].ratios.tolist(), edges.tolist(), weights=weights, color=colour, label=label, **style
                )
        axis.set_xscale("log")
        axis.set_xticks([0.5, 1, 2, 5, 10], ["0.5", "1", "2", "5", "10"])
        axis.minorticks_off()
        axis.set_xlim(edges[0], edges[-1])
        axis.set_title(f"layer {row['layer']} of the network", fontsize=10)
        axis.set_ylabel("% of codes")
    for axis in axes.flat:
        axis.axvline(1, color="black", lw=0.8)
        axis.grid(alpha=0.25, lw=0.6)
        axis.set_xlabel("||D z||² / ||z||²")
    figure.legend(*axes.flat[1].get_legend_handles_labels(), loc="lower center", ncols=3, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    figure.savefig(out, dpi=110)


def draw_constants(found: dict[str, Any], out: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7.4, 4.4))
    names = [name for name in found if name not in ("k", "theorem", "calibrated", "channels needed")]
    for name, colour, marker in zip(names, ("#0072B2", "#009E73", "#D55E00", "#CC79A7"), "os^v", strict=True):
        axis.plot(found["k"], found[name], color=colour, marker=marker, ms=5, label=name)
    axis.plot(found["k"], found["theorem"], color="black", ls="--", lw=1.2, label="Theorem 3.1, calibrated: ~ √k")
    for limit, label in ((0.147, "printed"), (0.348, "derived")):
        axis.axhline(limit, color="#777777", ls=":", lw=1.2)
        axis.text(
            found["k"][-1], limit * 0.86, f"{label} bound of Theorem 3.3 is vacuous above", fontsize=8, ha="right"
        )
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xticks(found["k"], [str(k) for k in found["k"]])
    axis.set_yticks([0.1, 0.2, 0.5, 1, 2], ["0.1", "0.2", "0.5", "1", "2"])
    axis.minorticks_off()
    axis.set_xlabel("non-zeros k")
    axis.set_ylabel("largest | ||D z||² / ||z||² - 1 | that was found")
    axis.grid(alpha=0.25, lw=0.6)
    axis.legend(fontsize=8, frameon=False, loc="upper left")
    figure.tight_layout()
    figure.savefig(out, dpi=110)


def print_tables(vgg: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]], found: dict[str, Any]) -> None:
    print(f"{'VGG-16':8} {'random: coherence':>18} {'signed':>7} {'published':>10} {'learned':>8}", end="")
    print(f" {'k':>7} {'ratio':>7} {'99 % within':>12} {'delta >=':>9} {'seconds':>8}")
    for row in vgg:
        published, measured = VGG16_COHERENCE[row["layer"]], row["found"]
        print(
            f"{row['layer']:8} {row['absolute']:18.4f} {row['signed']:7.4f} {published.random:10.4f} "
            f"{published.learned:8.4f} {measured.nonzeros:7} {measured.mean:7.4f} {measured.quantile(0.99)[0]:12.4f} "
            f"{measured.delta:9.4f} {row['seconds']:8.1f}"
        )
    print(vgg[-1]["layer"] + ":", vgg[-1]["found"])
    print(f"{'layer':14} {'filters':8} {'coherence':>9} {'k':>5} {'residual':>9}", end="")
    print("".join(f"{kind + ': mean':>22} {'1 to 99 %':>15}" for kind in KINDS))
    ends = torch.tensor([0.01, 0.99], dtype=torch.float64)
    for row in rows:
        cells = ""
        for kind in KINDS:
            low, high = row[kind].ratios.quantile(ends).tolist()
            cells += f"{row[kind].mean:22.3f} {low:6.3f} to {high:5.2f}"
        print(
            f"{row['layer']:14} {row['filters']:8} {row['coherence']:9.3f} {row['k']:5} {row['residual']:9.3f}{cells}"
        )
    for name, values in found.items():
        if isinstance(values, list):
            print(f"{name:28}" + "".join(f"{value:8.3g}" for value in values))
    print("C by k: " + ", ".join(f"{k}: {value:.4f}" for k, value in found["calibrated"].items()), end="")
    print(f"; channels for delta 0.147 at k = 10 with the largest: {found['channels needed']:.0f}")


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs everything; returns the printed numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer codes and layers, under 30 s")
    parser.add_argument("--run", type=Path, help="run folder of a trained network; its test images are taken")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "images" / "model_rip.png")
    options = parser.parse_args(argv)
    try:
        import matplotlib
    except ImportError:
        raise SystemExit("model_rip.py draws with matplotlib: pip install matplotlib") from None
    matplotlib.use("Agg")
    torch.set_num_threads(1)
    start = time.perf_counter()
    quick = options.quick
    vgg = vgg16(["conv1_2"] if quick else [n for n in VGG16_SHAPES if n != "conv5_2"], 2 if quick else 10, 100)
    vgg += vgg16(["conv5_2"], 1 if quick else 10, 20 if quick else 1000)
    model, images = from_run(options.run) if options.run else trained_on_digits(2 if quick else 20)
    rows = network(model, images, 100 if quick else 1000, 4 if quick else 50)
    if not rows:
        raise SystemExit(f"model_rip.py: {options.run} holds no network with convolutions that a ReLU follows")
    found = constants((2, 8) if quick else (1, 2, 3, 5, 8, 10, 15, 20, 30), 3 if quick else 20, 10 if quick else 100)
    print_tables(vgg, rows, found)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    draw_histograms(vgg[-1]["found"], rows, options.out)
    second = options.out.with_name(options.out.stem + "_constant.png")
    draw_constants(found, second)
    print(f"wrote {options.out} and {second}, {time.perf_counter() - start:.0f} s")

    def plain(row: dict[str, Any]) -> dict[str, Any]:
        found = {key: value for key, value in row.items() if isinstance(value, RestrictedIsometry)}
        return row | {key: {"mean": value.mean, "delta": value.delta} for key, value in found.items()}

    return {"vgg16": [plain(row) for row in vgg], "network": [plain(row) for row in rows], "constants": found}


if __name__ == "__main__":
    main()
