"""What a rule for lam at test time is, and the names of the rules."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from csc_nets.layers import CSC
from csc_nets.registry import Part, Registry

__all__ = ["LamRule", "LineRule", "as_lam_rule", "list_lam_rules", "own_lam", "register_lam_rule", "scaled_to"]


class LamRule(Part):
    """Chooses the sparsity weight of a coding layer for each sample, from the layer's input alone.

    A subclass gives :meth:`__call__`, and ``@register_lam_rule("name")`` makes it known by a name. A rule never goes
    below the weight that the layer was trained with.
    """

    def __call__(self, layer: CSC, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Sparsity weights ``(N,)``, differentiable where ``x`` asks for a gradient.

        Args:
            layer: what codes ``x``: a :class:`~csc_nets.layers.Coder`. Its own ``lam`` is the weight it was trained
                with, and ``layer.problem(x, mask=mask)`` is what it solves.
            x: its input ``(N, C, *S)``.
            mask: 0 where ``x`` is missing.
        """
        raise NotImplementedError


class LineRule(LamRule):
    r"""A rule :math:`\lambda = a\, q(x, \lambda) + b`, whose line is fitted to training images.

    :func:`~csc_nets.evaluation.calibrate_rule` fits ``slope`` a and ``intercept`` b, which a subclass has as fields of
    a dataclass, to :meth:`statistic`. ``works_unfitted`` says whether the rule has a line without a fit, too.
    """

    works_unfitted = False
    slope: float | None
    intercept: float | None

    def statistic(self, layer: CSC, x: Tensor, lam: float, mask: Tensor | None = None) -> Tensor:
        """The number q of each sample at a sparsity weight, ``(N,)``."""
        raise NotImplementedError


_RULES: Registry[Any] = Registry("lam rule", "register_lam_rule", "as_lam_rule")
register_lam_rule = _RULES.decorator


def list_lam_rules() -> list[str]:
    """Sorted names of the rules."""
    return _RULES.names()


def as_lam_rule(rule: str | Mapping[str, Any] | LamRule) -> LamRule:
    """A rule from an object, a registered name, or a mapping with ``name`` and the arguments of the class.

    Raises:
        ValueError: an unknown name, or arguments that the rule does not take.
    """
    built: LamRule = _RULES.build(rule, LamRule)
    return built


def own_lam(layer: CSC) -> Tensor:
    """The weight that a layer was trained with, 0-d; of a weight per atom the mean.

    Raises:
        ValueError: it is 0, so that no multiple of it is another one.
    """
    own = layer.lam.detach().mean()
    if not own > 0:
        raise ValueError(f"a rule multiplies the layer's own lam, which must be above 0, got {own.item()}")
    return own


def scaled_to(layer: CSC, lam: Tensor, ndim: int) -> Tensor:
    """A layer's own weight times what brings its mean to ``lam``, ``(N,)`` or 0-d; as the layer takes it.

    Args:
        layer: see :func:`own_lam`.
        lam: wanted means.
        ndim: axes of the layer's input.
    """
    factor = (lam / own_lam(layer)).view(-1, *(1,) * (ndim - 1))
    return factor * layer.lam.view(-1, *(1,) * (ndim - 2))


@dataclass(frozen=True)
class Grid:
    """Weights from a layer's own one up, equally far apart in their logarithm."""

    points: int
    largest: float

    def __post_init__(self) -> None:
        if isinstance(self.points, bool) or not isinstance(self.points, int) or self.points < 3:
            raise ValueError(f"points must be an int >= 3, got {self.points!r}")
        if not 1 < self.largest < float("inf"):
            raise ValueError(f"largest must be a finite multiple of the layer's lam above 1, got {self.largest!r}")

    def of(self, layer: CSC) -> Tensor:
        """The weights of a layer, ascending ``(K,)``."""
        own = own_lam(layer)
        return own * torch.logspace(0, 1, self.points, base=self.largest, dtype=own.dtype, device=own.device)
