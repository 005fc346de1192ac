r"""Analytic weights of ALISTA: filters whose correlations with all other atoms are as small as possible.

.. math:: W = \arg\min_W \|W^T D\|_F^2 \quad \text{subject to} \quad w_j^T d_j = 1 \text{ for every atom}

Liu, Chen, Wang, Yin, "ALISTA: Analytic Weights Are As Good As Learned Weights in LISTA", 2019, eq. 14 and, for
convolutions, 18.

Derivation of a closed form (the source iterates). The columns separate. With the Gram matrix :math:`R = D D^T` of the
signal space, column j minimises :math:`w^T R w` on the plane :math:`w^T d_j = 1`, so that
:math:`w_j = R^+ d_j / (d_j^T R^+ d_j)`. For a convolution w has the extent of an atom, and R is the part of
:math:`D D^T` that such a filter meets, over all atoms and all shifts by multiples of the stride.
"""

import math
from typing import Any

import torch
from torch import Tensor

from csc_nets.functional.operators import ConvGeometry

__all__ = ["analytic_weights"]


@torch.no_grad()
def analytic_weights(weight: Tensor, geometry: ConvGeometry | None = None) -> Tensor:
    """The weights of a dictionary.

    Args:
        weight: atoms ``(M, F)``, or ``(M, C, *K)`` of a convolution.
        geometry: how a convolution's atoms are laid; None for stride 1. Borders are left out of account.

    Returns:
        Weights of the same shape, in float64's accuracy and the dtype of ``weight``.

    Raises:
        ValueError: an atom of zeros.
    """
    atoms = weight.flatten(1).double()
    if not bool((atoms.square().sum(1) > 0).all()):
        raise ValueError("analytic_weights: an atom of zeros has no weights")
    gram = atoms.T @ atoms if weight.ndim == 2 else _local_gram(weight.double(), geometry)
    solved = atoms @ torch.linalg.pinv(gram, rtol=1e-10, hermitian=True)
    found: Tensor = solved / (solved * atoms).sum(1, keepdim=True)
    return found.view_as(weight).to(weight.dtype)


def _local_gram(weight: Tensor, geometry: ConvGeometry | None) -> Tensor:
    """``D D^T`` between the entries of one window of the extent of an atom, ``(C K, C K)``."""
    dims, shape = weight.ndim - 2, weight.shape[1:]
    stride = (1,) * dims if geometry is None else geometry.stride
    dilation = (1,) * dims if geometry is None else geometry.dilation
    laid = ConvGeometry.create(dims, tuple(weight.shape[2:]), stride, 0, dilation)
    # As many positions around the window as reach into it.
    around = [-(-d * (k - 1) // s) for k, d, s in zip(laid.kernel_size, dilation, stride, strict=True)]
    code_size = [2 * n + 1 for n in around]
    size = [
        (n - 1) * s + d * (k - 1) + 1 for n, s, k, d in zip(code_size, stride, laid.kernel_size, dilation, strict=True)
    ]
    entries = torch.eye(math.prod(shape), dtype=weight.dtype, device=weight.device).view(-1, *shape)
    # One code for each entry of the window: a single coefficient in the middle, of the filter that is this entry.
    centre: Any = (slice(None), slice(None), *around)
    code = weight.new_zeros(len(entries), len(entries), *code_size)
    code[centre] = torch.eye(len(entries), dtype=weight.dtype, device=weight.device)
    windows = laid.synthesis(code, entries, size)
    images = laid.synthesis(laid.analysis(windows, weight), weight, size)
    return laid.analysis(images, entries)[centre]
