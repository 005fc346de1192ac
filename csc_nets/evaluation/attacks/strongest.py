"""The worst case over several attacks: an upper bound of the robust accuracy."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from csc_nets.evaluation.attacks.auto_pgd import apgd
from csc_nets.evaluation.attacks.projected_gradient import fgsm, pgd
from csc_nets.evaluation.attacks.search import Adversarial, Attempt, Classifier, attacked, check_inputs, search
from csc_nets.evaluation.attacks.square import square
from csc_nets.functional.checks import as_count
from csc_nets.functional.norm_balls import Norm, Range

__all__ = ["Budget", "strongest"]


@dataclass(frozen=True)
class Budget:
    """How long :func:`strongest` looks.

    Args:
        steps: gradient steps of a start, of PGD and Auto-PGD.
        restarts: random starts of each of them.
        targets: classes that the targeted Auto-PGD aims at; 0 leaves it out.
        queries: points that the random search looks at; 0 leaves it out.
    """

    steps: int = 100
    restarts: int = 5
    targets: int = 9
    queries: int = 1000

    def __post_init__(self) -> None:
        for name in ("steps", "restarts"):
            as_count(getattr(self, name), name)
        for name in ("targets", "queries"):
            as_count(getattr(self, name), name, least=0)


def strongest(
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    eps: float,
    *,
    norm: str | Mapping[str, Any] | Norm = "linf",
    budget: Budget | None = None,
    seed: int = 0,
    bounds: Range = (0.0, 1.0),
    batch_size: int = 256,
) -> Adversarial:
    """The worst case over FGSM, PGD, Auto-PGD with three losses, and a random search: any success counts.

    Its ``accuracy`` is an upper bound of the robust accuracy: a stronger attack may find more. It is no proof of
    robustness. ``left`` says which attack found how much. For a random network it is one draw of the attack.

    Auto-PGD runs with the cross-entropy, the DLR and the targeted DLR loss (Croce and Hein, 2020). Networks of fewer
    than three classes are attacked through the margin instead of the DLR, and of fewer than four without targets.

    Args:
        model, images, labels, eps, norm, seed, bounds: as for :func:`~csc_nets.evaluation.attacks.pgd`.
        budget: how long to look; None for ``Budget()``.
        batch_size: images at a time.

    Raises:
        ValueError, FloatingPointError: as for :func:`~csc_nets.evaluation.attacks.pgd`.
    """
    check_inputs(images, labels, eps, bounds)
    budget = budget or Budget()
    parts = zip(images.split(as_count(batch_size, "batch_size")), labels.split(batch_size), strict=True)
    found = []
    for x, y in parts:
        with attacked(model) as network, torch.no_grad():
            classes = network(x[:1]).shape[-1]
        attempts = _attempts(model, classes, budget, float(eps), {"norm": norm, "bounds": bounds}, seed)
        found.append(search(model, x, y, attempts))
    weights = [len(part.success) / len(images) for part in found]
    names = dict.fromkeys(name for part in found for name in part.left)
    left = {name: sum(w * part.left[name] for w, part in zip(weights, found, strict=True)) for name in names}
    return Adversarial(torch.cat([p.images for p in found]), torch.cat([p.success for p in found]), left)


def _attempts(
    model: Classifier, classes: int, budget: Budget, eps: float, kind: dict[str, Any], seed: int
) -> dict[str, Attempt]:
    many = {**kind, "seed": seed, "restarts": budget.restarts}
    attacks: dict[str, Callable[..., Adversarial]] = {
        "fgsm": partial(fgsm, **kind),
        "pgd": partial(pgd, **many, steps=budget.steps),
        "apgd cross_entropy": partial(apgd, **many, steps=budget.steps),
    }
    name = "dlr" if classes > 2 else "margin"
    attacks[f"apgd {name}"] = partial(apgd, **many, steps=budget.steps, loss=name)
    if budget.targets and classes > 3:
        options = {**kind, "seed": seed, "steps": budget.steps, "targets": budget.targets}
        attacks["apgd targeted_dlr"] = partial(apgd, **options, loss="targeted_dlr")
    if budget.queries:
        attacks["square"] = partial(square, **kind, seed=seed, queries=budget.queries)

    def attempt(attack: Callable[..., Adversarial], x: Tensor, y: Tensor) -> Tensor:
        return attack(model, x, y, eps).images

    return {name: partial(attempt, attack) for name, attack in attacks.items()}
