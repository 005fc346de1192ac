"""Values of a code fitted anew on its support."""

from typing import Any

import torch
from torch import Tensor

from csc_nets.functional.checks import is_transformed

__all__ = ["refit"]


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
        nonneg: leave out the atoms whose values fall below 0, and fit the others again.

    Returns:
        The code with new values.
    """
    if nonneg:
        first = refit(operator, x, code, steps, mask)
        below, kept = (first < 0).flatten(1).any(1), first.relu()
        if bool(below.any()):
            seen = None if mask is None else mask.expand_as(x)[below]
            kept[below] = refit(operator, x[below], kept[below], steps, seen).relu()
        return kept
    exact = getattr(operator, "fit_support", None)
    if exact is not None and mask is None and not is_transformed() and (found := exact(x, code)) is not None:
        return found  # type: ignore[no-any-return]
    support, size = (code != 0).to(code.dtype), tuple(x.shape[2:])
    axes = tuple(range(1, code.ndim))

    def observed(signal: Tensor) -> Tensor:
        return signal if mask is None else signal.masked_fill(mask == 0, 0)

    residual = support * operator.analysis(observed(x - operator.synthesis(code, size)))
    direction, energy = residual, residual.square().sum(axes, keepdim=True)
    # Atoms of a support may depend on each other. A direction that changes no signal would get a huge rate.
    tiny = torch.finfo(code.dtype).eps
    least, first = tiny * energy, code
    for _ in range(steps):
        moved = observed(operator.synthesis(direction, size))
        curvature = moved.square().sum(tuple(range(1, x.ndim))).view_as(energy)
        usable = (energy > least) & (curvature > tiny**0.5 * direction.square().sum(axes, keepdim=True))
        rate = torch.where(usable, energy / curvature, 0.0)
        code = code + rate * direction
        residual = residual - rate * support * operator.analysis(moved)
        new = residual.square().sum(axes, keepdim=True)
        direction = residual + torch.where(usable, new / energy, 0.0) * direction
        energy = new
    errors = [observed(x - operator.synthesis(z, size)).square().flatten(1).sum(1) for z in (first, code)]
    better = (errors[1] <= errors[0]).view_as(energy)
    return torch.where(better, code, first)
