"""What features are worth: how well simple rules tell classes by them, and how many directions they use."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, normalize

from csc_nets.evaluation.class_subspaces import ClassSubspaces, check_features

__all__ = ["effective_rank", "extract_features", "linear_probe", "nearest_neighbours", "nearest_subspace"]

DIMENSIONS = 4096


@torch.no_grad()
def extract_features(model: nn.Module, batches: Iterable[Any], limit: int | None = None) -> tuple[Tensor, Tensor]:
    """Features of images and their labels, ``(N, d)`` in float32 and ``(N,)``, on the CPU.

    Features are what ``encode`` of an autoencoder returns, and what a classifier's last layer is given. Maps with more
    than 4,096 numbers an image are averaged over parts of the image until they have as few.

    Args:
        model: a network of the zoo, run in the mode that it is in.
        batches: ``(images, labels)``.
        limit: images to take, the first ones; None for all.

    Raises:
        ValueError: a network without features, or no images.
    """
    encode: Any = getattr(model, "encode", None)
    network: Any = model
    if encode is None:
        if not hasattr(model, "forward_head"):
            raise ValueError(f"{type(model).__name__} has neither encode nor forward_head")

        def encode(x: Tensor) -> Tensor:
            return network.forward_head(network.forward_features(x), pre_logits=True)

    device = next(iter(model.parameters())).device
    features: list[Tensor] = []
    labels: list[Tensor] = []
    for x, y in batches:
        features.append(_vectors(encode(x.to(device))).float().cpu())
        labels.append(y.cpu())
        if limit is not None and sum(map(len, labels)) >= limit:
            break
    if not features:
        raise ValueError("extract_features: no images")
    return torch.cat(features)[:limit], torch.cat(labels)[:limit]


def _vectors(features: Tensor) -> Tensor:
    if features.ndim == 4 and features[0].numel() > DIMENSIONS:
        parts = max(1, math.isqrt(DIMENSIONS // features.shape[1]))
        height, width = features.shape[2:]
        features = adaptive_avg_pool2d(features, (min(parts, height), min(parts, width)))
    return features.flatten(1)


def nearest_subspace(
    train: Tensor, labels: Tensor, features: Tensor, *, components: int = 10, centred: bool = True
) -> Tensor:
    r"""The class whose principal subspace is nearest to each feature, ``(N,)``.

    .. math:: \arg\min_j \|(I - U_j U_j^T)(z - m_j)\|

    with the leading principal directions :math:`U_j` of class j and its mean :math:`m_j`, or without mean (Dai et al.,
    `CTRL <https://arxiv.org/abs/2111.06636>`_, Entropy 2022).

    Args:
        train: features that the subspaces are fitted to, ``(n, d)``.
        labels: their classes, ``(n,)``.
        features: what is to be classified, ``(N, d)``.
        components: directions of each class, at most.
        centred: take the means out.
    """
    _check(train, labels, features)
    subspaces = ClassSubspaces.fit(train, labels, components, centred)
    return subspaces.classes[subspaces.distances(features).argmin(1)]


def nearest_neighbours(train: Tensor, labels: Tensor, features: Tensor, *, k: int = 5) -> Tensor:
    """The most frequent class among the k nearest by cosine, ``(N,)``; arguments as for :func:`nearest_subspace`."""
    _check(train, labels, features)
    if not 1 <= k <= len(train):
        raise ValueError(f"nearest_neighbours: k must be from 1 to {len(train)}, got {k}")
    train, features = normalize(train, dim=1), normalize(features, dim=1)
    return torch.cat([labels[(part @ train.T).topk(k).indices].mode(1).values for part in features.split(1024)])


def linear_probe(train: Tensor, labels: Tensor, features: Tensor) -> Tensor:
    """Classes by a linear classifier (logistic regression of standardised features), ``(N,)``.

    Arguments as for :func:`nearest_subspace`.
    """
    _check(train, labels, features)
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    probe.fit(train.numpy(), labels.numpy())
    return torch.from_numpy(probe.predict(features.numpy()))


def effective_rank(features: Tensor) -> float:
    r"""Number of directions that features use: the exponential of the entropy of their normalised spectrum.

    :math:`\exp(-\sum_i p_i \log p_i)` with :math:`p = \sigma / \sum \sigma`, the singular values of ``(N, d)`` (Roy and
    Vetterli, "The effective rank", 2007). 1 if all features are multiples of one, d if all directions weigh the same.
    """
    features = features.double()
    gram = features @ features.T if len(features) < features.shape[1] else features.T @ features
    values = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    if not bool(values.any()):
        raise ValueError("effective_rank: all features are zero")
    share = values / values.sum()
    return torch.special.entr(share).sum().exp().item()


def _check(train: Tensor, labels: Tensor, features: Tensor) -> None:
    check_features(train, labels)
    if features.ndim != 2 or train.shape[1] != features.shape[1]:
        raise ValueError(f"features must be (N, {train.shape[1]}), as those for training, got {tuple(features.shape)}")
