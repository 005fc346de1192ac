"""Values of a code fitted anew on its support."""

from typing import Any

import torch
from torch import Tensor

from csc_nets.functional.checks import is_transformed

__all__ = ["conjugate_gradients", "refit"]


@torch.no_grad()
def refit(
    operator: Any, x: Tensor, code: Tensor, steps: int = 10, mask: Tensor | None = None, *, nonneg: bool = False
) -> Tensor:
    r"""Least squares on the support of a code, by conjugate gradients from its values.

    .. math:: \min_z \tfrac12 \|m \odot (x - D z)\|^2 \quad \text{with } z_i = 0 \text{ where the code is } 0

    An l1 norm makes values too small; this takes the bias away ("debiasing"). No gradient passes through it.
    Hestenes and Stiefel, "Methods of conjugate gradients for solving linear systems", 1952. Vectors over a matrix of
    atoms with small supports are fitted exactly, each by a Cholesky decomposition.

    Args:
        operator: the dictionary D.
        x: signals ``(N, C, *S)``.
        code: ``(N, M, *S')``; its zeros stay.
        steps: of the method, in each of which the error falls or stays.
        mask: 0 where ``x`` is missing; broadcasts against ``x``.
        nonneg: leave out the atoms whose values fall below 0 and fit the others again, until there are none.

    Returns:
        The code with new values.
    """
    exact = getattr(operator, "fit_support", None)
    if exact is not None and mask is None and not is_transformed():
        fitted: Tensor | None = exact(x, code, nonneg)
        if fitted is not None:
            return fitted
    if nonneg:
        found = refit(operator, x, code, steps, mask)
        seen = None if mask is None else mask.expand_as(x)
        while bool((below := (found < 0).flatten(1).any(1)).any()):
            rows = None if seen is None else seen[below]
            found[below] = refit(operator, x[below], found[below].relu(), steps, rows)
        return found
    residual = _observed(x - operator.synthesis(code, tuple(x.shape[2:])), mask)
    correlation = operator.analysis(residual)
    return conjugate_gradients(operator, code, correlation, code != 0, tuple(x.shape[2:]), steps, mask)[0]


def conjugate_gradients(
    operator: Any,
    code: Tensor,
    correlation: Tensor,
    support: Tensor,
    size: tuple[int, ...],
    steps: int,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    r"""The steps of :func:`refit`.

    All inner products are those of codes. Where the operator says that it is ``disjoint`` (atoms of different positions
    do not overlap), each position is a problem of its own, with its own rates.

    Args:
        operator: the dictionary D.
        code: z to start from, ``(N, M, *S')``; zero outside the support.
        correlation: :math:`D^T (m \odot (x - D z))`.
        support: booleans, entries that may move.
        size: spatial size of the signals.
        steps: of the method.
        mask: 0 where signals are missing.

    Returns:
        The new code and its correlation.
    """
    support = support.to(code.dtype)
    axes = (1,) if getattr(operator, "disjoint", False) else tuple(range(1, code.ndim))
    first, start = code, correlation
    direction = residual = support * correlation
    energy = residual.square().sum(axes, keepdim=True)
    # Atoms of a support may depend on each other. A direction that changes no signal would get a huge rate.
    tiny = torch.finfo(code.dtype).eps
    least = tiny * energy
    for _ in range(steps):
        moved = operator.analysis(_observed(operator.synthesis(direction, size), mask))
        curvature = (direction * moved).sum(axes, keepdim=True)
        usable = (energy > least) & (curvature > tiny**0.5 * direction.square().sum(axes, keepdim=True))
        rate = torch.where(usable, energy / curvature, 0.0)
        code, correlation = code + rate * direction, correlation - rate * moved
        residual = support * correlation
        new = residual.square().sum(axes, keepdim=True)
        direction = residual + torch.where(usable, new / energy, 0.0) * direction
        energy = new
    # |x - D z'|^2 - |x - D z|^2 = -<z' - z, c + c'> for correlations c and c' of z and z'
    better = ((code - first) * (start + correlation)).sum(axes, keepdim=True) >= 0
    return torch.where(better, code, first), torch.where(better, correlation, start)


def _observed(signal: Tensor, mask: Tensor | None) -> Tensor:
    return signal if mask is None else signal.masked_fill(mask == 0, 0)
