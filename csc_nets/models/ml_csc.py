"""Classifiers on the codes of a multi-layer sparse model, and the plain CNN of the same depth and computation."""

import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from csc_nets.layers import Dictionary2d, MultiLayerCSC
from csc_nets.layers.multi_layer_pursuits import as_multi_layer_pursuit
from csc_nets.models.csc_autoencoder import per_stage
from csc_nets.models.image_classifier import ImageClassifier
from csc_nets.models.registry import register_model

__all__ = ["MLCSC", "DeepCNN"]


class MLCSC(ImageClassifier):
    """A multi-layer pursuit, convolutions on its deepest code, a linear classifier.

    Sulam, Aberdam, Beck, Elad, `On Multi-Layer Basis Pursuit, Efficient Algorithms and Convolutional Neural Networks
    <https://arxiv.org/abs/1806.00701>`_. Plain weights (no unit norm), a learned bias for each atom, and where the
    dictionaries are tied a learned step size for each layer, from 1 on; ``steps=0`` is a plain CNN. No batch norm.

    Args:
        num_classes: classes; 0 leaves the pooled features as output.
        in_chans: channels of the image.
        widths: atoms of each layer of the pursuit.
        kernel_size, stride, padding: of every layer of the pursuit, or one for each.
        head_widths: channels of 3 x 3 convolutions with ReLU on the deepest code, from the second on with 2 x 2
            max-pooling.
        pursuit: one of those of :class:`~csc_nets.layers.MultiLayerCSC`.
        steps: unfoldings.
        lam: sparsity weight beside the learned biases.
        drop_rate: dropout before the classifier.
        input_size: height and width of the images that the shapes are made for, in pixels.

    Shape:
        - input ``(N, in_chans, H, W)``
        - output: logits ``(N, num_classes)``; positions that are left after the last layer are averaged
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 3,
        *,
        widths: Sequence[int] = (32, 64, 512),
        kernel_size: int | Sequence[int] = (6, 6, 4),
        stride: int | Sequence[int] = (2, 2, 1),
        padding: int | Sequence[int] = 0,
        head_widths: Sequence[int] = (),
        pursuit: str = "ml_fista",
        steps: int = 6,
        lam: float = 0.0,
        drop_rate: float = 0.0,
        input_size: int = 28,
    ) -> None:
        shapes = _shapes(in_chans, widths, kernel_size, stride, padding)
        rule = as_multi_layer_pursuit(pursuit)
        layer = MultiLayerCSC(
            [Dictionary2d(*shape, unit_norm=False) for shape in shapes],
            pursuit=pursuit,
            steps=steps,
            lam=lam,
            bias=True,
            step_size=1.0,
            learn_step=not (rule.feedforward or rule.untied),
        )
        # The published one: step sizes of 1 are then far below 2 / L.
        for dictionary in layer.modules():
            if isinstance(dictionary, Dictionary2d):
                nn.init.normal_(dictionary.weight, std=0.1 / math.sqrt(dictionary.weight[0].numel()))
                dictionary.refresh()
        stages: list[nn.Module] = [layer]
        reductions = [math.prod(shape[3] for shape in shapes)]
        previous = widths[-1]
        for i, width in enumerate(head_widths):
            convolution = nn.Conv2d(previous, width, 3, padding=1)
            nn.init.normal_(convolution.weight, std=1 / math.sqrt(9 * previous))
            nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
            pool = [nn.MaxPool2d(2, ceil_mode=True)] if i else []
            stages.append(nn.Sequential(convolution, nn.ReLU(), *pool))
            reductions.append(reductions[-1] * (2 if i else 1))
            previous = width
        super().__init__(
            stages,
            [widths[-1], *head_widths],
            reductions,
            in_chans=in_chans,
            input_size=input_size,
            num_classes=num_classes,
            drop_rate=drop_rate,
        )


class DeepCNN(ImageClassifier):
    """A plain CNN as deep as an unfolded :class:`MLCSC`: what more layers give without their being a pursuit.

    Each stage is the convolution of the pursuit's layer followed by two convolutions for each unfolding, which a
    pursuit spends on a synthesis and an analysis: 3 x 3, or 1 x 1 where one position is left. ReLU after each.

    Args:
        num_classes, in_chans, widths, kernel_size, stride, padding, drop_rate, input_size: as for :class:`MLCSC`.
        steps: unfoldings of the network it stands beside.
        batch_norm: batch norm before each ReLU.

    Shape:
        - input ``(N, in_chans, H, W)``
        - output: logits ``(N, num_classes)``
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 3,
        *,
        widths: Sequence[int] = (32, 64, 512),
        kernel_size: int | Sequence[int] = (6, 6, 4),
        stride: int | Sequence[int] = (2, 2, 1),
        padding: int | Sequence[int] = 0,
        steps: int = 6,
        batch_norm: bool = False,
        drop_rate: float = 0.0,
        input_size: int = 28,
    ) -> None:
        if not isinstance(steps, int) or steps < 0:
            raise ValueError(f"steps must be an int >= 0, got {steps!r}")
        shapes = _shapes(in_chans, widths, kernel_size, stride, padding)
        stages = []
        size = input_size
        for previous, width, kernel, step, pad in shapes:
            size = (size + 2 * pad - kernel) // step + 1
            inner = 3 if size > 1 else 1
            layers = [nn.Conv2d(previous, width, kernel, step, pad, bias=not batch_norm)]
            layers += [
                nn.Conv2d(width, width, inner, padding=inner // 2, bias=not batch_norm) for _ in range(2 * steps)
            ]
            stage: list[nn.Module] = []
            for layer in layers:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
                stage += [layer, *([nn.BatchNorm2d(width)] if batch_norm else []), nn.ReLU()]
            stages.append(nn.Sequential(*stage))
        super().__init__(
            stages,
            widths,
            [math.prod(shape[3] for shape in shapes[: i + 1]) for i in range(len(shapes))],
            in_chans=in_chans,
            input_size=input_size,
            num_classes=num_classes,
            drop_rate=drop_rate,
        )


def _shapes(
    in_chans: int,
    widths: Sequence[int],
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int],
    padding: int | Sequence[int],
) -> list[tuple[int, int, int, int, int]]:
    """Channels, atoms, kernel size, stride and padding of each layer."""
    if not widths or min(widths) < 1:
        raise ValueError(f"widths must be at least one positive int, got {list(widths)}")
    count = len(widths)
    channels = [in_chans, *widths[:-1]]
    kernels, strides = per_stage("kernel_size", kernel_size, count), per_stage("stride", stride, count)
    return list(zip(channels, widths, kernels, strides, per_stage("padding", padding, count), strict=True))


_CIFAR: dict[str, Any] = {
    "widths": (32, 64, 128),
    "kernel_size": 4,
    "stride": 2,
    "padding": 1,
    "input_size": 32,
}


@register_model
def ml_csc_mnist(in_chans: int = 1, **overrides: Any) -> MLCSC:
    """Three layers for 28 x 28 pixels, 28 -> 12 -> 4 -> 1, ML-FISTA with 6 unfoldings; 604,909 parameters."""
    return MLCSC(in_chans=in_chans, **overrides)


@register_model
def ml_csc_cifar(**overrides: Any) -> MLCSC:
    """Three halving layers for 32 x 32 pixels and three convolutions, 4,005,869 parameters; ML-LISTA 4,171,242."""
    return MLCSC(**{**_CIFAR, "head_widths": (256, 512, 512), **overrides})


@register_model
def deep_cnn_mnist(in_chans: int = 1, **overrides: Any) -> DeepCNN:
    """39 convolutions beside ``ml_csc_mnist`` with 6 unfoldings, 1.15 times its multiplications."""
    return DeepCNN(in_chans=in_chans, **overrides)
