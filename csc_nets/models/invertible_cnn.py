"""A CNN of random or given filters that can be run backwards: pooling remembers its switches."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm

from csc_nets.layers import PooledCSC2d
from csc_nets.models.csc_autoencoder import per_stage
from csc_nets.models.image_classifier import ImageClassifier
from csc_nets.models.registry import register_model
from csc_nets.models.staged_encoder import stage_indices

__all__ = ["Encoding", "InvertibleCNN"]


@dataclass(frozen=True)
class Encoding:
    """What the decoder is given.

    Attributes:
        values: pooled codes of the last stage that ran, ``(N, M, P, Q)``.
        switches: of each stage, from the first on.
        sizes: height and width of each stage's input.
        norms: l2 norm of each stage's input, ``(N,)``.
    """

    values: Tensor
    switches: list[Tensor]
    sizes: list[tuple[int, int]]
    norms: list[Tensor]


class InvertibleCNN(ImageClassifier):
    r"""Stages of convolution, rectifier, pooling with switches and batch norm, with their decoder.

    After Gilbert, Zhang, Lee, Zhang, Lee, `Towards Understanding the Invertibility of Convolutional Neural Networks
    <https://arxiv.org/abs/1705.08664>`_: random filters keep enough of an image to classify it and to get it back. The
    decoder undoes the batch norm, puts the pooled values back to where the switches say, and convolves with the same
    filters, transposed. With more ``steps`` each stage looks for the code that explains its input best, and the decoder
    gets closer to the image.

    Args:
        num_classes: classes; 0 leaves the pooled features as output.
        in_chans: channels of the image.
        widths: filters of each stage.
        kernel_size: of every stage, or one for each; odd sizes keep the size of the image.
        window: of the pooling, see :class:`~csc_nets.layers.PooledCSC2d`.
        steps, sign, density, step_size: as for :class:`~csc_nets.layers.PooledCSC2d`.
        frozen: train the classifier alone and leave the filters as they were drawn, uniform on the sphere; False trains
            them as plain weights.
        norm: batch norm behind each stage.
        grid: see :class:`ImageClassifier`.
        drop_rate: dropout before the classifier.
        input_size: height and width of the images that it is made for, in pixels; all run.

    Shape:
        - input ``(N, in_chans, H, W)``
        - output: logits ``(N, num_classes)``
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 3,
        *,
        widths: Sequence[int] = (64, 128, 256),
        kernel_size: int | Sequence[int] = 5,
        window: int = 2,
        steps: int = 1,
        sign: str = "nonneg",
        density: float = 1.0,
        step_size: float | None = None,
        frozen: bool = True,
        norm: bool = True,
        grid: int = 1,
        drop_rate: float = 0.0,
        input_size: int = 32,
    ) -> None:
        if not widths or min(widths) < 1:
            raise ValueError(f"widths must be at least one positive int, got {list(widths)}")
        if isinstance(window, bool) or not isinstance(window, int) or window < 1:
            raise ValueError(f"window must be an int >= 1, got {window!r}")
        stages, channels, previous = [], [], in_chans
        for width, kernel in zip(widths, per_stage("kernel_size", kernel_size, len(widths)), strict=True):
            csc = PooledCSC2d(
                previous,
                width,
                kernel,
                padding=kernel // 2,
                window=window,
                density=density,
                steps=steps,
                sign=sign,
                step_size=step_size,
                unit_norm=frozen,
            )
            previous = csc.out_channels
            channels.append(previous)
            stages.append(nn.Sequential(csc, nn.BatchNorm2d(previous)) if norm else nn.Sequential(csc))
        super().__init__(
            stages,
            channels,
            [window ** (i + 1) for i in range(len(widths))],
            in_chans=in_chans,
            input_size=input_size,
            num_classes=num_classes,
            drop_rate=drop_rate,
            grid=grid,
        )
        self.stages.requires_grad_(not frozen)

    @property
    def layers(self) -> list[PooledCSC2d]:
        """The coding layer of each stage; ``model.layers[0].set_filters(weight)`` gives it filters of one's own."""
        return [stage[0] for stage in self.stages]  # type: ignore[index]

    def forward_switches(self, x: Tensor, stage: int = -1) -> Encoding:
        """Runs the stages down to ``stage`` with the running statistics of the batch norms.

        Raises:
            ValueError: there is no such stage, or ``x`` has other channels.
        """
        (last,) = stage_indices([stage], len(self.stages))
        switches, sizes, norms = [], [], []
        for layer, norm in list(zip(self.layers, self._norms, strict=True))[: last + 1]:
            sizes.append((x.shape[2], x.shape[3]))
            norms.append(torch.linalg.vector_norm(x.flatten(1), dim=1))
            x, at = layer.pooled(x)
            switches.append(at)
            if norm is not None:
                x = batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
        return Encoding(x, switches, sizes, norms)

    def invert(self, encoding: Encoding, *, rescale: bool = True) -> Tensor:
        """Images of an encoding, ``(N, in_chans, H, W)``.

        Args:
            encoding: of :meth:`forward_switches`.
            rescale: give each stage's result the norm that the stage's input had. One step leaves the scale open:
                :math:`W^T W` of random filters is about the identity times how many there are.
        """
        x, depth = encoding.values, len(encoding.switches)
        for i in reversed(range(depth)):
            norm = self._norms[i]
            if norm is not None:
                x = _undo(norm, x)
            x = self.layers[i].synthesize(x, encoding.switches[i], encoding.sizes[i])
            if rescale:
                size = torch.linalg.vector_norm(x.flatten(1), dim=1).clamp_min(torch.finfo(x.dtype).tiny)
                x = x * (encoding.norms[i] / size).view(-1, 1, 1, 1)
        return x

    def reconstruct(self, x: Tensor, stage: int = -1, *, rescale: bool = True) -> Tensor:
        """Images as far as the code of ``stage`` and the switches above it keep them."""
        return self.invert(self.forward_switches(x, stage), rescale=rescale)

    @property
    def _norms(self) -> list[Any]:
        return [stage[1] if len(stage) > 1 else None for stage in self.stages]  # type: ignore[arg-type, index]


def _undo(norm: nn.BatchNorm2d, y: Tensor) -> Tensor:
    """The input that a batch norm of these running statistics makes ``y`` of; its mean where its weight is 0."""
    assert norm.running_mean is not None and norm.running_var is not None
    weight, bias, mean, variance = (
        t.view(-1, 1, 1) for t in (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    )
    alive = weight.abs() > math.sqrt(torch.finfo(y.dtype).tiny)
    scale = torch.where(alive, (variance + norm.eps).sqrt() / torch.where(alive, weight, 1), 0)
    return (y - bias) * scale + mean


@register_model
def invertible_cnn(**overrides: Any) -> InvertibleCNN:
    """Three stages of 64, 128 and 256 random filters of 5 x 5, frozen."""
    return InvertibleCNN(**overrides)
