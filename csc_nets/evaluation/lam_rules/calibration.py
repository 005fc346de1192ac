"""Fits the line of a rule to training images."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from csc_nets.evaluation.lam_rules.adaptive import Layers, coding_layers
from csc_nets.evaluation.lam_rules.base import Grid, LineRule, own_lam, scaled_to
from csc_nets.layers import CSC, given_lam

__all__ = ["BestLam", "best_weights", "calibrate_rule", "fit_line"]


@dataclass(frozen=True)
class BestLam:
    """The best sparsity weight for images of some noise.

    Attributes:
        lam: of the first coding layer.
        signal: the input of that layer, ``(N, C, *S)``.
    """

    lam: float
    signal: Tensor


@torch.no_grad()
def best_weights(
    model: nn.Module,
    batches: Sequence[Tensor],
    labels: Tensor | None = None,
    *,
    layers: Layers = "first",
    points: int = 8,
    largest: float = 32.0,
) -> list[BestLam]:
    """For each level of noise the weight with the most right answers; the smallest of them where several have.

    Args:
        model: the network, in evaluation mode.
        batches: the same images ``(N, C, H, W)``, the clean ones first, then with more and more noise. At least two.
        labels: ``(N,)``; None for the network's own answers on the clean images.
        layers: as they will be for the rule.
        points, largest: weights to try, from the layer's own one to so many times it.

    Raises:
        ValueError: fewer than two batches, or of other images.
    """
    if len(batches) < 2 or len({len(images) for images in batches}) != 1:
        raise ValueError(f"batches must be the same images at two levels of noise at least, got {len(batches)} batches")
    chosen = coding_layers(model, layers)
    own = own_lam(chosen[0])
    truth = model(batches[0]).argmax(1) if labels is None else labels.to(batches[0].device)
    found = []
    for images in batches:
        right: list[tuple[int, float]] = []
        for lam in Grid(points, largest).of(chosen[0]):
            answers, signal = _answers(model, chosen, lam / own, images)
            right.append((int((answers == truth).sum()), float(lam)))
        found.append(BestLam(max(right, key=lambda pair: pair[0])[1], signal))
    return found


@torch.no_grad()
def fit_line(rule: LineRule, layer: CSC, best: Sequence[BestLam]) -> Any:
    """The rule with the least-squares line through what :func:`best_weights` found for a network.

    Args:
        rule: with ``slope`` and ``intercept`` to fit.
        layer: the network's first coding layer.
        best: a point of the line each.
    """
    q = torch.tensor([rule.statistic(layer, point.signal, point.lam).double().mean() for point in best]).double()
    lam = torch.tensor([point.lam for point in best]).double()
    centred = q - q.mean()
    # Where all statistics agree, the shortest solution is the mean.
    slope = float((centred * lam).sum() / centred.square().sum()) if bool(centred.any()) else 0.0
    return replace(rule, slope=slope, intercept=float(lam.mean() - slope * q.mean()))  # type: ignore[type-var]


def calibrate_rule(
    rule: LineRule, model: nn.Module, batches: Sequence[Tensor], labels: Tensor | None = None, **options: Any
) -> Any:
    r"""The rule with the line :math:`\lambda = a q + b` that fits the best weights of noisy training images.

    For each level of noise the weight with the most right answers on all images is found, and the mean statistic q at
    it; the line is their least-squares fit. SDNet does this with labels of test images, and its residuals are means
    over all weights tried before (arXiv 2210.12945, public code). Here the images are training images. Without labels
    the right answers are those that the network gives on the first batch, so a user needs no label at all.

    Args:
        rule: with ``slope`` and ``intercept`` to fit.
        model: the network, in evaluation mode.
        batches: the same images ``(N, C, H, W)``, the clean ones first, then with more and more noise. At least two.
        labels: ``(N,)``; None for the network's own answers on the clean images.
        **options: ``layers``, as they will be for the rule; ``points`` weights to try, from the layer's own one to
            ``largest`` times it.

    Returns:
        A new rule of the same class.

    Raises:
        ValueError: fewer than two batches, or of other images.
    """
    best = best_weights(model, batches, labels, **options)
    return fit_line(rule, coding_layers(model)[0], best)


def _answers(model: nn.Module, layers: Sequence[CSC], factor: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """Classes at some multiple of the layers' own weights, and the input of the first of these layers."""
    inputs: list[Tensor] = []

    def choose(layer: CSC, x: Tensor, mask: Tensor | None) -> Tensor:
        inputs.append(x)
        return scaled_to(layer, factor * own_lam(layer), x.ndim).to(x)

    with given_lam(layers, choose):
        return model(images).argmax(1), inputs[0]
