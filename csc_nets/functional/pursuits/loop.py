r"""The loop that all pursuits run in: one row of a table after another."""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
from torch import Tensor

from csc_nets.functional.checks import is_transformed
from csc_nets.functional.kernels import Kernels
from csc_nets.functional.problem import Problem

__all__ = ["Record", "advance", "extrapolated", "run", "stop_rule"]

Stop = Callable[[Tensor, Tensor], Tensor]


class Record(Protocol):
    """What is told of every step, for a gradient that needs more than the last code."""

    def add_code(self, z: Tensor) -> None:
        """The code after a step."""

    def add_estimate(self, estimate: Tensor, point: Tensor) -> None:
        """The synthesis of the point where the next step takes its gradient."""


def run(
    problem: Problem,
    rows: Iterable[Any],
    init: Tensor | None = None,
    *,
    stop: Stop | None = None,
    trace: Callable[[Tensor], Any] | None = None,
    monotone: bool = False,
    restart: bool = False,
    record: Record | None = None,
) -> Tensor:
    """Runs the rows of a table.

    Args:
        problem: what is being solved.
        rows: :class:`~csc_nets.functional.Step` each.
        init: warm start ``(N, M, *S')``; None is zero, whose first step costs one analysis and no synthesis.
        stop: ``(new, old) -> (N,)`` booleans; a sample is frozen from where it is True, and the loop ends with the
            last one.
        trace: called with every code, the first included.
        monotone: never accept a code of larger objective, and drop a sample's momentum where one was refused
            (O'Donoghue and Candes 2015, function scheme).
        restart: where the last step of a sample points uphill, let it read the table from its first row again (the
            same, gradient scheme). For tables of momentum that grows.
        record: told of every code and estimate.

    Returns:
        The last code ``(N, M, *S')``.

    Raises:
        ValueError: no row.
    """
    rows = tuple(rows)
    if not rows:
        raise ValueError("a pursuit needs at least one step")
    table = _Restarts(rows) if restart else None
    kernel_of, size = Kernels(problem), problem.size
    looks = restart or monotone or stop is not None
    # Buffers are written over where nobody can look back at them: no gradient, no candidate that was refused.
    unseen = not (torch.is_grad_enabled() or restart)
    reuse = unseen and not looks and trace is None and record is None
    before: Tensor | None = init
    z: Tensor | None = init
    next_point: Tensor | None = None
    done: Tensor | None = None
    argument = None
    if init is not None and rows[0].memory is not None:
        # The argument of a prox whose value is the warm start is the code plus its threshold.
        threshold = kernel_of.threshold(rows[0])[1]
        argument = init + threshold
        before = z = problem.penalty.prox(argument, threshold)
    for k, row in enumerate(rows):
        row = row if table is None else table.read(k)
        kernel = kernel_of(row, argument)
        follower = rows[k + 1] if k + 1 < len(rows) else None
        if z is None:
            new = kernel.start(problem.masked(problem.signal(None)))
            before, z, next_point = None, new, None
            argument = getattr(kernel, "argument", None)
            if record is not None:
                record.add_code(new)
            if trace is not None:
                trace(new)
            continue
        point, start = next_point, next_point
        if point is None:
            owned = reuse and before is not None and before is not z and before is not init
            point, start = extrapolated(z, before, row, owned)
        estimate = kernel.synthesis(point, size)
        if record is not None:
            record.add_estimate(estimate, point)
        x = problem.signal(estimate)
        beta = _leap(kernel, follower) if not looks and start is point else 0.0
        if beta:
            new, next_point = kernel.leap(x, start, estimate, z, beta)
        else:
            moves_on = follower is not None and _extrapolates(follower)
            free = unseen if start is not z else reuse and not moves_on and z is not init
            new, next_point = kernel.advance(x, start, point, estimate, disposable=free), None
        argument = getattr(kernel, "argument", None)
        if monotone:
            refused = _per_sample(problem.objective(new) > problem.objective(z), z)
            new = torch.where(refused, z, new)
        if done is not None:
            new = torch.where(_per_sample(done, z), z, new)
        if table is not None:
            table.advance(k, point, new, z)
        if stop is not None:
            finished = stop(new, z)
            done = finished if done is None else done | finished
        if record is not None:
            record.add_code(new)
        if trace is not None:
            trace(new)
        before, z = (torch.where(refused, new, z) if monotone else z), new
        if done is not None and not is_transformed() and bool(done.all()):
            break
    assert z is not None
    return z


def advance(problem: Problem, row: Any, z: Tensor | None, before: Tensor | None = None) -> Tensor:
    """One row of a table by itself: the code after ``z``, which came after ``before``.

    Args:
        problem: what is being solved.
        row: a :class:`~csc_nets.functional.Step` without memory.
        z: code ``(N, M, *S')``; None for the zero code.
        before: the code before it; None for the zero code, or where ``z`` is a warm start, ``z`` itself.
    """
    kernel = Kernels(problem)(row)
    if z is None:
        return kernel.start(problem.masked(problem.signal(None)))
    point, start = extrapolated(z, before, row)
    estimate = kernel.synthesis(point, problem.size)
    return kernel.advance(problem.signal(estimate), start, point, estimate)


def stop_rule(problem: Problem, tol: float, criterion: str = "gap") -> Stop:
    """A stop rule for :func:`run`.

    Args:
        problem: what is being solved.
        tol: tolerance, > 0.
        criterion: ``"gap"``: duality gap at most ``tol`` times half the squared norm of the signal, a certificate
            which costs one synthesis and one analysis a step. ``"change"``: the code moved by at most ``tol`` times
            its norm, which costs next to nothing and certifies nothing.

    Raises:
        ValueError: ``tol`` not above 0, an unknown criterion.
    """
    if not tol > 0:
        raise ValueError(f"tol must be greater than 0, got {tol!r}")
    if criterion == "gap":
        energy = problem.energy()
        return lambda new, old: problem.duality_gap(new) <= tol * energy
    if criterion == "change":
        return lambda new, old: _norm(new - old) <= tol * _norm(new)
    raise ValueError(f"criterion must be 'gap' or 'change', got {criterion!r}")


def extrapolated(z: Tensor, before: Tensor | None, row: Any, owned: bool = False) -> tuple[Tensor, Tensor]:
    """Where a row takes its gradient, and where it starts; ``owned``: nobody will look at ``before`` again."""
    if _alike(row):
        point = _lerp(before, z, row.ahead, owned)
        return point, point
    return _lerp(before, z, row.ahead, False), _lerp(before, z, row.inertia, owned and not _is_set(row.ahead))


def _lerp(before: Tensor | None, z: Tensor, weight: Any, owned: bool) -> Tensor:
    if not _is_set(weight) or before is z:
        return z
    if isinstance(weight, Tensor) and 0 < weight.ndim < z.ndim:
        weight = weight.view(-1, *(1,) * (z.ndim - 2))
    if isinstance(weight, Tensor):  # in the wider type of the two
        return (1 + weight) * z if before is None else (1 + weight) * z - weight * before
    if before is None:
        return (1 + weight) * z
    return before.lerp_(z, 1 + weight) if owned else torch.lerp(before, z, 1 + weight)


def _alike(row: Any) -> bool:
    """Whether a row starts where it takes its gradient."""
    if row.inertia is row.ahead:
        return True
    return not isinstance(row.inertia, Tensor) and not isinstance(row.ahead, Tensor) and row.inertia == row.ahead


def _is_set(weight: Any) -> bool:
    return isinstance(weight, Tensor) or weight != 0


def _extrapolates(row: Any) -> bool:
    return _is_set(row.ahead) or _is_set(row.inertia)


def _leap(kernel: Any, follower: Any) -> float:
    """The weight by which a kernel may extrapolate to where the next row starts; 0 where it may not."""
    if follower is None or not kernel.leaps or isinstance(follower.ahead, Tensor) or not _alike(follower):
        return 0.0
    return follower.ahead


def _per_sample(flag: Tensor, z: Tensor) -> Tensor:
    return flag.view(-1, *(1,) * (z.ndim - 1))


def _norm(t: Tensor) -> Tensor:
    return torch.linalg.vector_norm(t.flatten(1), dim=1)


class _Restarts:
    """A table that each sample reads from its first row again when its step points uphill."""

    def __init__(self, rows: tuple[Any, ...]) -> None:
        self.rows = rows
        self.at: Tensor | None = None  # the row of each sample

    def read(self, k: int) -> Any:
        """Row k, with each sample's own extrapolation."""
        row = self.rows[k]
        if self.at is None:
            return row
        ahead, inertia = self.weights[:, self.at]
        return row._replace(ahead=ahead, inertia=ahead if all(map(_alike, self.rows)) else inertia)

    def advance(self, k: int, point: Tensor, new: Tensor, z: Tensor) -> None:
        """Looks at the step k from ``point`` to ``new``."""
        if self.at is None:
            table = torch.tensor([[r.ahead, r.inertia] for r in self.rows], dtype=torch.float64).to(
                new.abs() if new.is_complex() else new
            )
            self.weights = table.T.reshape(2, -1, *(1,) * (z.ndim - 1))
            self.at = torch.full((len(new),), k, device=new.device)
        product = (point - new).conj() * (new - z)
        uphill = (product.real if product.is_complex() else product).flatten(1).sum(1) > 0
        self.at = torch.where(uphill, 1, self.at + 1).clamp_max(len(self.rows) - 1)
