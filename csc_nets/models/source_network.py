"""Networks of torchvision, timm and this package without their classifier: what other models are built on."""

import importlib
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from csc_nets.conversion.tracing import find_places
from csc_nets.models.registry import create_model

__all__ = ["Trunk", "as_source_args", "headless", "put"]

LIBRARIES = ("csc_nets", "torchvision", "timm")
_OUTSIDE = {"cache_dir", "checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay"}
_OUTSIDE |= {"weights", "weights_backbone"}


class Trunk(nn.Module):
    """A classifier without its last layer, whose features are one position of a map.

    Args:
        network: from images to features ``(N, F)``.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Features ``(N, F, 1, 1)`` of images."""
        features: Tensor = self.network(x)
        return features.flatten(1).unsqueeze(-1).unsqueeze(-1)


def as_source_args(given: Any) -> dict[str, Any]:
    """Arguments of a source by name; None for none. Others are refused with a ValueError."""
    if not isinstance(given, Mapping | None):
        raise ValueError(f"source_args must be a mapping from names to values, got {given!r}")
    return dict(given or {})


def headless(source: str, source_args: Mapping[str, Any], in_chans: int) -> tuple[nn.Module, str, int]:
    """A source network with the identity in place of its last layer; the name of that layer, and its features."""
    network = _plain(source, {**_channels(source, in_chans), **source_args})
    places = find_places(network)
    heads = [place for place in places if place.ends and isinstance(place.layer, nn.Linear)]
    if len(heads) != 1:
        raise ValueError(f"source: {source} must end in one linear layer, found {len(heads)}")
    head: Any = heads[0].layer
    put(network, heads[0].name, nn.Identity())
    first: Any = next((place for place in places if isinstance(place.layer, nn.Conv2d)), None)
    if source.startswith("torchvision/") and first is not None and first.layer.in_channels != in_chans:
        old = first.layer
        fresh = nn.Conv2d(
            in_chans,
            old.out_channels,
            old.kernel_size,
            old.stride,
            old.padding,
            old.dilation,
            old.groups,
            bias=old.bias is not None,
            padding_mode=old.padding_mode,
        )
        put(network, first.name, fresh)
        if hasattr(network, "in_chans"):
            network.in_chans = in_chans  # type: ignore[assignment]
    return network, heads[0].name, head.in_features


def _channels(source: str, in_chans: int) -> dict[str, int]:
    """What tells a network the channels of its images; those of torchvision are not told."""
    return {} if source.startswith("torchvision/") else {"in_chans": in_chans}


def _plain(source: str, source_args: Mapping[str, Any]) -> nn.Module:
    library, _, name = source.partition("/")
    if library not in LIBRARIES or not name.replace("_", "").replace(".", "").isalnum():
        raise ValueError(f"source must be LIBRARY/NAME with one of {', '.join(LIBRARIES)}, got {source!r}")
    # A checkpoint names the source and its arguments, and may come from anybody.
    if outside := sorted(_OUTSIDE & set(source_args)):
        raise ValueError(f"source_args must not name files or weights, got {', '.join(outside)}")
    if library == "csc_nets":
        return create_model(name, **source_args)
    try:
        made = importlib.import_module("torchvision.models" if library == "torchvision" else "timm")
    except ImportError as error:
        raise ValueError(f"source={source!r} needs {library}: pip install {library}") from error
    # Detection and segmentation load weights of a backbone unless one says otherwise.
    if name not in (made.list_models(module=made) if library == "torchvision" else made.list_models()):
        raise ValueError(f"source: {library} has no network {name!r}")
    if library == "torchvision":
        return made.get_model(name, weights=None, **source_args)  # type: ignore[no-any-return]
    return made.create_model(name, pretrained=False, **source_args)  # type: ignore[no-any-return]


def put(network: nn.Module, name: str, module: nn.Module) -> None:
    owner, _, own = name.rpartition(".")
    setattr(network.get_submodule(owner), own, module)
