"""The frame of residual networks, whatever their layers compute: stem, stages of two-layer blocks, classifier."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from csc_nets.models.image_classifier import ImageClassifier

__all__ = ["Layer", "ResidualBlock", "ResidualNetwork"]

Layer = Callable[..., nn.Module]
"""What builds a layer, called as ``nn.Conv2d``: in_channels, out_channels, kernel_size, stride, padding."""


class ResidualBlock(nn.Module):
    """Two 3 x 3 layers with batch norm, added to a shortcut.

    Args:
        in_channels: channels before the block.
        channels: channels after each layer.
        stride: stride of the first layer.
        layer: builds the 3 x 3 layers: ``nn.Conv2d`` or a sparse-coding layer.
        inner: builds what follows the first batch norm: ReLU after a convolution, the identity after sparse coding.
        shortcut: add the input (through a 1 x 1 convolution where the shapes differ) and apply ReLU; else the block
            ends with its last batch norm.
    """

    def __init__(
        self, in_channels: int, channels: int, stride: int, *, layer: Layer, inner: Layer, shortcut: bool = True
    ) -> None:
        super().__init__()
        self.body = nn.Sequential(
            layer(in_channels, channels, 3, stride, 1),
            nn.BatchNorm2d(channels),
            inner(),
            layer(channels, channels, 3, 1, 1),
            nn.BatchNorm2d(channels),
        )
        self.shortcut: nn.Module | None = None
        if shortcut and stride == 1 and in_channels == channels:
            self.shortcut = nn.Identity()
        elif shortcut:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )
        if shortcut:
            self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_channels, H, W)`` to ``(N, channels, H / stride, W / stride)``, sizes rounded up."""
        y: Tensor = self.body(x)
        if self.shortcut is not None:
            y = self.act(y + self.shortcut(x))
        return y


class ResidualNetwork(ImageClassifier):
    """Stem, stages of blocks, classifier.

    He et al., `Deep Residual Learning for Image Recognition <https://arxiv.org/abs/1512.03385>`_, 2015.

    Args:
        num_classes: classes; 0 leaves the pooled features as output.
        in_chans: channels of the image.
        stem: ``"cifar"``, a 3 x 3 layer; or ``"imagenet"``, a 7 x 7 layer of stride 2 and then ``halve``.
        stem_layer: builds the first layer.
        stem_act: builds what follows its batch norm.
        halve: builds what takes the place of max-pooling, called as a layer.
        block: builds a block from ``in_channels, channels, stride``.
        widths: channels of the stages; the stem has those of the first.
        depths: blocks in each stage.
        drop_rate: dropout before the classifier.
    """

    def __init__(
        self,
        num_classes: int,
        in_chans: int,
        *,
        stem: str,
        stem_layer: Layer,
        stem_act: Layer,
        halve: Layer,
        block: Layer,
        widths: Sequence[int],
        depths: Sequence[int],
        drop_rate: float,
    ) -> None:
        if stem not in ("cifar", "imagenet"):
            raise ValueError(f"stem must be 'cifar' or 'imagenet', got {stem!r}")
        if not depths or len(widths) != len(depths) or min(*widths, *depths) < 1:
            raise ValueError(
                f"widths and depths must be positive and equally many, got {list(widths)} and {list(depths)}"
            )
        kernel, stride = (3, 1) if stem == "cifar" else (7, 2)
        entry = [
            stem_layer(in_chans, widths[0], kernel, stride, kernel // 2),
            nn.BatchNorm2d(widths[0]),
            stem_act(),
        ]
        if stem == "imagenet":
            entry.append(halve(widths[0], widths[0], 3, 2, 1))
        stages: list[nn.Module] = [nn.Sequential(*entry)]
        reductions = [stride**2]
        previous = widths[0]
        for i, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            blocks = []
            for j in range(depth):
                blocks.append(block(previous, width, 2 if i > 0 and j == 0 else 1))
                previous = width
            stages.append(nn.Sequential(*blocks))
            reductions.append(reductions[-1] * (1 if i == 0 else 2))
        super().__init__(
            stages,
            [widths[0], *widths],
            reductions,
            in_chans=in_chans,
            input_size=32 if stem == "cifar" else 224,
            num_classes=num_classes,
            drop_rate=drop_rate,
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
