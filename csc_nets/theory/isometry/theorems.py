r"""Theorems about the model-RIP of random filters, and about one step of iterative hard thresholding.

Source: Gilbert, Zhang, Lee, Zhang, Lee, `Towards Understanding the Invertibility of Convolutional Neural Networks
<https://arxiv.org/abs/1705.08664>`_, section 3. The symbols are those of the paper: **M input channels** of D samples,
**K filters** of l samples, stride t, and so :math:`n = (D - l) / t + 1` shifts of a filter.
"""

import math
from dataclasses import dataclass

import torch

from csc_nets.functional import ConvGeometry
from csc_nets.theory.isometry.model_rip import quantile_rank, restricted_isometry
from csc_nets.theory.isometry.random_model import check_counts, random_filters
from csc_nets.theory.sparse.grouped_dictionary import GroupedDictionary

__all__ = ["RandomLayer", "ReconstructionBound", "calibrate_constant", "reconstruction_bound"]


@dataclass(frozen=True)
class RandomLayer:
    r"""A layer of random filters, and Theorem 3.1 about it.

    The theorem: Gaussian filters with entries of variance 1 / (M l) have model-RIP :math:`(k, \delta)` with a
    probability of at least :math:`1 - \epsilon`, if

    .. math:: \frac{M l^2}{D} \ge \frac{C k}{\delta^2} (\log K + \log n - \log \epsilon)

    The paper gives no value for the absolute constant C. So the numbers below are known only up to C, and the default 1
    is not a claim. :func:`calibrate_constant` measures a value.

    Args:
        channels: M, number of **input** channels. Do not confuse it with the number of filters.
        filters: K, number of filters. It enters as a logarithm only.
        length: l, samples of a filter.
        signal_length: D, samples of a channel.
        stride: t.
        failure: :math:`\epsilon`, between 0 and 1.
        constant: C.

    Raises:
        ValueError: a number is not positive, or the shifts of a filter do not fill the signal.

    Example:
        >>> layer = RandomLayer(channels=32, filters=96, length=5, signal_length=32)
        >>> layer.shifts, round(layer.delta(10), 2), round(layer.channels_needed(10, delta=0.1))
        (28, 2.24, 16002)
    """

    channels: int
    filters: int
    length: int
    signal_length: int
    stride: int = 1
    failure: float = 0.01
    constant: float = 1.0

    def __post_init__(self) -> None:
        names = ("channels", "filters", "length", "signal_length", "stride")
        check_counts(**{name: getattr(self, name) for name in names})
        if not 0 < self.failure < 1:
            raise ValueError(f"failure must be between 0 and 1, got {self.failure!r}")
        if not 0 < self.constant < math.inf:
            raise ValueError(f"constant must be a finite number > 0, got {self.constant!r}")
        room = self.signal_length - self.length
        if room < 0 or room % self.stride:
            raise ValueError(
                f"signal_length - length must be a multiple >= 0 of stride={self.stride}, got "
                f"{self.signal_length} - {self.length} = {room}"
            )

    @property
    def shifts(self) -> int:
        """n, number of positions of a filter."""
        return (self.signal_length - self.length) // self.stride + 1

    @property
    def spans(self) -> bool:
        """Whether K n >= M D. The paper assumes this, so that the filters span all signals."""
        return self.filters * self.shifts >= self.channels * self.signal_length

    def delta(self, k: int) -> float:
        r"""The constant :math:`\delta` for k non-zeros, :math:`\sqrt{C k D \log(K n / \epsilon) / (M l^2)}`.

        A value of 1 or more says nothing.
        """
        return math.sqrt(k / self._budget)

    def sparsity_allowed(self, delta: float) -> float:
        r"""Largest number of non-zeros, :math:`M l^2 \delta^2 / (C D \log(K n / \epsilon))`."""
        return delta**2 * self._budget

    def channels_needed(self, k: int, delta: float) -> float:
        r"""Required input channels, :math:`C k D \log(K n / \epsilon) / (\delta l)^2`; ``channels`` does not matter."""
        return self.channels * k / (delta**2 * self._budget)

    def constant_for(self, k: int, delta: float) -> float:
        """The C for which the condition of the theorem is an equality."""
        return self.constant * delta**2 * self._budget / k

    @property
    def _budget(self) -> float:
        """Number of non-zeros for which delta is 1."""
        terms = math.log(self.filters * self.shifts / self.failure)
        return self.channels * self.length**2 / (self.constant * self.signal_length * terms)


def calibrate_constant(
    layer: RandomLayer,
    k: int,
    *,
    draws: int = 100,
    samples: int = 100,
    aligned: bool = True,
    generator: torch.Generator | None = None,
) -> float:
    r"""Measures the constant C of Theorem 3.1 for random filters of this layer, by Monte Carlo.

    Filters are drawn ``draws`` times. For each draw, the largest :math:`\delta_k` over random supports, with the worst
    values, is taken. C belongs to the quantile :math:`1 - \epsilon` of these numbers, rounded up to a number that was
    drawn. The result is too small: random supports do not include the worst one. And a C for all layers is at least as
    large as the C of each layer.

    Args:
        layer: the layer; its ``constant`` does not matter.
        k: number of non-zeros.
        draws: number of draws of the filters. With fewer than 1 / failure draws, the quantile is the largest one.
        samples: number of supports for each draw of the filters.
        aligned: take supports at one position, where filters overlap most; otherwise at random positions.
        generator: generator of the random numbers.

    Raises:
        ValueError: ``draws`` is not positive, or :func:`~csc_nets.theory.restricted_isometry` refuses an argument.
    """
    check_counts(draws=draws)
    geometry = ConvGeometry.create(1, layer.length, layer.stride)
    found = []
    for _ in range(draws):
        filters = random_filters(layer.filters, layer.channels, layer.length, generator=generator)
        measured = restricted_isometry(
            GroupedDictionary(filters, geometry),
            k,
            signal_size=(layer.signal_length,),
            samples=samples,
            values="worst",
            aligned=aligned,
            generator=generator,
        )
        found.append(measured.delta)
    quantile = sorted(found)[quantile_rank(1 - layer.failure, draws) - 1]
    return layer.constant_for(k, quantile)


@dataclass(frozen=True)
class ReconstructionBound:
    r"""Error bounds for one step of model-based iterative hard thresholding, relative to the norms.

    Attributes:
        code: bound for :math:`\|\hat z - z\| / \|z\|`.
        signal: bound for :math:`\|\hat x - x\| / \|x\|`; inf if a constant is 1 or more.
    """

    code: float
    signal: float

    @property
    def vacuous(self) -> bool:
        """Whether the bound is 1 or more. Such a bound says nothing: the signal 0 already has the error 1."""
        return not self.signal < 1


def reconstruction_bound(delta_k: float, delta_2k: float | None = None, form: str = "printed") -> ReconstructionBound:
    r"""Theorem 3.3: error bounds for :math:`\hat z = M(D^T x, k)` and :math:`\hat x = D \hat z`, where :math:`x = D z`.

    The steps are: convolution, pooling by absolute value, choice of the k largest blocks, unpooling, transposed
    convolution. They reconstruct the signal up to

    .. math:: \frac{\|\hat x - x\|}{\|x\|} \le
              \frac{5 \delta_{2k}}{1 - \delta_k} \sqrt{\frac{1 + \delta_{2k}}{1 - \delta_{2k}}}
              \quad \text{("printed")}, \qquad
              2 \delta_{2k} \sqrt{\frac{1 + \delta_{2k}}{1 - \delta_k}} \quad \text{("derived")}

    The paper says that this is true for all switches of the unpooling. It is not: with switches other than those of the
    largest entries the error is :math:`\sqrt 2`, as for an unrelated signal. Read M as the projection
    :func:`~csc_nets.functional.one_per_block`, with known switches.

    Derivation of the second form, which implies the first: let b = :math:`D^T D z`, and let S be the union of the
    supports of z and :math:`\hat z`. Every code on S is then a sum of two codes of the model. The projection
    :math:`\hat z` is at least as close to b as z is. Both are 0 outside of S, so
    :math:`\|b_S - \hat z\| \le \|b_S - z\|`, and
    :math:`\|\hat z - z\| \le 2 \|b_S - z\| = 2 \|(D_S^T D_S - I) z\| \le 2 \delta_{2k} \|z\|`. Finally
    :math:`\|D (\hat z - z)\| \le \sqrt{1 + \delta_{2k}}\, \|\hat z - z\|` and
    :math:`\|D z\| \ge \sqrt{1 - \delta_k}\, \|z\|`.

    Args:
        delta_k: model-RIP constant of the codes.
        delta_2k: model-RIP constant of sums of two such codes; None takes ``delta_k``. If both are equal, the printed
            form says nothing from 0.147 on, the derived form from 0.348 on.
        form: ``"printed"`` or ``"derived"``.

    Raises:
        ValueError: a constant is negative, ``delta_2k`` is below ``delta_k`` (a code is also a sum of two), or the form
            is not known.

    Example:
        >>> [round(reconstruction_bound(delta).signal, 3) for delta in (0.01, 0.02, 0.05, 0.1)]
        [0.051, 0.104, 0.277, 0.614]
        >>> reconstruction_bound(0.147).vacuous, reconstruction_bound(0.148).vacuous
        (False, True)
    """
    delta_2k = delta_k if delta_2k is None else delta_2k
    if not 0 <= delta_k <= delta_2k:
        raise ValueError(f"constants must be 0 <= delta_k <= delta_2k, got {delta_k!r} and {delta_2k!r}")
    if form not in ("printed", "derived"):
        raise ValueError(f"form must be 'printed' or 'derived', got {form!r}")
    if delta_2k >= 1:
        return ReconstructionBound(math.inf, math.inf)
    if form == "derived":
        return ReconstructionBound(2 * delta_2k, 2 * delta_2k * math.sqrt((1 + delta_2k) / (1 - delta_k)))
    code = 5 * delta_2k / (1 - delta_k)
    return ReconstructionBound(code, code * math.sqrt((1 + delta_2k) / (1 - delta_2k)))
