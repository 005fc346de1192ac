"""Functions that code signals over any dictionary: FISTA, ISTA, hard thresholding, and solutions to a tolerance."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from csc_nets.functional import prox
from csc_nets.functional.checks import as_count, errors_of, is_number
from csc_nets.functional.inputs import Inputs, check_code, check_inputs, known_shape
from csc_nets.functional.operators import Operator, as_operator
from csc_nets.functional.operators.fourier import prefers_fourier
from csc_nets.functional.operators.protocol import read
from csc_nets.functional.penalties import Penalty, as_penalty
from csc_nets.functional.problem import Problem, as_weight, refuse_broken
from csc_nets.functional.pursuits.fourier_splitting import split
from csc_nets.functional.pursuits.greedy import converge
from csc_nets.functional.pursuits.loop import run, stop_rule
from csc_nets.functional.pursuits.proximal_gradient import FISTA, ISTA

__all__ = [
    "duality_gap",
    "fista",
    "ista",
    "iterative_hard_thresholding",
    "lam_max",
    "objective",
    "solve",
    "thresholding",
]


@dataclass(frozen=True)
class _Map(Penalty):
    """A penalty that is known by its proximal map alone."""

    proximal_map: Callable[[Tensor, float | Tensor], Tensor]

    def prox(self, v: Tensor, t: float | Tensor) -> Tensor:
        return self.proximal_map(v, t)


def _problem(
    owner: str, x: Tensor, dictionary: Operator | Tensor, lam: float | Tensor, init: Any = None, **options: Any
) -> tuple[Problem, Inputs]:
    """The problem of checked arguments, and these."""
    operator = read(as_operator(dictionary))
    given = check_inputs(owner, operator, x, lam, init, options.pop("mask", None))
    assert given.lam is not None
    if given.single:
        raise ValueError(f"{owner}: signals must be (N, F) or (N, C, *S), got shape {tuple(x.shape)}")
    return Problem(given.x, operator, given.lam, mask=given.mask, check=False, **options), given


def _code(owner: str, problem: Problem, z: Tensor) -> Tensor:
    """A checked code for a problem."""
    shape = known_shape(problem.operator, problem.x)
    return z if shape is None else check_code(owner, "z", z, shape, problem.x, many=shape[0] == 1)


def fista(
    x: Tensor,
    dictionary: Operator | Tensor,
    lam: float | Tensor,
    *,
    steps: int = 100,
    nonneg: bool = False,
    ridge: float = 0.0,
    penalty: Penalty | str | None = None,
    proximal_map: Callable[[Tensor, float | Tensor], Tensor] | None = None,
    step_size: float | Tensor | None = None,
    init: Tensor | None = None,
    mask: Tensor | None = None,
    tol: float | None = None,
    criterion: str = "gap",
    trace: list[Tensor] | None = None,
    monotone: bool = False,
    restart: bool = False,
    momentum: bool = True,
) -> Tensor:
    r"""Fast iterative shrinkage-thresholding, textbook form: the gradient is taken at the extrapolated point.

    Source: Beck and Teboulle 2009, eq. 4.1 to 4.3; see :class:`~csc_nets.functional.FISTA`.

    Args:
        x: signals ``(N, C, *S)``, or ``(N, F)`` for a matrix.
        dictionary: weights ``(M, F)`` (rows are atoms) or ``(M, C, *K)``, or any object with ``analysis`` and
            ``synthesis``, such as a dictionary layer.
        lam: sparsity weight: a number, one per atom ``(M,)``, or one per sample ``(N, 1, ...)``.
        steps: largest number of steps, the first one included.
        nonneg: codes are non-negative.
        ridge: weight of half the squared l2 norm of the code.
        penalty: in place of the (non-negative) l1 norm; see :mod:`csc_nets.functional.penalties`.
        proximal_map: ``(v, threshold) -> z`` in place of its proximal map.
        step_size: 1/L; None estimates L.
        init: warm start; None is the zero code, from which the first step costs one analysis and no synthesis.
        mask: 0 where ``x`` is missing (NaN is welcome there); broadcasts against ``x``.
        tol: stop each sample at this tolerance; None takes all steps.
        criterion: what ``tol`` bounds, see :func:`stop_rule`.
        trace: a list that receives the objective ``(N,)`` of every step.
        monotone: never accept a step that increases the objective (two more evaluations a step).
        restart: drop a sample's momentum where it points uphill.
        momentum: extrapolate; False is ISTA.

    Returns:
        Codes ``(N, M, *S')``.

    Raises:
        ValueError: negative or NaN ``lam``, ``steps`` below 1, ``tol`` not above 0, an unknown criterion.
    """
    as_count(steps)
    if is_number(step_size) and not 0 < step_size < math.inf:
        raise ValueError(f"step_size must be a finite number > 0, got {step_size!r}")
    chosen = as_penalty(penalty, nonneg or None) if proximal_map is None and penalty is not None else None
    if proximal_map is not None:
        if trace is not None or monotone or (tol is not None and criterion == "gap"):
            raise ValueError("trace, monotone and the gap criterion need an objective, which a proximal_map has not")
        chosen = _Map(proximal_map)
    options: dict[str, Any] = {"ridge": ridge, "nonneg": nonneg, "penalty": chosen, "step": step_size}
    owner = "fista" if momentum else "ista"
    problem, given = _problem(owner, x, dictionary, lam, init, mask=mask, **options)
    pursuit = FISTA(steps) if momentum else ISTA(steps)
    return run(
        problem,
        pursuit.steps(problem),
        given.init,
        stop=None if tol is None else stop_rule(problem, tol, criterion),
        trace=None if trace is None else lambda z: trace.append(problem.objective(z)),
        monotone=monotone,
        restart=restart,
    )


def ista(x: Tensor, dictionary: Operator | Tensor, lam: float | Tensor, **options: Any) -> Tensor:
    r"""Iterative shrinkage-thresholding: :math:`z \leftarrow S_{\lambda/L}(z + D^T (x - D z) / L)`.

    Source: Daubechies, Defrise, De Mol 2004; Beck and Teboulle 2009, eq. 1.4. It is :func:`fista` without momentum and
    takes the same keywords.
    """
    return fista(x, dictionary, lam, momentum=False, **options)


def thresholding(x: Tensor, dictionary: Operator | Tensor, lam: float | Tensor, nonneg: bool = False) -> Tensor:
    r"""One thresholding of the correlations, :math:`S_\lambda(D^T x)`: the forward pass of a CNN layer.

    Arguments as for :func:`fista`; with ``nonneg`` it is a ReLU.
    """
    v = as_operator(dictionary).analysis(x)
    return (prox.nonneg_soft_threshold if nonneg else prox.soft_threshold)(v, as_weight(lam, v.ndim))


def iterative_hard_thresholding(
    x: Tensor,
    dictionary: Operator | Tensor,
    k: int | None = None,
    *,
    project: Callable[[Tensor], Tensor] | None = None,
    steps: int = 100,
    step_size: float | Tensor | None = 1.0,
    init: Tensor | None = None,
    mask: Tensor | None = None,
    tol: float | None = None,
) -> Tensor:
    r"""Iterative hard thresholding: :math:`z \leftarrow P(z + \eta D^T (x - D z))`.

    Source: Blumensath and Davies, "Iterative Hard Thresholding for Compressed Sensing", 2009, eq. 10 (P keeps the k
    largest entries); with a model projection it is Algorithm 1 of Gilbert et al., "Towards Understanding the
    Invertibility of Convolutional Neural Networks".

    Args:
        x: signals ``(N, C, *S)`` or ``(N, F)``.
        dictionary: as for :func:`fista`.
        k: entries to keep per sample; or give ``project``.
        project: projection on a set of codes, such as :func:`~csc_nets.functional.prox.one_per_block`.
        steps: number of steps.
        step_size: 1 in both sources, which suits a dictionary near an isometry on sparse codes; None for 1/L.
        init: warm start; None is zero.
        mask: 1 where ``x`` is known; broadcasts against ``x``.
        tol: stop a sample when a step changes its code by at most ``tol`` times its norm.

    Returns:
        Codes ``(N, M, *S')``.
    """
    if (k is None) == (project is None):
        raise ValueError("iterative_hard_thresholding: give either k or project")
    keep = partial(prox.top_k, k=k) if k is not None else project
    return ista(
        x,
        dictionary,
        0.0,
        proximal_map=lambda v, t: keep(v),  # type: ignore[misc]
        steps=steps,
        step_size=step_size,
        init=init,
        mask=mask,
        tol=tol,
        criterion="change",
    )


def objective(x: Tensor, dictionary: Operator | Tensor, z: Tensor, lam: float | Tensor, **options: Any) -> Tensor:
    """:meth:`Problem.objective <csc_nets.functional.Problem.objective>` of codes ``z``, ``(N,)``."""
    problem, _ = _problem("objective", x, dictionary, lam, **options)
    return problem.objective(_code("objective", problem, z))


def duality_gap(x: Tensor, dictionary: Operator | Tensor, z: Tensor, lam: float | Tensor, **options: Any) -> Tensor:
    """:meth:`Problem.duality_gap <csc_nets.functional.Problem.duality_gap>` of codes ``z``, ``(N,)``."""
    problem, _ = _problem("duality_gap", x, dictionary, lam, **options)
    return problem.duality_gap(_code("duality_gap", problem, z))


def lam_max(x: Tensor, dictionary: Operator | Tensor, nonneg: bool = False) -> Tensor:
    """:meth:`Problem.lam_max <csc_nets.functional.Problem.lam_max>` of signals ``x``, ``(N, 1, ...)``."""
    return _problem("lam_max", x, dictionary, 0.0, nonneg=nonneg)[0].lam_max()


def solve(
    x: Tensor,
    dictionary: Operator | Tensor,
    lam: float | Tensor,
    *,
    tol: float = 1e-4,
    steps: int = 10_000,
    nonneg: bool = False,
    ridge: float = 0.0,
    init: Tensor | None = None,
    mask: Tensor | None = None,
    method: str = "auto",
) -> Tensor:
    """Codes solved to a certified accuracy: objectives at most ``tol`` times half the squared norm above the least.

    A duality gap proves it. With FISTA it is the gap of the code (:func:`duality_gap`). With Douglas-Rachford it is the
    gap between the code and the dual point of the run, which is smaller. The code has no gradient. Arguments as for
    :func:`fista`. A tolerance near the precision of ``x`` (1e-6 in float32) needs float64.

    Args:
        method: ``"fista"``, greedy, for everything (:mod:`csc_nets.functional.pursuits.greedy`);
            ``"douglas_rachford"``, for convolutions with zero or circular padding, see
            :func:`~csc_nets.functional.douglas_rachford`; ``"auto"`` takes Douglas-Rachford where it was measured to be
            faster.

    Raises:
        ValueError: ``x`` is not finite where it was observed, or an argument is bad.
        RuntimeError: the tolerance was not reached within ``steps``.

    Example:
        >>> solve(torch.tensor([[3.0, 0.5]]), torch.eye(2), 1.0).round(decimals=1)  # the soft threshold
        tensor([[2., 0.]])
    """
    if method not in ("auto", "fista", "douglas_rachford"):
        raise ValueError(f"method must be 'auto', 'fista' or 'douglas_rachford', got {method!r}")
    as_count(steps)
    if not tol > 0:
        raise ValueError(f"tol must be greater than 0, got {tol!r}")
    with torch.no_grad():
        problem, given = _problem("solve", x, dictionary, lam, init, ridge=ridge, nonneg=nonneg, mask=mask)
        if problem.x.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"solve: x must be float32 or float64, got {problem.x.dtype}")
        return _solved(problem.expanded(), given.init, tol, steps, method)


def _solved(problem: Problem, init: Tensor | None, tol: float, steps: int, method: str) -> Tensor:
    x = problem.x
    if not bool(problem.masked(x).isfinite().all()):
        raise ValueError("solve: x holds NaN or infinite values (a mask of 0 leaves them out)")
    if not x.numel():
        empty: Tensor = problem.operator.analysis(x)
        return empty
    unit = problem.unit()
    if unit is not None:  # single precision would not hold the squares
        start = None if init is None else (init / unit).to(x.dtype)
        return (_solved(problem.in_units(unit), start, tol, steps, method) * unit).to(x.dtype)
    free = bool((torch.as_tensor(problem.lam) == 0).any())
    if method == "fista" or (method == "auto" and (free or not prefers_fourier(problem.operator, x))):
        z, gap, _ = converge(problem, problem.step_size, tol=tol, steps=steps, init=init)
    elif free:
        z, gap = _split_in_turns(problem, init, tol, steps)
    else:
        z, found = split(problem, steps, init=init, tol=tol)
        assert found is not None
        gap = found
    left = int((~(gap <= tol)).sum())
    if left:
        with errors_of("solve"):
            refuse_broken(problem, gap)
        free_atoms = ". Atoms of weight 0 may converge slowly, which a ridge or a small weight helps" if free else ""
        raise RuntimeError(
            f"solve: {left} of {len(x)} samples did not reach tol={tol} in {steps} steps of {x.dtype}: raise steps or "
            f"tol, or use float64{free_atoms}"
        )
    return z


def _split_in_turns(problem: Problem, init: Tensor | None, tol: float, steps: int) -> tuple[Tensor, Tensor]:
    """Douglas-Rachford splitting whose certificate is that of the code: its own needs weights above 0.

    Each turn begins anew with twice the steps, because the weight of a splitting settles in its first ones.
    """
    turn, energy = min(50, steps), problem.energy()
    while True:
        z, _ = split(problem, turn, init=init)
        gap = problem.duality_gap(z)
        gap = torch.where(gap <= 0, 0, gap / energy)
        if turn == steps or bool(((gap <= tol) | gap.isnan()).all()):
            return z, gap
        turn = min(2 * turn, steps)
