"""Somebody's own network, converted: so that it trains from the command line and comes back from a checkpoint."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from csc_nets.conversion import convert, freeze_dictionaries
from csc_nets.models.image_classifier import ImageClassifier
from csc_nets.models.registry import register_model
from csc_nets.models.source_network import Trunk, as_source_args, headless

__all__ = ["ConvertedClassifier"]


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
        self._source = (source, as_source_args(source_args), in_chans)
        self._options = {"where": where, "steps": steps, "lam": lam, **parts}
        network, _, features = headless(*self._source)
        network, _ = convert(network, inplace=True, **self._options)
        if freeze:
            freeze_dictionaries(network)
        super().__init__(
            [Trunk(network)], [features], [224], in_chans=in_chans, input_size=224, num_classes=num_classes
        )

    def adapted(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """A state dict of this network from one of its source; any other as it is."""
        network, head, _ = headless(*self._source)
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


@register_model
def converted(**overrides: Any) -> ConvertedClassifier:
    """A network of torchvision, timm or this package, converted."""
    return ConvertedClassifier(**overrides)
