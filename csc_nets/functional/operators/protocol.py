r"""Operators: analysis :math:`D^T x`, synthesis :math:`D z`, and a bound of :math:`\|D\|^2`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from csc_nets.functional.operators.spectral import operator_norm

__all__ = ["FilterOperator", "Lateral", "Operator", "Pair", "Preconditioned", "norm_bound", "read", "track"]


@runtime_checkable
class Operator(Protocol):
    r"""Analysis and synthesis, exact adjoints of each other: :math:`\langle D z, x \rangle = \langle z, D^T x \rangle`.

    These two methods make an operator. An operator may also have:

    - ``bound(signal_size)``: a 0-d tensor, at least :math:`\|D\|^2` on signals of this spatial size. Without it the
      norm is computed by the Lanczos method in every forward pass.
    - ``read()``: the same operator with its atoms read once. A module whose atoms are computed (normalised,
      multiplied) does that here. ``track()``: the same for a forward pass of a layer, in which a bound may follow.
    - ``descent(x, z, estimate, bias=None)``: what a step adds to the code, in place of ``analysis(x - estimate)`` with
      ``estimate = synthesis(z)``, as :class:`Lateral` has it.
    - ``weight``, ``scaled`` and the other methods of :class:`FilterOperator`: then a step size is folded into the
      filters.
    """

    def analysis(self, x: Tensor) -> Tensor:
        """Signal ``(N, C, *S)`` to code ``(N, M, *S')``."""

    def synthesis(self, z: Tensor, output_size: tuple[int, ...] | None = None) -> Tensor:
        """Code ``(N, M, *S')`` to signal ``(N, C, *output_size)``."""


class FilterOperator(Operator, Protocol):
    """An operator with filters, into which the size of a step can be folded."""

    @property
    def weight(self) -> Tensor:
        """Filters of the analysis, ``(M, C, *K)`` or ``(M, F)``."""

    def analysis(
        self, x: Tensor, bias: Tensor | None = None, *, exact: bool = True, like: Tensor | None = None
    ) -> Tensor:
        """Correlations plus a bias per atom ``(M,)``; arguments as of :meth:`Convolution.analysis`."""

    def scaled(self, gain: Tensor) -> "FilterOperator":
        """The analysis times a gain, 0-d or one per atom ``(M,)``."""

    def map(self, change: Callable[[Tensor], Tensor]) -> "FilterOperator":
        """With changed filters, such as rounded ones."""

    def can_fuse(self, x: Tensor) -> bool:
        """Whether :meth:`analysis_relu` may be called."""

    def analysis_relu(self, x: Tensor, bias: Tensor, onto: Tensor | None = None) -> Tensor:
        """The ReLU of an analysis plus a bias, plus the code ``onto`` where there is one, in one pass."""


def read(operator: Operator) -> Operator:
    """The operator with its atoms read once, or the operator itself where this makes no difference."""
    reader: Callable[[], Operator] | None = getattr(operator, "read", None)
    return operator if reader is None else reader()


def track(operator: Operator) -> Operator:
    """:func:`read` for the forward pass of a layer, in which a bound may follow the atoms."""
    tracker: Callable[[], Operator] | None = getattr(operator, "track", None)
    return read(operator) if tracker is None else tracker()


def norm_bound(operator: Operator, x: Tensor) -> Tensor:
    r"""Bound of :math:`\|D\|^2` on signals shaped as ``x (N, C, *S)``: the operator's own, or by the Lanczos method."""
    own: Callable[[Sequence[int]], Tensor] | None = getattr(operator, "bound", None)
    return operator_norm(operator, x) if own is None else own(tuple(x.shape[2:]))


@dataclass(frozen=True)
class Pair:
    """Analysis with one operator and synthesis with another, such as the learned filters of a step of LISTA.

    The two are not adjoint in general, so there is no bound and no certificate.

    Args:
        analyser: takes part with its ``analysis``, from signals ``(N, C, *S)`` to codes ``(N, M, *S')``.
        synthesiser: takes part with its ``synthesis``, back.
    """

    analyser: FilterOperator
    synthesiser: FilterOperator

    @property
    def weight(self) -> Tensor:
        """Filters of the analysis."""
        return self.analyser.weight

    def analysis(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Analysis by the first operator."""
        return self.analyser.analysis(x, *args, **kwargs)

    def synthesis(self, z: Tensor, output_size: tuple[int, ...] | None = None) -> Tensor:
        """Synthesis by the second operator."""
        return self.synthesiser.synthesis(z, output_size)

    def scaled(self, gain: Tensor) -> "Pair":
        """The analysis times a gain."""
        return Pair(self.analyser.scaled(gain), self.synthesiser)

    def map(self, change: Callable[[Tensor], Tensor]) -> "Pair":
        """With changed filters, such as rounded ones."""
        return Pair(self.analyser.map(change), self.synthesiser.map(change))

    def can_fuse(self, x: Tensor) -> bool:
        """As for the operator of the analysis."""
        return self.analyser.can_fuse(x)

    def analysis_relu(self, x: Tensor, bias: Tensor, onto: Tensor | None = None) -> Tensor:
        """As for the operator of the analysis."""
        return self.analyser.analysis_relu(x, bias, onto)


@dataclass(frozen=True)
class Preconditioned(Pair):
    r"""An operator whose residuals pass a filter before the analysis: steps along :math:`D^T H (x - D z)`.

    Args:
        analyser, synthesiser: the operator.
        metric: H, a map of signals to signals of the same shape.
    """

    metric: Callable[[Tensor], Tensor]

    def analysis(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """:math:`D^T H x`."""
        return self.analyser.analysis(self.metric(x), *args, **kwargs)

    def scaled(self, gain: Tensor) -> "Preconditioned":
        """The analysis times a gain."""
        return Preconditioned(self.analyser.scaled(gain), self.synthesiser, self.metric)

    def map(self, change: Callable[[Tensor], Tensor]) -> "Preconditioned":
        """With changed filters; the metric stays."""
        return Preconditioned(self.analyser.map(change), self.synthesiser.map(change), self.metric)

    def analysis_relu(self, x: Tensor, bias: Tensor, onto: Tensor | None = None) -> Tensor:
        """As for the operator of the analysis."""
        return self.analyser.analysis_relu(self.metric(x), bias, onto)


@dataclass(frozen=True)
class Lateral(Pair):
    r"""The operator of a step that takes its input through filters B and its lateral terms through D:

    .. math:: B^T x - D^T D z

    Args:
        analyser: B.
        synthesiser: B again.
        lateral: D.
        inhibitor: D in the analysis, times a gain where there is one; None for ``lateral``.
    """

    lateral: Any = None
    inhibitor: Any = None

    def scaled(self, gain: Tensor) -> "Lateral":
        """Both analyses times a gain."""
        inhibitor = self.lateral if self.inhibitor is None else self.inhibitor
        return Lateral(self.analyser.scaled(gain), self.synthesiser, self.lateral, inhibitor.scaled(gain))

    def map(self, change: Callable[[Tensor], Tensor]) -> "Lateral":
        """With changed filters, such as rounded ones."""
        inhibitor = None if self.inhibitor is None else self.inhibitor.map(change)
        changed = (self.analyser.map(change), self.synthesiser.map(change), self.lateral.map(change), inhibitor)
        return Lateral(*changed)

    def descent(self, x: Tensor, z: Tensor, estimate: Tensor, bias: Tensor | None = None) -> Tensor:
        """What a step adds, plus a bias per atom."""
        inhibitor = self.lateral if self.inhibitor is None else self.inhibitor
        lateral = inhibitor.analysis(self.lateral.synthesis(z, tuple(x.shape[2:])), exact=False)
        return self.analyser.analysis(x, bias, exact=False).sub_(lateral)
