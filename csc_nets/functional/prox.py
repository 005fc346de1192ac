r"""Proximal maps: :math:`\mathrm{prox}(v) = \arg\min_z \tfrac12 (v - z)^2 + \text{penalty}(z)`.

Every threshold ``t`` is a float or a tensor that broadcasts against ``v``, so one call serves a common weight, a
weight per atom ``(M, 1, 1)`` and a weight per sample ``(N, 1, 1, 1)``. Codes are ``(N, M, *S)``: samples, atoms,
positions.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from csc_nets.functional.checks import is_transformed
from csc_nets.functional.pooling import absolute_pool, entries, fixed_switches, unpool

__all__ = [
    "at_least",
    "clip",
    "elastic_net_threshold",
    "group_soft_threshold",
    "hard_threshold",
    "nonneg_soft_threshold",
    "one_per_block",
    "soft_threshold",
    "top_k",
]


def at_least(t: Tensor, bound: float | Tensor) -> Tensor:
    """The larger of ``t`` and ``bound``, which broadcast, with derivative 1 with respect to ``t`` where they are equal.

    So a threshold of 0 can be learned. The derivative of ``torch.maximum`` is one half there, and that of
    ``clamp_min`` is 0 in torch 2.14.
    """
    return torch.where(t < bound, bound, t)


def soft_threshold(v: Tensor, t: float | Tensor) -> Tensor:
    r"""Prox of :math:`t |z|`: :math:`\mathrm{sign}(v) \max(|v| - t, 0)`, same shape as ``v``, real or complex.

    >>> soft_threshold(torch.tensor([-2.0, 0.5, 3.0]), 1.0)
    tensor([-1.,  0.,  2.])
    """
    if v.is_complex():
        size = v.abs()
        return v * (torch.relu(size - t) / size.clamp_min(torch.finfo(size.dtype).tiny))
    if isinstance(t, Tensor) and _records(v, t):
        return _SoftThreshold.apply(v, t)  # type: ignore[no-any-return]
    # v - clamp(v) takes two passes over memory; sign, abs, relu and mul take four.
    return v - torch.clamp(v, -t, t)  # type: ignore[arg-type]


class _SoftThreshold(torch.autograd.Function):
    r"""The soft threshold with its gradient in four passes; that of ``clamp`` with tensors for bounds takes a dozen.

    Derivation: where the output is not zero it is :math:`v - t\,\mathrm{sign}(v)`, whose sign is that of v. With
    :math:`t < 0` the function computes :math:`v - t`.
    """

    @staticmethod
    def forward(ctx: Any, v: Tensor, t: Tensor) -> Tensor:
        z = v - torch.clamp(v, -t, t)
        ctx.save_for_backward(z, t)
        return z

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        z, t = ctx.saved_tensors
        # Products with the sign: they are vectorised, comparisons are not.
        sign = z.sign()
        along = gradient * sign
        h = along * sign
        of_t = None
        if ctx.needs_input_grad[1]:
            of_t = along if bool((t >= 0).all()) else torch.where(t < 0, h, along)
            of_t = -of_t.sum_to_size(t.shape)
        return h, of_t


def _records(v: Tensor, t: Tensor) -> bool:
    """Whether a gradient is recorded on a CPU, by torch's autograd and by nothing else."""
    recorded = torch.is_grad_enabled() and (v.requires_grad or t.requires_grad)
    plain = v.device.type == "cpu" and v.shape == torch.broadcast_shapes(v.shape, t.shape)
    return recorded and plain and not is_transformed() and not torch.jit.is_tracing()


def nonneg_soft_threshold(v: Tensor, t: float | Tensor) -> Tensor:
    r"""Prox of :math:`t z` on :math:`z \ge 0`: :math:`\max(v - t, 0)`, the ReLU of a CNN with bias :math:`-t`;
    same shape as ``v``.

    >>> nonneg_soft_threshold(torch.tensor([-2.0, 0.5, 3.0]), 1.0)
    tensor([0., 0., 2.])
    """
    return torch.relu(v - t)


def clip(v: Tensor, t: float | Tensor) -> Tensor:
    r"""Projection on :math:`|z| \le t`, same shape as ``v``, real or complex. It is v less its soft threshold.

    >>> clip(torch.tensor([-2.0, 0.5, 3.0]), 1.0)
    tensor([-1.0000,  0.5000,  1.0000])
    """
    if v.is_complex():
        size = v.abs()
        return torch.where(size > t, v * (t / size.clamp_min(torch.finfo(size.dtype).tiny)), v)
    return torch.clamp(v, -t, t)  # type: ignore[arg-type]


def hard_threshold(v: Tensor, t: float | Tensor) -> Tensor:
    r"""Prox of :math:`\tfrac{t^2}{2} \|z\|_0`: keeps the entries with :math:`|v| > t`; same shape as ``v``.

    >>> hard_threshold(torch.tensor([-2.0, 0.5, 3.0]), 1.0)
    tensor([-2.,  0.,  3.])
    """
    return v * (v.abs() > t)


def elastic_net_threshold(v: Tensor, t: float | Tensor, ridge: float | Tensor, nonneg: bool = False) -> Tensor:
    r"""Prox of :math:`t |z| + \tfrac{\text{ridge}}{2} z^2`, optionally on :math:`z \ge 0`.

    It is the (non-negative, with ``nonneg``) soft threshold of ``v`` divided by ``1 + ridge``, same shape as ``v``.
    """
    shrink = nonneg_soft_threshold if nonneg else soft_threshold
    return shrink(v, t) / (1 + ridge)


def group_soft_threshold(v: Tensor, t: float | Tensor, group_size: int | None = None) -> Tensor:
    r"""Prox of :math:`t \sum_g \|z_g\|_2`: shrinks each group's norm by ``t``.

    Args:
        v: ``(N, M, *S)``.
        t: threshold on the norms; a float, or a tensor that broadcasts against the norms ``(N, M / group_size, *S)``.
        group_size: atoms in a group. Groups are contiguous along the atoms, one per position. None: all atoms of a
            position form one group.

    Raises:
        ValueError: ``group_size`` does not divide the number of atoms.
    """
    atoms = v.shape[1]
    group_size = atoms if group_size is None else group_size
    if group_size < 1 or atoms % group_size:
        raise ValueError(f"group_soft_threshold: group_size must divide the {atoms} atoms, got {group_size}")
    groups: Tensor = v.unflatten(1, (atoms // group_size, group_size))
    norm = torch.linalg.vector_norm(groups, dim=2)
    # Where the norm is 0 the group is 0, so any positive divisor gives 0.
    scale = torch.relu(1 - t / norm.clamp_min(torch.finfo(v.dtype).tiny))
    return (groups * scale.unsqueeze(2)).flatten(1, 2)


def top_k(v: Tensor, k: int, *, per_position: bool = False) -> Tensor:
    r"""Projection on :math:`\|z\|_0 \le k` for each sample: keeps its ``k`` entries of largest magnitude.

    Args:
        v: ``(N, ...)``.
        k: entries to keep; ``k`` at or above the number of entries keeps all.
        per_position: keep ``k`` atoms at each position of a code ``(N, M, *S)``.
    """
    if k < 0:
        raise ValueError(f"top_k: k must be at least 0, got {k}")
    flat = v if per_position else v.flatten(1)
    keep = flat.abs().topk(min(k, flat.shape[1]), dim=1).indices
    return torch.zeros_like(flat).scatter(1, keep, flat.gather(1, keep)).view_as(v)


def one_per_block(
    v: Tensor,
    k: int | None = None,
    *,
    window: int | Sequence[int] | None = None,
    switches: Tensor | str = "known",
) -> Tensor:
    r"""Projection on the model-k-sparse codes: at most one non-zero per block, ``k`` in all.

    It pools by absolute value, keeps the ``k`` largest blocks, and unpools. It is M(z, k) of Gilbert et al.,
    "Towards Understanding the Invertibility of Convolutional Neural Networks", section 3. A block is one atom with all
    its positions or, as in networks, one window of them.

    Args:
        v: ``(N, M, *S)``.
        k: blocks to keep, those with the largest entries; None keeps all.
        window: samples per axis of a block, one int or one per axis; None for all positions.
        switches: where the non-zero of a block goes. ``"known"``: it stays at the largest entry; only this is a
            projection. ``"fixed"``: the largest entry moves to the first position, as in plain upsampling. A tensor of
            positions, as :func:`~csc_nets.functional.pooling.absolute_pool` returns them: the entries there are kept.

    Raises:
        ValueError: a bad ``k`` or ``window``, an unknown word for ``switches``.
    """
    if v.ndim < 3:
        raise ValueError(f"one_per_block: expected codes (N, M, *S), got shape {tuple(v.shape)}")
    if isinstance(switches, Tensor):
        values, at = entries(v, switches), switches
    elif switches in ("known", "fixed"):
        values, at = absolute_pool(v, window)
        at = at if switches == "known" else fixed_switches(v, window)
    else:
        raise ValueError(f"one_per_block: switches must be 'known', 'fixed' or positions, got {switches!r}")
    return unpool(values if k is None else top_k(values, k), at, v.shape[2:])
