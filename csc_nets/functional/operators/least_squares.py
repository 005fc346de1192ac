"""Least squares over an operator, sample by sample."""

from collections.abc import Callable

import torch
from torch import Tensor

from csc_nets.functional.operators.protocol import Operator

__all__ = ["explained", "least_solution"]


def least_solution(
    apply: Callable[[Tensor], Tensor], b: Tensor, scale: Tensor, tol: float, steps: int
) -> tuple[Tensor, Tensor]:
    r"""The solution of least norm of :math:`A u = b` per sample, for a positive semi-definite A.

    Conjugate residuals: of the Krylov space they take the vector of least residual, so that an equation that cannot be
    fulfilled is solved in the sense of least squares, where conjugate gradients would diverge. What then remains is in
    the null space, and taking its direction out of u leaves the least solution (Liu, Milzarek, Roosta, "Obtaining
    pseudo-inverse solutions with MINRES", 2023, the lifting step).

    Args:
        apply: :math:`u \mapsto A u`, row by row.
        b: ``(N, n)``.
        scale: of the eigenvalues of A, 0-d; those 6e-6 (float32; 2e-12 in float64) of it count as 0.
        tol: the norm of the residual in units of that of b at which a row is done.
        steps: applications of A, at most.

    Returns:
        u ``(N, n)``, and the norm of the residual over that of b, ``(N,)``.
    """

    def dot(s: Tensor, t: Tensor) -> Tensor:
        product: Tensor = torch.linalg.vecdot(s, t)
        return product[:, None]

    null = torch.finfo(b.dtype).eps ** 0.75 * scale
    u, r, p = torch.zeros_like(b), b.clone(), b.clone()
    image = apply(r)
    size = norm = dot(b, b)
    rho, singular = dot(r, image), (norm > 0) & (dot(image, image) <= null**2 * norm)
    done = singular | (norm == 0)
    for k in range(steps):
        if k % 4 == 0 and bool(done.all()):
            break
        length = torch.where(done, 0, rho / dot(image, image))
        u.addcmul_(length, p)
        r.addcmul_(length, image, value=-1)
        of_r = apply(r)
        before, rho, norm = rho, dot(r, of_r), dot(r, r)
        singular = (norm > tol**2 * size) & (dot(of_r, of_r) <= null**2 * norm)
        done = done | singular | (norm <= tol**2 * size)
        share = torch.where(done, 0, rho / before)
        p.mul_(share).add_(r)
        image = image.mul_(share).add_(of_r)
    u = torch.where(singular, u - dot(u, r) / norm * r, u)
    return u, torch.where(size > 0, norm / size, 0).sqrt().flatten()


def explained(
    operator: Operator,
    masked: Callable[[Tensor], Tensor],
    r: Tensor,
    chosen: Tensor,
    size: tuple[int, ...],
    scale: Tensor,
    tol: float,
    steps: int = 400,
) -> Tensor:
    """What some entries of a code can explain of signals, in the sense of least squares.

    Args:
        operator: the dictionary.
        masked: the observed part of a signal.
        r: signals ``(N, C, *S)``.
        chosen: which entries, booleans ``(N, M, *S')``.
        size: spatial size of the signals.
        scale: bound of the squared norm of the operator, 0-d.
        tol: accuracy, see :func:`least_solution`.
        steps: at most.

    Returns:
        ``D u (N, C, *S)``.
    """

    def rows(code: Tensor) -> Tensor:
        code = code.masked_fill(~chosen, 0)
        return (torch.view_as_real(code) if code.is_complex() else code).flatten(1)

    def code(u: Tensor) -> Tensor:
        return torch.view_as_complex(u.view(*chosen.shape, 2)) if r.is_complex() else u.view(chosen.shape)

    def apply(u: Tensor) -> Tensor:
        return rows(operator.analysis(masked(operator.synthesis(code(u), size))))

    u, _ = least_solution(apply, rows(operator.analysis(r)), scale, tol, steps)
    return operator.synthesis(code(u), size)
