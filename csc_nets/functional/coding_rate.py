r"""Coding rates of feature sets: the number of nats that tells features apart up to a precision.

Features are the rows of ``(n, d)`` tensors. The symbol :math:`\epsilon` stands for :math:`\epsilon^2` of the papers:

.. math:: R(Z) = \tfrac12 \log\det\Bigl(I + \frac{d}{n \epsilon} Z^T Z\Bigr)

(Ma, Derksen, Hong, Wright 2007; Yu et al., `Learning Diverse and Discriminative Representations via the Principle of
Maximal Coding Rate Reduction <https://arxiv.org/abs/2006.08558>`_, 2020). The game of closed-loop transcription is
Dai et al., `CTRL: Closed-Loop Transcription to an LDR via Minimaxing Rate Reduction
<https://arxiv.org/abs/2111.06636>`_, Entropy 2022. Natural logarithms throughout. Results have the precision
of the features, float32 at least, also under autocast.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from csc_nets.functional.checks import full_precision, is_transformed

__all__ = [
    "class_coding_rate",
    "coding_rate",
    "ctrl_binary",
    "ctrl_multi",
    "ctrl_terms",
    "rate_distance",
    "rate_reduction",
    "sample_distance",
]


def coding_rate(features: Tensor, eps: float = 0.5) -> Tensor:
    r""":math:`R(Z)` of features ``(..., n, d)``, in nats, ``(...)``; 0 for no features.

    The determinant is that of the smaller of :math:`Z^T Z` and :math:`Z Z^T`, which is the same (Sylvester).

    Raises:
        ValueError: ``eps`` is not above 0, or features without two axes.

    Example:
        >>> coding_rate(torch.eye(2), eps=0.5)  # log det(I + 2 I) / 2 = log 3
        tensor(1.0986)
    """
    features = _checked(features, eps)
    return _exact(features, eps, lambda z: _logdet(z, torch.tensor(max(z.shape[-2], 1), device=z.device), eps) / 2)


def class_coding_rate(features: Tensor, labels: Tensor, eps: float = 0.5) -> Tensor:
    r"""Rate of features that are coded class by class, 0-d.

    .. math:: R_c(Z) = \sum_j \frac{n_j}{2 n} \log\det\Bigl(I + \frac{d}{n_j \epsilon} Z_j^T Z_j\Bigr)

    Args:
        features: ``(n, d)``.
        labels: class of each feature, integers ``(n,)``. A class without features adds nothing.
        eps: precision.
    """
    features = _checked(features, eps, labels)
    return _exact(features, eps, lambda z: _class_rate(z, _Classes(labels), eps))


def rate_reduction(features: Tensor, labels: Tensor, eps: float = 0.5) -> Tensor:
    r""":math:`\Delta R = R(Z) - R_c(Z)`: how much shorter the code becomes when the classes are known, 0-d.

    It is never negative, up to rounding.

    Arguments as for :func:`class_coding_rate`.

    Example:
        >>> rate_reduction(torch.eye(2), torch.tensor([0, 1]))  # log 3 - log(1 + 4) / 2
        tensor(0.2939)
    """
    return coding_rate(features, eps) - class_coding_rate(features, labels, eps)


def rate_distance(first: Tensor, second: Tensor, eps: float = 0.5) -> Tensor:
    r"""Distance of two feature sets, 0-d: the rate reduction of their union with the sets as its two classes.

    For sets of one size it is :math:`R(Z \cup \hat Z) - \tfrac12 R(Z) - \tfrac12 R(\hat Z)`, zero where both have the
    same covariance.

    Args:
        first: ``(n, d)``.
        second: ``(m, d)``.
        eps: precision.
    """
    first, second = _checked(first, eps), _checked(second, eps)
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        seen = f"{tuple(first.shape)} and {tuple(second.shape)}"
        raise ValueError(f"rate_distance: expected features (n, d) and (m, d), got {seen}")
    share = len(first) / max(1, len(first) + len(second))
    separate = share * coding_rate(first, eps) + (1 - share) * coding_rate(second, eps)
    return coding_rate(torch.cat([first, second]), eps) - separate


def sample_distance(first: Tensor, second: Tensor, eps: float = 0.5) -> Tensor:
    r"""Rate distance of each feature from its partner, in nats: :func:`rate_distance` of sets of one feature each.

    .. math:: \tfrac12 \log\bigl((1 + \alpha a)(1 + \alpha b) - \alpha^2 c^2\bigr)
              - \tfrac14 \log (1 + 2 \alpha a) - \tfrac14 \log (1 + 2 \alpha b), \qquad \alpha = \frac{d}{2 \epsilon}

    with the squared norms a and b and the inner product c. It is zero where both features are the same up to the sign,
    so it cannot tell z from -z. It is the sample-wise term of Tong et al., `Unsupervised Learning of Structured
    Representations via Closed-Loop Transcription <https://arxiv.org/abs/2210.16782>`_, 2022.

    Args:
        first: ``(n, d)``.
        second: ``(n, d)``.
        eps: precision.

    Returns:
        ``(n,)``.

    Raises:
        ValueError: features of other shapes or that are not finite, ``eps`` not above 0.
    """
    first, second = _checked(first, eps), _checked(second, eps)
    if first.ndim != 2 or first.shape != second.shape:
        raise ValueError(
            f"sample_distance: expected features (n, d) twice, got {tuple(first.shape)} and {tuple(second.shape)}"
        )

    def distance(both: Tensor) -> Tensor:
        z, z_hat = both
        alpha = z.shape[1] / (2 * eps)
        a, b, c = (z * z).sum(1), (z_hat * z_hat).sum(1), (z * z_hat).sum(1)
        pair = 1 + alpha * (a + b) + alpha**2 * (a * b - c * c)
        found: Tensor = pair.log() / 2 - ((1 + 2 * alpha * a).log() + (1 + 2 * alpha * b).log()) / 4
        return found

    return _exact(torch.stack([first, second]), eps, distance)


def ctrl_binary(features: Tensor, transcribed: Tensor, eps: float = 0.5) -> Tensor:
    r"""Objective of the game without labels, :math:`\Delta R(Z, \hat Z)`, 0-d: the encoder maximises it, the decoder
    minimises it.

    Args:
        features: of the data, ``(n, d)``, on the unit sphere.
        transcribed: features of the images that the decoder makes of ``features``, ``(n, d)``.
        eps: precision; 0.5 in all published runs.
    """
    return rate_distance(features, transcribed, eps)


def ctrl_multi(
    features: Tensor,
    transcribed: Tensor,
    labels: Tensor,
    eps: float = 0.5,
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> Tensor:
    r"""The game with labels, 0-d, with weights :math:`\gamma_1, \gamma_2, \gamma_3`:

    .. math:: \gamma_1 \Delta R(Z) + \gamma_2 \Delta R(\hat Z) + \gamma_3 \sum_j \Delta R(Z_j, \hat Z_j)

    It takes 3 k + 2 determinants for k classes in the batch, because the distances use the determinants of the class
    rates again. The sizes of the classes decide which products are computed. So a compiler breaks its graph here.

    Args:
        features: of the data, ``(n, d)``.
        transcribed: of what the decoder makes of them, in the same order, ``(n, d)``.
        labels: class of each, integers ``(n,)`` from 0 on. A class that is not there adds nothing.
        eps: precision.
        weights: of the three terms.

    Raises:
        ValueError: a label below 0, which stands for no class elsewhere; features or labels of another form.
    """
    terms = ctrl_terms(features, transcribed, labels, eps)
    return weights[0] * terms["reduction"] + weights[1] * terms["reduction_hat"] + weights[2] * terms["distance"]


def ctrl_terms(
    features: Tensor, transcribed: Tensor, labels: Tensor | None = None, eps: float = 0.5
) -> dict[str, Tensor]:
    r"""The terms of both games, each 0-d and in nats. No determinant is computed twice.

    Args:
        features: of the data, ``(n, d)``.
        transcribed: features of the images that the decoder makes of them, in the same order, ``(n, d)``.
        labels: class of each, integers ``(n,)``; None for the game without labels.
        eps: precision.

    Returns:
        ``rate`` and ``rate_hat``, :math:`R(Z)` and :math:`R(\hat Z)`, and ``distance``, :math:`\Delta R(Z, \hat Z)`.
        With labels the distance is the sum of the distances of all classes, and the result also has ``reduction`` and
        ``reduction_hat``, :math:`\Delta R(Z)` and :math:`\Delta R(\hat Z)`.

    Example:
        >>> terms = ctrl_terms(torch.eye(2), torch.eye(2), torch.tensor([0, 1]))
        >>> [f"{name} {value:.4f}" for name, value in terms.items()]
        ['rate 1.0986', 'rate_hat 1.0986', 'distance 0.0000', 'reduction 0.2939', 'reduction_hat 0.2939']
    """
    features, transcribed = _checked(features, eps, labels), _checked(transcribed, eps, labels)
    if transcribed.shape != features.shape or features.ndim != 2:
        seen = f"{tuple(features.shape)} and {tuple(transcribed.shape)}"
        raise ValueError(f"features and transcribed must be of one shape (n, d), got {seen}")

    # The sizes of the classes are read anyway, whatever the device. -1 and -100 are what others call no class.
    if labels is not None and not is_transformed() and not labels.is_meta and labels.numel() and int(labels.min()) < 0:
        raise ValueError(f"labels must be classes from 0 on, got {int(labels.min())}: leave out what has no class")

    def terms(both: Tensor) -> Tensor:
        if labels is None:
            count = torch.tensor([max(1, both.shape[1])], device=both.device)
            logdets = _pair_logdets(both[:1], both[1:], count, eps)
            return torch.cat([logdets[:2, 0] / 2, _distance(logdets)])
        classes = _Classes(labels)
        logdets = both.new_zeros(3, len(classes.counts))
        for where, rows, there in classes:
            members = both[:, rows] * there[..., None]
            logdets = logdets.index_copy(1, where, _pair_logdets(members[0], members[1], classes.counts[where], eps))
        share = classes.counts.to(both.dtype) / max(1, both.shape[1])
        rates = coding_rate(both, eps)
        return torch.cat([rates, _distance(logdets), rates - (share * logdets[:2]).sum(1) / 2])

    names = ["rate", "rate_hat", "distance", "reduction", "reduction_hat"]
    return dict(zip(names, _exact(torch.stack([features, transcribed]), eps, terms), strict=False))


class _Classes:
    """The rows of each class, in buckets of classes of similar size, padded, for batched products.

    A bucket holds classes of more than m / 2 and at most m members, so at most half of it is padding. There are no more
    buckets than the largest count has bits, for any number of classes.
    """

    def __init__(self, labels: Tensor) -> None:
        order = labels.argsort(stable=True)
        _, self.counts = labels.unique(return_counts=True)
        starts = self.counts.cumsum(0) - self.counts
        self.buckets: list[tuple[Tensor, Tensor, Tensor]] = []
        octave = torch.log2(self.counts.double()).ceil().long()
        for power in octave.unique().tolist():
            classes = (octave == power).nonzero()[:, 0]
            counts = self.counts[classes]
            within = torch.arange(int(counts.max()), device=labels.device)
            there = within < counts[:, None]
            rows = order[(starts[classes, None] + within).clamp_max(len(order) - 1)]
            self.buckets.append((classes, rows, there))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        return iter(self.buckets)


def _class_rate(z: Tensor, classes: _Classes, eps: float) -> Tensor:
    total = z.new_zeros(())
    for where, rows, there in classes:
        counts = classes.counts[where]
        logdets = _logdet(z[rows] * there[..., None], counts, eps)
        total = total + (counts.to(z.dtype) * logdets).sum() / (2 * max(1, len(z)))
    return total


def _pair_logdets(a: Tensor, b: Tensor, count: Tensor, eps: float) -> Tensor:
    """Log-determinants of two sets ``(k, n, d)`` with ``count`` features each, and of their union, ``(3, k)``."""
    if a.shape[-2] < a.shape[-1]:
        return torch.stack(
            [_logdet(a, count, eps), _logdet(b, count, eps), _logdet(torch.cat([a, b], -2), 2 * count, eps)]
        )
    scale = _scale(a, count, eps)
    first, second = scale * (a.mT @ a), scale * (b.mT @ b)
    return _logdet_plus_identity(torch.stack([first, second, (first + second) / 2]))


def _distance(logdets: Tensor) -> Tensor:
    """Rate distances of pairs, from :func:`_pair_logdets`, added up: ``(1,)``."""
    return (logdets[2] / 2 - logdets[:2].sum(0) / 4).sum(0, keepdim=True)


def _logdet(z: Tensor, count: Tensor, eps: float) -> Tensor:
    """``log det(I + d / (count eps) Z^T Z)`` of ``(..., n, d)``, ``(...)``, through the smaller Gram matrix."""
    z = z * _scale(z, count, eps).sqrt()
    return _logdet_plus_identity(z @ z.mT if z.shape[-2] < z.shape[-1] else z.mT @ z)


def _scale(z: Tensor, count: Tensor, eps: float) -> Tensor:
    return (z.shape[-1] / (count.to(z.dtype) * eps))[..., None, None]


def _logdet_plus_identity(gram: Tensor) -> Tensor:
    factor = torch.linalg.cholesky(gram + torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device))
    diagonal: Tensor = factor.diagonal(dim1=-2, dim2=-1)
    return 2 * diagonal.log().sum(-1)


def _exact(features: Tensor, eps: float, compute: Callable[[Tensor], Tensor]) -> Tensor:
    """Computes outside of autocast, in a precision that resolves the identity beside the Gram matrix; returns float32
    or wider.

    Eigenvalues of the Gram matrices are at most d / eps times the largest squared norm of a feature. For unit vectors
    and a usual ``eps`` float32 is exact to 1e-5 and twice as fast; for anything else it may lose all.
    """
    own = torch.promote_types(features.dtype, torch.float32)
    wide = own if features.device.type == "mps" else torch.float64
    if features.device.type == "cpu" and not is_transformed() and features.numel():
        largest = features.detach().to(own).square().sum(-1).amax().item() * features.shape[-1] / eps
        wide = own if largest < 1024 else wide
    with full_precision(features):
        return compute(features.to(wide)).to(own)


def _checked(features: Any, eps: float, labels: Tensor | None = None) -> Tensor:
    if not isinstance(features, Tensor) or features.ndim < 2 or not features.is_floating_point():
        seen = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise ValueError(f"features must be rows of floats (n, d), got {seen}")
    if not 0 < eps < float("inf"):
        raise ValueError(f"eps must be a finite number > 0, got {eps!r}")
    # Reading a value would stop a graph being traced, or wait for the accelerator.
    if features.device.type == "cpu" and not is_transformed() and not bool(features.isfinite().all()):
        raise ValueError("features must be finite, got NaN or infinite values")
    if labels is not None:
        if features.ndim != 2:
            raise ValueError(f"features with labels must be (n, d), got {tuple(features.shape)}")
        if labels.shape != features.shape[:1] or labels.is_floating_point() or labels.is_complex():
            raise ValueError(f"labels must be integers ({len(features)},), got {labels.dtype} {tuple(labels.shape)}")
    return features
