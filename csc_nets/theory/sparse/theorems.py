r"""When the pursuits of the multi-layer model find the true codes, and how far off they can be.

The model is :math:`X = D_1 \Gamma_1, \Gamma_{i-1} = D_i \Gamma_i`, every :math:`\Gamma_i` locally sparse and every
atom of unit norm. Observed is :math:`Y = X + E`. Source: Papyan, Romano, Elad, `Convolutional Neural Networks
Analyzed via Convolutional Sparse Coding <https://arxiv.org/abs/1607.08194>`_, JMLR 18 (2017).
Each statement is proved in the docstring of its function.

Symbols for layer i, see :class:`~csc_nets.theory.LayerQuantities`: the coherence :math:`\mu`, the stripe norm k, the
patch norm p, and the smallest and largest magnitude :math:`\Gamma_{min}, \Gamma_{max}` of the code.

All proofs start from the Gram matrix :math:`G = D^T D`. Its diagonal is 1, its other entries have magnitudes of at most
:math:`\mu`, and entries outside of stripes are 0. The code of layer i - 1 is the signal of layer i, and its error is
the noise of layer i. An atom sees one patch of it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from csc_nets.theory.sparse.layer_quantities import LayerQuantities, check_model, measure

__all__ = [
    "Guarantee",
    "basis_pursuit",
    "basis_pursuit_noiseless",
    "global_stability",
    "guarantees",
    "hard_thresholding",
    "soft_thresholding",
    "uniqueness",
]

Row = dict[str, float]


@dataclass(frozen=True)
class Guarantee:
    """The result of a theorem for measured layers.

    Attributes:
        name: the theorem.
        status: ``"holds"``, ``"does not hold"`` or ``"vacuous"``. The last two mean that the condition fails for these
            codes. ``"vacuous"`` adds that for a layer where it fails, the coherence is so large that it would fail for
            every code with two non-zeros in a stripe.
        layers: one row per layer: the quantities that the theorem uses, ``k_limit`` (k must be below it), ``holds``,
            and the conclusions: thresholds, ``entry_error``, ``error``. The errors are inf for a layer that fails
            and for all layers after it.
        error: bound for the error of the deepest code, in the norm that the theorem names; inf if it does not hold.
    """

    name: str
    status: str
    layers: tuple[Row, ...]
    error: float

    @property
    def holds(self) -> bool:
        """Whether the condition of the theorem is true in every layer."""
        return self.status == "holds"

    @property
    def entry_error(self) -> float:
        """Bound for the error of each entry of the deepest code; inf if the theorem does not hold."""
        return self.layers[-1]["entry_error"] if self.holds else math.inf

    def __str__(self) -> str:
        columns = list(self.layers[0])
        cells = [["layer", *columns]]
        cells += [[str(i), *(_cell(row[c]) for c in columns)] for i, row in enumerate(self.layers, start=1)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        table = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
        verdict = f"{self.name}: {self.status}" + (f", error <= {_cell(self.error)}" if self.holds else "")
        return "\n  ".join([verdict, *table])


def guarantees(
    dictionaries: Sequence[Any],
    codes: Sequence[Tensor],
    noise: float = 0.0,
    *,
    local_noise: float | None = None,
    window: int | Sequence[int] | None = None,
    signal_size: Sequence[int] | None = None,
    thresholds: Sequence[float] | None = None,
    position: float = 0.5,
) -> dict[str, Guarantee]:
    r"""Measures the layers and their codes, and evaluates all six theorems.

    Args:
        dictionaries: as for :func:`~csc_nets.theory.measure`.
        codes: true codes, from shallow to deep, with :math:`\Gamma_{i-1} = D_i \Gamma_i`.
        noise: bound for :math:`\|E\|_2`.
        local_noise: bound for :math:`\|E\|^P_{2,\infty}` over patches of the first layer's atoms. The theorems about
            pursuits use it. None takes ``noise``, which is a bound for every patch too.
        window: patch of the deepest code over which the errors of the pursuits are bounded; None is the whole code.
        signal_size: spatial size of the signal; may be None as for :func:`~csc_nets.theory.measure`.
        thresholds: one per layer, for the two thresholdings; None takes them from the allowed windows.
        position: place of the thresholds in these windows, see :func:`hard_thresholding`.

    Returns:
        The guarantees; the keys are the names of the functions of this module.

    Raises:
        ValueError: the codes cannot be measured or do not obey the multi-layer model. The theorems follow a signal from
            layer to layer, so they do not apply to unrelated layers. (Measure these one by one.)

    Example:
        >>> import torch
        >>> code = torch.zeros(1, 4)
        >>> code[0, 2] = 1.0
        >>> found = guarantees([torch.eye(4)], [code], noise=0.1)
        >>> {name: (guarantee.status, round(guarantee.error, 3)) for name, guarantee in found.items()}
        ... # doctest: +NORMALIZE_WHITESPACE
        {'uniqueness': ('holds', 0.0), 'global_stability': ('holds', 0.2), 'hard_thresholding': ('holds', 0.1),
         'soft_thresholding': ('holds', 0.6), 'basis_pursuit_noiseless': ('holds', 0.0),
         'basis_pursuit': ('holds', 0.75)}
        >>> print(found["basis_pursuit"])
        layered basis pursuit: holds, error <= 0.75
          layer  coherence  k  cut  k_limit  holds  p  noise  penalty  entry_error  error
              1          0  1    0      inf    yes  1    0.1      0.4         0.75   0.75
    """
    layers = measure(dictionaries, codes, window, signal_size)
    check_model(dictionaries, codes)
    local = noise if local_noise is None else local_noise
    return {
        "uniqueness": uniqueness(layers, noise),
        "global_stability": global_stability(layers, noise),
        "hard_thresholding": hard_thresholding(layers, local, thresholds, position),
        "soft_thresholding": soft_thresholding(layers, local, thresholds, position),
        "basis_pursuit_noiseless": basis_pursuit_noiseless(layers, local),
        "basis_pursuit": basis_pursuit(layers, local),
    }


def uniqueness(layers: Sequence[LayerQuantities], noise: float = 0.0) -> Guarantee:
    r"""No other codes with these stripe norms make the same signal, if :math:`k < \frac12 (1 + 1/\mu)` in every layer.

    This is true among codes of whole atoms, see :func:`~csc_nets.theory.measure`. An atom that a border of zeros cuts
    differs from the atom whose coherence was measured, and may equal a true one.

    Derivation: the difference :math:`\Delta` of two solutions has at most 2 k non-zeros in a stripe and
    :math:`D \Delta = 0`. At its largest entry, :math:`0 = (G \Delta)_j` gives
    :math:`|\Delta_j| \le (2 k - 1) \mu |\Delta_j|`, so :math:`\Delta = 0`; then layer by layer.

    ``noise`` is ignored, because the theorem is about the signal without noise.
    """
    return _exact("uniqueness", layers)


def basis_pursuit_noiseless(layers: Sequence[LayerQuantities], noise: float = 0.0) -> Guarantee:
    r"""Layered basis pursuit finds every code exactly, if :math:`k < \frac12 (1 + 1/\mu)` in every layer.

    The pursuit is :math:`\min \|\Gamma\|_1` subject to :math:`\hat\Gamma_{i-1} = D_i \Gamma`, without noise.

    Derivation: let :math:`\Gamma + \Delta` be a minimiser, T the support of :math:`\Gamma`. It is feasible,
    :math:`D \Delta = 0`, so :math:`(1 + \mu) |\Delta_j| \le \mu \sum_{l \in stripe(j)} |\Delta_l|`. Summed over T,
    where an entry l is counted once for each member of T in its stripe, so at most k times:
    :math:`(1 + \mu) \|\Delta_T\|_1 \le \mu k \|\Delta\|_1`. It is a minimiser, so
    :math:`\|\Delta_{T^c}\|_1 \le \|\Delta_T\|_1` and :math:`1 + \mu \le 2 \mu k` unless :math:`\Delta = 0`.

    ``noise`` is ignored; see :func:`basis_pursuit` for signals with noise.
    """
    return _exact("layered basis pursuit without noise", layers)


def global_stability(layers: Sequence[LayerQuantities], noise: float = 0.0) -> Guarantee:
    r"""All codes with these stripe norms that explain Y up to its noise are near the true codes.

    If :math:`\|E\|_2 \le \mathcal E_0` and :math:`k < \frac12 (1 + 1/\mu)` in every layer, all codes with
    :math:`\|Y - D_1 \hat\Gamma_1\| \le \mathcal E_0`,
    :math:`\|\hat\Gamma_{i-1} - D_i \hat\Gamma_i\| \le \mathcal E_{i-1}`, stripe norms of at most k, and whole atoms
    (as for :func:`uniqueness`) have

    .. math:: \|\Gamma_i - \hat\Gamma_i\|_2 \le \mathcal E_i, \qquad
              \mathcal E_i^2 = \frac{4\, \mathcal E_{i-1}^2}{1 - (2 k - 1) \mu}

    Derivation: :math:`\Delta = \Gamma_i - \hat\Gamma_i` has at most 2 k non-zeros in a stripe. Both
    :math:`D_i \Gamma_i` and :math:`D_i \hat\Gamma_i` are within :math:`\mathcal E_{i-1}` of the same vector (Y, or
    :math:`\hat\Gamma_{i-1}` by the bound of the layer before), so :math:`\|D \Delta\| \le 2 \mathcal E_{i-1}`; by
    Gershgorin :math:`\|D \Delta\|^2 \ge (1 - (2 k - 1) \mu) \|\Delta\|^2`.

    Args:
        layers: measured layers.
        noise: :math:`\mathcal E_0`, l2 norm over the whole signal.

    Returns:
        ``error`` is a bound for the l2 norm of the error of the whole deepest code.
    """
    rows, error = [], _checked(layers, noise)
    for layer in layers:
        row = _condition(layer, 1 / 2)
        row["noise"] = error
        room = 1 - max(2 * layer.stripe - 1, 0) * layer.coherence
        if not row["holds"] or error == math.inf:
            error = math.inf
        else:  # the only code with stripe norm 0 is zero
            error = 2 * error / math.sqrt(room) if layer.stripe else 0.0
        row["entry_error"] = row["error"] = error
        rows.append(row)
    return _conclude("global stability", layers, rows, 1 / 2)


def hard_thresholding(
    layers: Sequence[LayerQuantities],
    noise: float = 0.0,
    thresholds: Sequence[float] | None = None,
    position: float = 0.5,
) -> Guarantee:
    r"""Layered hard thresholding, :math:`\hat\Gamma_i = H_{\beta_i}(D_i^T \hat\Gamma_{i-1})`, finds every support.

    Let :math:`\|E\|^P_{2,\infty} \le \epsilon_0`. The condition in every layer is
    :math:`k < \frac12 (1 + \frac{\Gamma_{min}}{\mu \Gamma_{max}}) - \frac{\epsilon_{i-1}}{\mu \Gamma_{max}}`.
    Then there are thresholds with

    .. math:: k \mu \Gamma_{max} + \epsilon_{i-1} \le \beta_i < \Gamma_{min} - (k - 1) \mu \Gamma_{max} - \epsilon_{i-1}

    With a threshold in this window the supports are exact, the error of every entry is at most
    :math:`\epsilon_{i-1} + (k - 1) \mu \Gamma_{max}`, and

    .. math:: \|\Gamma_i - \hat\Gamma_i\|^P_{2,\infty} \le \epsilon_i
              = \sqrt p\, (\epsilon_{i-1} + (k - 1) \mu \Gamma_{max})

    Derivation: :math:`(D^T \hat\Gamma_{i-1})_j = \Gamma_j + \sum_{l \ne j} G_{jl} \Gamma_l + d_j^T E_{i-1}`. The sum is
    at most :math:`(k - 1) \mu \Gamma_{max}` for j in the support, and at most :math:`k \mu \Gamma_{max}` for other j.
    The last term is the product of a unit atom and the noise in one patch, so at most :math:`\epsilon_{i-1}`. A patch
    has at most p entries with an error.

    Args:
        layers: measured layers.
        noise: :math:`\epsilon_0`, in patches of the first layer's atoms.
        thresholds: :math:`\beta_i`; the theorem holds only if they are in the windows. None chooses them by
            ``position``.
        position: place in each window, from 0 to below 1. 0.5 is the middle. 0 is the lower end, where a rounding error
            may leave the window.

    Returns:
        Rows hold ``threshold_low`` and ``threshold_high`` (the window), and ``threshold``. ``error`` is a bound for the
        l2 norm of the error in a patch of the deepest code.
    """
    return _thresholding("layered hard thresholding", layers, noise, thresholds, position, shrinks=False)


def soft_thresholding(
    layers: Sequence[LayerQuantities],
    noise: float = 0.0,
    thresholds: Sequence[float] | None = None,
    position: float = 0.5,
) -> Guarantee:
    r"""Layered soft thresholding, the forward pass of a CNN, finds every support.

    Condition, window, arguments and result are those of :func:`hard_thresholding`. Soft thresholding also reduces the
    entries that it keeps by :math:`\beta_i`, so the bound is larger:

    .. math:: \epsilon_i = \sqrt p\, (\epsilon_{i-1} + (k - 1) \mu \Gamma_{max} + \beta_i)

    For non-negative codes the same is true of :math:`\mathrm{ReLU}(D^T \hat\Gamma_{i-1} - \beta)`: the correlations are
    positive on the support, and below the threshold elsewhere. The bound grows with the thresholds. Over several layers
    the theorem may hold only with a ``position`` near 0.
    """
    return _thresholding("layered soft thresholding", layers, noise, thresholds, position, shrinks=True)


def basis_pursuit(layers: Sequence[LayerQuantities], noise: float = 0.0) -> Guarantee:
    r"""Layered basis pursuit is stable, if :math:`k < \frac13 (1 + 1/\mu)` in every layer.

    The pursuit is :math:`\min \frac12 \|\hat\Gamma_{i-1} - D_i \Gamma\|^2 + \xi_i \|\Gamma\|_1` with
    :math:`\xi_i = 4 \epsilon_{i-1}`, solved exactly. For signals without noise see :func:`basis_pursuit_noiseless`. Let
    :math:`\|E\|^P_{2,\infty} \le \epsilon_0`. Then the minimiser is unique, and its support is a part of the true one.
    The error of every entry is at most :math:`7.5\, \epsilon_{i-1}`, so every larger entry is found, and

    .. math:: \|\Gamma_i - \hat\Gamma_i\|^P_{2,\infty} \le \epsilon_i = 7.5 \sqrt p\, \epsilon_{i-1}

    Derivation: the minimiser over codes on the true support T has
    :math:`G_{TT} (\hat\Gamma - \Gamma)_T = D_T^T E - \xi s` with :math:`|s| \le 1`. By the condition
    :math:`(k - 1) \mu < \frac13`, so :math:`\|G_{TT}^{-1}\|_\infty < \frac32` and the error is at most
    :math:`\frac32 (\epsilon + 4 \epsilon)`. An atom j outside of T has :math:`\|D_T^T d_j\|_1 \le k \mu`, so
    :math:`\|G_{TT}^{-1} D_T^T d_j\|_1 \le \rho = k \mu / (1 - (k - 1) \mu) < \frac12`. Its product with the residual is
    at most :math:`(1 + \rho) \epsilon + \rho \xi < 1.5 \epsilon + 2 \epsilon < \xi`. So its coefficient is zero in the
    minimiser over all codes, which is unique because :math:`G_{TT}` is invertible. The proof is the same for codes
    :math:`\ge 0`.

    Args:
        layers: measured layers.
        noise: :math:`\epsilon_0`, in patches of the first layer's atoms.

    Returns:
        Rows hold ``penalty``, :math:`\xi_i`. ``error`` is a bound for the l2 norm of the error in a patch of the
        deepest code.
    """
    rows, error = [], _checked(layers, noise)
    for layer in layers:
        row = _condition(layer, 1 / 3)
        row |= {"p": layer.patch, "noise": error, "penalty": 4 * error}
        error = _propagate(row, layer, 7.5 * error)
        rows.append(row)
    return _conclude("layered basis pursuit", layers, rows, 1 / 3)


def _exact(name: str, layers: Sequence[LayerQuantities]) -> Guarantee:
    _checked(layers, 0.0)
    rows = [_condition(layer, 1 / 2) for layer in layers]
    error = 0.0
    for row in rows:
        error = error if row["holds"] else math.inf
        row["entry_error"] = row["error"] = error
    return _conclude(name, layers, rows, 1 / 2)


def _thresholding(
    name: str,
    layers: Sequence[LayerQuantities],
    noise: float,
    thresholds: Sequence[float] | None,
    position: float,
    shrinks: bool,
) -> Guarantee:
    error = _checked(layers, noise)
    if thresholds is not None and (len(thresholds) != len(layers) or not all(0 <= t < math.inf for t in thresholds)):
        raise ValueError(f"thresholds must be {len(layers)} finite numbers >= 0, got {thresholds!r}")
    if not 0 <= position < 1:
        raise ValueError(f"position must be a number from 0 to below 1, got {position!r}")
    rows = []
    for i, layer in enumerate(layers):
        leak = layer.coherence * layer.largest
        low, high = layer.stripe * leak + error, layer.smallest - max(layer.stripe - 1, 0) * leak - error
        if error == math.inf:  # the window is empty; for a code of zeros the formula would be inf - inf
            high = -math.inf
        inside = low + position * (high - low) if abs(high) < math.inf else low
        threshold = inside if thresholds is None else float(thresholds[i])
        free = math.inf if low < high else -math.inf
        limit = (1 + (layer.smallest - 2 * error) / leak) / 2 if leak > 0 else free
        row: Row = {"coherence": layer.coherence, "k": layer.stripe, "cut": layer.cut, "k_limit": limit}
        row["holds"] = layer.cut == 0 and low <= threshold < high
        row |= {"p": layer.patch, "smallest": layer.smallest, "largest": layer.largest, "noise": error}
        row |= {"threshold_low": low, "threshold_high": high, "threshold": threshold}
        entry = error + max(layer.stripe - 1, 0) * leak + (threshold if shrinks else 0.0)
        error = _propagate(row, layer, entry)
        rows.append(row)
    return _conclude(name, layers, rows, 1 / 2)


def _propagate(row: Row, layer: LayerQuantities, entry: float) -> float:
    """Writes and returns the error of a layer. ``entry`` bounds that of an entry; inf after a layer that fails."""
    if not row["holds"] or entry == math.inf:
        row["entry_error"] = row["error"] = math.inf
    else:  # a code of zeros is found as zero, without error
        row["entry_error"] = entry if layer.stripe else 0.0
        row["error"] = math.sqrt(layer.patch) * row["entry_error"]
    return row["error"]


def _condition(layer: LayerQuantities, share: float) -> Row:
    limit = _limit(layer.coherence, share)
    holds = layer.cut == 0 and layer.stripe < limit
    return {"coherence": layer.coherence, "k": layer.stripe, "cut": layer.cut, "k_limit": limit, "holds": holds}


def _limit(coherence: float, share: float) -> float:
    return share * (1 + 1 / coherence) if coherence > 0 else math.inf


def _conclude(name: str, layers: Sequence[LayerQuantities], rows: Sequence[Row], share: float) -> Guarantee:
    failing = [layer for layer, row in zip(layers, rows, strict=True) if not row["holds"]]
    if not failing:
        return Guarantee(name, "holds", tuple(rows), rows[-1]["error"])
    hopeless = any(_limit(layer.coherence, share) <= 2 for layer in failing)
    return Guarantee(name, "vacuous" if hopeless else "does not hold", tuple(rows), math.inf)


def _checked(layers: Sequence[LayerQuantities], noise: float) -> float:
    if not layers:
        raise ValueError("layers must be at least one, got none")
    if not 0 <= noise < math.inf:
        raise ValueError(f"noise must be a finite number >= 0, got {noise!r}")
    return float(noise)


def _cell(value: float) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else f"{value:.4g}"
