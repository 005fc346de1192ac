"""An autoencoder: multi-stage sparse coding and multi-stage deconvolution."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Unpack

from torch import Tensor, nn

from csc_nets.layers import CodingOptions, CSC2d, DeconvDecoder, Dictionary2d
from csc_nets.layers.options import with_defaults
from csc_nets.models.registry import register_model
from csc_nets.models.staged_encoder import StagedEncoder, stage_indices

__all__ = ["CSCAutoencoder"]


class CSCAutoencoder(StagedEncoder):
    r"""Encodes by stages of sparse coding, decodes by stages of synthesis.

    Encoder stage ``l`` codes the batch-normalised code of the stage before,

    .. math:: z_l = \arg\min_z \tfrac12 \|u_{l-1} - D_l z\|^2 + \lambda \|z\|_1, \qquad u_l = \mathrm{BN}(z_l)

    and decoder stage ``l`` maps back, :math:`\hat z_{l-1} = \max(D'_l \, \mathrm{BN}'(\hat z_l), 0)`, without the
    constraint at the image. The architecture follows the abstract of Dai et al., `Closed-Loop Transcription via
    Convolutional Sparse Coding <https://arxiv.org/abs/2302.09347>`_; its details are this package's.

    Args:
        in_chans: channels of the image.
        widths: atoms of each stage.
        kernel_size, stride, padding: of every stage, or one for each.
        signed_code: drop the constraint :math:`z \ge 0` in the last stage (non-negative features lie in one orthant).
        decoder: ``"separate"`` dictionaries, or ``"shared"``: :math:`D'_l = D_l`.
        detach_shared: with a shared decoder, treat its dictionaries as constants, so that only the encoder's use of
            them trains them. (In a game between encoder and decoder the two would pull at the same weights.)
        **options: of every coding layer, see :class:`~csc_nets.layers.CodingOptions`; four steps.

    Shape:
        - input ``(N, in_chans, H, W)``, any size that every stage has room for; with the default stages, every size
        - output: the same as the input
    """

    def __init__(
        self,
        in_chans: int = 3,
        *,
        widths: Sequence[int] = (32, 64, 128),
        kernel_size: int | Sequence[int] = 3,
        stride: int | Sequence[int] = 2,
        padding: int | Sequence[int] = 1,
        signed_code: bool = False,
        decoder: str = "separate",
        detach_shared: bool = False,
        **options: Unpack[CodingOptions],
    ) -> None:
        if not widths or min(widths) < 1:
            raise ValueError(f"widths must be at least one positive int, got {list(widths)}")
        if decoder not in ("separate", "shared"):
            raise ValueError(f"decoder must be 'separate' or 'shared', got {decoder!r}")
        if detach_shared and decoder != "shared":
            raise ValueError(f"detach_shared=True needs decoder='shared', got decoder={decoder!r}")
        kernels = per_stage("kernel_size", kernel_size, len(widths))
        strides = per_stage("stride", stride, len(widths))
        paddings = per_stage("padding", padding, len(widths))
        stages: list[nn.Module] = []
        dictionaries: list[Dictionary2d] = []
        reductions: list[int] = []
        previous = in_chans
        for i, width in enumerate(widths):
            csc = CSC2d(
                previous,
                width,
                kernels[i],
                strides[i],
                paddings[i],
                **with_defaults(options, steps=4, nonneg=not (signed_code and i == len(widths) - 1)),
            )
            assert isinstance(csc.dictionary, Dictionary2d)
            dictionaries.append(csc.dictionary)
            stages.append(nn.Sequential(csc) if i == 0 else nn.Sequential(nn.BatchNorm2d(previous), csc))
            reductions.append(math.prod(strides[: i + 1]))
            previous = width
        super().__init__(stages, widths, reductions, in_chans=in_chans, input_size=32)
        self.decoder: DeconvDecoder
        if decoder == "shared":
            self.decoder = SharedDecoder(dictionaries[::-1], detach_shared)
        else:
            channels = [in_chans, *widths]
            self.decoder = DeconvDecoder(channels[::-1], kernels[::-1], strides[::-1], paddings[::-1])

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruction of images ``(N, in_chans, H, W)``, of the same shape."""
        return self.reconstruct(x)

    def encode(self, x: Tensor) -> Tensor:
        """Code of the last stage ``(N, num_features, H', W')``; the same as ``forward_features``."""
        return self.forward_features(x)

    def decode(self, z: Tensor, output_size: Sequence[int] | None = None, *, stage: int = -1) -> Tensor:
        """Image of a code.

        Args:
            z: code of a stage, ``(N, widths[stage], H', W')``.
            output_size: height and width of the image in pixels; None takes the size of the code times the strides
                wherever that has a code of this size.
            stage: the stage that ``z`` is a code of.

        Returns:
            Images ``(N, in_chans, *output_size)``.

        Raises:
            ValueError: there is no such stage, or no image of that size has a code of this size.
        """
        (top,) = stage_indices([stage], len(self.stages))
        images: Tensor = self.decoder(z, output_size, start=len(self.stages) - 1 - top)
        return images

    def reconstruct(self, x: Tensor, stage: int = -1) -> Tensor:
        """Images as far as the code of ``stage`` keeps them: encoded up to it and decoded from it."""
        (z,) = self.forward_intermediates(x, [stage], intermediates_only=True)
        return self.decode(z, x.shape[2:], stage=stage)


class SharedDecoder(DeconvDecoder):
    """A decoder that synthesises with dictionaries of an encoder, which owns them; batch norms are its own.

    Args:
        dictionaries: from the deepest code to the signal.
        detach: treat the dictionaries as constants.
    """

    def __init__(self, dictionaries: Sequence[Dictionary2d], detach: bool) -> None:
        nn.Module.__init__(self)
        # A plain list: a module list would put the encoder's weights into the state dict a second time.
        self.dictionaries = [ConstantDictionary(d) if detach else d for d in dictionaries]  # type: ignore[assignment]
        self.norms = nn.ModuleList(nn.BatchNorm2d(d.out_channels) for d in dictionaries)
        self.reset_gains()


class ConstantDictionary:
    """Synthesis with a dictionary that gets no gradient from it."""

    def __init__(self, dictionary: Dictionary2d) -> None:
        self.dictionary = dictionary
        self.geometry, self.in_channels = dictionary.geometry, dictionary.in_channels
        self.out_channels = dictionary.out_channels

    def parameters(self) -> Iterator[nn.Parameter]:
        """Those of the dictionary."""
        return self.dictionary.parameters()

    def synthesis(self, z: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """As :meth:`Dictionary2d.synthesis`."""
        return self.dictionary.synthesis(z, output_size, self.dictionary.weight.detach())


def per_stage(name: str, value: int | Sequence[int], count: int) -> list[int]:
    """``value`` for each of ``count`` stages."""
    values = list(value) if isinstance(value, Sequence) else [value] * count
    if len(values) != count:
        raise ValueError(f"{name} must be one int or {count}, one for each stage, got {values}")
    return values


@register_model
def csc_autoencoder(**overrides: Any) -> CSCAutoencoder:
    """Three halving stages with a separate decoder, about 0.19 M parameters."""
    return CSCAutoencoder(**overrides)
