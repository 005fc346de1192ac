r"""Bounds for the energy that is left in a modulus cascade after N layers.

Let the filters of every layer be a Parseval frame. Let each filter be analytic (its spectrum lies in an orthant, up to
a rotation) and zero for frequencies up to the gap :math:`\delta`. The energy of the N-fold moduli is then

.. math:: W_N(f) \le B \int |\hat f(\omega)|^2 \bigl(1 - \hat r(\omega / R_N)^2\bigr)\, d\omega, \qquad
          \hat r(\omega) = (1 - |\omega|)_+^l, \quad l > \lfloor d / 2 \rfloor + 1

(Wiatowski, Grohs, Boelcskei, `Energy Propagation in Deep Convolutional Neural Networks
<https://arxiv.org/abs/1704.03636>`_, 2018). Only the radius :math:`R_N` depends on the filters. The radii of
the paper are

- ``"general"``: :math:`N^\alpha \delta`,
- ``"wavelet"``: :math:`a^{N - 1} \delta` with a = 5/3, d = 1, dyadic wavelets on [1/2, 2],
- ``"weyl_heisenberg"``: the same with a = 3/2, d = 1, shifted windows on [-1, 1];

and a sharper one that is derived here is

- ``"analytic"``: :math:`R_1 = \delta`, :math:`R_{N - 1} = R_N / a(\delta, R_N)` with :func:`support_base`. It grows by
  :math:`2 \delta / d` per layer in any dimension d. If the filters lie in rings :math:`p \le |\omega| \le q` with a
  given :math:`q / p`, it grows at least by the factor a(p, q).

Derivation, after the proof of the paper, by induction. Let :math:`R_1 = \delta`. The bound is true for N = 1, because
no frequency with :math:`\hat r \ne 0` passes the filters. For N > 1 apply the bound for N - 1 to the signals
:math:`|f * g|`. As r is not negative,
:math:`||f * g| * r| \ge |f * g * (r e^{2 \pi i \nu x})|` for every frequency :math:`\nu`, so

.. math:: W_N(f) \le \sum_g \int |\hat f \hat g|^2 \bigl(1 - \hat r((\omega - \nu_g) / R_{N - 1})^2\bigr)\, d\omega,

The bound follows for every :math:`R_N` for which each g has a :math:`\nu_g` with
:math:`|\omega - \nu_g| / R_{N - 1} \le |\omega| / R_N` wherever :math:`\hat g \ne 0` and :math:`|\omega| < R_N`
(elsewhere :math:`\hat r(\omega / R_N) = 0`). See :func:`support_base` for the best :math:`\nu`.
"""

import math
from collections.abc import Sequence
from typing import Literal

from torch import Tensor

__all__ = [
    "PUBLISHED_BASES",
    "Family",
    "analytic_step",
    "analytic_walk",
    "check_bound_arguments",
    "check_exponent",
    "conservation_bounds",
    "decay_base",
    "decay_radius",
    "default_exponent",
    "energy_decay_bound",
    "growth_exponent",
    "mean_frequency",
    "spectral_decay_bound",
    "support_base",
]

Family = Literal["general", "wavelet", "weyl_heisenberg", "analytic"]

PUBLISHED_BASES = {"wavelet": 5 / 3, "weyl_heisenberg": 3 / 2}


def growth_exponent(dim: int) -> float:
    r"""The exponent alpha of the general bound: 1 for d = 1, :math:`\log_2 \sqrt{d / (d - 1/2)}` for d > 1,
    with d = ``dim``.

    Example:
        >>> [round(growth_exponent(d), 4) for d in (1, 2, 3)]
        [1.0, 0.2075, 0.1315]
    """
    if isinstance(dim, bool) or not isinstance(dim, int) or dim < 1:
        raise ValueError(f"growth_exponent: dim must be an int >= 1, got {dim!r}")
    return 1.0 if dim == 1 else math.log2(math.sqrt(dim / (dim - 0.5)))


def decay_base(*, ratio: float | None = None, width: float | None = None) -> float:
    r"""The published base of other banks for d = 1: :math:`\frac{r^2 + 1}{r^2 - 1}` or :math:`\frac12 + \frac1R`.

    Wiatowski, Grohs, Boelcskei, `Topology Reduction in Deep Convolutional Feature Extraction Networks
    <https://arxiv.org/abs/1707.02711>`_, 2017. For wavelets it equals :func:`support_base` of [1/r, r].

    Args:
        ratio: r > 1, wavelets on [1/r, r].
        width: 0 < R < 2, shifted windows on [-R, R].

    Example:
        >>> decay_base(ratio=2), decay_base(width=1)
        (1.6666666666666667, 1.5)
    """
    if (ratio is None) == (width is None):
        raise ValueError(f"decay_base: expected either ratio or width, got ratio={ratio!r}, width={width!r}")
    if ratio is not None:
        if not 1 < ratio < math.inf:
            raise ValueError(f"decay_base: ratio must be a finite number > 1, got {ratio!r}")
        return (1 + ratio**-2) / (1 - ratio**-2)
    assert width is not None
    if not 0 < width < 2:
        raise ValueError(f"decay_base: width must be in (0, 2), where the base is above 1, got {width!r}")
    return 0.5 + 1 / width


def support_base(lower: float, upper: float, *, dim: int = 1, half_angle: float | None = None) -> float:
    r"""The factor by which the radius may grow in a layer with filters on :math:`p \le |\omega| \le q` in an orthant.

    .. math:: a(p, q) = \Bigl(1 - \frac{4 p q \cos^2 \beta}{(p + q)^2}\Bigr)^{-1/2}, \qquad \cos^2 \beta = 1 / d

    Derivation: let the support lie within the angle :math:`\beta` of a unit vector e (an orthant: its diagonal,
    :math:`\cos \beta = 1 / \sqrt d`) and :math:`\nu = t e`. Then :math:`|\omega - \nu|^2 / |\omega|^2
    \le 1 - 2 t u \cos \beta + t^2 u^2` with :math:`u = 1 / |\omega|`. This is convex in u, so it is largest at u = 1/p
    or u = 1/q. The larger of the two is smallest where they are equal, at :math:`t = 2 p q \cos \beta / (p + q)`. For
    d = 1 the factor is (q + p) / (q - p): 5/3 for wavelets on [1/2, 2], as published, and 2 for windows on [1, 3],
    where 3/2 is published.

    Args:
        lower: p > 0.
        upper: q >= p.
        dim: d, dimension of the orthant.
        half_angle: beta in radians, below pi / 2. Give it in place of ``dim`` for filters in a narrower cone.

    Returns:
        a >= 1; inf for a filter of a single frequency.
    """
    if not 0 < lower <= upper < math.inf:
        raise ValueError(f"support_base: expected 0 < lower <= upper, got {lower!r} and {upper!r}")
    if dim < 1 or not (half_angle is None or 0 <= half_angle < math.pi / 2):
        raise ValueError(f"support_base: expected dim >= 1, half_angle in [0, pi / 2), got {dim!r} and {half_angle!r}")
    cosine = 1 / dim if half_angle is None else math.cos(half_angle) ** 2
    ratio = lower / upper
    rest = 1 - cosine * 4 * ratio / (1 + ratio) ** 2
    return rest**-0.5 if rest > 0 else math.inf


def default_exponent(dim: int) -> float:
    """The default l of the cut-off function, just above its limit: 1.0001 for d = 1, 2.0001 for d = 2 and 3."""
    return dim // 2 + 1.0001


def decay_radius(
    layers: int, family: Family = "general", *, gap: float = 1.0, dim: int = 1, base: float | None = None
) -> float:
    r"""The radius :math:`R_N` of the bound after N layers.

    Args:
        layers: N >= 1.
        family: family of the filters, see the docstring of this module. If the general radius is larger than the radius
            of a family, the general one is taken.
        gap: delta.
        dim: d, number of axes of the signal.
        base: another a. For wavelets and windows for example that of :func:`decay_base`. For ``"analytic"`` the
            smallest :func:`support_base` of the filters; there is no default.

    Raises:
        ValueError: the family is not known; ``"wavelet"`` or ``"weyl_heisenberg"`` with ``dim`` above 1, for which the
            theorems give no exponential rate; a base for ``"general"``; a number that is not positive.

    Example:
        >>> [decay_radius(n, "wavelet") for n in (1, 2, 3)]  # here the general radius N is the larger one
        [1.0, 2.0, 3.0]
    """
    check_bound_arguments(family, gap, dim, base)
    if isinstance(layers, bool) or not isinstance(layers, int) or layers < 1:
        raise ValueError(f"decay_radius: layers must be an int >= 1, got {layers!r}")
    if family == "analytic":
        return analytic_walk(dim, base, layers=layers)[1] * gap
    power = _power(layers, growth_exponent(dim))
    if family == "general":
        return power * gap
    return max(power, _power(PUBLISHED_BASES[family] if base is None else base, layers - 1)) * gap


def _power(base: float, exponent: float) -> float:
    """The power, or inf if it is too large for a float."""
    try:
        return float(base**exponent)
    except OverflowError:
        return math.inf


def analytic_step(radius: float, dim: int) -> float:
    """The radius after ``radius``: the largest x with ``x / support_base(1, x) <= radius``, for a gap of 1."""
    if dim == 1:  # x (x - 1) / (x + 1) = radius
        return (radius + 1 + math.sqrt((radius + 1) ** 2 + 4 * radius)) / 2
    # x^2 - 4 x^3 / (d (1 + x)^2) = radius^2 by Newton's method from above: the left side is convex and increasing.
    step = radius + 2 / dim + 1
    for _ in range(8):
        value = step**2 - 4 * step**3 / (dim * (1 + step) ** 2)
        slope = 2 * step - 4 * step**2 * (3 + step) / (dim * (1 + step) ** 3)
        step -= (value - radius**2) / slope
    return step


def analytic_walk(
    dim: int, base: float | None, *, layers: float = math.inf, radius: float = math.inf
) -> tuple[int, float]:
    """Goes from R_1 = 1 up to ``layers`` or up to ``radius``. Returns the number of layers N, and R_N, for a gap of 1.

    In each layer the radius grows by the step of :func:`analytic_step` or by the factor ``base``, whichever gives more.
    Once the factor gives more, it gives more for all further layers. The steps increase towards 2 / d. So beyond a
    radius of 1,000, many layers are taken at once with the step of the first of them, which is too short by less than
    1e-6. R_N is then slightly too small, so the bound stays true.
    """
    n, reached = 1, 1.0
    while n < layers and reached < radius:
        step = analytic_step(reached, dim) - reached
        if base is not None and reached * (base - 1) >= step:
            wanted = math.log(radius / reached) / math.log(base)
            many = math.ceil(min(layers - n, wanted))
            return n + many, reached * _power(base, many)
        many = 1 if reached < 1000 else int(min(reached / 1000, layers - n, 1 + (radius - reached) / step))
        n, reached = n + many, reached + many * step
    return n, reached


def energy_decay_bound(
    layers: int,
    bandwidth: float,
    family: Family = "general",
    *,
    gap: float = 1.0,
    dim: int = 1,
    exponent: float | None = None,
    base: float | None = None,
    smoothness: float | None = None,
) -> float:
    r"""Bound for :math:`W_N(f) / \|f\|^2`, for Parseval filters.

    .. math:: 1 - (1 - L / R_N)_+^{2 l} \quad \text{for } \hat f = 0 \text{ beyond } L, \qquad
              \min(1, 2 l \Omega / R_N)^{\min(1, 2 s)} \quad \text{for f in } H^s

    with the mean frequency :math:`\Omega = (\int |\omega|^{2 s} |\hat f|^2 / \|f\|^2)^{1 / (2 s)}`. Derivation of the
    second: :math:`1 - (1 - t)_+^{2 l} \le \min(1, 2 l t) \le (2 l t)^{2 s}` for :math:`s \le 1/2`, under the integral
    of the theorem; for larger s the mean frequency of 1/2 is at most that of s (Jensen).

    Args:
        layers: N >= 1.
        bandwidth: L, in the unit of the gap. With ``smoothness``: the mean frequency, see :func:`mean_frequency`.
        family: and ``gap``, ``dim``, ``base``: as for :func:`decay_radius`.
        exponent: l; None takes :func:`default_exponent`.
        smoothness: s > 0.

    Raises:
        ValueError: :func:`decay_radius` refuses an argument, the exponent is too small, the bandwidth is negative, or
            the smoothness is not positive.
    """
    exponent = check_exponent(exponent, dim)
    radius = decay_radius(layers, family, gap=gap, dim=dim, base=base)
    if not 0 <= bandwidth < math.inf or not (smoothness is None or smoothness > 0):
        raise ValueError(
            f"energy_decay_bound: expected bandwidth >= 0, smoothness > 0 or None, got {bandwidth!r} and {smoothness!r}"
        )
    if smoothness is not None:
        return min(1.0, 2 * exponent * bandwidth / radius) ** min(1.0, 2 * smoothness)
    return -math.expm1(2 * exponent * math.log1p(-bandwidth / radius)) if bandwidth < radius else 1.0


def spectral_decay_bound(
    layers: int,
    power: Tensor,
    radius: Tensor,
    family: Family = "general",
    *,
    gap: float = 1.0,
    exponent: float | None = None,
    base: float | None = None,
    bounds: Sequence[tuple[float, float]] = (),
) -> Tensor:
    """The bound in the docstring of this module for signals with a known spectrum: one number per signal, ``(*N)``.

    Args:
        layers: N >= 1.
        power: squared modulus of the spectrum, ``(*N, *S)``.
        radius: lengths of the frequencies, ``(*S)``, in the unit of the gap. Its axes are the axes of the signal.
        family: and ``gap``, ``base``: as for :func:`decay_radius`.
        exponent: l; None takes :func:`default_exponent`.
        bounds: frame bounds of the layers; empty for Parseval frames.

    Returns:
        Energies, in the unit of ``power.sum()``.
    """
    dim = radius.ndim
    exponent = check_exponent(exponent, dim)
    reach = decay_radius(layers, family, gap=gap, dim=dim, base=base)
    share = 1 - (1 - radius / reach).clamp_min(0) ** (2 * exponent)
    return conservation_bounds(bounds)[1] * (power * share).flatten(power.ndim - dim).sum(-1)


def mean_frequency(power: Tensor, radius: Tensor, smoothness: float = 0.5) -> Tensor:
    r"""Mean frequency :math:`(\int |\omega|^{2 s} |\hat f|^2 / \|f\|^2)^{1 / (2 s)}` of a spectrum, ``(*N)``.

    Args:
        power: squared modulus of the spectrum, ``(*N, *S)``.
        radius: lengths of the frequencies, ``(*S)``.
        smoothness: s > 0. The mean is finite for signals in :math:`H^s`.
    """
    if not 0 < smoothness < math.inf:
        raise ValueError(f"mean_frequency: smoothness must be a finite number > 0, got {smoothness!r}")
    power = power.flatten(power.ndim - radius.ndim)
    if not bool(power.isfinite().all()) or not bool((power.sum(-1) > 0).all()):
        raise ValueError("mean_frequency: power must be finite and not all zero, for every spectrum")
    moment = power @ radius.to(power).flatten() ** (2 * smoothness) / power.sum(-1)
    return moment ** (1 / (2 * smoothness))


def conservation_bounds(bounds: Sequence[tuple[float, float]]) -> tuple[float, float]:
    r"""Bounds for the energy of the features and the rest of N layers, from the frame bounds of each layer.

    .. math:: \prod_n \min(1, A_n)\, \|f\|^2 \le \sum_{n < N} |||\Phi^n(f)|||^2 + W_N(f)
              \le \prod_n \max(1, B_n)\, \|f\|^2

    Example:
        >>> conservation_bounds([(0.5, 1.0), (0.9, 1.25)])
        (0.45, 1.25)
    """
    wrong = [pair for pair in bounds if not 0 <= pair[0] <= pair[1] < math.inf]
    if wrong:
        raise ValueError(f"conservation_bounds: expected 0 <= A <= B < inf for every layer, got {wrong[0]}")
    return math.prod(min(1.0, a) for a, _ in bounds), math.prod(max(1.0, b) for _, b in bounds)


def check_bound_arguments(family: str, gap: float, dim: int, base: float | None) -> None:
    """Refuses arguments that no theorem covers."""
    if family not in ("general", "analytic", *PUBLISHED_BASES):
        raise ValueError(f"family must be 'general', 'wavelet', 'weyl_heisenberg' or 'analytic', got {family!r}")
    if dim < 1 or not 0 < gap < math.inf:
        raise ValueError(f"expected dim >= 1 and a finite gap > 0, got dim={dim!r}, gap={gap!r}")
    if family in PUBLISHED_BASES and dim > 1:
        raise ValueError(
            f"the exponential rate of {family!r} filters is for dim=1, got dim={dim}: use family='general', or "
            f"'analytic' with the base of their supports"
        )
    if base is not None and (family == "general" or not 1 < base < math.inf):
        raise ValueError(f"base must be a finite number > 1, and is none of 'general', got {base!r} for {family!r}")


def check_exponent(exponent: float | None, dim: int) -> float:
    """The exponent l. Refuses values for which the cut-off function may not be positive definite."""
    if exponent is None:
        return default_exponent(dim)
    if not dim // 2 + 1 < exponent < math.inf:
        raise ValueError(f"exponent must be above {dim // 2 + 1} for {dim} axes, got {exponent!r}")
    return exponent
