"""Turns the layers of somebody's own network into layers of sparse coding, and back."""

import copy
import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from torch import Tensor, nn

from csc_nets.conversion.layer import Converted, ConvertedConv, ConvertedLinear
from csc_nets.conversion.measures import Conversion, measure
from csc_nets.conversion.tracing import Place, find_places
from csc_nets.functional.checks import check_flag, errors_of
from csc_nets.layers import Coder

__all__ = ["convert", "freeze_dictionaries", "to_plain"]

Value = TypeVar("Value")
Network = TypeVar("Network", bound=nn.Module)


def convert(
    model: Network,
    where: str | Sequence[str] = "*",
    *,
    pursuit: Any = "fista",
    steps: int | Mapping[str, int] = 1,
    lam: float | Mapping[str, float] = 0.0,
    images: Tensor | None = None,
    inplace: bool = False,
    **options: Any,
) -> tuple[Network, Conversion]:
    r"""Turns convolutions and linear layers of a network into layers that compute sparse codes.

    A convolution, its batch norm and its ReLU become one :class:`ConvertedConv`; a linear layer becomes a
    :class:`ConvertedLinear`. One step with ``lam=0`` computes what the network computed before, up to rounding, in
    evaluation and in training. More steps solve for the code, and a larger ``lam`` makes it sparser. Layers without a
    ReLU behind them get signed codes, and what follows them stays.

    Args:
        model: any module. Its graph is traced by ``torch.fx``; a part that cannot be traced stays as it is, except for
            the modules inside it.
        where: patterns for the names of layers, such as ``"layer1.*"``.
        pursuit: how the further steps go, as for :class:`~csc_nets.layers.CSC2d`; an object has its own ``steps``.
        steps: steps of every layer, or a mapping from patterns to steps, of which the first that fits counts. The
            first step is the layer of the network.
        lam: sparsity weight that is added to the thresholds, or such a mapping.
        images: a batch for the summary's figures; None for those that need none.
        inplace: change ``model``; False works on a copy.
        **options: further :class:`~csc_nets.layers.CodingOptions`, such as ``ridge`` or ``gradient``.

    Returns:
        The network, and a summary: the layers that were replaced, the others and why.

    Raises:
        ValueError: no module, a pattern that fits no layer, or bad options.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> coded, summary = convert(net.eval())
        >>> x = torch.randn(2, 1, 8, 8)
        >>> torch.allclose(coded(x), net(x), atol=1e-5), summary.skipped
        (True, {'4': 'its output is that of the network'})
    """
    _check_network("convert", model, inplace=inplace)
    patterns = _patterns("convert", where)
    _check_images(images)
    places = [place for place in find_places(model) if _first_fit(dict.fromkeys(patterns, True), place.name, False)]
    kind = type(model).__name__
    if not places:
        raise ValueError(f"convert: no convolution or linear layer of {kind} fits where={where!r}")
    names = [place.name for place in places]
    for argument, given in (("where", patterns), ("steps", steps), ("lam", lam)):
        if argument == "where" or isinstance(given, Mapping):
            _check_used(f"convert: no chosen layer of {kind}", argument, given, names)
    by_name = isinstance(pursuit, str) or (isinstance(pursuit, Mapping) and "count" not in pursuit)
    if not by_name and steps != 1:
        raise ValueError(f"convert: {pursuit!r} has its own number of steps, got also steps={steps!r}")
    network = model if inplace else copy.deepcopy(model)
    skipped = {place.name: place.reason for place in places if place.reason}
    replaced: dict[str, str] = {}
    for place in places:
        if place.reason:
            continue
        own = {**options, "lam": _first_fit(lam, place.name, 0.0), "pursuit": pursuit}
        if by_name:
            own["steps"] = _first_fit(steps, place.name, 1)
        replaced[place.name] = _replace(network, place, own)
    return network, measure(network, replaced, skipped, images)


def _check_network(owner: str, model: Any, **flags: Any) -> None:
    if not isinstance(model, nn.Module):
        raise ValueError(f"{owner}: model must be a module, got {type(model).__name__}")
    with errors_of(owner):
        for name, flag in flags.items():
            check_flag(flag, name)


def _check_images(images: Any) -> None:
    if images is None:
        return
    if not isinstance(images, Tensor) or not images.numel():
        seen = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"convert: images must be a batch of images or None, got {seen}")
    if not images.isfinite().all():
        raise ValueError("convert: images must be finite numbers, got some that are not")


def _patterns(owner: str, where: Any) -> list[str]:
    patterns = [where] if isinstance(where, str) or not isinstance(where, Sequence) else list(where)
    if not all(isinstance(pattern, str) for pattern in patterns):
        raise ValueError(f"{owner}: where must be patterns for names of layers, got {where!r}")
    return patterns


def _check_used(nothing: str, argument: str, given: Any, names: Sequence[str]) -> None:
    for pattern in [given] if isinstance(given, str) else given:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
            which = "" if isinstance(given, str) else f"{pattern!r} of "
            raise ValueError(f"{nothing} fits {which}{argument}={given!r}")


def _first_fit(values: Any, name: str, otherwise: Any) -> Any:
    """The value for a name: the one value, or that of the first pattern that fits."""
    if not isinstance(values, Mapping):
        return values
    return next((value for pattern, value in values.items() if fnmatch.fnmatchcase(name, pattern)), otherwise)


def _replace(network: nn.Module, place: Place, options: dict[str, Any]) -> str:
    """Puts a converted layer in its place, and says what it stands for."""
    layer: Any = network.get_submodule(place.name)
    if isinstance(layer, nn.Linear):
        made: Converted = ConvertedLinear.of(layer, place.rectified, **options)
    else:
        norm = None if place.norm is None else network.get_submodule(place.norm)
        made = ConvertedConv.of(layer, norm, place.rectified, **options)
        if place.norm is not None:
            _put(network, place.norm, nn.Identity())
    _put(network, place.name, made)
    norm_text = "" if place.norm is None else " + norm"
    return f"{type(layer).__name__}{norm_text}{' + ReLU' if place.rectified else ''}"


def _put(network: nn.Module, name: str, module: nn.Module) -> None:
    owner, _, own = name.rpartition(".")
    setattr(network.get_submodule(owner), own, module)


def to_plain(model: Network, *, inplace: bool = False) -> Network:
    """The way back: layers of one step become plain convolutions and linear layers, for deployment.

    In evaluation the outputs are the same, bit for bit. Batch norms are folded into the filters, with the statistics
    that they have; the activation of the network is still there.

    Args:
        model: a network with converted layers.
        inplace: change ``model``; False works on a copy.

    Raises:
        ValueError: no module; a layer takes more steps, or has a penalty or a ``lam`` that a plain layer cannot have.
    """
    _check_network("to_plain", model, inplace=inplace)
    network = model if inplace else copy.deepcopy(model)
    for name, layer in list(network.named_modules()):
        if isinstance(layer, Converted):
            _put(network, name, layer.to_plain())
    return network


def freeze_dictionaries(model: nn.Module, where: str | Sequence[str] = "*", frozen: bool = True) -> list[str]:
    """Keeps the atoms of coding layers from training; scales, thresholds and norms still train.

    Args:
        model: any network with coding layers.
        where: patterns for the names of the layers.
        frozen: False lets them train again.

    Returns:
        Names of the layers.

    Raises:
        ValueError: no module, or a pattern that fits no coding layer.
    """
    _check_network("freeze_dictionaries", model, frozen=frozen)
    patterns, dictionaries = _patterns("freeze_dictionaries", where), {}
    for name, module in model.named_modules():
        if isinstance(module, Coder):
            parts = [part for part in module.modules() if hasattr(part, "lipschitz")]  # type: ignore[attr-defined]
            dictionaries.update({name: parts} if parts else {})
    nothing = f"freeze_dictionaries: no coding layer of {type(model).__name__}"
    _check_used(nothing, "where", where, list(dictionaries))
    chosen = [name for name in dictionaries if _first_fit(dict.fromkeys(patterns, True), name, False)]
    for name in chosen:
        for part in dictionaries[name]:
            part.requires_grad_(not frozen)
    return chosen
