"""Autoencoders for closed-loop transcription: features on the sphere, images through tanh."""

import math
from collections.abc import Sequence
from typing import Any, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from csc_nets.layers import CodingOptions, Dictionary2d
from csc_nets.layers.options import with_defaults
from csc_nets.models.csc_autoencoder import CSCAutoencoder
from csc_nets.models.registry import register_model
from csc_nets.models.staged_encoder import StagedEncoder, stage_indices

__all__ = ["CSCClosedLoop", "ClosedLoop", "ConvClosedLoop"]


class ClosedLoop(StagedEncoder):
    """What the two kinds share: the ends of the loop, and whose parameters are whose."""

    def forward(self, x: Tensor) -> Tensor:
        """What the loop makes of images ``(N, in_chans, H, W)``, of the same shape, in [-1, 1]."""
        return self.decode(self.encode(x), x.shape[2:])

    def encode(self, x: Tensor) -> Tensor:
        """Features ``(N, d)`` on the unit sphere; d is ``num_features`` at the size that the network is made for.

        Of a code of zeros, under a large ``lam``, they are zero.
        """
        code = self.forward_features(x).flatten(1)
        return F.normalize(code.float(), dim=1).to(code.dtype) if code.dtype == torch.float16 else F.normalize(code)

    def decode(self, z: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """Images in [-1, 1] of features.

        Args:
            z: features ``(N, d)``.
            output_size: height and width of the images in pixels; None for those that the network is made for.

        Raises:
            ValueError: no image of that size has so many features.
        """
        size = (self.input_size, self.input_size) if output_size is None else tuple(output_size)
        places = self.code_size(size)
        wanted = self.num_features * math.prod(places)
        if z.ndim != 2 or z.shape[1] != wanted:
            name = self.model_name or type(self).__name__
            raise ValueError(f"{name}: images of {size} have features (N, {wanted}), got {tuple(z.shape)}")
        return torch.tanh(self.synthesize(z.view(-1, self.num_features, *places), size))

    def code_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """Height and width of the last stage's output for images of this size."""
        raise NotImplementedError

    def synthesize(self, z: Tensor, size: Sequence[int], stage: int = -1) -> Tensor:
        """Images before tanh of a code of a stage, ``(N, M, H', W')``."""
        raise NotImplementedError

    def reconstruct(self, x: Tensor, stage: int = -1) -> Tensor:
        """Images as far as the code of ``stage`` keeps them; the last stage's is the whole loop."""
        (chosen,) = stage_indices([stage], len(self.stages))
        if chosen == len(self.stages) - 1:
            whole: Tensor = self(x)
            return whole
        (z,) = self.forward_intermediates(x, [chosen], intermediates_only=True)
        return torch.tanh(self.synthesize(z, x.shape[2:], chosen))

    def players(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Parameters of the encoder and of the decoder, the two players of the game."""
        encoder = list(self.stages.parameters())
        theirs = {id(p) for p in encoder}
        return encoder, [p for p in self.parameters() if id(p) not in theirs]


class CSCClosedLoop(ClosedLoop):
    r"""Multi-stage sparse coding onto the sphere, and multi-stage synthesis back.

    After Dai et al., `Closed-Loop Transcription via Convolutional Sparse Coding <https://arxiv.org/abs/2302.09347>`_.
    Its details are not published: ours are the stages of :class:`CSCAutoencoder`, with the sizes of the networks of the
    authors' earlier `CTRL <https://arxiv.org/abs/2111.06636>`_, halving stages of 4 x 4 atoms and a last one that sees
    the whole image. Its code is signed, or all features would lie in one orthant.

    Args:
        in_chans: channels of the image.
        widths: atoms of the halving stages.
        features: atoms of the last stage, the dimension d of the features.
        decoder: ``"separate"`` dictionaries, or ``"shared"``, those of the encoder. In the game the two players would
            pull shared dictionaries in opposite directions; so the decoder takes them as constants.
        input_size: height and width of the images that it is made for, in pixels: a multiple of ``2**len(widths)``.
        **options: of every coding layer, see :class:`~csc_nets.layers.CodingOptions`. :meth:`set_lam` changes ``lam``
            at test time, too.

    Shape:
        - input ``(N, in_chans, H, W)``, pixels from -1 to 1; larger images have more features
        - output: the same
    """

    def __init__(
        self,
        in_chans: int = 3,
        *,
        widths: Sequence[int] = (64, 128, 256),
        features: int = 128,
        decoder: str = "separate",
        input_size: int = 32,
        **options: Unpack[CodingOptions],
    ) -> None:
        last = _last_kernel(widths, input_size)
        both = CSCAutoencoder(
            in_chans,
            widths=[*widths, features],
            kernel_size=[4] * len(widths) + [last],
            stride=[2] * len(widths) + [1],
            padding=[1] * len(widths) + [0],
            **with_defaults(options, steps=2),
            signed_code=True,
            decoder=decoder,
            detach_shared=decoder == "shared",
        )
        super().__init__(
            list(both.stages),
            [*widths, features],
            _reductions(widths),
            in_chans=in_chans,
            input_size=input_size,
        )
        self.decoder = both.decoder
        self.decoder.norms[0] = nn.Identity()  # features on the sphere need no norm, and a single image has no batch
        for dictionary in self.modules():
            if isinstance(dictionary, Dictionary2d):
                # Only the directions of its tensors count, and Adam's steps, of a rate r an entry, are as long whatever
                # their norm. Entries of size s grow like (s^2 + r^2 t)^(1/2) in t steps, so that atoms turn by
                # (t + (s / r)^2)^(-1/2) a step: from a large s hardly at all, from a small one as fast at any rate.
                original = dictionary.get_parameter("parametrizations.weight.original")
                original.data.copy_(_ENTRY * math.sqrt(original[0].numel()) * dictionary.weight.detach())

    def code_size(self, size: Sequence[int]) -> tuple[int, ...]:
        for dictionary in reversed(list(self.decoder.dictionaries)):
            size = dictionary.geometry.code_size(size)  # type: ignore[union-attr, operator]
        return tuple(size)

    def synthesize(self, z: Tensor, size: Sequence[int], stage: int = -1) -> Tensor:
        (chosen,) = stage_indices([stage], len(self.stages))
        images: Tensor = self.decoder(z, size, start=len(self.stages) - 1 - chosen)
        return images


class ConvClosedLoop(ClosedLoop):
    """The same sizes with convolutions, batch norms and leaky ReLUs, and transposed convolutions: the baseline.

    The networks for small images of Dai et al., `CTRL <https://arxiv.org/abs/2111.06636>`_ (after DCGAN): no batch norm
    behind the first convolution, no biases, weights drawn from N(0, 0.02).

    Args:
        in_chans: channels of the image.
        widths: channels of the halving stages.
        features: dimension d of the features.
        input_size: height and width of the images, in pixels: a multiple of ``2**len(widths)``.

    Shape:
        - input ``(N, in_chans, H, W)``, pixels from -1 to 1, as :class:`CSCClosedLoop`
        - output: the same
    """

    def __init__(
        self,
        in_chans: int = 3,
        *,
        widths: Sequence[int] = (64, 128, 256),
        features: int = 128,
        input_size: int = 32,
    ) -> None:
        last = _last_kernel(widths, input_size)
        channels = [in_chans, *widths]
        stages: list[nn.Module] = []
        for i, (before, width) in enumerate(zip(channels[:-1], widths, strict=True)):
            norm = [nn.BatchNorm2d(width)] if i else []
            stages.append(nn.Sequential(nn.Conv2d(before, width, 4, 2, 1, bias=False), *norm, nn.LeakyReLU(0.2)))
        stages.append(nn.Sequential(nn.Conv2d(widths[-1], features, last, bias=False)))
        super().__init__(
            stages,
            [*widths, features],
            _reductions(widths),
            in_chans=in_chans,
            input_size=input_size,
        )
        self.transposed = nn.ModuleList([nn.ConvTranspose2d(features, widths[-1], last, bias=False)])
        for before, width in zip(channels[:0:-1], channels[-2::-1], strict=True):
            self.transposed.append(nn.ConvTranspose2d(before, width, 4, 2, 1, bias=False))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in channels[:0:-1])
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(module.weight, 0, 0.02)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1, 0.02)

    def code_size(self, size: Sequence[int]) -> tuple[int, ...]:
        halvings = len(self.stages) - 1
        return tuple(n // 2**halvings - self.input_size // 2**halvings + 1 for n in size)

    def synthesize(self, z: Tensor, size: Sequence[int], stage: int = -1) -> Tensor:
        (chosen,) = stage_indices([stage], len(self.stages))
        start = len(self.stages) - 1 - chosen
        sizes = [tuple(n // 2**i for n in size) for i in range(len(self.stages))][::-1]
        for i in range(start, len(self.transposed)):
            z = self.transposed[i](z, sizes[i])
            if i < len(self.norms):
                z = F.relu(self.norms[i](z))
        return z


_ENTRY = 0.002
"""Root mean square of the entries that dictionaries start from."""


def _reductions(widths: Sequence[int]) -> list[int]:
    """The last stage does not halve."""
    halvings = [*range(1, len(widths) + 1), len(widths)]
    return [2**n for n in halvings]


def _last_kernel(widths: Sequence[int], input_size: int) -> int:
    """Size of what the halving stages leave of the image, which one atom of the last stage covers."""
    if not widths or min(widths) < 1:
        raise ValueError(f"widths must be at least one positive int, got {list(widths)}")
    total = 1 << len(widths)
    if input_size < 1 or input_size % total:
        raise ValueError(f"input_size must be a multiple of {total}, got {input_size}")
    return input_size // total


_SIZES: dict[int, dict[str, Any]] = {
    32: {"widths": (64, 128, 256), "features": 128},
    64: {"widths": (64, 128, 256, 512), "features": 128},
    128: {"widths": (64, 128, 256, 512, 1024), "features": 256},
    224: {"widths": (64, 128, 256, 512, 1024), "features": 256},
}


@register_model
def csc_ctrl_32(**overrides: Any) -> CSCClosedLoop:
    """Images of 32 x 32 pixels, features in 128 dimensions."""
    return CSCClosedLoop(**{**_SIZES[32], "input_size": 32, **overrides})


@register_model
def csc_ctrl_64(**overrides: Any) -> CSCClosedLoop:
    """Images of 64 x 64 pixels, features in 128 dimensions."""
    return CSCClosedLoop(**{**_SIZES[64], "input_size": 64, **overrides})


@register_model
def csc_ctrl_128(**overrides: Any) -> CSCClosedLoop:
    """Images of 128 x 128 pixels, features in 256 dimensions."""
    return CSCClosedLoop(**{**_SIZES[128], "input_size": 128, **overrides})


@register_model
def csc_ctrl_224(**overrides: Any) -> CSCClosedLoop:
    """Images of 224 x 224 pixels, features in 256 dimensions."""
    return CSCClosedLoop(**{**_SIZES[224], "input_size": 224, **overrides})


@register_model
def conv_ctrl_32(**overrides: Any) -> ConvClosedLoop:
    """The baseline of ``csc_ctrl_32``: 1,182,720 weights of convolutions a side."""
    return ConvClosedLoop(**{**_SIZES[32], "input_size": 32, **overrides})


@register_model
def conv_ctrl_64(**overrides: Any) -> ConvClosedLoop:
    """The baseline of ``csc_ctrl_64``."""
    return ConvClosedLoop(**{**_SIZES[64], "input_size": 64, **overrides})


@register_model
def conv_ctrl_224(**overrides: Any) -> ConvClosedLoop:
    """The baseline of ``csc_ctrl_224``."""
    return ConvClosedLoop(**{**_SIZES[224], "input_size": 224, **overrides})


@register_model
def conv_ctrl_128(**overrides: Any) -> ConvClosedLoop:
    """The baseline of ``csc_ctrl_128``."""
    return ConvClosedLoop(**{**_SIZES[128], "input_size": 128, **overrides})
