"""A CNN of sparse coding layers with exponential priors, and a logistic regression on the deepest code."""

import math
from collections.abc import Sequence
from typing import Any

from csc_nets.layers import SparsePriorConv2d
from csc_nets.models.csc_autoencoder import per_stage
from csc_nets.models.image_classifier import ImageClassifier
from csc_nets.models.registry import register_model

__all__ = ["SparsePriorCNN"]


class SparsePriorCNN(ImageClassifier):
    r"""Hierarchical sparse coding and logistic regression: a CNN without normalisation and pooling.

    Each layer codes the code of the one before, :math:`a_{l-1} = \Phi_l a_l + n_l`, with an exponential prior on every
    coefficient (:class:`~csc_nets.layers.SparsePriorConv2d`), and :math:`p(y|x) = \mathrm{softmax}(V a_K + c)`; our
    reading of Bowren, `A Sparse Coding Interpretation of Neural Networks and Theoretical Implications
    <https://arxiv.org/abs/2108.06622>`_. With one step it is a CNN whose biases are below 0, with more each layer
    explains its input before it hands it on.

    The shapes are those of the published multi-layer networks for MNIST: 28 -> 12 -> 4 -> 1 positions. At that size the
    average over positions before the classifier is over one; larger images average the features of several.

    Args:
        num_classes: classes; 0 leaves the pooled features as output.
        in_chans: channels of the image.
        widths: atoms of each layer.
        kernel_size, stride, padding: of every layer, or one for each.
        rate: rates of the priors at the start.
        sigma: standard deviation of the noise in every layer.
        steps, dynamics, step_size, unit_norm: as for :class:`~csc_nets.layers.SparsePriorConv2d`.
        drop_rate: dropout before the classifier.
        input_size: height and width of the images that the shapes are made for, in pixels.

    Shape:
        - input ``(N, in_chans, H, W)``, without padding at least as large as ``input_size``
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
        rate: float = 0.1,
        sigma: float = 1.0,
        steps: int = 1,
        dynamics: str = "ista",
        step_size: float | None = None,
        unit_norm: bool = True,
        drop_rate: float = 0.0,
        input_size: int = 28,
    ) -> None:
        if not widths or min(widths) < 1:
            raise ValueError(f"widths must be at least one positive int, got {list(widths)}")
        count = len(widths)
        strides = per_stage("stride", stride, count)
        stages = [
            SparsePriorConv2d(
                previous,
                width,
                kernel,
                step,
                pad,
                rate=rate,
                sigma=sigma,
                steps=steps,
                dynamics=dynamics,
                step_size=step_size,
                unit_norm=unit_norm,
            )
            for previous, width, kernel, step, pad in zip(
                [in_chans, *widths[:-1]],
                widths,
                per_stage("kernel_size", kernel_size, count),
                strides,
                per_stage("padding", padding, count),
                strict=True,
            )
        ]
        super().__init__(
            stages,
            widths,
            [math.prod(strides[: i + 1]) for i in range(count)],
            in_chans=in_chans,
            input_size=input_size,
            num_classes=num_classes,
            drop_rate=drop_rate,
        )


@register_model
def sparse_prior_cnn(**overrides: Any) -> SparsePriorCNN:
    """Three layers for 28 x 28 pixels, 28 -> 12 -> 4 -> 1; 604,906 parameters with one channel."""
    return SparsePriorCNN(**overrides)
