r"""Model restricted isometry: how far a dictionary is from keeping the norm of sparse codes, by Monte Carlo.

A code is model-k-sparse if each of its blocks holds at most one non-zero, and k blocks hold one; a block is one atom
with all its positions or, as networks pool, one window of them. The constant :math:`\delta_k` is the least for which

.. math:: (1 - \delta_k) \|z\|^2 \le \|D z\|^2 \le (1 + \delta_k) \|z\|^2 \qquad \text{for all such } z

(Gilbert, Zhang, Lee, Zhang, Lee, `Towards Understanding the Invertibility of Convolutional Neural Networks
<https://arxiv.org/abs/1705.08664>`_, section 3). Nobody computes it for more than a handful of codes: what is measured
here bounds it from below, and says for which share of codes it may be exceeded.
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
# Entries of codes and signals that are held at once: 64 MiB in float64.
BATCH = 2**23


def quantile_rank(share: float, n: int) -> int:
    """The least rank, from 1, of n sorted numbers that at least this share of them does not exceed.

    Example:
        >>> quantile_rank(0.07, 100), 0.07 * 100
        (7, 7.000000000000001)
    """
    return max(1, math.ceil(share * n - 1e-9))


@dataclass(frozen=True)
class RestrictedIsometry:
    r"""Measured ratios :math:`\|D z\|^2 / \|z\|^2`, and what they say of codes that were not drawn.

    Attributes:
        ratios: ``(samples,)``, float64; with ``values="worst"`` of each support the extreme farthest from 1.
        nonzeros: most non-zeros of a code.
        confidence: of the statements below, each by itself, between 0 and 1.
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
        r"""The largest deviation seen: a **lower** bound of :math:`\delta_k`, which is over all codes."""
        return self.deviations.max().item()

    @property
    def mean(self) -> float:
        """Of the ratios."""
        return self.ratios.mean().item()

    @property
    def mean_interval(self) -> tuple[float, float]:
        """Of the mean ratio over all such codes, by the central limit theorem; infinite for one sample."""
        if len(self.ratios) < 2:
            return -math.inf, math.inf
        error = self.ratios.std().item() / math.sqrt(len(self.ratios))
        reach = NormalDist().inv_cdf((1 + self.confidence) / 2) * error
        return self.mean - reach, self.mean + reach

    @property
    def exceeding(self) -> float:
        r"""At most this share of all such codes deviates by more than ``delta``, with the given confidence.

        Derivation: if a share p did, n draws would miss it with probability :math:`(1 - p)^n`, which is
        :math:`1 - c` at :math:`p = 1 - (1 - c)^{1/n}`; about 3 / n at c = 0.95, whatever the distribution.
        """
        return 1 - (1 - self.confidence) ** (1 / len(self.ratios))

    def quantile(self, share: float) -> tuple[float, float, float]:
        """Quantile of the deviations, and the ends of its interval.

        The ends are order statistics, so the confidence holds for every distribution: the number of draws below the
        quantile is binomial. The upper end is inf where there are too few draws for one.

        Args:
            share: of codes that deviate by at most the quantile, between 0 and 1.

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
        # Of n + 2 order statistics, the first and the last being 0 and inf.
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
    r"""Draws model-k-sparse codes, or takes given ones, and measures by how much the dictionary changes their norm.

    The largest deviation that is found bounds :math:`\delta_k` from below, and how sharply depends on what is drawn:
    random values average out what ``values="worst"`` finds, and where codes have many positions, ``aligned`` supports
    deviate more than random ones. Unit atoms of coherence :math:`\mu` have :math:`\delta_k \le (k - 1) \mu`
    (Gershgorin), with equality at k = 2 for the coherence over pairs of different blocks.

    Args:
        dictionary: atoms ``(M, C, *K)`` (stride 1, no padding), a matrix ``(M, F)`` (rows are atoms, each its own
            block), a dictionary layer, a convolution of any groups, ``nn.Linear``, or what ``find_code_layers`` found.
        k: non-zeros of a code; not with ``codes``.
        signal_size: spatial size of the signals; or give ``code_size``. A matrix needs neither.
        code_size: spatial size of the codes; with ``signal_size`` it has to fit it.
        window: positions of a block, one int or one per axis; None for all of an atom.
        codes: measure these ``(N, M, *S')`` in place of random ones, such as activations of a network. The statements
            on codes that were not seen suppose that these are independent draws.
        samples: codes to draw.
        values: of the non-zeros: ``"uniform"`` in [-1, 1], ``"gaussian"``, ``"sign"`` for -1 and 1, or ``"worst"``:
            for each support the extreme over all values, from the eigenvalues of the Gram matrix of its atoms. That
            takes k syntheses a sample, and k signals in memory.
        differences: sums of two such codes, the sum 0 left out, for the constant :math:`\delta_{2k}` of Theorem 3.3.
        aligned: all non-zeros stand at one position, where atoms overlap most, whatever the window (k is M at most).
        unit_atoms: scale the atoms to unit norm.
        confidence: of the intervals.
        generator: of the random numbers.

    Raises:
        ValueError: a bad k, size, window, word or dictionary; codes that do not fit, one that is zero; NaN.

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
    """The atoms, of unit norm only if asked for, and how they lie over a signal."""
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
        k, differences = min(2 * k, shape[0]), False  # two of them at one position are one with twice as many atoms

    def some(n: int) -> Tensor:
        z = sample_model_code(n, shape[0], shape[1:], k, **options)
        return z + sample_model_code(n, shape[0], shape[1:], k, **options) if differences else z

    for start in range(0, samples, batch):
        z = some(min(batch, samples - start))
        while len(zero := (~z.flatten(1).any(1)).nonzero()[:, 0]):  # signs at the same places can cancel
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
