r"""Pursuits: tables of steps."""

from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

from torch import Tensor

from csc_nets.functional.checks import as_count, check_tol
from csc_nets.functional.penalties import Penalty
from csc_nets.functional.problem import Problem
from csc_nets.functional.pursuits.loop import run, stop_rule
from csc_nets.functional.step import Step
from csc_nets.registry import Part, Registry, check_arguments

__all__ = ["Pursuit", "as_pursuit", "register_pursuit", "takes_steps"]


class Pursuit(Part):
    """A table of steps. A subclass gives :meth:`steps`; one with parameters of its own is an ``nn.Module``, too.

    Attributes:
        count: number of steps; None where a tolerance decides.
        single_gain: the step size of a pursuit that is a single thresholding; None for other pursuits.
        tol: duality gap over half the squared norm of the signal at which a sample stops; None for never.
        solves: whether enough steps end at the solution. The implicit gradient differentiates the solution.
        takes_step_size: whether its steps are ``problem.step_size`` long, so that a layer may be given one.
        local: whether each position of the code depends on nearby samples alone, so that signals can be coded in tiles.
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

    @property
    def is_table(self) -> bool:
        """Whether it is a fixed number of steps and nothing else, so that others may run its rows one by one."""
        return self.count is not None and self.tol is None and type(self).run is Pursuit.run

    def check(self, penalty: Penalty) -> None:
        """Refuses a penalty that the pursuit cannot use.

        Raises:
            ValueError: says why.
        """

    def attach(self, dictionary: Any) -> "Pursuit":
        """The pursuit for a layer with this dictionary. One with parameters returns a copy that has them."""
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
        return replace(self, **changes)  # type: ignore[type-var]

    def __repr__(self) -> str:
        numbers = [str(self.count)] if self.count is not None else []
        numbers += [] if self.tol is None else [f"tol={self.tol}"]
        return f"{type(self).__name__}({', '.join(numbers)})"

    @classmethod
    def spelled(cls, steps: int | None, tol: float | None, **options: Any) -> "Pursuit":
        """The pursuit that ``pursuit=name, steps=..., tol=...`` means; ``steps`` is None for no number of steps.

        Raises:
            ValueError: it does not take one of them.
        """
        if steps is not None and cls.count is None:
            raise ValueError(f"pursuit {cls.registered_name!r} takes as many steps as it needs: give steps=None")
        given = {"count": steps, "tol": tol}
        options = {key: value for key, value in given.items() if value is not None} | options
        check_arguments(f"pursuit {cls.registered_name!r}", cls, options)
        return cls(**options)


_PURSUITS: Registry[Any] = Registry("pursuit")
register_pursuit = _PURSUITS.decorator


def takes_steps(pursuit: Any) -> bool:
    """Whether ``steps`` belongs beside this ``pursuit``: it is a name, of a pursuit with a number of steps."""
    return isinstance(pursuit, str) and _PURSUITS[pursuit].count is not None


def as_pursuit(
    pursuit: str | Mapping[str, Any] | Pursuit, steps: int | None = None, tol: float | None = None
) -> Pursuit:
    """A pursuit from an object, a registered name, or a mapping with ``name`` and the arguments of the class.

    Args:
        pursuit: what to take.
        steps: number of steps, for a name or a mapping without ``count``; None for what the pursuit has, or for a name
            with ``tol`` as many as it takes.
        tol: tolerance, for a name or a mapping without ``tol``.

    Raises:
        ValueError: an unknown name, bad numbers, or numbers beside an object, which has its own.
    """
    if steps is not None:
        as_count(steps)
    check_tol(tol)
    if isinstance(pursuit, Pursuit):
        if pursuit.count is not None:
            as_count(pursuit.count, f"{pursuit!r}: count")
        check_tol(pursuit.tol)
        if steps is not None or tol is not None:
            raise ValueError(f"steps and tol belong to {pursuit!r}, got also steps={steps}, tol={tol}")
        return pursuit
    name, options = _PURSUITS.spelled(pursuit, Pursuit)
    entry = _PURSUITS[name]
    if isinstance(pursuit, str) and steps is None and tol is not None and entry.solves:
        entry = _PURSUITS["to_tolerance"]
    return as_pursuit(entry.spelled(options.pop("count", steps), options.pop("tol", tol), **options))
