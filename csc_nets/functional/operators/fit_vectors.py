"""Least squares of vectors over a few atoms each."""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["fit_vectors"]

# Entries of a part of a batch. On a CPU such a part stays in the cache of a core.
_ENTRIES, _ENTRIES_ELSEWHERE = 1 << 18, 1 << 26


def fit_vectors(weight: Tensor, x: Tensor, code: Tensor, nonneg: bool = False) -> Tensor | None:
    r"""The least squares :math:`\min_z \|x - W^T z\|^2` with z = 0 where the code is 0, a small system for each sample.

    Systems that are singular to rounding keep the values of the code.

    Args:
        weight: atoms ``(M, F)``.
        x: vectors ``(N, F)``.
        code: ``(N, M)``; its zeros stay.
        nonneg: leave out the atoms whose values fall below 0 and fit the others again, until there are none.

    Returns:
        The code with new values; None for a support with more atoms than a vector has entries, as all systems of such
        supports are singular.
    """
    sample, atom = code.nonzero(as_tuple=True)  # sample by sample
    count = torch.bincount(sample, minlength=len(code))
    k = int(count.amax()) if len(code) else 0
    if not 0 < k <= weight.shape[1]:
        return None if k else code
    place = torch.arange(len(atom), device=atom.device) - (count.cumsum(0) - count)[sample]
    index = atom.new_zeros(len(code), k).index_put((sample, place), atom)
    used = torch.arange(k, device=atom.device) < count[:, None]
    start, found = code.gather(1, index), torch.empty_like(index, dtype=code.dtype)
    # One product of all atoms is faster than many small ones, unless most of its entries are of no use.
    products = weight @ weight.T if len(weight) ** 2 <= 2 * len(code) * k**2 else None
    limit = _ENTRIES if x.device.type == "cpu" else _ENTRIES_ELSEWHERE
    size = max(1, limit // ((k + 1) * (k if products is not None else max(k, x.shape[1]))))
    for i in range(0, len(code), size):
        part = slice(i, i + size)
        gram, right = _normal_equations(weight, products, x[part], index[part])
        values = _solved(gram, right, used[part], start[part])
        while nonneg and bool((below := (values < 0).any(1)).any()):
            kept = values[below].relu()
            values[below] = _solved(gram[below], right[below], kept != 0, kept)
        found[part] = values
    return torch.zeros_like(code).scatter_add(1, index, found)


def _normal_equations(weight: Tensor, products: Tensor | None, x: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Gram matrices ``(N, k, k)`` of the atoms ``index (N, k)`` of each sample, and their correlations ``(N, k)``."""
    n, k = index.shape
    if products is not None:
        pairs = (index[:, :, None] * len(weight) + index[:, None, :]).flatten()
        return products.flatten().index_select(0, pairs).view(n, k, k), F.linear(x, weight).gather(1, index)
    vectors = torch.cat([F.embedding(index, weight), x[:, None]], 1)
    product = vectors @ vectors.mT
    return product[:, :k, :k], product[:, k, :k]


def _solved(gram: Tensor, right: Tensor, used: Tensor, values: Tensor) -> Tensor:
    """The solution on the used places, 0 on the others; the given values where a system is singular."""
    kind = gram.dtype
    wide = torch.promote_types(kind, torch.float32)  # half precision has no factorisation
    gram, right = gram.to(wide), right.to(wide)
    tiny = 10 * torch.finfo(gram.dtype).eps * gram.diagonal(dim1=1, dim2=2).amax(1)
    # Places that are not used get an equation of their own.
    gram = gram * (used[:, :, None] & used[:, None, :]) + torch.diag_embed(tiny[:, None] + ~used)
    factor, failed = torch.linalg.cholesky_ex(gram)
    found = torch.cholesky_solve((right * used)[:, :, None], factor)[:, :, 0]
    return torch.where((failed == 0)[:, None] & found.isfinite(), found.to(kind), values) * used
