"""The principal subspace of each class of features: to tell classes by, to look along, to draw from."""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["ClassSubspaces", "check_features"]


@dataclass(frozen=True)
class ClassSubspaces:
    r"""Mean and leading principal directions of each class.

    Attributes:
        classes: labels, in order, ``(k,)``.
        means: ``(k, d)`` in float64; zero where they were not taken out.
        directions: for each class its orthonormal directions, strongest first, ``(r_j, d)`` in float64. A class has no
            more than it spans.
        deviations: for each class the root mean square of its features along each direction, ``(r_j,)``.
    """

    classes: Tensor
    means: Tensor
    directions: list[Tensor]
    deviations: list[Tensor]

    @classmethod
    def fit(cls, features: Tensor, labels: Tensor, components: int = 10, centred: bool = True) -> "ClassSubspaces":
        """Principal components of the features of each class.

        Args:
            features: ``(n, d)``.
            labels: ``(n,)``.
            components: directions of each class, at most.
            centred: take the means out.

        Raises:
            ValueError: shapes that do not fit, or as many components as dimensions.
        """
        check_features(features, labels)
        if not 1 <= components < features.shape[1]:  # the whole space is as near to everything
            raise ValueError(f"components must be from 1 to {features.shape[1] - 1}, got {components}")
        classes = labels.unique()
        means, directions, deviations = [], [], []
        for label in classes:
            own = features[labels == label].double()
            mean = own.mean(0) if centred else own.new_zeros(own.shape[1])
            _, weights, found = torch.linalg.svd(own - mean, full_matrices=False)
            # What a class does not span the decomposition fills up with any directions.
            spanned = weights > torch.finfo(weights.dtype).eps * max(own.shape) * weights[:1]
            means.append(mean)
            directions.append(found[spanned][:components])
            deviations.append(weights[spanned][:components] / len(own) ** 0.5)
        return cls(classes, torch.stack(means), directions, deviations)

    def distances(self, features: Tensor) -> Tensor:
        r"""Squared distances :math:`\|(I - U_j U_j^T)(z - m_j)\|^2` of features ``(N, d)`` to classes, ``(N, k)``."""
        found = []
        for mean, directions in zip(self.means, self.directions, strict=True):
            rest = features.double() - mean
            found.append(rest.square().sum(1) - (rest @ directions.T).square().sum(1))
        return torch.stack(found, 1)

    def along(self, index: int, steps: Tensor) -> Tensor:
        r"""Points :math:`m_j + s \sigma_i u_i` for every direction i of class j and every step s, ``(r_j, S, d)``.

        Args:
            index: class, by its place in ``classes``.
            steps: how far to go along each direction, in its deviations, ``(S,)``.
        """
        moves = self.deviations[index][:, None] * self.directions[index]
        return self.means[index] + steps.double().view(1, -1, 1) * moves[:, None]

    def sample(self, index: int, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Draws ``(count, d)`` from the normal distribution with this class's mean and its variances in its subspace.

        Args:
            index: class, by its place in ``classes``.
            count: draws.
            generator: source of randomness.
        """
        deviations = self.deviations[index]
        normal = torch.randn(count, len(deviations), generator=generator, dtype=torch.float64)
        return self.means[index] + (normal * deviations) @ self.directions[index]


def check_features(features: Tensor, labels: Tensor) -> None:
    """Refuses what are no features ``(n, d)`` with labels ``(n,)``, n >= 1."""
    if features.ndim != 2 or len(features) == 0:
        raise ValueError(f"features must be (n, d), n >= 1, got {tuple(features.shape)}")
    if labels.shape != features.shape[:1]:
        raise ValueError(f"labels must be ({len(features)},), got {tuple(labels.shape)}")
