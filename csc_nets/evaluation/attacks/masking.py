"""Signs that a network hides its gradients, so that attacks fail where the network is not robust."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from csc_nets.evaluation.attacks.losses import margin
from csc_nets.evaluation.attacks.projected_gradient import fgsm, pgd
from csc_nets.evaluation.attacks.search import Adversarial, Classifier, attacked, check_inputs, climb
from csc_nets.evaluation.attacks.square import square
from csc_nets.evaluation.attacks.strongest import Budget, strongest
from csc_nets.functional.norm_balls import Norm, Range, as_norm

__all__ = ["Sign", "Signs", "masked_gradients"]

_DEVIATION = 0.1  # of a slope from the difference quotient, the median over images
_SHARE = 0.9  # of the images


@dataclass(frozen=True)
class Sign:
    """One check.

    Args:
        name: what was measured.
        value: what came out.
        limit: what it is held against.
        passes: whether it is as it should be.
    """

    name: str
    value: float
    limit: float
    passes: bool


@dataclass(frozen=True)
class Signs:
    """The signs of :func:`masked_gradients`, as rows and as a table (``str``)."""

    rows: list[Sign]

    @property
    def passes(self) -> bool:
        """Whether no sign speaks for masked gradients. This is no proof that there are none."""
        return all(row.passes for row in self.rows)

    def __getitem__(self, name: str) -> Sign:
        return {row.name: row for row in self.rows}[name]

    def __str__(self) -> str:
        width = max(len(row.name) for row in self.rows)
        lines = [f"{'sign':{width}}    value    limit  "]
        lines += [
            f"{row.name:{width}} {row.value:8.4f} {row.limit:8.4f}  {'pass' if row.passes else 'FAIL'}"
            for row in self.rows
        ]
        return "\n".join(lines)


def masked_gradients(
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    eps: float,
    *,
    norm: str | Mapping[str, Any] | Norm = "linf",
    others: Mapping[str, Classifier] | None = None,
    budget: Budget | None = None,
    large: float | None = None,
    seed: int = 0,
    bounds: Range = (0.0, 1.0),
) -> Signs:
    """Puts a network through checks that fail where its gradients mislead an attack.

    The checks are those of Athalye, Carlini, Wagner, `Obfuscated Gradients Give a False Sense of Security
    <https://arxiv.org/abs/1802.00420>`_, 2018, section 3, and of Carlini et al., `On Evaluating Adversarial Robustness
    <https://arxiv.org/abs/1902.06705>`_, 2019; the slopes are ours:

    - the slope of the margin along the gradient, and along three random directions: the deviation of the network's
      gradient from difference quotients, over the larger of the two, the median over images. It is large where a part
      of the network has no gradient: a quantised input, a sparsity weight that is chosen without gradient;
    - the share of images whose gradient is 0;
    - the share of images whose margin, at the border of the ball, is larger along the gradient than along each of ten
      random directions;
    - at a large eps an attack must break every image;
    - many steps are at least as strong as one, and eps as half of it;
    - twice the steps and restarts find nothing new: at most one image in a hundred;
    - an attack without gradients, and images that were made for another network, are not stronger.

    Accuracies are shares of the images given: a small set has coarse ones.

    Args:
        model, images, labels, eps, norm, seed, bounds: as for :func:`~csc_nets.evaluation.attacks.pgd`. Give images
            that the network mostly has right.
        others: further networks, by name, from which images are transferred.
        budget: of the attack; None for ``Budget(queries=500)``. Its ``queries`` are those of the random search; the
            attack itself has gradients only.
        large: the large eps; None for that of a change of every pixel from black to white.

    Raises:
        ValueError, FloatingPointError: as for :func:`~csc_nets.evaluation.attacks.pgd`; eps is 0.
    """
    check_inputs(images, labels, eps, bounds)
    if not eps > 0:
        raise ValueError(f"eps must be above 0, got {eps!r}")
    if large is None and not math.isfinite(bounds[1] - bounds[0]):
        raise ValueError("large must be given where pixels have no bounds: an eps at which the network must fail")
    ball, budget = as_norm(norm), budget or Budget(queries=500)
    kind: dict[str, Any] = {"norm": ball, "seed": seed, "bounds": bounds}
    white = replace(budget, queries=0)

    def strong(model: Classifier, eps: float, budget: Budget) -> Adversarial:
        return strongest(model, images, labels, eps, budget=budget, **kind)

    main = strong(model, eps, white)
    left, rows = main.accuracy, _slopes(model, images, labels, eps, ball, seed)

    def add(name: str, value: float, limit: float, passes: bool) -> None:
        rows.append(Sign(name, value, limit, passes))

    large = ball.size(torch.full_like(images[:1], bounds[1] - bounds[0])).item() if large is None else large
    far = pgd(model, images, labels, large, loss="margin", steps=budget.steps, **kind).accuracy
    add("accuracy at a large eps", far, 0.0, far == 0)
    one = fgsm(model, images, labels, eps, norm=ball, bounds=bounds).accuracy
    many = pgd(model, images, labels, eps, steps=budget.steps, restarts=budget.restarts, **kind).accuracy
    add("accuracy under many steps, limit: under one", many, one, many <= one)
    half = strong(model, eps / 2, white).accuracy
    add("accuracy at eps, limit: at half of it", left, half, left <= half)
    more = strong(model, eps, replace(white, steps=2 * budget.steps, restarts=2 * budget.restarts)).accuracy
    add("gain of twice the steps and restarts", left - more, 0.01, left - more <= 0.01)
    blind = square(model, images, labels, eps, queries=max(1, budget.queries), **kind).accuracy
    add("accuracy of the attack, limit: of a random search", left, blind, left <= blind)
    for name, other in (others or {}).items():
        theirs = strong(other, eps, white).images
        with attacked(model) as network, torch.no_grad():
            moved = (network(theirs).argmax(1) == labels).double().mean().item()
        add(f"accuracy of the attack, limit: of transfer from {name}", left, moved, left <= moved)
    return Signs(rows)


def _slopes(model: Classifier, images: Tensor, labels: Tensor, eps: float, ball: Norm, seed: int) -> list[Sign]:
    generator = torch.Generator(images.device).manual_seed(seed)

    def normal() -> Tensor:
        return ball.steepest(torch.randn(images.shape, generator=generator, device=images.device).to(images))

    with attacked(model) as network:
        gradient = climb(network, images, labels, margin)[2]

        def height(x: Tensor) -> Tensor:
            with torch.no_grad():
                return margin(network(x), labels)

        def deviation(direction: Tensor) -> float:
            step = eps / 200
            quotient = (height(images + step * direction) - height(images - step * direction)) / (2 * step)
            slope = (gradient * direction).flatten(1).sum(1)
            larger = torch.maximum(quotient.abs(), slope.abs())
            return torch.where(larger > 0, (quotient - slope).abs() / larger, 1.0).median().item()

        steepest = ball.steepest(gradient)
        along, across = deviation(steepest), max(deviation(normal()) for _ in range(3))
        flat = (gradient.flatten(1).abs().amax(1) == 0).double().mean().item()
        rise = height(images + eps * steepest)
        faster = torch.stack([rise > height(images + eps * normal()) for _ in range(10)]).all(0).double().mean().item()
    return [
        Sign("slope along the gradient, deviation", along, _DEVIATION, along <= _DEVIATION),
        Sign("slope along random directions, deviation", across, _DEVIATION, across <= _DEVIATION),
        Sign("images without a gradient", flat, 1 - _SHARE, flat <= 1 - _SHARE),
        Sign("margin rises fastest along the gradient", faster, _SHARE, faster >= _SHARE),
    ]
