r"""What a pursuit is: a table of steps."""

from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, NamedTuple

from torch import Tensor

from csc_nets.functional.checks import as_count, check_tol
from csc_nets.functional.operators import Operator
from csc_nets.functional.penalties import Penalty
from csc_nets.functional.problem import Problem
from csc_nets.functional.pursuits.loop import run, stop_rule
from csc_nets.registry import Part, Registry

__all__ = ["Pursuit", "Step", "as_pursuit", "register_pursuit"]


class Step(NamedTuple):
    r"""One row of a pursuit's table: from the code z, which came after :math:`z_-`, to the next one,

    .. math:: v = \mu u + (1 - \mu) \bigl(z + \iota (z - z_-) + g D^T (x - D (z + \alpha (z - z_-)))\bigr), \qquad
              z_+ = \mathrm{prox}_{(g \lambda + s) R}(v)

    where u is the v of the row before. A pursuit starts at the zero code, as if it had stood there before, or at a warm
    start. Numbers are floats, 0-d tensors, or tensors with one value per atom ``(M,)``.

    Attributes:
        gain: g, the step size.
        ahead: :math:`\alpha`, how far ahead of z the gradient is taken.
        inertia: :math:`\iota`, how far ahead of z the step starts.
        shift: s, added to the threshold. A sum below 0 counts as 0, but for the non-negative l1 norm, whose prox is
            ``relu(v - t)`` for t of any sign.
        operator: D of this row; None for the problem's.
        memory: :math:`\mu`, how much of the last v stays; None for a pursuit that keeps no v.
    """

    gain: float | Tensor
    ahead: float | Tensor = 0.0
    inertia: float | Tensor = 0.0
    shift: float | Tensor = 0.0
    operator: Operator | None = None
    memory: float | Tensor | None = None


class Pursuit(Part):
    """A table of steps. A subclass gives :meth:`steps`; one with parameters of its own is an ``nn.Module``, too.

    Attributes:
        count: number of steps; None where a tolerance decides.
        single_gain: the step size, where the pursuit is one thresholding of a known size.
        tol: duality gap over half the squared norm of the signal at which a sample stops; None for never.
        solves: whether enough steps of it reach the solution, which the implicit gradient differentiates.
        takes_step_size: whether it steps by ``problem.step_size``, so that a layer may be given one.
        local: whether a position of the code is decided by samples nearby, so that signals can be coded in tiles.
    """

    count: int | None = 1
    single_gain: float | None = None
    tol: float | None = None
    solves: bool = False
    takes_step_size: bool = True
    local: bool = True

    def steps(self, problem: Problem) -> Iterable[Step]:
        """The rows for a problem; ``problem.step_size`` is a safe gain."""
        raise NotImplementedError

    def check(self, penalty: Penalty) -> None:
        """Refuses a penalty that the pursuit is not made for.

        Raises:
            ValueError: says why.
        """

    def attach(self, dictionary: Any) -> "Pursuit":
        """The pursuit for a layer with this dictionary; one with parameters makes them here, in a copy of itself."""
        return self

    def restart(self, dictionary: Any) -> None:
        """Puts what :meth:`attach` made back to where it starts for a dictionary; most pursuits have nothing."""

    def run(self, problem: Problem, init: Tensor | None = None) -> Tensor:
        """The code ``(N, M, *S')`` of a problem, from a warm start or from zero."""
        stop = None if self.tol is None else stop_rule(problem, self.tol)
        return run(problem, self.steps(problem), init, stop=stop)

    def changed(self, **changes: Any) -> "Pursuit":
        """The pursuit with another ``count`` or ``tol``.

        Raises:
            ValueError: it has no such setting.
        """
        changes = {key: value for key, value in changes.items() if value != getattr(self, key)}
        if not changes:
            return self
        own: set[str] = {field.name for field in fields(self)} if is_dataclass(self) else set()
        if not set(changes) <= own:
            given = ", ".join(f"{key}={value}" for key, value in changes.items())
            raise ValueError(f"{self!r} takes no {given}")
        return replace(self, **changes)  # type: ignore[type-var, return-value]

    def __repr__(self) -> str:
        numbers = [str(self.count)] if self.count is not None else []
        numbers += [] if self.tol is None else [f"tol={self.tol}"]
        return f"{type(self).__name__}({', '.join(numbers)})"

    @classmethod
    def spelled(cls, steps: int | None, tol: float | None, **options: Any) -> "Pursuit":
        """The pursuit that ``pursuit=name, steps=..., tol=...`` means; ``steps`` is None for no number of steps."""
        given = {"count": steps, "tol": tol}
        return cls(**{key: value for key, value in given.items() if value is not None}, **options)


_PURSUITS: Registry[Any] = Registry("pursuit")
register_pursuit = _PURSUITS.decorator


def as_pursuit(
    pursuit: str | Mapping[str, Any] | Pursuit, steps: int | None = None, tol: float | None = None
) -> Pursuit:
    """A pursuit from an object, a registered name, or a mapping with ``name`` and the arguments of the class.

    Args:
        pursuit: what to take.
        steps: number of steps, for a name; None for what the pursuit has, or with ``tol`` for as many as it takes.
        tol: tolerance, for a name.

    Raises:
        ValueError: an unknown name, bad numbers, or numbers beside an object, which has its own.
    """
    if steps is not None:
        as_count(steps)
    check_tol(tol)
    if isinstance(pursuit, Pursuit):
        if steps is not None or tol is not None:
            raise ValueError(f"steps and tol belong to {pursuit!r}, got also steps={steps}, tol={tol}")
        return pursuit
    if isinstance(pursuit, str):
        entry = _PURSUITS[pursuit]
        if steps is None and tol is not None and entry.solves:
            entry = _PURSUITS["to_tolerance"]
        return entry.spelled(steps, tol)
    given = {key: value for key, value in {"count": steps, "tol": tol}.items() if value is not None}
    return _PURSUITS.build(pursuit, Pursuit, **given)
