"""How the classes lie in feature space: within each, between them, and what the decoder makes of their directions."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from csc_nets.evaluation.class_subspaces import ClassSubspaces, check_features
from csc_nets.evaluation.features import effective_rank

__all__ = ["ClassStructure", "class_structure", "decode_classes", "sample_images"]

SHOWN = 500


@dataclass(frozen=True)
class ClassStructure:
    """Numbers about classes of features.

    Attributes:
        classes: labels, ``(k,)``.
        ranks: effective rank of each class; 0 where all its features are zero.
        within: mean absolute cosine of two different features of a class, for each class; NaN for a class of one.
        between: mean absolute cosine of a feature of a class and one of another, for each class; NaN without another.
        cosines: absolute cosines of some 500 features, at least one a class, sorted by class, ``(n, n)``; blocks on
            the diagonal where classes lie in subspaces of their own.
    """

    classes: Tensor
    ranks: list[float]
    within: list[float]
    between: list[float]
    cosines: Tensor


def class_structure(features: Tensor, labels: Tensor) -> ClassStructure:
    """How ``features``, ``(n, d)``, of classes ``labels``, ``(n,)``, lie.

    Random directions in d dimensions have a mean absolute cosine near ``(2 / (pi d))**0.5``.

    Raises:
        ValueError: shapes that do not fit.
    """
    check_features(features, labels)
    z = normalize(features.double(), dim=1)
    classes, counts = labels.unique(return_counts=True)
    ranks, within, between, shown = [], [], [], []
    for label, count in zip(classes, counts.tolist(), strict=True):
        own = z[labels == label]
        ranks.append(effective_rank(own) if own.any() else 0.0)
        others = _mean_cosine(own, own) * count**2 - own.square().sum().item()  # without each one's with itself
        within.append(others / (count * (count - 1)) if count > 1 else math.nan)
        between.append(_mean_cosine(own, z[labels != label]) if len(classes) > 1 else math.nan)
        shown.append(own[: max(1, SHOWN // len(classes))])
    order = torch.cat(shown)
    return ClassStructure(classes, ranks, within, between, (order @ order.T).abs())


def _mean_cosine(first: Tensor, second: Tensor) -> float:
    parts = [(part @ second.T).abs().sum() for part in first.split(1024)]
    return (torch.stack(parts).sum() / (len(first) * len(second))).item()


@torch.no_grad()
def decode_classes(
    model: Any, subspaces: ClassSubspaces, *, components: int = 4, reach: float = 2.0, samples: int = 4, seed: int = 0
) -> Tensor:
    """What a closed loop's decoder makes of the directions of each class.

    Args:
        model: a :class:`~csc_nets.models.ClosedLoop`.
        subspaces: of its features.
        components: directions of each class, strongest first.
        reach: how far to go along each from the mean, both ways, in its deviations.
        samples: draws from each class.
        seed: of the draws.

    Returns:
        Images ``(k, 1 + 2 * components + samples, C, H, W)`` in [-1, 1]: the mean of a class, both ends of each
        direction, and draws; a class that spans fewer directions repeats its mean.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for j, mean in enumerate(subspaces.means):
        ends = subspaces.along(j, torch.tensor([-reach, reach]))[:components].flatten(0, 1)
        missing = mean.expand(2 * components - len(ends), -1)
        points = torch.cat([mean[None], ends, missing, subspaces.sample(j, samples, generator)])
        rows.append(_decode(model, points))
    return torch.stack(rows)


@torch.no_grad()
def sample_images(model: Any, subspaces: ClassSubspaces, count: int, seed: int = 0) -> Tensor:
    """Images of a closed loop that answer no image: features drawn from each class in turn, put on the sphere, decoded.

    Args:
        model: a :class:`~csc_nets.models.ClosedLoop`.
        subspaces: of its features.
        count: images.
        seed: of the draws.

    Returns:
        ``(count, C, H, W)`` in [-1, 1], class by class in turn.
    """
    generator = torch.Generator().manual_seed(seed)
    classes = len(subspaces.classes)
    drawn = [subspaces.sample(j, -(-count // classes), generator) for j in range(classes)]
    points = torch.stack(drawn, 1).flatten(0, 1)[:count]
    return torch.cat([_decode(model, part) for part in points.split(500)])


def _decode(model: Any, points: Tensor) -> Tensor:
    kind = next(model.parameters())
    return model.decode(normalize(points, dim=1).to(kind)).float().cpu()
