r"""Model restricted isometry: measures by Monte Carlo how much a dictionary changes the norm of sparse codes.

A code is model-k-sparse if each of its blocks has at most one non-zero, and k blocks have one. A block is one atom with
all its positions or, as in the pooling of networks, with the positions of one window. The constant :math:`\delta_k` is
the smallest number with

.. math:: (1 - \delta_k) \|z\|^2 \le \|D z\|^2 \le (1 + \delta_k) \|z\|^2 \qquad \text{for all such } z

(Gilbert, Zhang, Lee, Zhang, Lee, `Towards Understanding the Invertibility of Convolutional Neural Networks
<https://arxiv.org/abs/1705.08664>`_, section 3). The exact constant cannot be computed except for tiny dictionaries.
The measurement gives a lower bound of it, and an upper bound of the share of codes that deviate by more than that.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor, nn

from csc_nets.functional import ConvGeometry, unit_norm
from csc_nets.theory.isometry.random_model import check_counts, is_count, sample_model_code
from csc_nets.theory.sparse.grouped_dictionary import GroupedDictionary

__all__ = ["RestrictedIsometry", "quantile_rank", "restricted_isometry"]

VALUES = ("uniform", "gaussian", "sign", "worst")
# Entries of codes and signals that are in memory at once: 64 MiB in float64.
BATCH = 2**23


def quantile_rank(share: float, n: int) -> int:
    """The smallest rank r, from 1 to n, for which the first r of n sorted numbers are at least this share of them.

    Example:
        >>> quantile_rank(0.07, 100), 0.07 * 100
        (7, 7.000000000000001)
    """
    return max(1, math.ceil(share * n - 1e-9))


@dataclass(frozen=True)
class RestrictedIsometry:
    r"""Measured ratios :math:`\|D z\|^2 / \|z\|^2`, and statistical statements about codes that were not drawn.

    Attributes:
        ratios: ``(samples,)``, float64. With ``values="worst"``, the ratio farthest from 1 for each support.
        nonzeros: largest number of non-zeros of a code.
        confidence: confidence of each single statement below, between 0 and 1.
    """

    ratios: Tensor
    nonzeros: int
    confidence: float = 0.95

    @property
    def deviations(self) -> Tensor:
        """``|ratio - 1|``, ``(samples,)``."""
        return (self.ratios - 1).abs()

    @property
    def delta(self) -> float:
        r"""The largest measured deviation. It is a **lower** bound of :math:`\delta_k`, the maximum over all codes."""
        return self.deviations.max().item()

    @property
    def mean(self) -> float:
        """Mean of the ratios."""
        return self.ratios.mean().item()

    @property
    def mean_interval(self) -> tuple[float, float]:
        """Confidence interval of the mean ratio, by the central limit theorem; infinite for one sample."""
        if len(self.ratios) < 2:
            return -math.inf, math.inf
        error = self.ratios.std().item() / math.sqrt(len(self.ratios))
        reach = NormalDist().inv_cdf((1 + self.confidence) / 2) * error
        return self.mean - reach, self.mean + reach

    @property
    def exceeding(self) -> float:
        r"""At most this share of all such codes deviates by more than ``delta``, with the given confidence.

        Derivation: if a share p of codes deviated by more, n draws would miss them with probability
        :math:`(1 - p)^n`. This is :math:`1 - c` for :math:`p = 1 - (1 - c)^{1/n}`, about 3 / n for c = 0.95. It is true
        for every distribution.
        """
        return 1 - (1 - self.confidence) ** (1 / len(self.ratios))

    def quantile(self, share: float) -> tuple[float, float, float]:
        """Quantile of the deviations, and the two ends of its confidence interval.

        The ends are order statistics. The number of draws below the quantile is binomial, so the confidence is true for
        every distribution. The upper end is inf if there are too few draws.

        Args:
            share: share of codes that deviate by at most the quantile, between 0 and 1.

        Example:
            >>> found = RestrictedIsometry(1 + torch.arange(100) / 100, nonzeros=1)
            >>> tuple(round(number, 2) for number in found.quantile(0.5))
            (0.49, 0.39, 0.6)
        """
        if not 0 < share < 1:
            raise ValueError(f"share must be between 0 and 1, got {share!r}")
        n = len(self.ratios)
        count = torch.arange(n + 1, dtype=torch.float64)
        ways = math.lgamma(n + 1) - torch.lgamma(count + 1) - torch.lgamma(n - count + 1)
        below = (ways + count * math.log(share) + (n - count) * math.log1p(-share)).exp().cumsum(0)
        tail = (1 - self.confidence) / 2
        # The n order statistics, with 0 before the first and inf after the last.
        ordered = [0.0, *self.deviations.sort().values.tolist(), math.inf]
        ranks = quantile_rank(share, n), int((below <= tail).sum()), int((below < 1 - tail).sum()) + 1
        estimate, low, high = (ordered[rank] for rank in ranks)
        return estimate, low, high

    def __str__(self) -> str:
        low, high = self.mean_interval
        middle, tail = self.quantile(0.5), self.quantile(0.99)
        return (
            f"{len(self.ratios)} codes of at most {self.nonzeros} non-zeros, confidence {self.confidence:g}\n"
            f"  ||D z||^2 / ||z||^2: mean {self.mean:.4f} ({low:.4f} to {high:.4f})\n"
            f"  |ratio - 1|: median {middle[0]:.4f} ({middle[1]:.4f} to {middle[2]:.4f}), "
            f"99 % {tail[0]:.4f} ({tail[1]:.4f} to {tail[2]:.4f})\n"
            f"  delta >= {self.delta:.4f}; at most {self.exceeding:.2%} of such codes exceed it"
        )


@torch.no_grad()
def restricted_isometry(
    dictionary: Tensor | nn.Module | GroupedDictionary,
    k: int | None = None,
    *,
    signal_size: Sequence[int] | None = None,
    code_size: Sequence[int] | None = None,
    window: int | Sequence[int] | None = None,
    codes: Tensor | None = None,
    samples: int = 1000,
    values: str = "uniform",
    differences: bool = False,
    aligned: bool = False,
    unit_atoms: bool = False,
    confidence: float = 0.95,
    generator: torch.Generator | None = None,
) -> RestrictedIsometry:
    r"""Draws model-k-sparse codes, or takes given ones, and measures how much the dictionary changes their norm.

    The largest measured deviation is a lower bound of :math:`\delta_k`. ``values="worst"`` makes it larger, so sharper,
    than random values do. ``aligned`` supports deviate more than random ones if codes have many positions. Unit
    atoms of coherence :math:`\mu` have :math:`\delta_k \le (k - 1) \mu` (Gershgorin). For k = 2 this is an equality, if
    :math:`\mu` is the coherence over pairs of different blocks.

    Args:
        dictionary: atoms ``(M, C, *K)`` (stride 1, no padding), a matrix ``(M, F)`` (each row is an atom and a block of
            its own), a dictionary layer, a convolution with any groups, ``nn.Linear``, or the ``dictionary`` of a layer
            that :func:`~csc_nets.theory.find_code_layers` found.
        k: number of non-zeros of a code; not with ``codes``.
        signal_size: spatial size of the signals. Give this or ``code_size``; a matrix needs neither.
        code_size: spatial size of the codes. If both sizes are given, they must fit.
        window: positions of a block, one int or one per axis; None for all positions of an atom.
        codes: codes ``(N, M, *S')`` to measure in place of random ones, such as activations of a network. The
            statistical statements assume that they are independent draws.
        samples: number of codes to draw.
        values: values of the non-zeros: ``"uniform"`` in [-1, 1], ``"gaussian"``, ``"sign"`` for -1 and 1, or
            ``"worst"``. The last takes for each support the extreme over all values, from the eigenvalues of the Gram
            matrix of its atoms. It needs k syntheses per sample, and memory for k signals.
        differences: draw sums of two such codes (a sum of 0 is drawn again), for the constant :math:`\delta_{2k}` of
            Theorem 3.3.
        aligned: put all non-zeros at one position, where atoms overlap most, for any window. k is at most M.
        unit_atoms: scale the atoms to unit norm.
        confidence: confidence of the intervals.
        generator: generator of the random numbers.

    Raises:
        ValueError: k, a size, the window, a name or the dictionary is not allowed, codes do not fit or one is zero, or
            there are NaN.

    Example:
        >>> atoms = torch.eye(8).view(8, 8, 1)  # orthonormal
        >>> found = restricted_isometry(atoms, 3, signal_size=(10,), values="worst", samples=100)
        >>> round(found.delta, 6), round(found.exceeding, 3)
        (0.0, 0.03)
    """
    if values not in VALUES:
        raise ValueError(f"values must be one of {', '.join(VALUES)}, got {values!r}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence!r}")
    check_counts(samples=samples)
    atoms = _atoms(dictionary, unit_atoms)
    shape, size = _code_shape(atoms, signal_size, code_size, codes)
    entries = math.prod(shape) + atoms.weight.shape[1] * atoms.groups * math.prod(size)
    batch = max(1, BATCH // entries)
    if codes is not None:
        laws = {"k": k, "window": window, "differences": differences or None, "aligned": aligned or None}
        given = ", ".join(f"{name}={value!r}" for name, value in laws.items() if value is not None)
        if given:
            raise ValueError(f"{', '.join(laws)} are of random codes, got codes and {given}")
        drawn: Iterator[Tensor] = iter(codes.to(atoms.weight).split(batch))
    else:
        if k is None:
            raise ValueError("restricted_isometry: give k or codes")
        law = "gaussian" if values == "worst" else values
        options = {"window": window, "values": law, "aligned": aligned, "generator": generator}
        drawn = _draw(shape, k, samples, batch, differences, options)
    ratios: list[Tensor] = []
    nonzeros = 0
    for z in drawn:
        z = z.to(atoms.weight)
        nonzeros = max(nonzeros, int(torch.count_nonzero(z.flatten(1), 1).max()))
        if values == "worst":
            ratios.extend(_extreme(atoms, code, size, batch) for code in z)
        else:
            ratios.append(_energy(atoms.synthesis(z, size)) / _energy(z))
    found = torch.cat(ratios) if values != "worst" else torch.stack(ratios)
    if not bool(found.isfinite().all()):
        raise ValueError("restricted_isometry: atoms and codes must be finite, and no code zero")
    return RestrictedIsometry(found.cpu(), nonzeros, confidence)


def _atoms(dictionary: Any, unit_atoms: bool) -> GroupedDictionary:
    """The atoms and their geometry. They are scaled to unit norm only if ``unit_atoms`` is set."""
    weight: Any = dictionary if isinstance(dictionary, Tensor) else getattr(dictionary, "weight", None)
    if isinstance(dictionary, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        conv = dictionary
        geometry = ConvGeometry.create(
            len(conv.kernel_size), conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.padding_mode
        )
    elif isinstance(weight, Tensor) and isinstance(known := getattr(dictionary, "geometry", None), ConvGeometry):
        geometry = known
    elif isinstance(weight, Tensor) and (weight.ndim == 2 or (weight is dictionary and 3 <= weight.ndim <= 5)):
        geometry = ConvGeometry.create(weight.ndim - 2, tuple(weight.shape[2:]))
    else:
        shape = f" {tuple(weight.shape)}" if isinstance(weight, Tensor) else ""
        raise ValueError(
            "dictionary must be atoms (M, C, *K) or (M, F), a dictionary layer or a convolution, got "
            f"{type(dictionary).__name__}{shape}"
        )
    weight = weight.detach()
    return GroupedDictionary(unit_norm(weight) if unit_atoms else weight, geometry, getattr(dictionary, "groups", 1))


def _code_shape(
    atoms: GroupedDictionary, signal_size: Sequence[int] | None, code_size: Sequence[int] | None, codes: Tensor | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shape ``(M, *S')`` of a code and size ``S`` of its signal."""
    geometry, count = atoms.geometry, len(atoms.weight)
    for name, given in (("signal_size", signal_size), ("code_size", code_size)):
        if given is None:
            continue
        if not isinstance(given, Sequence) or len(given) != geometry.dims or not all(map(is_count, given)):
            allowed = {0: "() for a matrix", 1: "1 int >= 1"}.get(geometry.dims, f"{geometry.dims} ints >= 1")
            raise ValueError(f"{name} must be {allowed}, got {given!r}")
    seen = None
    if codes is not None:
        shape = tuple(codes.shape) if isinstance(codes, Tensor) else ()
        if len(shape) != geometry.dims + 2 or shape[1] != count or shape[0] == 0:
            got = f"shape {shape}" if isinstance(codes, Tensor) else type(codes).__name__
            raise ValueError(f"codes must be (N, {count}{', S' * geometry.dims}), got {got}")
        seen = shape[2:]
    if signal_size is None:
        known = code_size if code_size is not None else seen
        if known is None and geometry.dims:
            raise ValueError("restricted_isometry: give signal_size, code_size or codes for a convolution")
        signal_size = geometry.signal_size(known or ())
    fits = geometry.code_size(signal_size)
    for name, given in (("code_size", code_size), ("the size of codes", seen)):
        if given is not None and tuple(given) != fits:
            raise ValueError(f"{name} must be {fits} for signals of size {tuple(signal_size)}, got {tuple(given)}")
    return (count, *fits), tuple(signal_size)


def _draw(
    shape: tuple[int, ...], k: int, samples: int, batch: int, differences: bool, options: dict[str, Any]
) -> Iterator[Tensor]:
    """Batches of random codes ``(n, *shape)``."""
    if differences and options["aligned"] and k <= shape[0]:
        k, differences = min(2 * k, shape[0]), False  # the sum of two at one position is one code with 2 k atoms

    def some(n: int) -> Tensor:
        z = sample_model_code(n, shape[0], shape[1:], k, **options)
        return z + sample_model_code(n, shape[0], shape[1:], k, **options) if differences else z

    for start in range(0, samples, batch):
        z = some(min(batch, samples - start))
        while len(zero := (~z.flatten(1).any(1)).nonzero()[:, 0]):  # two codes with the same support may cancel
            z[zero] = some(len(zero))
        yield z


def _energy(t: Tensor) -> Tensor:
    """Squared norm per sample ``(N,)``, float64."""
    return t.flatten(1).square().sum(1, dtype=torch.float64)


def _extreme(atoms: GroupedDictionary, code: Tensor, size: tuple[int, ...], batch: int) -> Tensor:
    """The ratio farthest from 1 over all codes on the support of ``code (M, *S')``."""
    places = code.flatten().nonzero()
    if len(places) == 0:
        return code.new_full((), math.nan)
    columns = []
    for part in places.split(batch):
        single = code.new_zeros(len(part), code.numel()).scatter_(1, part, 1.0)
        columns.append(atoms.synthesis(single.view(-1, *code.shape), size).flatten(1).double())
    signals = torch.cat(columns)
    ends = torch.linalg.eigvalsh(signals @ signals.T)[[0, -1]].clamp_min(0)
    return ends[(ends - 1).abs().argmax()]
