"""Somebody's own network, converted: so that it trains from the command line and comes back from a checkpoint."""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from csc_nets.conversion import convert, freeze_dictionaries
from csc_nets.conversion.tracing import find_places
from csc_nets.models.image_classifier import ImageClassifier
from csc_nets.models.registry import create_model, register_model

__all__ = ["ConvertedClassifier"]

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


class ConvertedClassifier(ImageClassifier):
    """A network of torchvision, timm or this package whose layers compute sparse codes, with a fresh classifier.

    Its structure comes from the library, without weights; nothing is downloaded. ``create_model(...,
    checkpoint_path=file)`` takes a state dict of this network, or one of the source network as its library saves it.

    Args:
        num_classes: classes; 0 leaves the features as output.
        in_chans: channels of the image; other than 3 gives a fresh first convolution.
        source: library and name, such as ``"torchvision/resnet18"``; libraries are ``csc_nets``, ``torchvision`` and
            ``timm``.
        source_args: arguments of the source network.
        where: patterns for the layers to convert.
        steps, lam: a number, or a mapping from patterns to numbers.
        pursuit, penalty, gradient, ridge: see :class:`~csc_nets.layers.CodingOptions`.
        freeze: keep the atoms from training.

    Shape:
        - input ``(N, in_chans, H, W)``, sizes as the source takes them
        - output: logits ``(N, num_classes)``

    Raises:
        ValueError: an unknown library or network, one that does not end in a linear layer, or bad options.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 3,
        *,
        source: str = "csc_nets/resnet18",
        source_args: Mapping[str, Any] | None = None,
        where: str | Sequence[str] = "*",
        steps: int | Mapping[str, int] = 1,
        lam: float | Mapping[str, float] = 0.0,
        pursuit: Any = "fista",
        penalty: Any = None,
        gradient: Any = None,
        ridge: float = 0.0,
        freeze: bool = False,
    ) -> None:
        parts = {"pursuit": pursuit, "penalty": penalty, "gradient": gradient, "ridge": ridge}
        self._source = (source, dict(source_args or {}), in_chans)
        self._options = {"where": where, "steps": steps, "lam": lam, **parts}
        network, _, features = _headless(*self._source)
        network, _ = convert(network, inplace=True, **self._options)
        if freeze:
            freeze_dictionaries(network)
        super().__init__(
            [Trunk(network)], [features], [224], in_chans=in_chans, input_size=224, num_classes=num_classes
        )

    def adapted(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """A state dict of this network from one of its source; any other as it is."""
        network, head, _ = _headless(*self._source)
        own = network.state_dict()
        if not own.keys() <= state.keys() or any(key.startswith("stages.0.network.") for key in state):
            return state
        network.load_state_dict({key: state[key] for key in own})
        network, _ = convert(network, inplace=True, **self._options)
        found = {f"stages.0.network.{key}": value for key, value in network.state_dict().items()}
        classifier = {f"fc.{key}": state[f"{head}.{key}"] for key in ("weight", "bias") if f"{head}.{key}" in state}
        own_head = {key: value for key, value in self.state_dict().items() if key.startswith("fc.")}
        same = classifier.keys() == own_head.keys() and all(
            classifier[key].shape == own_head[key].shape for key in classifier
        )
        return {**found, **(classifier if same else own_head)}


def _headless(source: str, source_args: Mapping[str, Any], in_chans: int) -> tuple[nn.Module, str, int]:
    """A source network with the identity in place of its last layer; the name of that layer, and its features."""
    network = _plain(source, source_args)
    places = find_places(network)
    heads = [place for place in places if place.ends and isinstance(place.layer, nn.Linear)]
    if len(heads) != 1:
        raise ValueError(f"converted: {source} must end in one linear layer, found {len(heads)}")
    head: Any = heads[0].layer
    _put(network, heads[0].name, nn.Identity())
    first: Any = next(place for place in places if isinstance(place.layer, nn.Conv2d))
    if first.layer.in_channels != in_chans:
        old = first.layer
        fresh = nn.Conv2d(
            in_chans,
            old.out_channels,
            old.kernel_size,
            old.stride,
            old.padding,
            old.dilation,
            bias=old.bias is not None,
            padding_mode=old.padding_mode,
        )
        _put(network, first.name, fresh)
        if hasattr(network, "in_chans"):
            network.in_chans = in_chans  # type: ignore[assignment]
    return network, heads[0].name, head.in_features


def _plain(source: str, source_args: Mapping[str, Any]) -> nn.Module:
    library, _, name = source.partition("/")
    if library not in LIBRARIES or not name.replace("_", "").replace(".", "").isalnum():
        raise ValueError(f"converted: source must be LIBRARY/NAME with one of {', '.join(LIBRARIES)}, got {source!r}")
    # A checkpoint names the source and its arguments, and may come from anybody.
    if outside := sorted(_OUTSIDE & set(source_args)):
        raise ValueError(f"converted: source_args must not name files or weights, got {', '.join(outside)}")
    if library == "csc_nets":
        return create_model(name, **source_args)
    try:
        made = importlib.import_module("torchvision.models" if library == "torchvision" else "timm")
    except ImportError as error:
        raise ValueError(f"converted: source={source!r} needs {library}: pip install {library}") from error
    # Detection and segmentation load weights of a backbone unless one says otherwise.
    if name not in (made.list_models(module=made) if library == "torchvision" else made.list_models()):
        raise ValueError(f"converted: {library} has no network {name!r}")
    if library == "torchvision":
        return made.get_model(name, weights=None, **source_args)  # type: ignore[no-any-return]
    return made.create_model(name, pretrained=False, **source_args)  # type: ignore[no-any-return]


def _put(network: nn.Module, name: str, module: nn.Module) -> None:
    owner, _, own = name.rpartition(".")
    setattr(network.get_submodule(owner), own, module)


@register_model
def converted(**overrides: Any) -> ConvertedClassifier:
    """A network of torchvision, timm or this package, converted."""
    return ConvertedClassifier(**overrides)
