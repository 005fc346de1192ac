"""Certificates that noise cannot change the label of a sample, from a bound for the error of its code."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["LabelCertificate", "label_certificate"]

ErrorBound = Callable[[float], float]


@dataclass(frozen=True)
class LabelCertificate:
    """Certificates for the labels of N samples.

    Attributes:
        label: the labels, ``(N,)``.
        margin: logit of the label minus the largest other logit, ``(N,)``. It is negative for a misclassified sample.
        radius: every code with an error below the radius has this label, ``(N,)``, float64. It is 0 or negative for a
            misclassified sample. It is exact: at this distance there is a code with a tie.
        certified: whether the error bound is below the radius, ``(N,)``.
        noise: largest noise for which the error bound is below the radius, ``(N,)``, float64; 0 if there is no such
            noise. None if the error bound is not a function of the noise.
    """

    label: Tensor
    margin: Tensor
    radius: Tensor
    certified: Tensor
    noise: Tensor | None = None


@torch.no_grad()
def label_certificate(
    logits: Tensor,
    weight: Tensor,
    error: float | Tensor | ErrorBound | Sequence[ErrorBound],
    *,
    noise: float = 0.0,
    q: int = 2,
    label: Tensor | None = None,
    positions: int = 1,
    support: Tensor | None = None,
) -> LabelCertificate:
    r"""Finds the samples for which an error of the code cannot change the label of a linear classifier.

    Let :math:`f = W \Gamma + b` be the logits of the true code, and :math:`\hat\Gamma` the code that a pursuit finds
    under noise. The label y does not change if

    .. math:: \|\Gamma - \hat\Gamma\|_{q^*} < \min_{v \ne y} \frac{f_y - f_v}{\|w_y - w_v\|_q},
              \qquad \frac1q + \frac1{q^*} = 1

    The norms of the weights may be taken over those entries only that can have an error, see ``support``.

    Derivation (Hoelder): :math:`\hat f_y - \hat f_v = f_y - f_v - (w_y - w_v)^T (\Gamma - \hat\Gamma)`, and
    :math:`|(w_y - w_v)^T e| \le \|w_y - w_v\|_q \|e\|_{q^*}`, with equality for some e. This is the criterion
    of Romano, Aberdam, Sulam, Elad, `Adversarial Noise Attacks of Deep Learning Architectures
    <https://arxiv.org/abs/1805.11596>`_, 2020, applied to each class by itself. It is never weaker than the smallest
    margin divided by the largest norm.

    Bounds of the error are those of :mod:`csc_nets.theory.sparse.theorems`: for q = 2 the ``error`` of a guarantee
    whose ``window`` is the whole code, for q = 1 its ``entry_error``. They are about unit atoms. If the atoms
    have other norms :math:`\nu` (:func:`~csc_nets.theory.atom_norms`), divide the classifier's columns by them.

    A certificate is true for the pursuit of its error bound. Mind that some bounds change the pursuit with the noise:

    - :func:`~csc_nets.theory.basis_pursuit` takes the penalty from the noise, :math:`\xi_i = 4 \epsilon_{i-1}`;
    - the thresholdings without ``thresholds`` take them from windows that move with the noise.

    As functions of the noise, these bounds are about another pursuit at every level. ``certified`` is then true for the
    pursuit that is tuned to the argument ``noise``, and the ``noise`` of the result for the pursuit that is tuned to
    that value. A pursuit that is tuned to less noise may change the label at smaller noise. For one fixed network under
    growing noise pass bounds of a fixed pursuit, such as thresholdings with ``thresholds``.

    Bounds of uniqueness and stability are true among codes of *whole* atoms only, see
    :func:`~csc_nets.theory.uniqueness`.

    Args:
        logits: logits of the *true* codes, ``(N, classes)``. A certified label is then the label under every noise
            within the bound, and without noise.
        weight: weight of the classifier, ``(classes, F)``; F is the number of features of the flattened or pooled code.
        error: bound for :math:`\|\Gamma - \hat\Gamma\|_{q^*}`. Either a number, or one number per sample ``(N,)``, or a
            function from the noise to the bound, or one such function per sample. A function must not decrease; it
            returns inf where there is no bound.
        noise: noise at which the functions are evaluated for ``certified``. Only for functions.
        q: 2 for an l2 bound of the error, 1 for a bound of every entry.
        label: labels ``(N,)`` to certify, of any integer type; None takes the predicted ones.
        positions: number S of positions over which the classifier averages the code. S entries with the weight
            :math:`w / S` have the norm :math:`S^{1/q - 1} \|w\|_q`. 1 for a flattened code, and for the maximum over
            positions, which changes by no more than the largest error.
        support: number of entries of each feature that can have an error, ``(N, F)``; None for all. With the bounds of
            the three theorems about pursuits under noise, errors lie in the support of the true code. So pass
            ``code != 0``, flattened, or counted over the positions. Pass None for the maximum over positions, and for
            :func:`~csc_nets.theory.global_stability`, where errors may lie anywhere.

    Raises:
        ValueError: shapes do not fit, there are fewer than two classes, values are not finite, q is not 1 or 2, the
            noise is negative or given without a function, or a function returns a negative number or NaN.

    Example:
        >>> weight = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> code = torch.tensor([[3.0, 1.0], [0.0, 0.5]])
        >>> certificate = label_certificate(code @ weight.T, weight, lambda noise: 2 * noise, noise=0.5)
        >>> certificate.label, certificate.radius, certificate.certified, certificate.noise
        ... # doctest: +NORMALIZE_WHITESPACE
        (tensor([0, 1]), tensor([1.4142, 0.3536], dtype=torch.float64), tensor([ True, False]),
         tensor([0.7071, 0.1768], dtype=torch.float64))
    """
    _check(logits, weight, q, positions)
    label = logits.argmax(1) if label is None else label
    integers = not (label.is_floating_point() or label.is_complex() or label.dtype == torch.bool)
    if label.shape != logits.shape[:1] or not integers:
        raise ValueError(f"label must be {len(logits)} integers, got {label.dtype} of shape {tuple(label.shape)}")
    label = label.long()
    if len(label) and not 0 <= label.min() <= label.max() < len(weight):
        raise ValueError(f"label must be 0 to {len(weight) - 1}, got {label.min().item()} to {label.max().item()}")
    if not 0 <= noise < math.inf:
        raise ValueError(f"noise must be a finite number >= 0, got {noise!r}")
    values, wide = logits.double(), weight.double()
    shape = (len(label), weight.shape[1])
    if support is None:
        support = torch.full((), positions, device=wide.device).expand(shape)
    elif support.shape != shape or not bool(((support >= 0) & (support <= positions)).all()):
        raise ValueError(f"support must be {shape} counts from 0 to {positions}, got shape {tuple(support.shape)}")
    norms = wide.new_zeros(values.shape)
    for row, y, count in zip(norms, label, support.to(wide), strict=True):
        row.copy_(((wide[y] - wide).abs() ** q @ count) ** (1 / q) / positions)
    gaps = values.gather(1, label[:, None]) - values
    itself = torch.nn.functional.one_hot(label, values.shape[1]).bool()
    # If two classes have the same weight, no error of the code changes their order.
    ratios = torch.where(norms > 0, gaps / norms, torch.where(gaps > 0, math.inf, -math.inf))
    radius = ratios.masked_fill(itself, math.inf).amin(1)
    margin = gaps.masked_fill(itself, math.inf).amin(1)
    largest = None
    if isinstance(error, float | int | Tensor):
        if noise != 0:
            raise ValueError(f"noise needs an error that is a function of it, got noise={noise!r} and error={error!r}")
        bound = torch.as_tensor(error, dtype=radius.dtype, device=radius.device)
        if bound.shape not in ((), radius.shape) or not bool((bound >= 0).all()):
            raise ValueError(f"error must be a number >= 0 or {len(radius)} of them, got {error!r}")
    else:
        bounds = [error] * len(radius) if callable(error) else list(error)
        if len(bounds) != len(radius):
            raise ValueError(f"error must be one function or one for each of {len(radius)} samples, got {len(bounds)}")
        bounds = [_checked(function) for function in bounds]
        bound = radius.new_tensor([function(noise) for function in bounds])
        found = [_largest_noise(*pair) for pair in zip(bounds, radius.tolist(), strict=True)]
        largest = radius.new_tensor(found)
    return LabelCertificate(label, margin.to(logits.dtype), radius, bound < radius, largest)


def _check(logits: Tensor, weight: Tensor, q: int, positions: int) -> None:
    if logits.ndim != 2 or weight.ndim != 2 or logits.shape[1] != len(weight) or len(weight) < 2:
        raise ValueError(
            "logits must be (N, classes) and weight (classes, F) with at least 2 classes, got "
            f"{tuple(logits.shape)} and {tuple(weight.shape)}"
        )
    if not bool(logits.isfinite().all()) or not bool(weight.isfinite().all()):
        raise ValueError("logits and weight must be finite")
    if q not in (1, 2):
        raise ValueError(f"q must be 1 or 2, got {q!r}")
    if isinstance(positions, bool) or not isinstance(positions, int) or positions < 1:
        raise ValueError(f"positions must be an int >= 1, got {positions!r}")


def _checked(error: ErrorBound) -> ErrorBound:
    """The same function, with a check that it returns a number >= 0 or inf."""

    def bound(noise: float) -> float:
        value = error(noise)
        if not value >= 0:
            raise ValueError(f"error must return a number >= 0 or inf, got {value!r} for the noise {noise!r}")
        return value

    return bound


def _largest_noise(error: ErrorBound, radius: float) -> float:
    """Largest noise with ``error(noise) < radius``, by bisection, rounded down; inf if it is above 1e18."""
    if not error(0.0) < radius:
        return 0.0
    low, high = 0.0, 1.0
    while error(high) < radius:
        low, high = high, 2 * high
        if high > 1e18:
            return math.inf
    # The answer may have any order of magnitude: while low is 0, only the second condition can stop the loop.
    while high - low > 1e-9 * high and high > 1e-18:
        middle = (low + high) / 2
        low, high = (middle, high) if error(middle) < radius else (low, middle)
    return low
