"""How well the sparse coding layers of a network code what they are shown."""

from typing import Any

import torch
from torch import Tensor, nn

from csc_nets.evaluation.lam_rules.adaptive import weighted_layers
from csc_nets.functional import fista, ista

__all__ = ["coding_rows"]


@torch.no_grad()
def coding_rows(model: nn.Module, x: Tensor, steps: int = 300) -> list[dict[str, Any]]:
    """One row for each convolutional sparse coding layer that images pass.

    Args:
        model: a network, in evaluation mode.
        x: images ``(N, C, H, W)``.
        steps: steps of restarted FISTA whose objective stands for the least one.

    Returns:
        Rows with the layer's ``name``, ``pursuit`` and ``steps``; ``excess``, the sum of the objectives of its codes
        over the least one, minus 1; ``two_steps``, the same of two steps of ISTA, the published layer, on the same
        inputs; ``density``, the share of non-zeros; ``silent``, the share of atoms that no code uses.

    Raises:
        ValueError: the network has no such layer.
    """
    coders = weighted_layers(model)
    names = {layer: name for name, layer in model.named_modules() if layer in coders}
    if not names:
        raise ValueError(f"coding_rows: expected a network with CSC layers, got {type(model).__name__}")
    rows: list[dict[str, Any]] = []

    def look(layer: Any, inputs: tuple[Tensor, ...], code: Tensor) -> None:
        problem, pursuit = layer.problem(inputs[0]), getattr(layer, "pursuit", layer)
        signal, options = problem.x, {"penalty": problem.penalty, "ridge": problem.ridge}
        solve = lambda pursuit, **more: pursuit(signal, problem.operator, problem.lam, **options, **more)  # noqa: E731
        least, two, own = (
            problem.objective(z).sum(dtype=torch.float64)
            for z in (solve(fista, steps=steps, restart=True), solve(ista, steps=2), code)
        )
        used = (code != 0).transpose(0, 1).flatten(1)
        rows.append(
            {
                "name": names[layer],
                "pursuit": getattr(pursuit, "registered_name", None) or type(pursuit).__name__,
                "steps": getattr(layer, "steps", None),
                "excess": _excess(own, least),
                "two_steps": _excess(two, least),
                "density": float(used.double().mean()),
                "silent": 1 - float(used.any(1).double().mean()),
            }
        )

    hooks = [layer.register_forward_hook(look) for layer in names]
    try:
        model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return rows


def _excess(value: Tensor, least: Tensor) -> float:
    return 0.0 if value == least else float(value / least) - 1  # an input of zeros has an objective of 0
