"""One step and many steps of projected gradient ascent: FGSM and PGD."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from csc_nets.evaluation.attacks.losses import Loss, as_loss
from csc_nets.evaluation.attacks.search import Adversarial, Best, Classifier, check_inputs, climb, drawn, search
from csc_nets.functional.checks import as_count
from csc_nets.functional.norm_balls import Norm, Range, as_norm, ascend

__all__ = ["fgsm", "pgd"]


def fgsm(
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    eps: float,
    *,
    norm: str | Mapping[str, Any] | Norm = "linf",
    loss: str | Loss = "cross_entropy",
    bounds: Range = (0.0, 1.0),
) -> Adversarial:
    r"""The fast gradient sign method: one step of size eps along the steepest direction of the loss.

    It is exact where the loss is a monotone function of a linear one and no pixel meets a bound: a linear network of
    two classes. Elsewhere it is weak, and what it leaves says little.

    Source: Goodfellow, Shlens, Szegedy, `Explaining and Harnessing Adversarial Examples
    <https://arxiv.org/abs/1412.6572>`_, 2015, section 4.

    Args and errors: as for :func:`pgd`.
    """
    return pgd(
        model,
        images,
        labels,
        eps,
        norm=norm,
        loss=loss,
        steps=1,
        step_size=float(eps),
        random_start=False,
        bounds=bounds,
    )


def pgd(
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    eps: float,
    *,
    norm: str | Mapping[str, Any] | Norm = "linf",
    loss: str | Loss = "cross_entropy",
    steps: int = 40,
    step_size: float | None = None,
    restarts: int = 1,
    random_start: bool = True,
    seed: int = 0,
    bounds: Range = (0.0, 1.0),
) -> Adversarial:
    r"""Projected gradient ascent on the loss, from random points of the ball; every point on the way counts.

    Source: Madry, Makelov, Schmidt, Tsipras, Vladu, `Towards Deep Learning Models Resistant to Adversarial Attacks
    <https://arxiv.org/abs/1706.06083>`_, 2018. The gradient is the network's own: through all steps of a pursuit with
    ``gradient="unroll"`` or ``"recompute"``, by the implicit function theorem with ``"implicit"``.

    Args:
        model: from pixels ``(N, C, H, W)`` to logits ``(N, K)``: a module, which is attacked in evaluation mode and is
            afterwards as it was, or any differentiable function. A network of the zoo takes normalised images: give
            ``csc_nets.models.Normalised(network)``.
        images: ``(N, C, H, W)`` within ``bounds``.
        labels: right classes ``(N,)``, int64.
        eps: largest size of the perturbation, in the norm and the units of the pixels.
        norm: ``"linf"``, ``"l2"``, or any :class:`~csc_nets.functional.Norm`.
        loss: ``"cross_entropy"``, ``"margin"``, ``"dlr"``, or any function of logits and labels that gives a number
            for each sample.
        steps: gradient steps of a start.
        step_size: length of a step in the norm; None for ``2.5 eps / steps``, which is enough to cross the ball.
        restarts: starts; a later one sees the images that stand.
        random_start: start at random points of the ball; else at the images.
        seed: of the random starts.
        bounds: least and largest value of a pixel.

    Raises:
        ValueError: images outside of ``bounds`` or of no float type, labels that do not fit, a negative eps, a step
            size that is not above 0, logits without a gradient by the images.
        FloatingPointError: a gradient is not finite.
    """
    check_inputs(images, labels, eps, bounds)
    ball, height = as_norm(norm), as_loss(loss)
    as_count(steps)
    length = 2.5 * eps / steps if step_size is None else step_size
    if not length >= 0 or (step_size is not None and eps and not step_size > 0):
        raise ValueError(f"step_size must be above 0, got {step_size!r}")
    generator = torch.Generator(images.device).manual_seed(seed)

    def attempt(x: Tensor, y: Tensor) -> Tensor:
        best = Best(x, y)

        def gradient(point: Tensor) -> Tensor:
            logits, value, slope = climb(model, point, y, height)
            best.see(point, logits, value)
            return slope

        start = ball.random(drawn(x, generator)) if random_start else None
        last = ascend(gradient, x, ball, eps, steps=steps, step_size=length, start=start, bounds=bounds)
        with torch.no_grad():
            logits = model(last)
            best.see(last, logits, height(logits, y))
        return best.images

    return search(model, images, labels, {f"start {k + 1}": attempt for k in range(as_count(restarts, "restarts"))})
