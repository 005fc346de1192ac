"""The largest eigenvalue of a positive semi-definite operator: what step sizes are made of."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

__all__ = ["largest_eigenpair", "operator_norm", "power_step", "scan_step"]


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


def scan_step(apply: Callable[[Tensor], Tensor], u: Tensor, stride: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    r"""One power step at every frequency at once, for the price of one, on periodic signals.

    There :math:`D D^T` mixes only the frequencies of all channels that the stride folds into one. A power step from a
    signal whose parts at these groups of frequencies have norm 1 each is a power step in every group. A frequency that
    grows is followed from where it starts. A single direction, which lies at another one, would not see it for long.

    Args:
        apply: the operator :math:`D D^T`.
        u: signal ``(1, C, *S)``, S multiples of the stride.
        stride: per axis; none for vectors, which are one group.

    Returns:
        The next signal, the next direction (unit norm, the part with the largest norm), and its 0-d norm.
    """
    v, sizes, axes = apply(u), u.shape[2:], tuple(range(2, u.ndim))
    if not axes:
        transform: Callable[[Tensor], Tensor] = _same
        back: Callable[[Tensor], Tensor] = _same
    elif all(s == 1 for s in stride):  # no frequencies mix, so half of them say all of a real signal
        transform, back = partial(torch.fft.rfftn, dim=axes), partial(torch.fft.irfftn, s=sizes, dim=axes)
    else:
        transform, back = partial(torch.fft.fftn, dim=axes), partial(_real_part, dim=axes)
    before, after = transform(u), transform(v)
    shares = [n for size, s in zip(after.shape[2:], stride, strict=True) for n in (s, size // s)]
    together = (0, 1, *range(2, 2 + 2 * len(axes), 2))

    def norms(t: Tensor) -> Tensor:
        norm: Tensor = torch.linalg.vector_norm(t.reshape(*t.shape[:2], *shares), dim=together, keepdim=True)
        return norm

    def times(t: Tensor, factor: Tensor) -> Tensor:
        return back((t.reshape(*t.shape[:2], *shares) * factor).reshape(t.shape))

    start, end = norms(before), norms(after)
    tiny = torch.finfo(end.dtype).tiny
    ratio = torch.where(start > tiny, end / start.clamp_min(tiny), 0)
    value = ratio.max()
    top = times(after, torch.where(ratio >= 0.9999 * value, 1 / start.clamp_min(tiny), 0))
    return times(after, 1 / end.clamp_min(tiny)), top / torch.linalg.vector_norm(top).clamp_min(tiny), value


def _same(t: Tensor) -> Tensor:
    return t


def _real_part(t: Tensor, dim: Sequence[int]) -> Tensor:
    real: Tensor = torch.fft.ifftn(t, dim=dim).real
    return real


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
