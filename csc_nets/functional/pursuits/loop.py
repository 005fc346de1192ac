r"""The loop that all pursuits run in: one row of a table after another."""

from collections.abc import Callable, Iterable
from typing import Protocol

import torch
from torch import Tensor

from csc_nets.functional.checks import is_transformed
from csc_nets.functional.kernels import FoldedStep, Kernels, PlainStep
from csc_nets.functional.problem import Problem
from csc_nets.functional.step import Step

__all__ = ["Record", "advance", "extrapolated", "run", "stop_rule"]

Stop = Callable[[Tensor, Tensor], Tensor]


class Record(Protocol):
    """Receives codes and estimates of every step, for a gradient that needs more than the last code."""

    def add_code(self, z: Tensor) -> None:
        """The code after a step."""

    def add_estimate(self, estimate: Tensor, point: Tensor) -> None:
        """The synthesis of the point where the next step takes its gradient."""


def run(
    problem: Problem,
    rows: Iterable[Step],
    init: Tensor | None = None,
    *,
    stop: Stop | None = None,
    trace: Callable[[Tensor], object] | None = None,
    monotone: bool = False,
    restart: bool = False,
    record: Record | None = None,
) -> Tensor:
    """Runs the rows of a table.

    Args:
        problem: what is being solved.
        rows: :class:`~csc_nets.functional.Step` each.
        init: warm start ``(N, M, *S')``; None is zero, whose first step costs one analysis and no synthesis.
        stop: ``(new, old) -> (N,)`` booleans. A sample is frozen from the step on where it is True; the loop ends when
            all samples are frozen.
        trace: called with every code, the first included.
        monotone: never accept a code of larger objective, and drop a sample's momentum where one was refused
            (O'Donoghue and Candes 2015, function scheme).
        restart: a sample whose last step points uphill reads the table from its first row again (the same paper,
            gradient scheme). This is for tables of growing momentum.
        record: receives every code and estimate.

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
    # Buffers are overwritten where no gradient, trace or refused step can still read them.
    unseen = not (torch.is_grad_enabled() or restart)
    reuse = unseen and not looks and trace is None and record is None
    remembers = max((k for k, row in enumerate(rows) if _extrapolates(row)), default=0)  # the last row that looks back
    before: Tensor | None = init
    z: Tensor | None = init
    next_point: Tensor | None = None
    done: Tensor | None = None
    argument: Tensor | None = None
    if init is not None and rows[0].memory is not None:
        # The prox maps the warm start plus its threshold to the warm start.
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
            argument = kernel.argument
            if record is not None:
                record.add_code(new)
            if trace is not None:
                trace(new)
            continue
        if next_point is not None:
            point = start = next_point
        else:
            owned = reuse and before is not None and before is not z and before is not init
            point, start = extrapolated(z, before, row, owned)
        estimate = kernel.synthesis(point, size)
        if record is not None:
            record.add_estimate(estimate, point)
        x = problem.signal(estimate)
        beta = _fused_weight(kernel, follower) if not looks and start is point else 0.0
        if beta:
            new, next_point = kernel.advance_and_extrapolate(x, start, estimate, z, beta)
        else:
            moves_on = follower is not None and _extrapolates(follower)
            free = unseen if start is not z else reuse and not moves_on and z is not init
            new, next_point = kernel.advance(x, start, point, estimate, disposable=free), None
        argument = kernel.argument
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
        before = (torch.where(refused, new, z) if monotone else z) if k < remembers else None
        z = new
        if done is not None and not is_transformed() and bool(done.all()):
            break
    assert z is not None
    return z


def advance(problem: Problem, row: Step, z: Tensor | None, before: Tensor | None = None) -> Tensor:
    """One row of a table by itself: the code after ``z``, which came after ``before``.

    Args:
        problem: what is being solved.
        row: a :class:`~csc_nets.functional.Step` without memory.
        z: code ``(N, M, *S')``; None for the zero code.
        before: the code before it; None for the zero code, or where ``z`` is a warm start, ``z`` itself.

    Raises:
        ValueError: a row with memory, whose last argument of the prox only :func:`run` knows.
    """
    if row.memory is not None:
        raise ValueError("a row with memory needs the argument of the last prox: take run")
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
            its norm. It costs almost nothing, and it is no certificate.

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


def extrapolated(z: Tensor, before: Tensor | None, row: Step, owned: bool = False) -> tuple[Tensor, Tensor]:
    """The points where a row takes its gradient and where it starts; ``owned`` allows to overwrite ``before``."""
    if _alike(row):
        point = _lerp(before, z, row.ahead, owned)
        return point, point
    return _lerp(before, z, row.ahead, False), _lerp(before, z, row.inertia, owned and not _is_set(row.ahead))


def _lerp(before: Tensor | None, z: Tensor, weight: float | Tensor, owned: bool) -> Tensor:
    if not _is_set(weight) or before is z:
        return z
    if isinstance(weight, Tensor) and 0 < weight.ndim < z.ndim:
        weight = weight.view(-1, *(1,) * (z.ndim - 2))
    if isinstance(weight, Tensor):  # in the wider type of the two
        return (1 + weight) * z if before is None else (1 + weight) * z - weight * before
    if before is None:
        return (1 + weight) * z
    if before.dtype != z.dtype:  # a warm start in full precision, under autocast
        before = before.to(z.dtype)
    return before.lerp_(z, 1 + weight) if owned else torch.lerp(before, z, 1 + weight)


def _alike(row: Step) -> bool:
    """Whether a row starts at the point where it takes its gradient."""
    if row.inertia is row.ahead:
        return True
    return not isinstance(row.inertia, Tensor) and not isinstance(row.ahead, Tensor) and row.inertia == row.ahead


def _is_set(weight: float | Tensor) -> bool:
    return isinstance(weight, Tensor) or weight != 0


def _extrapolates(row: Step) -> bool:
    return _is_set(row.ahead) or _is_set(row.inertia)


def _fused_weight(kernel: FoldedStep | PlainStep, follower: Step | None) -> float:
    """The weight with which a kernel extrapolates to the start of the next row; 0 where it cannot."""
    if follower is None or not kernel.fuses_extrapolation or isinstance(follower.ahead, Tensor) or not _alike(follower):
        return 0.0
    return follower.ahead


def _per_sample(flag: Tensor, z: Tensor) -> Tensor:
    return flag.view(-1, *(1,) * (z.ndim - 1))


def _norm(t: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(t.flatten(1), dim=1)
    return norm


class _Restarts:
    """A table with a row index for each sample; the index returns to the first row when a step points uphill."""

    def __init__(self, rows: tuple[Step, ...]) -> None:
        self.rows = rows
        self.at: Tensor | None = None  # the row of each sample

    def read(self, k: int) -> Step:
        """Row k, with each sample's own extrapolation."""
        row = self.rows[k]
        if self.at is None:
            return row
        ahead, inertia = self.weights[:, self.at]
        return row.with_momentum(ahead, ahead if all(map(_alike, self.rows)) else inertia)

    def advance(self, k: int, point: Tensor, new: Tensor, z: Tensor) -> None:
        """Moves the row indices after step k, which led from ``point`` to ``new``."""
        if self.at is None:
            table = torch.tensor([[r.ahead, r.inertia] for r in self.rows], dtype=torch.float64).to(
                new.abs() if new.is_complex() else new
            )
            self.weights = table.T.reshape(2, -1, *(1,) * (z.ndim - 1))
            self.at = torch.full((len(new),), k, device=new.device)
        product = (point - new).conj() * (new - z)
        uphill = (product.real if product.is_complex() else product).flatten(1).sum(1) > 0
        self.at = torch.where(uphill, 1, self.at + 1).clamp_max(len(self.rows) - 1)
