"""A classifier on scattering coefficients: a frame and moduli where others have learned layers."""

from typing import Any

from torch import nn

from csc_nets.layers import Scattering2d
from csc_nets.models.image_classifier import ImageClassifier
from csc_nets.models.registry import register_model

__all__ = ["ScatteringNet"]


class ScatteringNet(ImageClassifier):
    r"""Two orders of scattering, batch norm of each path, and a linear classifier on all positions.

    The only weights are the classifier's and the norm's (Bruna, Mallat, `Invariant Scattering Convolution Networks
    <https://arxiv.org/abs/1203.1513>`_, 2013, has an SVM in their place). Scattering averages over :math:`2^J` pixels
    and no further, so the classifier must know where features are: it sees the ``input_size`` / :math:`2^J` positions
    per axis. Images of other sizes run too, averaged over as many parts, with filters that are made anew in every
    forward pass: give ``input_size``.

    Args:
        num_classes: classes; 0 leaves the features as output.
        in_chans: channels of the image.
        scales: J; features lie on every :math:`2^J`-th pixel.
        angles: L, over half a turn.
        order: 1 or 2, of the scattering.
        bank: ``"morlet"`` or ``"wavelet"``, as for :class:`~csc_nets.layers.Scattering2d`. The Parseval frame keeps the
            energy, but its filters are wider in space, and classify a little worse.
        drop_rate: dropout before the classifier.
        input_size: height and width of the images, in pixels.

    Shape:
        - input ``(N, in_chans, H, W)``
        - output: logits ``(N, num_classes)``
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 3,
        *,
        scales: int = 2,
        angles: int = 8,
        order: int = 2,
        bank: str = "morlet",
        drop_rate: float = 0.0,
        input_size: int = 32,
    ) -> None:
        scattering = Scattering2d(scales, angles, order=order, bank=bank, input_size=input_size)
        width = in_chans * scattering.paths
        super().__init__(
            [nn.Sequential(scattering, nn.BatchNorm2d(width))],
            [width],
            [2**scales],
            in_chans=in_chans,
            input_size=input_size,
            num_classes=num_classes,
            drop_rate=drop_rate,
            grid=-(-input_size // 2**scales),
        )


@register_model
def scattering(**overrides: Any) -> ScatteringNet:
    """J = 2, L = 8, 81 paths: 156,016 parameters for 32 x 32 pixels and three channels, none of them in filters."""
    return ScatteringNet(**overrides)
