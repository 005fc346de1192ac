r"""Pursuits: algorithms that compute a sparse code, over any adjoint pair.

All of them are one loop, :func:`iterate`, around an ``update`` of the code; the layers run the same loop around an
update with the step folded into the filters.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from csc_nets.functional import prox
from csc_nets.functional.convergence import converge
from csc_nets.functional.fourier import prefers_fourier
from csc_nets.functional.problem import AdjointPair, Problem, as_adjoint_pair, as_weight, is_transformed
from csc_nets.functional.splitting import split

__all__ = [
    "duality_gap",
    "extrapolations",
    "fista",
    "ista",
    "iterate",
    "iterative_hard_thresholding",
    "lam_max",
    "objective",
    "solve",
    "stop_rule",
    "thresholding",
]

# Step size times Lipschitz constant. Estimates of the constant approach it from below, by 10 % for a single wave in two
# dimensions (see ConvGeometry.probe).
SAFETY = 0.9


def extrapolations(steps: int, momentum: bool) -> list[float]:
    r"""Weights :math:`(t_k - 1) / t_{k+1}` of :func:`iterate` at the points where its steps take their gradients.

    >>> [round(weight, 4) for weight in extrapolations(4, momentum=True)]
    [0.0, 0.0, 0.2818, 0.434]
    """
    t, weights = 1.0, [0.0]
    for _ in range(steps - 1):
        t_next = (1 + (1 + 4 * t * t) ** 0.5) / 2
        weights.append((t - 1) / t_next if momentum else 0.0)
        t = t_next
    return weights


def iterate(
    update: Callable[[Tensor, bool], Tensor],
    z: Tensor,
    steps: int,
    *,
    leap: Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]] | None = None,
    momentum: bool = False,
    restart: bool = False,
    objective: Callable[[Tensor], Tensor] | None = None,
    stop: Callable[[Tensor, Tensor], Tensor] | None = None,
    trace: Callable[[Tensor], Any] | None = None,
) -> Tensor:
    r"""Runs ``z <- update(y)`` from the first iterate on.

    With momentum it is FISTA: the update, and with it the gradient, is taken at the extrapolated point

    .. math:: y_k = z_k + \frac{t_k - 1}{t_{k+1}} (z_k - z_{k-1}), \qquad t_{k+1} = \tfrac12 (1 + \sqrt{1 + 4 t_k^2})

    (Beck and Teboulle, "A Fast Iterative Shrinkage-Thresholding Algorithm", 2009, eq. 4.1 to 4.3).

    Args:
        update: proximal gradient step ``(y, disposable)``, ``(N, M, ...)`` to the same shape. It must leave ``y`` alone
            unless ``disposable``, which says that nobody will look at ``y`` again.
        z: the first iterate, the result of step 1; it may be overwritten where no gradient is recorded.
        steps: number of steps, the first one included.
        leap: ``(y, z, weight)`` to ``update(y)`` and its extrapolation from z, for updates that make both at once.
        momentum: extrapolate.
        restart: drop a sample's momentum when it points uphill (O'Donoghue and Candes 2015, gradient scheme).
        objective: if given, never accept a step that increases it (MFISTA: Beck and Teboulle, "Fast Gradient-Based
            Algorithms for Constrained Total Variation Image Denoising", 2009), per sample.
        stop: ``(new, old) -> (N,)`` booleans; a sample is frozen from where it is True, and the loop ends with the
            last one.
        trace: called with every iterate, the first included.

    Returns:
        The last iterate.
    """
    y = z
    t: Any = (1 + 5**0.5) / 2  # t_2: t_1 = 1 makes y_1 = z_1
    if restart:
        t = z.new_tensor(t)
    done = None
    if trace is not None:
        trace(z)
    # Buffers are reused where nobody can look back at them: no gradient, no candidate that was refused.
    unseen = not (torch.is_grad_enabled() or restart)
    looks = restart or objective is not None or stop is not None
    reuse = unseen and not looks and trace is None
    for k in range(2, steps + 1):
        if leap is not None and momentum and not looks and k < steps:
            t_next = (1 + (1 + 4 * t * t) ** 0.5) / 2
            z, y = leap(y, z, (t - 1) / t_next)
            t = t_next
            if trace is not None:
                trace(z)
            continue
        candidate = new = update(y, unseen if y is not z else reuse and (k == steps or not momentum))
        if objective is not None:
            new = torch.where(_per_sample(objective(candidate) > objective(z), z), z, candidate)
        if done is not None:
            candidate = new = torch.where(_per_sample(done, z), z, new)
        if restart:
            uphill = ((y - new) * (new - z)).flatten(1).sum(1, keepdim=True).view(-1, *(1,) * (z.ndim - 1)) > 0
            t = torch.where(uphill, 1.0, t)
        if stop is not None:
            finished = stop(new, z)
            done = finished if done is None else done | finished
        if trace is not None:
            trace(new)
        if k == steps:
            return new
        if done is not None and not is_transformed() and bool(done.all()):
            return new
        if momentum:
            t_next = (1 + (1 + 4 * t * t) ** 0.5) / 2
            y = (torch.Tensor.lerp_ if reuse else torch.lerp)(z, new, 1 + (t - 1) / t_next)
            if objective is not None:
                y = y + (t / t_next) * (candidate - new)
            t = t_next
        else:
            y = new
        z = new
    return z


def _per_sample(flag: Tensor, z: Tensor) -> Tensor:
    return flag.view(-1, *(1,) * (z.ndim - 1))


def stop_rule(problem: Problem, tol: float, criterion: str = "gap") -> Callable[[Tensor, Tensor], Tensor]:
    """A stop rule for :func:`iterate`.

    Args:
        problem: what is being solved.
        tol: tolerance, > 0.
        criterion: ``"gap"``: duality gap at most ``tol`` times half the squared norm of the signal, a certificate
            which costs one synthesis and one analysis a step. ``"change"``: the code moved by at most ``tol`` times
            its norm, which costs next to nothing and certifies nothing.
    """
    if not tol > 0:
        raise ValueError(f"tol must be greater than 0, got {tol!r}")
    if criterion == "gap":
        energy = problem.masked(problem.x).square().flatten(1).sum(1, dtype=torch.float64) / 2
        return lambda new, old: problem.duality_gap(new) <= tol * energy
    if criterion == "change":
        return lambda new, old: (new - old).flatten(1).norm(dim=1) <= tol * new.flatten(1).norm(dim=1)
    raise ValueError(f"criterion must be 'gap' or 'change', got {criterion!r}")


def fista(
    x: Tensor,
    dictionary: AdjointPair | Tensor,
    lam: float | Tensor,
    *,
    steps: int = 100,
    nonneg: bool = False,
    ridge: float = 0.0,
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

    Source: Beck and Teboulle 2009, eq. 4.1 to 4.3; see :func:`iterate`.

    Args:
        x: signals ``(N, C, *S)``, or ``(N, F)`` for a matrix.
        dictionary: weights ``(M, F)`` (rows are atoms) or ``(M, C, *K)``, or any object with ``analysis`` and
            ``synthesis``, such as a dictionary layer.
        lam: sparsity weight: a number, one per atom ``(M,)``, or one per sample ``(N, 1, ...)``.
        steps: largest number of steps, the first one included.
        nonneg: codes are non-negative.
        ridge: weight of half the squared l2 norm of the code.
        proximal_map: ``(v, threshold) -> z`` in place of the (non-negative) soft threshold.
        step_size: 1/L; None estimates L.
        init: warm start; None is zero, whose first step costs one analysis and no synthesis.
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
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be an int >= 1, got {steps!r}")
    if isinstance(step_size, int | float) and not 0 < step_size < math.inf:
        raise ValueError(f"step_size must be a finite number > 0, got {step_size!r}")
    if proximal_map is not None and (trace is not None or monotone or (tol is not None and criterion == "gap")):
        raise ValueError("trace, monotone and the gap criterion know the l1 objective only, not a proximal_map's")
    problem = Problem(x, as_adjoint_pair(dictionary), lam, ridge, nonneg, mask)
    eta = SAFETY / problem.lipschitz() if step_size is None else step_size
    shrink = proximal_map or (prox.nonneg_soft_threshold if nonneg else prox.soft_threshold)

    def step(y: Tensor | None, disposable: bool = False) -> Tensor:
        residual = problem.masked(x) if y is None else problem.residual(y)
        v = eta * problem.pair.analysis(residual)
        v = v if y is None else y + v
        return shrink(v / (1 + eta * ridge), eta * problem.lam / (1 + eta * ridge))

    return iterate(
        step,
        step(init),
        steps,
        momentum=momentum,
        restart=restart,
        objective=problem.objective if monotone else None,
        stop=None if tol is None else stop_rule(problem, tol, criterion),
        trace=None if trace is None else lambda z: trace.append(problem.objective(z)),
    )


def ista(x: Tensor, dictionary: AdjointPair | Tensor, lam: float | Tensor, **options: Any) -> Tensor:
    r"""Iterative shrinkage-thresholding: :math:`z \leftarrow S_{\lambda/L}(z + D^T (x - D z) / L)`.

    Source: Daubechies, Defrise, De Mol 2004; Beck and Teboulle 2009, eq. 1.4. It is :func:`fista` without momentum and
    takes the same keywords.
    """
    return fista(x, dictionary, lam, momentum=False, **options)


def thresholding(x: Tensor, dictionary: AdjointPair | Tensor, lam: float | Tensor, nonneg: bool = False) -> Tensor:
    r"""One thresholding of the correlations, :math:`S_\lambda(D^T x)`: the forward pass of a CNN layer."""
    v = as_adjoint_pair(dictionary).analysis(x)
    return (prox.nonneg_soft_threshold if nonneg else prox.soft_threshold)(v, as_weight(lam, v.ndim))


def iterative_hard_thresholding(
    x: Tensor,
    dictionary: AdjointPair | Tensor,
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
        tol: stop a sample when its code moved by at most ``tol`` times its norm.

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


def objective(x: Tensor, dictionary: AdjointPair | Tensor, z: Tensor, lam: float | Tensor, **options: Any) -> Tensor:
    """:meth:`Problem.objective <csc_nets.functional.problem.Problem.objective>` of codes ``z``, ``(N,)``."""
    return Problem(x, as_adjoint_pair(dictionary), lam, **options).objective(z)


def duality_gap(x: Tensor, dictionary: AdjointPair | Tensor, z: Tensor, lam: float | Tensor, **options: Any) -> Tensor:
    """:meth:`Problem.duality_gap <csc_nets.functional.problem.Problem.duality_gap>` of codes ``z``, ``(N,)``."""
    return Problem(x, as_adjoint_pair(dictionary), lam, **options).duality_gap(z)


def lam_max(x: Tensor, dictionary: AdjointPair | Tensor, nonneg: bool = False) -> Tensor:
    """:meth:`Problem.lam_max <csc_nets.functional.problem.Problem.lam_max>` of signals ``x``, ``(N, 1, ...)``."""
    return Problem(x, as_adjoint_pair(dictionary), 0.0, nonneg=nonneg).lam_max()


def solve(
    x: Tensor,
    dictionary: AdjointPair | Tensor,
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

    A duality gap proves it: with FISTA that of the code (:func:`duality_gap`), with Douglas-Rachford that of the code
    and the dual point of the run, which is smaller. Without gradient; arguments as for :func:`fista`. A tolerance near
    the precision of ``x`` (1e-6 in float32) needs float64.

    Args:
        method: ``"fista"``, greedy, for everything (:mod:`csc_nets.functional.convergence`); ``"douglas_rachford"``,
            for convolutions with zero or circular padding, see :func:`~csc_nets.functional.douglas_rachford`;
            ``"auto"`` takes the latter where it measured faster: :func:`prefers_fourier`.

    Raises:
        ValueError: ``x`` is not finite where it was observed, or an argument is bad.
        RuntimeError: the tolerance was not reached within ``steps``.
    """
    if method not in ("auto", "fista", "douglas_rachford"):
        raise ValueError(f"method must be 'auto', 'fista' or 'douglas_rachford', got {method!r}")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be an int >= 1, got {steps!r}")
    if not tol > 0:
        raise ValueError(f"tol must be greater than 0, got {tol!r}")
    with torch.no_grad():
        problem = Problem(x, as_adjoint_pair(dictionary), lam, ridge, nonneg, mask).expanded()
        x = problem.x
        if not bool(problem.masked(x).isfinite().all()):
            raise ValueError("solve: x holds NaN or infinite values (a mask of 0 leaves them out)")
        size = problem.masked(x).abs().flatten(1).amax(1)
        extreme = (size > 0) & ((size < 1e-9) | (size > 1e9))
        if bool(extreme.any()):  # whose squares single precision would not hold
            unit = torch.where(extreme, size, 1).double().log2().floor().exp2().view(-1, *(1,) * (x.ndim - 1))
            z = solve(
                (x / unit).to(x.dtype),
                dictionary,
                # At most what the type holds: far above all correlations.
                (torch.as_tensor(problem.lam, dtype=torch.float64, device=x.device) / unit)
                .clamp_max(torch.finfo(x.dtype).max)
                .to(x.dtype),
                tol=tol,
                steps=steps,
                nonneg=nonneg,
                ridge=ridge,
                init=None if init is None else (init / unit).to(x.dtype),
                mask=mask,
                method=method,
            )
            return (z * unit).to(x.dtype)
        if method == "douglas_rachford" or (method == "auto" and prefers_fourier(problem.pair, x)):
            z, gap = split(problem, steps, init=init, tol=tol)
        else:
            z, gap, _ = converge(problem, SAFETY / problem.lipschitz(), tol=tol, steps=steps, init=init)
    left = len(x) if gap is None else int((~(gap <= tol)).sum())
    if left:
        raise RuntimeError(
            f"solve: {left} of {len(x)} samples did not reach tol={tol} in {steps} steps of {x.dtype}: raise steps or "
            "tol, or use float64"
        )
    return z
