"""Sets the sparsity weights of a network so that its codes have a given density."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from csc_nets.functional.checks import is_number
from csc_nets.layers import Coder
from csc_nets.theory.network.evaluation_mode import evaluation_mode

__all__ = ["calibrate_density"]


class _Reached(Exception):
    """Ends a forward pass at a layer."""


@torch.no_grad()
def calibrate_density(
    model: nn.Module, loader: Iterable[Any], density: float = 0.1, *, batches: int = 1, updates: int = 20
) -> list[dict[str, Any]]:
    """Sets ``lam`` of every coding layer, in the order of execution, so that a share of its coefficients is not 0.

    A layer is set after those before it, because their codes are its signals. A layer whose codes have less than this
    density at ``lam=0`` gets 0.

    Args:
        model: any network with coding layers; it runs in evaluation mode.
        loader: batches of images, or pairs of images and labels.
        density: share of non-zeros, in (0, 1].
        batches: how many batches of the loader to use; they stay in memory.
        updates: steps of the bisection.

    Returns:
        One row for each layer: ``name``, ``lam`` (the added weight), ``before`` and ``density``.

    Raises:
        ValueError: a density outside (0, 1], counts below 1, no batch, batches of something else, no coding layer
            that ran, or one whose density no weight brings down, such as one with a number of atoms; its weight stays.

    Example:
        >>> from csc_nets.layers import CSC2d
        >>> model = nn.Sequential(CSC2d(1, 8, 3), CSC2d(8, 8, 3))
        >>> rows = calibrate_density(model, [torch.randn(4, 1, 16, 16)], density=0.2)
        >>> [round(row["density"], 2) for row in rows]
        [0.2, 0.2]
    """
    if not is_number(density) or not 0 < density <= 1:
        raise ValueError(f"calibrate_density: density must be in (0, 1], got {density!r}")
    for name, count in (("batches", batches), ("updates", updates)):
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"calibrate_density: {name} must be an int >= 1, got {count!r}")
    if isinstance(loader, Tensor) or not isinstance(loader, Iterable):
        raise ValueError(f"calibrate_density: loader must give batches, got {type(loader).__name__}")
    images = []
    for batch in loader:
        images.append(batch[0] if isinstance(batch, list | tuple) and batch else batch)
        if not isinstance(images[-1], Tensor) or not images[-1].numel():
            found = tuple(images[-1].shape) if isinstance(images[-1], Tensor) else type(batch).__name__
            raise ValueError(f"calibrate_density: batches must be images, or images first, got {found}")
        if len(images) == batches:
            break
    if not images:
        raise ValueError("calibrate_density: the loader has no batch")
    rows = []
    with evaluation_mode(model):
        for name, layer in _in_order(model, images[0]):
            signals = [_input_of(model, layer, batch) for batch in images]
            before = _density(layer, signals)
            lam = _bisect(name, layer, signals, density, updates)
            rows.append({"name": name, "lam": lam, "before": before, "density": _density(layer, signals)})
    if not rows:
        raise ValueError("calibrate_density: no coding layer with a lam ran")
    return rows


def _in_order(model: nn.Module, images: Tensor) -> list[tuple[str, Any]]:
    """The coding layers of a network that run, in order."""
    order: list[tuple[str, Any]] = []
    handles = []

    def listen(name: str) -> Any:
        def hook(module: Any, args: Any) -> None:
            if all(module is not known for _, known in order):
                order.append((name, module))

        return hook

    for name, module in model.named_modules():
        if isinstance(module, Coder) and hasattr(module, "lam"):
            handles.append(module.register_forward_pre_hook(listen(name)))  # type: ignore[attr-defined]
    try:
        model(images)
    finally:
        for handle in handles:
            handle.remove()
    return order


def _input_of(model: nn.Module, layer: Any, images: Tensor) -> Tensor:
    """What a layer is given; the forward pass ends there."""
    seen: list[Tensor] = []

    def hook(module: Any, args: tuple[Tensor, ...]) -> None:
        seen.append(args[0].clone())
        raise _Reached

    handle = layer.register_forward_pre_hook(hook)
    try:
        model(images)
    except _Reached:
        pass
    finally:
        handle.remove()
    return seen[0]


def _density(layer: Any, signals: list[Tensor]) -> float:
    used = total = 0
    for x in signals:
        for step in layer.coded(x, layer(x)):
            used, total = used + int(step.code.count_nonzero()), total + step.code.numel()
    return used / max(total, 1)


def _bisect(name: str, layer: Any, signals: list[Tensor], density: float, updates: int) -> float:
    """Sets the least weight whose density is not above the wanted one, up to the last step of the bisection."""

    def density_at(lam: float) -> float:
        layer.lam = lam
        return _density(layer, signals)

    own = torch.as_tensor(layer.lam).clone()
    if density_at(0.0) <= density:
        return 0.0
    high = 1e-3
    while (reached := density_at(high)) > density and high < 1e9:
        high *= 4
    if reached > density:
        layer.lam = own
        raise ValueError(f"calibrate_density: layer {name!r} has the density {reached:.3g} at any lam, got {density=}")
    low = high / 4
    for _ in range(updates):
        middle = (low + high) / 2
        low, high = (middle, high) if density_at(middle) > density else (low, middle)
    density_at(high)
    return high
