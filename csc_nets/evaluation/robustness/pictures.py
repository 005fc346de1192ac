"""Pictures of the robustness report; matplotlib is needed."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from csc_nets.evaluation.corruptions import corrupt
from csc_nets.evaluation.lam_rules import lam_rule
from csc_nets.evaluation.lam_rules.adaptive import weighted_layers
from csc_nets.evaluation.robustness.measure import CLEAN, Accuracies
from csc_nets.evaluation.robustness.methods import WITH_NORM
from csc_nets.tasks.code_statistics import keep_codes

__all__ = ["save_curves", "save_images"]

_SHOWN_RULE = "discrepancy"


def save_curves(file: Path, tables: Mapping[str, Accuracies]) -> None:
    """Accuracy by severity, a row of panels for each table and a panel for each corruption; severity 0 is clean."""
    first = next(iter(next(iter(tables.values())).values()))
    corruptions = list(dict.fromkeys(key.partition("/")[0] for key in first if key != CLEAN))
    figure = Figure(figsize=(3 * len(corruptions) + 2.5, 3.2 * len(tables)), layout="constrained")
    panels = figure.subplots(len(tables), len(corruptions), squeeze=False, sharey=True)
    for line, (title, found) in zip(panels, tables.items(), strict=True):
        colours = {name: f"C{i}" for i, name in enumerate(dict.fromkeys(map(_plain, found)))}
        for panel, corruption in zip(line, corruptions, strict=True):
            for name, values in found.items():
                points = [(0, values[CLEAN])]
                points += [(int(k.partition("/")[2]), v) for k, v in values.items() if k.startswith(f"{corruption}/")]
                style: dict[str, Any] = {"color": colours[_plain(name)], "linewidth": 1.2, "marker": "."}
                style |= {"linestyle": "--"} if name.endswith(WITH_NORM) else {}
                style |= {"color": "black"} if name.startswith("oracle") else {}
                panel.plot(*zip(*points, strict=True), label=name, **style)
            panel.set(title=corruption.replace("_", " "), xlabel="severity, 0 is clean")
            panel.grid(alpha=0.3)
        line[0].set_ylabel(f"accuracy\n{title}", fontsize="small")
        line[-1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(file, dpi=110)


@torch.no_grad()
def save_images(
    file: Path,
    model: nn.Module,
    pixels: Tensor,
    normalize: Callable[[Tensor], Tensor],
    options: Mapping[str, Any],
) -> None:
    """Some images under each corruption at the middle severity, above what the first coding layer makes of them.

    Codes are shown as the mean of their magnitudes over atoms, at the trained lam and at that of a rule. All codes of
    an image have one scale.
    """
    severity = sorted(options["severities"])[len(options["severities"]) // 2]
    columns = {CLEAN: pixels}
    for name in options["corruptions"]:
        columns[f"{name.replace('_', ' ')}, {severity}"] = corrupt(pixels, name, severity, seed=options["seed"])
    coders = weighted_layers(model)[:1]
    rows = ["image", *(["code", f"code, {_SHOWN_RULE}"] if coders else [])]
    figure = Figure(figsize=(1.7 * len(columns) + 0.5, 1.7 * len(rows) * len(pixels)), layout="constrained")
    panels = figure.subplots(len(rows) * len(pixels), len(columns), squeeze=False)
    for j, (title, images) in enumerate(columns.items()):
        shown = [images.cpu()]
        if coders:
            shown += [_code(model, coders, normalize(images)), _adapted(model, coders, normalize(images))]
        for i in range(len(pixels)):
            for k, values in enumerate(shown):
                panel = panels[i * len(rows) + k][j]
                if k == 0:
                    panel.imshow(values[i].permute(1, 2, 0).squeeze(-1), cmap="gray", vmin=0, vmax=1)
                else:
                    top = None if j == 0 else panels[i * len(rows) + 1][0].images[0].get_clim()[1]
                    panel.imshow(values[i], cmap="magma", vmin=0, vmax=top)
                panel.set_xticks([])
                panel.set_yticks([])
                if i == 0 and k == 0:
                    panel.set_title(title, fontsize=8)
                if j == 0:
                    panel.set_ylabel(rows[k], fontsize=8)
    figure.savefig(file, dpi=110)


def _plain(name: str) -> str:
    """The name of a row without batch norm."""
    return name.removesuffix(WITH_NORM)


def _code(model: nn.Module, coders: list[Any], images: Tensor) -> Tensor:
    with keep_codes(coders) as codes:
        model(images)
    return codes[0][1].float().abs().mean(1).cpu()


def _adapted(model: nn.Module, coders: list[Any], images: Tensor) -> Tensor:
    with lam_rule(model, _SHOWN_RULE):
        return _code(model, coders, images)
