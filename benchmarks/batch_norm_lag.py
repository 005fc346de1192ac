"""How far the running statistics of batch norm are behind the weights, in plain and in sparse-coding networks.

    python benchmarks/batch_norm_lag.py [--root FOLDER --image-size 32] [--picture FILE] [--quick] [--json FILE]

Trains narrow networks at the high rates of a short training, on the embedded digits or on a folder of images. Rows
"accuracy": ours with the running statistics, the reference with statistics taken afresh from training images of the
same weights (``task.precise_batch_norm``). Rows "shift": how far the mean of what a norm sees moves in one step, in its
standard deviations (root mean square over channels, median over steps, mean over norms); ours by one cause alone, the
reference by the whole step. Causes are the biases of norms, and the layer before the norm itself. The batch is the same
before and after the step, so that nothing moves but the weights.

The picture shows the accuracies on the left, the causes on the right.
"""

import copy
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timing
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from csc_nets.data import create_datamodule
from csc_nets.layers import Coder
from csc_nets.models import create_model
from csc_nets.tasks.optimization import build_optimizer
from csc_nets.tasks.precise_batch_norm import renew_statistics

NETWORKS: dict[str, tuple[str, dict[str, Any], float]] = {
    "plain": ("fastnet", {}, 1),
    "plain, fast biases": ("fastnet", {}, 64),
    "coded": ("fastnet_all", {}, 1),
    "coded, fast biases": ("fastnet_all", {}, 64),
}
"""Network, its options, and the rate of the biases of norms as a multiple of that of all other weights."""

Shifts = dict[str, float]


def norms_and_layers(model: nn.Module) -> dict[str, str]:
    """Names of the norms, and of the layer before each."""
    found, layer = {}, ""
    for name, module in model.named_modules():
        if isinstance(module, Coder | nn.Conv2d):
            layer = name
        elif isinstance(module, nn.BatchNorm2d):
            found[name] = layer
    return found


@torch.no_grad()
def statistics_of(model: nn.Module, x: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and deviation ``(C,)`` of the input of each norm, in training mode."""
    model, seen = copy.deepcopy(model).train(), {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor]) -> None:
            seen[name] = inputs[0].mean((0, 2, 3)), inputs[0].std((0, 2, 3)).clamp_min(1e-3)

        return hook

    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(keep(name))
    model(x)
    return seen


@torch.no_grad()
def shifts(old: nn.Module, new: nn.Module, x: Tensor) -> dict[str, Shifts]:
    """For each norm how far its means move by all changes of a step, by those of biases, and by those of its layer."""
    changed, before = dict(new.named_parameters()), statistics_of(old, x)

    def moved(chosen: Callable[[str], bool]) -> dict[str, float]:
        mixed = copy.deepcopy(old)
        for name, parameter in mixed.named_parameters():
            if chosen(name):
                parameter.copy_(changed[name])
        after = statistics_of(mixed, x)
        return {
            norm: float(((after[norm][0] - mean) / deviation).square().mean().sqrt())
            for norm, (mean, deviation) in before.items()
        }

    layers = norms_and_layers(old)
    biases = {f"{norm}.bias" for norm in layers}
    by_all, by_biases = moved(lambda name: True), moved(lambda name: name in biases)
    by_layer = {
        norm: moved(lambda name, layer=layer: name.startswith(f"{layer}."))[norm]  # type: ignore[misc]
        for norm, layer in layers.items()
    }
    return {norm: {"all": by_all[norm], "biases": by_biases[norm], "layer": by_layer[norm]} for norm in layers}


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of right answers in evaluation."""
    model = copy.deepcopy(model).eval()
    right = [model(x).argmax(1) == y for x, y in zip(images.split(256), labels.split(256), strict=True)]
    return torch.cat(right).float().mean().item()


def measure(name: str, data: Any, steps: int, every: int, lr: float, widths: list[int]) -> dict[str, Any]:
    """Trains one network, and looks at it every so many steps."""
    kind, options, bias_rate = NETWORKS[name]
    torch.manual_seed(0)
    model: Any = create_model(
        kind, num_classes=data.num_classes, in_chans=data.in_chans, widths=widths, bn_momentum=0.1, **options
    )
    model.fit_images(data.training_images(1000))
    optimizer = build_optimizer(
        model, "sgd", lr=lr, weight_decay=0.0, momentum=0.85, nesterov=True, bias_rate=bias_rate
    )
    rates = [group["lr"] for group in optimizer.param_groups]
    fixed = data.training_images(256)
    images, labels = (torch.cat(parts) for parts in zip(*data.val_dataloader(), strict=True))
    batches, curve, causes = data.train_dataloader(), [], []
    step = 0
    while step < steps:
        for x, y in batches:
            step += 1
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * min(1, step / 20)
            optimizer.zero_grad()
            cross_entropy(model.train()(x), y, label_smoothing=0.2).backward()
            before = copy.deepcopy(model) if step % every == 0 else None
            optimizer.step()
            if before is not None:
                causes.append(shifts(before, model, fixed))
                fresh = copy.deepcopy(model)
                renew_statistics(fresh, data.training_images(1024).split(256))
                curve.append((step, *(accuracy(network, images, labels) for network in (model, fresh))))
            if step == steps:
                break
    means = {
        cause: statistics.mean(statistics.median(seen[norm][cause] for seen in causes) for norm in causes[0])
        for cause in ("all", "biases", "layer")
    }
    return {"curve": curve, "shifts": means}


def row(name: str, ours: float, reference: float, unit: str) -> dict[str, Any]:
    return {"name": name, "ours": ours, "reference": reference, "ratio": ours / max(reference, 1e-9), "unit": unit}


def draw(found: dict[str, dict[str, Any]], file: Path) -> None:
    """Accuracies over steps, and causes of shifts."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for number, (name, result) in enumerate(found.items()):
        steps, running, fresh = zip(*result["curve"], strict=True)
        left.plot(steps, fresh, f"C{number}", label=name)
        left.plot(steps, running, f"C{number}--")
        right.bar(
            [number - 0.27, number, number + 0.27],
            [result["shifts"][cause] for cause in ("all", "biases", "layer")],
            0.25,
            color=["#333333", "#D55E00", "#0072B2"],
            label=["the whole step", "biases of norms", "its own layer"] if number == 0 else None,
        )
    left.set(xlabel="steps", ylabel="accuracy, validation images", title="fresh statistics (solid), running (dashed)")
    left.legend(fontsize=8)
    right.set_xticks(range(len(found)), [name.replace(", ", ",\n") for name in found], fontsize=8)
    right.set(ylabel="standard deviations", title="shift of a norm's means in one step, by cause")
    right.legend(fontsize=8)
    figure.savefig(file, dpi=110)


def main() -> None:
    options = timing.parser(__doc__.splitlines()[0])
    options.add_argument("--root", type=Path, help="a folder of images, as data=image_folder has it")
    options.add_argument("--image-size", type=int, default=32)
    options.add_argument("--steps", type=int, default=120)
    options.add_argument("--lr", type=float, default=0.4)
    options.add_argument("--picture", type=Path)
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    batch: dict[str, Any] = {"batch_size": 64, "crop_padding": 1}
    if given.root is None:
        data = create_datamodule("digits", **batch)
    else:
        data = create_datamodule("image_folder", root=given.root, image_size=given.image_size, **batch)
    steps, widths = (20, [8, 8]) if given.quick else (given.steps, [16, 32, 32])
    names = ["plain", "coded, fast biases"] if given.quick else list(NETWORKS)
    found = {name: measure(name, data, steps, 10, given.lr, widths) for name in names}
    rows = []
    for name, result in found.items():
        late = result["curve"][len(result["curve"]) // 3 :]
        running, fresh = (statistics.mean(point[i] for point in late) for i in (1, 2))
        rows.append(row(f"{name}: accuracy, mean of the last two thirds", running, fresh, "share"))
        for cause in ("biases", "layer"):
            shift = result["shifts"]
            rows.append(row(f"{name}: shift of means by {cause}", shift[cause], shift["all"], "deviations"))
    timing.report(rows, given.json, "reference")
    if given.picture:
        draw(found, given.picture)


if __name__ == "__main__":
    main()
