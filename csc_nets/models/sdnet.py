"""SDNet: residual networks whose convolutions solve a sparse-coding problem."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Unpack

from torch import nn

from csc_nets.layers import CodingOptions, CSC2d
from csc_nets.models.registry import register_model
from csc_nets.models.residual import Layer, ResidualBlock, ResidualNetwork
from csc_nets.models.resnet import SMALL, max_pool

__all__ = ["SDNet"]


class SDNet(ResidualNetwork):
    r"""A residual network in which the first or all of the 3 x 3 convolutions are sparse-coding layers.

    Dai et al., `Revisiting Sparse Convolutional Model for Visual Recognition <https://arxiv.org/abs/2210.12945>`_.

    .. math:: z = \arg\min_{z \ge 0} \tfrac12 \|x - D z\|^2 + \lambda \|z\|_1, \qquad x \leftarrow \mathrm{BN}(z)

    A non-negative code needs no ReLU. 1 x 1 shortcuts stay plain convolutions. The published networks take two steps,
    where FISTA and ISTA agree.

    Args:
        num_classes: classes; 0 leaves the pooled features as output.
        in_chans: channels of the image.
        coding: ``"stem"`` codes the first layer, ``"all"`` the 3 x 3 layers of the blocks too.
        stem: ``"cifar"``, a 3 x 3 layer; or ``"imagenet"``, 7 x 7 with stride 2, batch norm and a second halving:
            max-pooling, or with ``coding="all"`` a coded 3 x 3 layer without batch norm.
        shortcut: whether blocks have one (``coding="all"`` only); without it the network has no ReLU at all.
        widths: channels of the stages.
        depths: blocks in each stage.
        drop_rate: dropout before the classifier.
        **options: of every coding layer, see :class:`~csc_nets.layers.CodingOptions`.

    Shape:
        - input ``(N, in_chans, H, W)``, any size
        - output: logits ``(N, num_classes)``
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 3,
        *,
        coding: str = "all",
        stem: str = "cifar",
        shortcut: bool = True,
        widths: Sequence[int] = (64, 128, 256, 512),
        depths: Sequence[int] = (2, 2, 2, 2),
        drop_rate: float = 0.0,
        **options: Unpack[CodingOptions],
    ) -> None:
        if coding not in ("stem", "all"):
            raise ValueError(f"coding must be 'stem' or 'all', got {coding!r}")
        if not shortcut and coding != "all":
            raise ValueError(f"shortcut=False needs coding='all', got coding={coding!r}")
        csc: Layer = partial(CSC2d, **options)
        coded = coding == "all"
        layer: Layer = csc if coded else partial(nn.Conv2d, bias=False)
        super().__init__(
            num_classes,
            in_chans,
            stem=stem,
            stem_layer=csc,
            stem_act=nn.Identity,
            halve=csc if coded else max_pool,
            block=partial(ResidualBlock, layer=layer, inner=nn.Identity if coded else nn.ReLU, shortcut=shortcut),
            widths=widths,
            depths=depths,
            drop_rate=drop_rate,
        )


@register_model
def sdnet18(**overrides: Any) -> SDNet:
    """SDNet-18: ResNet-18 with a coded stem."""
    return SDNet(**{"coding": "stem", **overrides})


@register_model
def sdnet34(**overrides: Any) -> SDNet:
    """SDNet-34: ResNet-34 with a coded stem."""
    return SDNet(**{"coding": "stem", "depths": (3, 4, 6, 3), **overrides})


@register_model
def sdnet18_all(**overrides: Any) -> SDNet:
    """SDNet-18-all: every 3 x 3 layer coded; 17 coded layers, 18 with the ImageNet stem."""
    return SDNet(**overrides)


@register_model
def sdnet34_all(**overrides: Any) -> SDNet:
    """SDNet-34-all: every 3 x 3 layer coded; 33 coded layers, 34 with the ImageNet stem."""
    return SDNet(**{"depths": (3, 4, 6, 3), **overrides})


@register_model
def sdnet20(**overrides: Any) -> SDNet:
    """SDNet-20: ResNet-20 with a coded stem."""
    return SDNet(**{"coding": "stem", "widths": SMALL, "depths": (3, 3, 3), **overrides})


@register_model
def sdnet20_all(**overrides: Any) -> SDNet:
    """SDNet-20-all: ResNet-20 with every 3 x 3 layer coded, 19 layers."""
    return SDNet(**{"widths": SMALL, "depths": (3, 3, 3), **overrides})


@register_model
def sdnet32_all(**overrides: Any) -> SDNet:
    """SDNet-32-all: ResNet-32 with every 3 x 3 layer coded, 31 layers."""
    return SDNet(**{"widths": SMALL, "depths": (5, 5, 5), **overrides})
