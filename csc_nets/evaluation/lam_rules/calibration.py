"""Fits the line of a rule to training images."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from csc_nets.evaluation.lam_rules.adaptive import Layers, coding_layers
from csc_nets.evaluation.lam_rules.base import Grid, LineRule, own_lam, scaled_to
from csc_nets.layers import CSC, given_lam

__all__ = ["calibrate_rule"]


@torch.no_grad()
def calibrate_rule(
    rule: LineRule,
    model: nn.Module,
    batches: Sequence[Tensor],
    labels: Tensor | None = None,
    *,
    layers: Layers = "first",
    points: int = 8,
    largest: float = 32.0,
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
        layers: as they will be for the rule.
        points, largest: weights to try, from the layer's own one to so many times it.

    Returns:
        A new rule of the same class.

    Raises:
        ValueError: fewer than two batches, or of other images.
    """
    if len(batches) < 2 or len({len(images) for images in batches}) != 1:
        raise ValueError(f"batches must be the same images at two levels of noise at least, got {len(batches)} batches")
    chosen = coding_layers(model, layers)
    first, factors = chosen[0], Grid(points, largest).of(chosen[0]) / own_lam(chosen[0])
    truth = model(batches[0]).argmax(1) if labels is None else labels.to(batches[0].device)
    best, statistics = [], []
    for images in batches:
        answers = [_answers(model, chosen, factor, images) for factor in factors]
        right = [(found == truth).sum().item() for found, _ in answers]
        lam = float(factors[right.index(max(right))] * own_lam(first))
        best.append(lam)
        statistics.append(rule.statistic(first, answers[0][1], lam).double().mean())
    q = torch.stack(statistics).cpu()
    target = torch.tensor(best, dtype=torch.float64)
    # Where all statistics agree, the shortest solution is the mean.
    centred = q - q.mean()
    slope = float((centred * target).sum() / centred.square().sum()) if float(centred.abs().max()) > 0 else 0.0
    return replace(rule, slope=slope, intercept=float(target.mean()) - slope * float(q.mean()))  # type: ignore[type-var]


def _answers(model: nn.Module, layers: Sequence[CSC], factor: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """Classes at some multiple of the layers' own weights, and the input of the first of these layers."""
    inputs: list[Tensor] = []

    def choose(layer: CSC, x: Tensor, mask: Tensor | None) -> Tensor:
        inputs.append(x)
        return scaled_to(layer, factor * own_lam(layer), x.ndim).to(x)

    with given_lam(layers, choose):
        return model(images).argmax(1), inputs[0]
