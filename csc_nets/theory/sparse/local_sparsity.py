"""Local sparsity of a code: the largest number of non-zeros, or l2 norm, of a stripe and of a patch.

Source of the words: Papyan, Romano, Elad, `Convolutional Neural Networks Analyzed via Convolutional Sparse Coding
<https://arxiv.org/abs/1607.08194>`_, 2017.

- A *needle* is the vector of the coefficients of all atoms at one position.
- The *stripe* of a position is the set of needles whose atoms overlap an atom at this position.
- A *patch* is the set of needles that one atom of the next layer sees.

Windows are circular. For a code that is not circular the norms are upper bounds.
"""

import math
from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from csc_nets.functional import ConvGeometry

__all__ = ["patch_norm", "stripe_norm"]


def stripe_norm(
    code: Tensor,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] = 1,
    order: int = 0,
    dilation: int | Sequence[int] = 1,
) -> Tensor:
    r"""Largest norm of a stripe, per sample: :math:`\|\Gamma\|^S_{0,\infty}` or :math:`\|\Gamma\|^S_{2,\infty}`.

    With kernel n, stride s and dilation d, a stripe has :math:`2 \lfloor (n - 1) / t \rfloor + 1` needles per axis,
    where :math:`t = s / \gcd(s, d)`. They are :math:`d / \gcd(s, d)` positions apart. For stride 1 and dilation 1
    these are 2 n - 1 neighbours. Derivation: the atoms at p and q overlap where :math:`s (p - q) = d j` with
    :math:`|j| \le n - 1`.

    Args:
        code: ``(N, M, *S)``, or ``(N, M)`` for a matrix; its one stripe is the whole code.
        kernel_size: spatial extent of the atoms of this code, in samples.
        stride: of the dictionary of this code.
        order: 0 counts non-zeros, 2 takes the l2 norm.
        dilation: of the dictionary of this code.

    Returns:
        ``(N,)``. The dtype is int64 for order 0, and the code's for order 2 (torch's default for a code of integers).
        A stripe that is larger than the code is the whole code.

    Raises:
        ValueError: ``code`` is not a batch of real codes, ``order`` is not 0 or 2, or a size is not positive.

    Example:
        >>> code = torch.tensor([[[1.0, 0, 0, -2.0, 0, 0, 0, 0]]])
        >>> stripe_norm(code, 2), stripe_norm(code, 4)
        (tensor([1]), tensor([2]))
    """
    grid = _grid(code, kernel_size, stride, dilation)
    offsets = []
    for n, s, d in zip(grid.kernel_size, grid.stride, grid.dilation, strict=True):
        common = math.gcd(s, d)
        reach = (n - 1) // (s // common)
        offsets.append([j * (d // common) for j in range(-reach, reach + 1)])
    return _largest_window(code, offsets, order)


def patch_norm(
    code: Tensor, window: int | Sequence[int] | None, order: int = 0, dilation: int | Sequence[int] = 1
) -> Tensor:
    r"""Largest norm of a patch, per sample: :math:`\|\Gamma\|^P_{0,\infty}` or :math:`\|\Gamma\|^P_{2,\infty}`.

    Args:
        code: ``(N, M, *S)``, or ``(N, M)``; the one patch of the latter is the whole code. A signal or noise may be
            given in place of a code.
        window: needles of a patch per axis. This is the kernel size of the next layer's dictionary, which takes the
            code as its signal. 1 is a single needle, None the whole code.
        order: 0 counts non-zeros, 2 takes the l2 norm.
        dilation: of the next layer's dictionary.

    Returns:
        ``(N,)``, with the dtypes of :func:`stripe_norm`. A window that is larger than the code is the whole code.

    Raises:
        ValueError: as :func:`stripe_norm`.

    Example:
        >>> code = torch.tensor([[[3.0, 0, 0, -4.0]]])
        >>> patch_norm(code, 3, order=2), patch_norm(code, 2, order=2)  # the window goes around the border
        (tensor([5.]), tensor([5.]))
    """
    size = tuple(code.shape[2:]) if window is None else window
    grid = _grid(code, size, 1, 1 if window is None else dilation)
    offsets = [[j * d for j in range(n)] for n, d in zip(grid.kernel_size, grid.dilation, strict=True)]
    return _largest_window(code, offsets, order)


def _grid(
    code: Tensor, size: int | Sequence[int], stride: int | Sequence[int], dilation: int | Sequence[int]
) -> ConvGeometry:
    if code.ndim < 2 or code.is_complex():
        raise ValueError(f"code must be (N, M, *S) or (N, M) and real, got {code.dtype} of shape {tuple(code.shape)}")
    return ConvGeometry.create(code.ndim - 2, size, stride, 0, dilation)


def _largest_window(code: Tensor, offsets: Sequence[Sequence[int]], order: int) -> Tensor:
    if order not in (0, 2):
        raise ValueError(f"order must be 0 or 2, got {order!r}")
    total = (code != 0).sum(1) if order == 0 else code.double().square().sum(1)
    for axis, around in enumerate(offsets, start=1):
        size = total.shape[axis]
        # A set, so that a window that is longer than the circle counts nothing twice.
        distinct = sorted({j % size for j in around})
        total = (
            total.sum(axis, keepdim=True)
            if len(distinct) == size
            else reduce(torch.add, (total.roll(j, axis) for j in distinct))
        )
    top = total.flatten(1).amax(1) if total.ndim > 1 else total
    if order == 0:
        return top
    return top.sqrt().to(code.dtype if code.is_floating_point() else torch.get_default_dtype())
