"""ResNet: the baseline of SDNet, with the same widths, depths and stems."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import nn

from csc_nets.models.registry import register_model
from csc_nets.models.residual import ResidualBlock, ResidualNetwork

__all__ = ["SMALL", "ResNet"]

# Channels of CIFAR's own family (He et al., section 4.2), with 1 x 1 shortcuts where the width changes.
SMALL = (16, 32, 64)


class ResNet(ResidualNetwork):
    """Convolution, batch norm and ReLU; He et al., `Deep Residual Learning <https://arxiv.org/abs/1512.03385>`_, 2015.

    Args:
        num_classes: classes; 0 leaves the pooled features as output.
        in_chans: channels of the image.
        stem: ``"cifar"``, a 3 x 3 convolution; or ``"imagenet"``, 7 x 7 with stride 2 and max-pooling.
        widths: channels of the stages.
        depths: blocks in each stage.
        drop_rate: dropout before the classifier.

    Shape:
        - input ``(N, in_chans, H, W)``, any size
        - output: logits ``(N, num_classes)``
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 3,
        *,
        stem: str = "cifar",
        widths: Sequence[int] = (64, 128, 256, 512),
        depths: Sequence[int] = (2, 2, 2, 2),
        drop_rate: float = 0.0,
    ) -> None:
        conv = partial(nn.Conv2d, bias=False)
        super().__init__(
            num_classes,
            in_chans,
            stem=stem,
            stem_layer=conv,
            stem_act=nn.ReLU,
            halve=max_pool,
            block=partial(ResidualBlock, layer=conv, inner=nn.ReLU),
            widths=widths,
            depths=depths,
            drop_rate=drop_rate,
        )


def max_pool(in_channels: int, out_channels: int, kernel_size: int, stride: int, padding: int) -> nn.Module:
    """Max-pooling, called as a layer."""
    return nn.MaxPool2d(kernel_size, stride, padding)


@register_model
def resnet18(**overrides: Any) -> ResNet:
    """ResNet-18, the baseline of SDNet-18."""
    return ResNet(**overrides)


@register_model
def resnet34(**overrides: Any) -> ResNet:
    """ResNet-34, the baseline of SDNet-34."""
    return ResNet(**{"depths": (3, 4, 6, 3), **overrides})


@register_model
def resnet20(**overrides: Any) -> ResNet:
    """ResNet-20 of CIFAR's own family, 0.27 million parameters."""
    return ResNet(**{"widths": SMALL, "depths": (3, 3, 3), **overrides})


@register_model
def resnet32(**overrides: Any) -> ResNet:
    """ResNet-32 of CIFAR's own family, 0.47 million parameters."""
    return ResNet(**{"widths": SMALL, "depths": (5, 5, 5), **overrides})
