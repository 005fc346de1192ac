"""A trained network in which the activations of one layer go through a sparse code."""

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from csc_nets.layers import ActivationCoder, CodingOptions, PursuitSAE, PursuitSAE2d
from csc_nets.layers.leaf import leaf
from csc_nets.models.image_classifier import ImageClassifier
from csc_nets.models.registry import register_model
from csc_nets.models.source_network import Trunk, as_source_args, headless, put

__all__ = ["CodedActivations", "PatchedLayer"]


class PatchedLayer(nn.Module):
    """A layer whose output is replaced by what a sparse code says of it.

    Args:
        layer: the layer.
        sae: codes its output.

    Attributes:
        patched: False hands the output on as it is.
    """

    def __init__(self, layer: nn.Module, sae: ActivationCoder) -> None:
        super().__init__()
        self.layer, self.sae, self.patched = layer, sae, True

    @leaf
    def forward(self, x: Tensor, *others: Any, **named: Any) -> Tensor:
        """The reconstruction of the output."""
        output: Tensor = self.layer(x, *others, **named)
        return self.sae.reconstruct(output) if self.patched else output


class _Seen(Exception):  # no error: what was asked for is there
    """Ends a forward pass at the layer that is looked at."""


class CodedActivations(ImageClassifier):
    """A classifier of this package, torchvision or timm with a sparse autoencoder behind one of its layers.

    ``forward`` patches the reconstruction in, so that the accuracy of this network says what the code keeps of what the
    network needs. ``task=activations`` trains the autoencoder. The source comes without weights;
    ``create_model(..., checkpoint_path=file)`` takes a state dict of this network, or of the source.

    Args:
        num_classes: classes; 0 leaves the features as output.
        in_chans: channels of the image.
        source, source_args: as for :class:`~csc_nets.models.ConvertedClassifier`.
        layer: name of the layer, ``"stages.1"`` for instance.
        atoms: number of atoms.
        kernel_size: of the atoms on feature maps with the channels in front; maps ``(N, H, W, C)``, such as those of
            Swin, are coded position by position, like tokens.
        k, encoder, fit: see :class:`~csc_nets.layers.PursuitSAE`.
        freeze: keep the source from training, in evaluation mode.
        look_size: height and width of the image with which the layer's output is looked at when the network is built.
        **options: of the coding, see :class:`~csc_nets.layers.CodingOptions`.

    Raises:
        ValueError: there is no such layer, its output is neither a map nor tokens, or what the parts refuse.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 3,
        *,
        source: str = "csc_nets/resnet18",
        source_args: Mapping[str, Any] | None = None,
        layer: str = "stages.1",
        atoms: int = 1024,
        kernel_size: int | Sequence[int] = 1,
        k: int = 32,
        encoder: str | Mapping[str, Any] | None = "top_k",
        fit: bool = True,
        freeze: bool = True,
        look_size: int = 64,
        **options: Unpack[CodingOptions],
    ) -> None:
        self._source, self.layer_name = (source, as_source_args(source_args), in_chans), layer
        network, _, features = headless(*self._source)
        if isinstance(look_size, bool) or not isinstance(look_size, int) or look_size < 1:
            raise ValueError(f"look_size must be an int >= 1, got {look_size!r}")
        modules = dict(network.named_modules())
        if layer not in modules or not layer:
            raise ValueError(f"layer must name a part of {source}, such as {list(modules)[1:4]}, got {layer!r}")
        seen = _output(network, modules[layer], torch.zeros(1, in_chans, look_size, look_size))
        if seen.ndim == 4 and len(set(seen.shape[1:])) == 1:  # space grows with the image, channels do not
            seen = _output(network, modules[layer], torch.zeros(1, in_chans, 2 * look_size, 2 * look_size))
        given: Any = {"k": k, "encoder": encoder, "fit": fit, **options}
        sae: ActivationCoder
        channels_last = (
            seen.ndim == 4 and seen.shape[1] == seen.shape[2] != seen.shape[3]
        )  # (N, H, W, C) of a square image
        if seen.ndim == 4 and not channels_last:
            size = kernel_size if isinstance(kernel_size, int) else tuple(kernel_size)
            sae = PursuitSAE2d(seen.shape[1], atoms, size, padding="same", **given)
        elif seen.ndim == 3 or channels_last:
            sae = PursuitSAE(seen.shape[-1], atoms, **given)
        else:
            raise ValueError(f"layer {layer!r} must return maps or tokens, got the shape {tuple(seen.shape)}")
        put(network, layer, PatchedLayer(modules[layer], sae))
        super().__init__(
            [Trunk(network)], [features], [224], in_chans=in_chans, input_size=224, num_classes=num_classes
        )
        self.freeze = freeze
        if freeze:
            for parameter in self.parameters():
                parameter.requires_grad_(False)
            for parameter in self.sae.parameters():
                parameter.requires_grad_(True)
            self.train()

    @property
    def patch(self) -> PatchedLayer:
        """The layer with its code."""
        return self.stages[0].network.get_submodule(self.layer_name)  # type: ignore[union-attr, return-value]

    @property
    def sae(self) -> ActivationCoder:
        """The autoencoder."""
        return self.patch.sae

    def train(self, mode: bool = True) -> "CodedActivations":
        """Of a frozen source only the autoencoder trains."""
        super().train(mode)
        if getattr(self, "freeze", False):
            self.stages.eval()
            self.sae.train(mode)
        return self

    @torch.no_grad()
    def activations(self, x: Tensor) -> Tensor:
        """Outputs of the layer for images; the network ends there."""
        return _output(self.stages[0], self.patch.layer, x)

    def no_weight_decay(self) -> set[str]:
        """As for every network, and all of the autoencoder."""
        own = {id(parameter) for parameter in self.sae.parameters()}
        return super().no_weight_decay() | {name for name, p in self.named_parameters() if id(p) in own}

    def unpatched(self, x: Tensor) -> Tensor:
        """Logits of the network as it was."""
        self.patch.patched = False
        try:
            output: Tensor = self(x)
            return output
        finally:
            self.patch.patched = True

    def adapted(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """A state dict of this network from one of its source; any other as it is."""
        source, head, _ = headless(*self._source)
        if any(key.startswith("stages.0.network.") for key in state) or not source.state_dict().keys() <= state.keys():
            return state
        found = dict(self.state_dict())
        for key in source.state_dict():
            inner = f"{self.layer_name}.layer{key.removeprefix(self.layer_name)}"
            found[f"stages.0.network.{inner if key.startswith(self.layer_name + '.') else key}"] = state[key]
        return found | {f"fc.{kind}": state[f"{head}.{kind}"] for kind in ("weight", "bias")}


def _output(network: nn.Module, layer: nn.Module, x: Tensor) -> Tensor:
    """What a layer of a network returns for images."""
    kept: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
        kept.append(output)
        raise _Seen

    handle, training = layer.register_forward_hook(keep), network.training
    try:
        with torch.no_grad():
            network.eval()(x)
    except _Seen:
        pass
    finally:
        handle.remove()
        network.train(training)
    if kept and not isinstance(kept[0], Tensor):
        raise ValueError(f"the layer must return a tensor, got {type(kept[0]).__name__}")
    if len(kept) != 1:
        raise ValueError("the layer took no part in the forward pass of its network")
    return kept[0]


@register_model
def coded_activations(**overrides: Any) -> CodedActivations:
    """A network with a sparse autoencoder behind one of its layers."""
    return CodedActivations(**overrides)
