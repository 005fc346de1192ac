"""The loss around an image, along its gradient and across it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from csc_nets.evaluation.attacks.losses import Loss, as_loss
from csc_nets.evaluation.attacks.search import Classifier, attacked, check_inputs, climb, drawn
from csc_nets.functional.checks import as_count
from csc_nets.functional.norm_balls import Norm, Range, as_norm

__all__ = ["loss_surface"]


def loss_surface(
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    eps: float,
    *,
    norm: str | Mapping[str, Any] | Norm = "linf",
    loss: str | Loss = "margin",
    points: int = 11,
    seed: int = 0,
    bounds: Range = (0.0, 1.0),
) -> Tensor:
    r"""Losses at :math:`x + a u + b v`: u is the steepest direction at x, v a random one, both of norm 1.

    Of a network that does not hide its gradients the loss rises smoothly, and fastest along u. A flat surface, or one
    with steps, speaks for masked gradients. Pixels are clipped to ``bounds``.

    Args:
        model, images, labels, eps, norm, loss, seed, bounds: as for :func:`~csc_nets.evaluation.attacks.pgd`.
        points: an odd number of values of a and of b, from -eps to eps, so that the image itself is one.

    Returns:
        ``(N, points, points)``: a along the rows, b along the columns.

    Raises:
        ValueError, FloatingPointError: as for :func:`~csc_nets.evaluation.attacks.pgd`; an even number of points.
    """
    check_inputs(images, labels, eps, bounds)
    if not as_count(points, "points") % 2:
        raise ValueError(f"points must be odd, got {points}")
    ball, height = as_norm(norm), as_loss(loss)
    generator = torch.Generator(images.device).manual_seed(seed)
    with attacked(model) as network:
        along = ball.steepest(climb(network, images, labels, height)[2])
        across = ball.steepest(drawn(images, generator)(torch.randn))
        places = torch.linspace(-eps, eps, points).tolist()
        with torch.no_grad():
            rows = [
                [height(network((images + a * along + b * across).clamp(*bounds)), labels) for b in places]
                for a in places
            ]
    return torch.stack([torch.stack(row, 1) for row in rows], 1)
