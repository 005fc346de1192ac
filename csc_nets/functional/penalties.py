r"""Penalties R of a code: :math:`\tfrac12 \|x - D z\|^2 + \lambda R(z)`.

A penalty gives its proximal map :math:`\mathrm{prox}_{t R}(v) = \arg\min_z \tfrac12 |v - z|^2 + t R(z)`, its value,
and, where it is a norm or a gauge, the dual one. :func:`register_penalty` gives it a name for configs. Codes are
``(N, M, *S')``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from csc_nets.functional import prox
from csc_nets.functional.checks import is_number
from csc_nets.registry import Part, Registry

__all__ = [
    "L0",
    "L1",
    "Box",
    "ElasticNet",
    "FreeL1",
    "GroupL1",
    "HardThreshold",
    "NonnegativeL1",
    "OnePerBlock",
    "Penalty",
    "TopK",
    "as_penalty",
    "register_penalty",
]


class Penalty(Part):
    """Base of all penalties. A subclass gives ``prox`` and, for an objective, ``value``.

    Attributes:
        nonneg: codes are non-negative.
        separable: the prox acts on each entry by itself, so that its derivative is a diagonal matrix.
        local: each position of the prox is decided by that position alone, so that signals can be coded in tiles.
        any_sign: learned thresholds may fall below 0. Otherwise those count as 0: a negative weight has no prox.
        ridge: weight of half the squared norm that belongs to the penalty; 0 for most.
        kernel: ``"nonneg"`` or ``"soft"`` where the prox is ``relu(v - t)`` or the soft threshold, which have fast
            kernels; None for others.
    """

    nonneg: bool = False
    any_sign: bool = False
    separable: bool = False
    local: bool = False
    ridge: float = 0.0
    kernel: str | None = None

    def prox(self, v: Tensor, t: float | Tensor) -> Tensor:
        """The proximal map at ``v (N, M, *S')`` with a threshold ``t`` that broadcasts against it."""
        raise NotImplementedError

    def threshold(self, lam: float | Tensor, gain: float | Tensor) -> float | Tensor:
        """The threshold t of a step of size ``gain``."""
        return gain * lam

    def value(self, z: Tensor, lam: float | Tensor) -> Tensor:
        """``lam R(z)`` per sample, ``(N,)``."""
        raise NotImplementedError(f"{type(self).__name__} has no value, so no objective either")

    def exact_value(self, z: Tensor, lam: float | Tensor) -> Tensor:
        """:meth:`value` in float64, for differences of large sums."""
        return self.value(z.to(torch.promote_types(z.dtype, torch.float64)), lam)

    def gauge(self, correlation: Tensor, lam: float | Tensor) -> Tensor:
        r"""The smallest :math:`s \ge 0` with the correlation in :math:`s\, \partial (\lambda R)(0)`, per sample.

        A dual point is feasible where its gauge is at most 1. Duality gaps and ``lam_max`` are computed from it.
        """
        raise NotImplementedError(f"{type(self).__name__} has no dual, so no duality gap and no lam_max")

    def support(self, correlation: Tensor, lam: float | Tensor) -> Tensor | None:
        r"""The conjugate :math:`\sup_z \langle c, z \rangle - \lambda R(z)` at a feasible dual point, ``(N,)``.

        None where it is 0, as for norms. Otherwise it must grow in proportion to c.
        """
        return None

    def free(self, lam: float | Tensor, z: Tensor) -> Tensor | None:
        """Where entries of a code ``z`` cost nothing, booleans of its shape; None for a penalty without such places."""
        return None

    @property
    def has_dual(self) -> bool:
        """Whether there is a :meth:`gauge`."""
        return type(self).gauge is not Penalty.gauge


_PENALTIES: Registry[type[Penalty]] = Registry("penalty")
register_penalty = _PENALTIES.decorator


def as_penalty(penalty: "str | Mapping[str, Any] | Penalty | None", nonneg: bool | None = None) -> Penalty:
    """A penalty from an object, a registered name, or a mapping with ``name`` and the arguments of the class.

    Args:
        penalty: None for the l1 norm.
        nonneg: which l1 norm; None for the non-negative one.

    Raises:
        ValueError: an unknown name, bad arguments, both arguments.
    """
    if penalty is None:
        if nonneg not in (None, True, False):
            raise ValueError(f"nonneg must be True or False, got {nonneg!r}")
        return L1() if nonneg is False else NonnegativeL1()
    if nonneg is not None:
        raise ValueError(f"give nonneg or penalty, not both, got nonneg={nonneg!r} and penalty={penalty!r}")
    built: Penalty = _PENALTIES.build(penalty, Penalty)
    return built


def _sum(t: Tensor) -> Tensor:
    """Sum per sample ``(N,)``."""
    return t.sum(tuple(range(1, t.ndim)))  # flattening codes in channels_last would copy them


def _largest_ratio(correlation: Tensor, lam: float | Tensor) -> Tensor:
    """The largest ratio of a positive correlation to its weight, 0 where there is none, ``(N,)``."""
    if not isinstance(lam, Tensor) or lam.ndim < correlation.ndim or lam.shape[2:].numel() == 1:
        # All positions have one weight, so the largest correlation is enough.
        axes = tuple(range(2, correlation.ndim))
        correlation = correlation.amax(axes, keepdim=True) if axes else correlation
    return torch.where(correlation > 0, correlation / lam, 0.0).flatten(1).amax(1)


@register_penalty("l1")
@dataclass(frozen=True)
class L1(Penalty):
    r"""The l1 norm, :math:`\sum_i |z_i|`; of complex codes the sum of their moduli."""

    separable = True
    local = True
    kernel = "soft"

    def prox(self, v: Tensor, t: float | Tensor) -> Tensor:
        """The soft threshold."""
        return prox.soft_threshold(v, t)

    def value(self, z: Tensor, lam: float | Tensor) -> Tensor:
        """Weighted l1 norm."""
        return _sum(lam * z.abs())

    def exact_value(self, z: Tensor, lam: float | Tensor) -> Tensor:
        """The value in float64; where all positions have one weight, without a float64 copy of the code."""
        if isinstance(lam, Tensor) and lam.ndim == z.ndim and lam.shape[2:].numel() > 1:
            return super().exact_value(z, lam)
        axes = tuple(range(2, z.ndim))
        return _sum(lam * (z.abs().sum(axes, dtype=torch.float64, keepdim=True) if axes else z.abs().double()))

    def gauge(self, correlation: Tensor, lam: float | Tensor) -> Tensor:
        """The weighted largest modulus."""
        return _largest_ratio(correlation.abs(), lam)

    def free(self, lam: float | Tensor, z: Tensor) -> Tensor | None:
        """Where the weight is 0."""
        return (torch.as_tensor(lam, device=z.device) == 0).expand(z.shape)


@register_penalty("free_l1")
@dataclass(frozen=True)
class FreeL1(L1):
    r"""The l1 norm for learned thresholds of any sign: :math:`\max(v - t, 0) - \max(-v - t, 0)`.

    For :math:`t \ge 0` it is the soft threshold. A negative threshold lengthens: it adds :math:`|t|` to the modulus
    of large entries and doubles small ones, so the map stays continuous and odd. CSCNet learns such thresholds.
    """

    any_sign = True
    kernel = None  # type: ignore[assignment]  # the fast kernels take no negative threshold

    def prox(self, v: Tensor, t: float | Tensor) -> Tensor:
        """The shrinkage."""
        return torch.relu(v - t) - torch.relu(-v - t)


@register_penalty("nonnegative_l1")
@dataclass(frozen=True)
class NonnegativeL1(L1):
    r"""The sum of a non-negative code. Its prox is the ReLU of a CNN with bias :math:`-t`, for t of any sign."""

    nonneg = True
    any_sign = True
    kernel = "nonneg"

    def prox(self, v: Tensor, t: float | Tensor) -> Tensor:
        """The non-negative soft threshold."""
        return prox.nonneg_soft_threshold(v, t)

    def gauge(self, correlation: Tensor, lam: float | Tensor) -> Tensor:
        """The weighted largest correlation."""
        return _largest_ratio(correlation, lam)


@register_penalty("elastic_net")
@dataclass(frozen=True)
class ElasticNet(L1):
    r"""The l1 norm plus half the squared norm with its own weight, :math:`\lambda \|z\|_1 + \mu/2 \|z\|^2`.

    The second term is smooth. Pursuits fold it into their steps, like the ``ridge`` of a layer.

    Args:
        ridge: :math:`\mu`, at least 0.
        nonneg: codes are non-negative.
    """

    ridge: float = 0.0
    nonneg: bool = False

    def __post_init__(self) -> None:
        check_ridge(self.ridge)

    @property
    def kernel(self) -> str:  # type: ignore[override]
        """As for the l1 norm."""
        return "nonneg" if self.nonneg else "soft"

    @property
    def any_sign(self) -> bool:  # type: ignore[override]
        """As for the l1 norm."""
        return self.nonneg

    def prox(self, v: Tensor, t: float | Tensor) -> Tensor:
        """Prox of the l1 term; pursuits add the ridge."""
        return prox.nonneg_soft_threshold(v, t) if self.nonneg else prox.soft_threshold(v, t)

    def gauge(self, correlation: Tensor, lam: float | Tensor) -> Tensor:
        """Gauge of the l1 term."""
        return _largest_ratio(correlation if self.nonneg else correlation.abs(), lam)


@register_penalty("group_l1")
@dataclass(frozen=True)
class GroupL1(Penalty):
    r"""The sum of the norms of groups of atoms, one group for each position: :math:`\sum_g \|z_g\|_2`.

    Args:
        group_size: neighbouring atoms in a group; None for all atoms of a position.
    """

    group_size: int | None = None
    local = True

    def prox(self, v: Tensor, t: float | Tensor) -> Tensor:
        """Shrinks each group's norm. A threshold per atom counts by the first atom of its group."""
        return prox.group_soft_threshold(v, self._per_group(t, v), self.group_size)

    def value(self, z: Tensor, lam: float | Tensor) -> Tensor:
        """Weighted sum of norms."""
        return _sum(self._per_group(lam, z) * self._norms(z))

    def gauge(self, correlation: Tensor, lam: float | Tensor) -> Tensor:
        """The weighted largest norm of a group."""
        return _largest_ratio(self._norms(correlation), self._per_group(lam, correlation))

    def free(self, lam: float | Tensor, z: Tensor) -> Tensor | None:
        """Where the weight of the group is 0."""
        groups = self._norms(z)
        free = (torch.as_tensor(self._per_group(lam, z), device=z.device) == 0).expand(groups.shape)
        return free.repeat_interleave(z.shape[1] // groups.shape[1], 1)

    def _norms(self, z: Tensor) -> Tensor:
        size = self.group_size or z.shape[1]
        norms: Tensor = torch.linalg.vector_norm(z.unflatten(1, (-1, size)), dim=2)
        return norms

    def _per_group(self, t: float | Tensor, v: Tensor) -> float | Tensor:
        if not isinstance(t, Tensor) or t.ndim < v.ndim - 1 or t.shape[1 - v.ndim] == 1:
            return t
        axis = t.ndim - v.ndim + 1
        size = self.group_size or v.shape[1]
        groups: Tensor = t.unflatten(axis, (-1, size))
        return groups.select(axis + 1, 0)


@register_penalty("l0")
@dataclass(frozen=True)
class L0(Penalty):
    r"""The number of non-zeros. Not convex: a pursuit finds a code that no step improves (Blumensath, Davies 2008)."""

    separable = True
    local = True

    def prox(self, v: Tensor, t: float | Tensor) -> Tensor:
        r"""Keeps :math:`|v| > \sqrt{2 t}`."""
        return prox.hard_threshold(v, (2 * torch.as_tensor(t, device=v.device)).sqrt())

    def value(self, z: Tensor, lam: float | Tensor) -> Tensor:
        """Weighted count."""
        return _sum(lam * (z != 0).to(z.abs().dtype))


@register_penalty("hard")
@dataclass(frozen=True)
class HardThreshold(Penalty):
    r"""The hard threshold at the level t, as layered hard thresholding has it.

    It is the prox of :math:`t^2/2` times the number of non-zeros. With one step of size 1, ``lam`` is the level, and
    the step minimises :math:`\lambda^2/2` times that number.
    """

    separable = True
    local = True

    def prox(self, v: Tensor, t: float | Tensor) -> Tensor:
        """Keeps :math:`|v| > t`."""
        return prox.hard_threshold(v, t)

    def value(self, z: Tensor, lam: float | Tensor) -> Tensor:
        r""":math:`\lambda^2 / 2` times the number of non-zeros."""
        return _sum(lam * lam / 2 * (z != 0).to(z.abs().dtype))


class _Constraint(Penalty):
    """A set of codes. The prox is the projection for every threshold; the value is 0 on the set."""

    def value(self, z: Tensor, lam: float | Tensor) -> Tensor:
        """0: codes are assumed to lie on the set."""
        return z.abs().new_zeros(len(z))


@register_penalty("top_k")
@dataclass(frozen=True)
class TopK(_Constraint):
    """At most k non-zeros in each sample, or at each position; ``lam`` has no effect.

    Args:
        k: entries to keep.
        nonneg: keep positive entries only.
        per_position: k atoms at each position of a map, instead of k entries in the whole code. For vectors and tokens
            the two are the same.
    """

    k: int = 32
    nonneg: bool = False
    per_position: bool = False
    separable = True

    @property
    def local(self) -> bool:  # type: ignore[override]
        """With ``per_position``."""
        return self.per_position

    def __post_init__(self) -> None:
        if isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 1:
            raise ValueError(f"TopK: k must be an int >= 1, got {self.k!r}")

    def prox(self, v: Tensor, t: float | Tensor) -> Tensor:
        """Keeps the k largest."""
        return prox.top_k(v.relu() if self.nonneg else v, self.k, per_position=self.per_position)


@register_penalty("one_per_block")
@dataclass(frozen=True)
class OnePerBlock(_Constraint):
    """At most one non-zero in each window of an atom's positions; ``lam`` has no effect.

    Args:
        window: positions of a block per axis; None for all positions of an atom.
        share: share of the blocks that are kept, in (0, 1]; the blocks with the largest entries are kept.
        nonneg: keep positive entries only.
    """

    window: int | None = None
    share: float = 1.0
    nonneg: bool = False
    separable = True

    def prox(self, v: Tensor, t: float | Tensor) -> Tensor:
        """Keeps the largest of each block; see :func:`~csc_nets.functional.one_per_block`."""
        v = v.relu() if self.nonneg else v
        return prox.one_per_block(v, self.kept(v), window=self.window)

    def kept(self, v: Tensor) -> int | None:
        """Number of blocks of a code that are kept; None for all."""
        if self.share == 1:
            return None
        blocks = v.shape[1]
        for n in v.shape[2:]:
            blocks *= 1 if self.window is None else -(-n // self.window)
        # torch.jit traces sizes as tensors, and keeps this number for all.
        return max(1, round(self.share * (int(blocks) if isinstance(blocks, Tensor) else blocks)))


@register_penalty("box")
@dataclass(frozen=True)
class Box(_Constraint):
    r"""The set :math:`|z_i| \le \lambda`: ``lam`` is its size, and the step size has no effect on the projection.

    The residual of such a code is the proximal map of :math:`\lambda \|D^T x\|_1`, by duality:

    .. math:: x - D z^* = \arg\min_u \tfrac12 \|x - u\|^2 + \sum_i \lambda_i |(D^T u)_i|

    With differences of neighbours for atoms this is total variation (Chambolle, 2004). Codes are not sparse; the
    correlations of the residual with the atoms are.
    """

    separable = True
    local = True

    def threshold(self, lam: float | Tensor, gain: float | Tensor) -> float | Tensor:
        """``lam``."""
        return lam

    def prox(self, v: Tensor, t: float | Tensor) -> Tensor:
        """The nearest code of the set."""
        return prox.clip(v, t)

    def gauge(self, correlation: Tensor, lam: float | Tensor) -> Tensor:
        """0: every dual point is feasible."""
        return correlation.abs().new_zeros(len(correlation))

    def support(self, correlation: Tensor, lam: float | Tensor) -> Tensor:
        """The weighted l1 norm of the correlations."""
        return _sum(lam * correlation.abs().to(torch.float64))


def check_ridge(ridge: float) -> float:
    """Refuses a weight that is negative or not finite.

    Raises:
        ValueError: a bad weight.
    """
    if not is_number(ridge) or not 0 <= ridge < float("inf"):
        raise ValueError(f"ridge must be a finite number >= 0, got {ridge!r}")
    return ridge
