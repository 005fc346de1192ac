"""Values of a code fitted anew on its support."""

from typing import Any

import torch
from torch import Tensor

__all__ = ["refit"]


@torch.no_grad()
def refit(operator: Any, x: Tensor, code: Tensor, steps: int = 10, mask: Tensor | None = None) -> Tensor:
    r"""Least squares on the support of a code, by conjugate gradients from its values.

    .. math:: \min_z \tfrac12 \|m \odot (x - D z)\|^2 \quad \text{with } z_i = 0 \text{ where the code is } 0

    An l1 norm makes values too small; this takes the bias away ("debiasing"). No gradient passes through it.
    Hestenes and Stiefel, "Methods of conjugate gradients for solving linear systems", 1952.

    Args:
        operator: the dictionary D.
        x: signals ``(N, C, *S)``.
        code: ``(N, M, *S')``; its zeros stay.
        steps: of the method, in each of which the error falls or stays.
        mask: 0 where ``x`` is missing; broadcasts against ``x``.

    Returns:
        The code with new values.
    """
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
