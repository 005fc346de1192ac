"""The largest eigenvalue of a positive semi-definite operator: what step sizes are made of."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["largest_eigenpair", "operator_norm", "power_step"]


def power_step(apply: Callable[[Tensor], Tensor], u: Tensor) -> tuple[Tensor, Tensor]:
    r"""One step of the power method for a positive semi-definite operator.

    Args:
        apply: the operator, such as :math:`u \mapsto D D^T u`.
        u: unit vector, any shape.

    Returns:
        The next unit vector and the 0-d estimate :math:`\|A u\|`, which never exceeds the largest eigenvalue and is
        never below the Rayleigh quotient :math:`u^T A u`.
    """
    v = apply(u)
    value = torch.linalg.vector_norm(v)
    return v / value.clamp_min(torch.finfo(v.dtype).tiny), value


def largest_eigenpair(apply: Callable[[Tensor], Tensor], u: Tensor, steps: int = 16) -> tuple[Tensor, Tensor]:
    r"""Largest eigenvalue of a positive semi-definite operator from a cold start, by the Lanczos method.

    On the flat spectra of random dictionaries 16 steps are within 1 % where 16 power steps are 5 % short.

    Args:
        apply: the operator.
        u: start, any shape, not zero.
        steps: applications of the operator (fewer when the Krylov space is exhausted).

    Returns:
        The unit Ritz vector, shaped as ``u``, and the 0-d Ritz value, which never exceeds the largest eigenvalue.
    """
    basis = u.new_zeros(0, u.numel())
    images = u.new_zeros(0, u.numel())
    direction = u.flatten()
    for _ in range(min(steps, u.numel())):
        for _ in range(2):  # Gram-Schmidt twice: once loses orthogonality in floating point
            direction = direction - basis.T @ (basis.conj() @ direction)
        norm = torch.linalg.vector_norm(direction)
        if norm <= 1e-6 * torch.linalg.vector_norm(images[-1:] if len(images) else u):
            break
        basis = torch.cat([basis, (direction / norm)[None]])
        direction = apply(basis[-1].view_as(u)).flatten()
        images = torch.cat([images, direction[None]])
    if len(basis) == 0:
        return u, u.new_zeros(())
    projected = basis.conj() @ images.T
    values, vectors = torch.linalg.eigh((projected + projected.mH) / 2)
    return (vectors[:, -1] @ basis).view_as(u), values[-1]


@torch.no_grad()
def operator_norm(operator: Any, x: Tensor) -> Tensor:
    r"""Largest eigenvalue of :math:`D D^T` on signals shaped as ``x (N, C, *S)``, 0-d, by 40 Lanczos steps.

    Args:
        operator: analysis and synthesis.
        x: its shape, dtype and device count.
    """
    generator = torch.Generator().manual_seed(0)
    start = torch.randn((1, *x.shape[1:]), generator=generator, dtype=torch.float64).to(x)
    _, value = largest_eigenpair(lambda u: operator.synthesis(operator.analysis(u), tuple(x.shape[2:])), start, 40)
    return value.clamp_min(torch.finfo(value.dtype).tiny)
