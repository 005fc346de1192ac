"""The depth that a modulus cascade needs, so that its features have a given share of the signal's energy."""

import math
from dataclasses import dataclass

from csc_nets.theory.energy.decay_bounds import (
    PUBLISHED_BASES,
    Family,
    analytic_walk,
    check_bound_arguments,
    check_exponent,
    growth_exponent,
)

__all__ = ["Depth", "depth_for_energy"]

# Largest allowed logarithm of the number of layers. Exponential families have another limit: radii that fit in a float.
MANY = 100.0


@dataclass(frozen=True)
class Depth:
    """The result of :func:`depth_for_energy`; ``int()`` gives the number of layers.

    Attributes:
        layers: N. The features after 0, 1, ..., N moduli have the share together.
        fraction: the share.
        formula: the formula that gave N.
        assumption: the assumptions of the formula.
    """

    layers: int
    fraction: float
    formula: str
    assumption: str

    def __int__(self) -> int:
        return self.layers

    def __str__(self) -> str:
        return f"{self.layers} layers for {self.fraction:.4g} of the energy: {self.formula}. {self.assumption}"


def depth_for_energy(
    fraction: float,
    family: Family = "wavelet",
    *,
    bandwidth: float = 1.0,
    gap: float = 1.0,
    dim: int = 1,
    exponent: float | None = None,
    base: float | None = None,
    smoothness: float | None = None,
) -> Depth:
    r"""An N for which the bounds guarantee :math:`\sum_{n \le N} |||\Phi^n(f)|||^2 \ge (1 - \epsilon) \|f\|^2`.

    .. math:: N = \Bigl\lceil \log_a \frac{\rho}{\delta} \Bigr\rceil \text{ (wavelet, weyl_heisenberg)}, \qquad
              N = \Bigl\lceil \Bigl(\frac{\rho}{\delta}\Bigr)^{1/\alpha} - 1 \Bigr\rceil \text{ (general)}, \qquad
              \rho = \frac{L}{1 - (1 - \epsilon)^{1 / (2 l)}}

    for signals without frequencies beyond L (Wiatowski, Grohs, Boelcskei, `Energy Propagation in Deep Convolutional
    Neural Networks <https://arxiv.org/abs/1704.03636>`_, 2018, whose table takes L = delta, d = 1, l = 1.0001).
    Derivation: the rest is :math:`W_{N + 1}`, and its bound (:mod:`csc_nets.theory.energy.decay_bounds`) is at most
    :math:`\epsilon` if :math:`R_{N + 1} \ge \rho`. The same is true for signals in :math:`H^s`, with
    :math:`\rho = 2 l \Omega \epsilon^{-1 / \min(1, 2 s)}`.

    For ``"wavelet"`` and ``"weyl_heisenberg"`` this is the published formula. It uses the power of a only. In the first
    layers the general radius, N, may be larger; then one layer less may be enough, see
    :func:`~csc_nets.theory.energy_decay_bound`.

    N is sufficient, often much more than necessary: for :math:`L \le \delta` nothing passes the first layer.

    Args:
        fraction: the share 1 - epsilon, in (0, 1).
        family: family of the filters, see :mod:`csc_nets.theory.energy.decay_bounds`. For ``"analytic"``, N is the
            smallest number with :math:`R_{N + 1} \ge \rho` (up to one in 10^6 above 1,000 gaps).
        bandwidth: L in the unit of the gap. With ``smoothness``: the mean frequency Omega.
        gap: delta.
        dim: number of axes of the signal; 1 for ``"wavelet"`` and ``"weyl_heisenberg"``.
        exponent: l; None takes a value just above ``dim // 2 + 1``.
        base: another a, as for :func:`~csc_nets.theory.decay_radius`.
        smoothness: s > 0 for signals that are not band-limited.

    Raises:
        ValueError: the share is outside of (0, 1), the bandwidth is not positive, or ``decay_radius`` refuses an
            argument.

    Example:
        >>> [int(depth_for_energy(0.99, family)) for family in ("wavelet", "weyl_heisenberg", "general")]
        [11, 14, 199]
    """
    check_bound_arguments(family, gap, dim, base)
    exponent = check_exponent(exponent, dim)
    if not 0 < fraction < 1:
        raise ValueError(f"depth_for_energy: fraction must be in (0, 1), got {fraction!r}")
    if not 0 < bandwidth < math.inf or not (smoothness is None or smoothness > 0):
        raise ValueError(
            f"depth_for_energy: expected a finite bandwidth > 0, smoothness > 0 or None, got {bandwidth!r} and "
            f"{smoothness!r}"
        )
    if smoothness is None:  # in logarithms, because a small smoothness needs radii that are too large for floats
        log_needed = math.log(bandwidth / -math.expm1(math.log(fraction) / (2 * exponent)) / gap)
        signals = f"no frequencies beyond L = {bandwidth:g}"
    else:
        log_needed = math.log(2 * exponent * bandwidth / gap) - math.log1p(-fraction) / min(1.0, 2 * smoothness)
        signals = f"mean frequency {bandwidth:g} in the sense of H^{smoothness:g}"
    alpha = growth_exponent(dim)
    exponential = family in PUBLISHED_BASES or base is not None
    if (log_needed if exponential else log_needed / alpha) > (700 if exponential else MANY):
        raise ValueError(
            f"depth_for_energy: fraction {fraction!r} asks for a radius of e^{log_needed:.4g} gaps, more than any "
            "depth has: take a smaller fraction, or a larger smoothness or gap"
        )
    needed = math.exp(log_needed)
    if family == "analytic":
        behind, radius = analytic_walk(dim, base, radius=needed)
        layers = behind - 1
        formula = f"least N with R_(N+1) = {radius * gap:.4g} >= {needed * gap:.4g}"
    elif family == "general":
        layers = max(0, math.ceil(needed ** (1 / alpha) - 1))
        formula = f"N = ceil({needed:.4g}^(1/{alpha:.4g}) - 1)"
    else:
        a = PUBLISHED_BASES[family] if base is None else base
        layers = max(0, math.ceil(log_needed / math.log(a)))
        formula = f"N = ceil(log_{a:.4g} {needed:.4g})"
    assumption = (
        f"Holds for signals with {signals}, Parseval filters that are analytic and vanish up to {gap:g}, moduli "
        f"without pooling, {dim} {'axis' if dim == 1 else 'axes'}"
    )
    if family in ("wavelet", "analytic"):
        assumption += "; for wavelets there is no such rate over all signals of finite energy (Fuehr, Getter)"
    return Depth(layers, fraction, formula, assumption + ".")
