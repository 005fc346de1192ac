"""A small classifier of sparse-coding stages, for images of 8 x 8 to 32 x 32 pixels."""

from collections.abc import Sequence
from typing import Any, Unpack

from torch import nn

from csc_nets.layers import CodingOptions, CSC2d
from csc_nets.layers.options import with_defaults
from csc_nets.models.image_classifier import ImageClassifier
from csc_nets.models.registry import register_model

__all__ = ["CSCSmall"]


class CSCSmall(ImageClassifier):
    """Layered sparse coding: each stage codes the batch-normalised code of the one before; 3 x 3 atoms.

    The first stage keeps the size of the image, each later one halves it. Codes are non-negative, so there is no other
    non-linearity: with ``pursuit="threshold"`` the network is a plain CNN whose ReLU precedes its batch norm.

    Args:
        num_classes: classes; 0 leaves the pooled features as output.
        in_chans: channels of the image.
        widths: atoms of each stage.
        drop_rate: dropout before the classifier.
        **options: of every coding layer, see :class:`~csc_nets.layers.CodingOptions`; four steps.

    Shape:
        - input ``(N, in_chans, H, W)``, any size
        - output: logits ``(N, num_classes)``
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 3,
        *,
        widths: Sequence[int] = (48, 96, 128),
        drop_rate: float = 0.0,
        **options: Unpack[CodingOptions],
    ) -> None:
        if not widths or min(widths) < 1:
            raise ValueError(f"widths must be at least one positive int, got {list(widths)}")
        stages = []
        previous = in_chans
        for i, width in enumerate(widths):
            csc = CSC2d(previous, width, 3, 1 if i == 0 else 2, 1, **with_defaults(options, steps=4))
            stages.append(nn.Sequential(csc, nn.BatchNorm2d(width)))
            previous = width
        super().__init__(
            stages,
            widths,
            [2**i for i in range(len(widths))],
            in_chans=in_chans,
            input_size=32,
            num_classes=num_classes,
            drop_rate=drop_rate,
        )


@register_model
def csc_small(**overrides: Any) -> CSCSmall:
    """Three stages, about 0.15 M parameters: the default network for small images."""
    return CSCSmall(**overrides)
