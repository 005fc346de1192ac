"""Sparse autoencoders of this package for the tools of SAELens (pip install sae-lens)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from csc_nets.layers import PursuitSAE

__all__ = ["register_with_sae_lens", "to_sae_lens"]

ARCHITECTURE = "csc_nets_pursuit"


def register_with_sae_lens() -> tuple[type, type]:
    """Makes :class:`~csc_nets.layers.PursuitSAE` an architecture of SAELens, ``"csc_nets_pursuit"``.

    Their ``SAE.load_from_disk``, hooks and evaluations then take it. The config keeps the arguments of the layer.

    Returns:
        The classes of the autoencoder and of its config.

    Raises:
        ImportError: SAELens is not installed.
    """
    from sae_lens import SAE, SAEConfig, register_sae_class
    from sae_lens.registry import SAE_CLASS_REGISTRY

    if ARCHITECTURE in SAE_CLASS_REGISTRY:
        return SAE_CLASS_REGISTRY[ARCHITECTURE]

    @dataclass
    class PursuitSAELensConfig(SAEConfig):
        """``d_in``, ``d_sae`` and what SAELens needs; and the arguments of the layer."""

        k: int = 32
        encoder: Any = "top_k"
        pursuit: Any = "fista"
        steps: int = 4
        fit: bool = True

        @classmethod
        def architecture(cls) -> str:
            return ARCHITECTURE

    class PursuitSAELens(SAE[PursuitSAELensConfig]):  # type: ignore[misc]
        """A :class:`~csc_nets.layers.PursuitSAE` as SAELens calls one."""

        def initialize_weights(self) -> None:
            cfg = self.cfg
            options = {"k": cfg.k, "encoder": cfg.encoder, "pursuit": cfg.pursuit, "steps": cfg.steps, "fit": cfg.fit}
            self.sae = PursuitSAE(cfg.d_in, cfg.d_sae, **options).to(self.device, self.dtype).eval()

        def train(self, mode: bool = True) -> Any:
            super().train(mode)
            self.sae.eval()  # it is for inference
            return self

        def process_state_dict_for_loading(self, state_dict: dict[str, Any]) -> None:
            # They build it on the meta device; not all of its tensors are in a state dict.
            self.device = torch.device(self.cfg.device)
            self.initialize_weights()

        @property
        def W_dec(self) -> Tensor:  # their name
            """What an atom adds to the output, ``(d_sae, d_in)``."""
            return self.sae.coder.atoms * self.sae.scale

        @property
        def b_dec(self) -> Tensor:
            """The mean."""
            return self.sae.bias

        def get_activation_fn(self) -> Any:
            return torch.nn.Identity()  # the pursuit is the activation

        def encode(self, x: Tensor) -> Tensor:
            """Codes."""
            return self.hook_sae_acts_post(self.sae(self.hook_sae_input(self.reshape_fn_in(x.to(self.dtype)))))

        def decode(self, feature_acts: Tensor) -> Tensor:
            """Activations of codes."""
            return self.reshape_fn_out(self.hook_sae_recons(self.sae.synthesize(feature_acts)), self.d_head)

    register_sae_class(ARCHITECTURE, PursuitSAELens, PursuitSAELensConfig)
    return PursuitSAELens, PursuitSAELensConfig


def to_sae_lens(sae: PursuitSAE, **config: Any) -> Any:
    """The autoencoder of SAELens with the weights of one of this package.

    Args:
        sae: the autoencoder.
        **config: further fields of their config, such as ``metadata``.
    """
    cls, config_cls = register_with_sae_lens()
    layer, encoder = sae.coder, sae.encoder
    options = {
        "k": layer.penalty.k,
        "encoder": None if encoder is None else {"name": encoder.registered_name},
        "pursuit": layer.pursuit.registered_name if sae.pursues else None,
        "steps": layer.steps,
        "fit": sae.fit,
    }
    made = cls(config_cls(d_in=layer.in_features, d_sae=layer.out_features, **options, **config))
    made.sae.load_state_dict(sae.state_dict())
    return made.eval()
