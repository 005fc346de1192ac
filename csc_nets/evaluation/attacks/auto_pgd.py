"""Auto-PGD: projected gradient ascent that chooses its step sizes."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from csc_nets.evaluation.attacks.losses import Loss, as_loss, targeted_dlr
from csc_nets.evaluation.attacks.search import (
    Adversarial,
    Attempt,
    Best,
    Classifier,
    check_inputs,
    climb,
    drawn,
    search,
)
from csc_nets.functional.checks import as_count
from csc_nets.functional.norm_balls import Draw, Norm, Range, as_norm, nearby

__all__ = ["apgd", "checkpoints"]

_MOMENTUM, _RISES = 0.75, 0.75  # alpha and rho of the paper


def checkpoints(steps: int) -> list[int]:
    r"""Steps after which the step size is looked at: :math:`w_j = \lceil p_j N \rceil`.

    .. math:: p_0 = 0, \quad p_1 = 0.22, \quad p_{j+1} = p_j + \max(p_j - p_{j-1} - 0.03, 0.06)

    Source: Croce and Hein, 2020, the checkpoints of their algorithm 1.

    Example:
        >>> checkpoints(100)
        [0, 22, 41, 57, 70, 80, 87, 93, 99]
    """
    shares = [0, 22]  # in percent: sums of decimal fractions are not exact
    while shares[-1] < 100:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 3, 6))
    return sorted({-(-share * steps // 100) for share in shares if share <= 100})


def apgd(
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    eps: float,
    *,
    norm: str | Mapping[str, Any] | Norm = "linf",
    loss: str | Loss = "cross_entropy",
    steps: int = 100,
    restarts: int = 1,
    targets: int = 9,
    seed: int = 0,
    bounds: Range = (0.0, 1.0),
) -> Adversarial:
    r"""Projected gradient ascent with momentum, whose step size starts at 2 eps and is halved where it stops helping.

    .. math:: u = P(x_k + \eta d_k), \qquad x_{k+1} = P\bigl(x_k + \alpha (u - x_k) + (1 - \alpha) (x_k - x_{k-1})\bigr)

    with :math:`d_k` the steepest direction and :math:`\alpha = 0.75`. At a checkpoint :math:`\eta` is halved, and the
    best point taken up again, if the loss has risen in fewer than three quarters of the steps since the last one, or if
    neither :math:`\eta` nor the best loss has changed since.

    Source: Croce and Hein, `Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
    attacks <https://arxiv.org/abs/2003.01690>`_, 2020, algorithm 1.

    Args:
        model, images, labels, eps, norm, seed, bounds: as for :func:`pgd`.
        loss: as for :func:`pgd`, or ``"targeted_dlr"``: once for each of the other classes that the network holds for
            most likely, as AutoAttack does.
        steps: gradient steps of a start.
        restarts: random starts, of each target where there are some.
        targets: classes that ``"targeted_dlr"`` aims at; at most all others are taken.

    Raises:
        ValueError, FloatingPointError: as for :func:`pgd`; too few classes for the loss.
    """
    check_inputs(images, labels, eps, bounds)
    as_count(steps), as_count(restarts, "restarts"), as_count(targets, "targets")
    ball, generator = as_norm(norm), torch.Generator(images.device).manual_seed(seed)

    def untargeted(x: Tensor, y: Tensor) -> Tensor:
        return _ascend(model, x, y, as_loss(loss), eps, ball, steps, drawn(x, generator), bounds)

    def towards(rank: int, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            others = model(x).scatter(1, y[:, None], -math.inf)
        if rank >= others.shape[1] - 1:
            return x
        aim = targeted_dlr(others.argsort(1, descending=True)[:, rank])
        return _ascend(model, x, y, aim, eps, ball, steps, drawn(x, generator), bounds)

    tries: dict[str, Attempt] = {"": untargeted}
    if loss == "targeted_dlr":
        tries = {f", class {rank + 1}": partial(towards, rank) for rank in range(targets)}
    attempts = {f"start {k + 1}{name}": tried for k in range(restarts) for name, tried in tries.items()}
    return search(model, images, labels, attempts)


def _ascend(
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    loss: Loss,
    eps: float,
    ball: Norm,
    steps: int,
    draw: Draw,
    bounds: Range,
) -> Tensor:
    def near(x: Tensor) -> Tensor:
        return nearby(x, images, ball, eps, bounds)

    seen, looks = Best(images, labels), checkpoints(steps)
    before = x = near(images + eps * ball.random(draw))
    logits, value, gradient = climb(model, x, labels, loss)
    seen.see(x, logits, value)
    # The point with the largest loss, which the search goes back to; `seen` keeps a fallen image in its place.
    peak, peak_value, peak_gradient = x.clone(), value.clone(), gradient.clone()
    each = (-1, *[1] * (x.ndim - 1))
    step = torch.full_like(value, 2.0 * eps)
    old_step, old_peak, rises = step.clone(), peak_value.clone(), torch.zeros_like(value)
    for k in range(steps):
        ahead = near(x + step.view(each) * ball.steepest(gradient))
        if k:
            ahead = near(x + _MOMENTUM * (ahead - x) + (1 - _MOMENTUM) * (x - before))
        before, x = x, ahead
        last = value
        logits, value, gradient = climb(model, x, labels, loss)
        seen.see(x, logits, value)
        if bool(seen.success.all()):
            break
        rises += value > last
        higher = value > peak_value
        peak[higher], peak_value[higher], peak_gradient[higher] = x[higher], value[higher], gradient[higher]
        if k + 1 in looks:
            period = k + 1 - looks[looks.index(k + 1) - 1]
            stuck = (rises < _RISES * period) | ((old_step == step) & (old_peak == peak_value))
            old_step, old_peak, rises = step.clone(), peak_value.clone(), torch.zeros_like(rises)
            step = torch.where(stuck, step / 2, step)
            x, gradient, value = x.clone(), gradient.clone(), value.clone()
            x[stuck], gradient[stuck], value[stuck] = peak[stuck], peak_gradient[stuck], peak_value[stuck]
    return seen.images
