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
    observed = (lambda signal: signal) if mask is None else (lambda signal: signal.masked_fill(mask == 0, 0))
    residual = support * operator.analysis(observed(x - operator.synthesis(code, size)))
    direction, energy = residual, residual.square().sum(axes, keepdim=True)
    least = torch.finfo(code.dtype).eps ** 2 * energy.clamp_min(torch.finfo(code.dtype).tiny)
    for _ in range(steps):
        moved = observed(operator.synthesis(direction, size))
        curvature = moved.square().sum(tuple(range(1, x.ndim))).view_as(energy)
        rate = torch.where((energy > least) & (curvature > 0), energy / curvature.clamp_min(least), 0.0)
        code = code + rate * direction
        residual = residual - rate * support * operator.analysis(moved)
        new = residual.square().sum(axes, keepdim=True)
        direction = residual + torch.where(energy > least, new / energy.clamp_min(least), 0.0) * direction
        energy = new
    return code
