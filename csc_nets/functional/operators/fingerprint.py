r"""Whether atoms are those that a bound was computed for, from one number per atom.

The fingerprint of atoms :math:`w_m` is :math:`f_m = \langle w_m, r \rangle` with fixed pseudo-random numbers r of
variance 1. It costs one pass over the atoms, and it sees every write, however it was made: torch counts the versions of
a tensor, but not writes through ``.data``. Atoms that moved by :math:`\Delta_m` move it by a number of mean square
:math:`\|\Delta_m\|^2` (over r), so a change can hide only by being orthogonal to r.
"""

import functools
import math

import torch
from torch import Tensor

__all__ = ["fingerprint", "moved"]


def fingerprint(weight: Tensor, *, cached: bool = False) -> Tensor:
    """One number per atom of ``weight (M, ...)``: ``(M,)``, float32 at least.

    Args:
        weight: atoms.
        cached: keep r for the next call. Not while a compiler traces or for tensors without values.
    """
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
    shape = weight.shape[1:]
    pattern = (_kept_pattern if cached else _pattern)(math.prod(shape), wide.dtype, wide.device)
    if weight.ndim > 2 and not wide.is_contiguous():
        # In the order of memory of channels_last, where flattening the atoms would copy them.
        pattern = pattern.view(shape).movedim(0, -1).flatten()
        wide = wide.movedim(1, -1)
    return torch.mv(wide.flatten(1), pattern)


def moved(now: Tensor, before: Tensor) -> Tensor:
    """How far the atom that moved most did, as a share of an atom's norm, 0-d; NaN where one is not known.

    Fingerprints of unit atoms have a mean square near 1, those of longer atoms near the square of their norm.
    """
    scale = torch.linalg.vector_norm(before) / math.sqrt(before.numel())
    share: Tensor = (now - before).abs().max() / scale.clamp_min(torch.finfo(scale.dtype).tiny)
    return share


def _pattern(count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    # Quadratic residues: whole numbers, so the same on every device, and without the regularity of multiples.
    place = torch.arange(count, device=device)
    residue = (place * place * 40503 + place * 30103 + 12345) % 65537
    return (residue.to(dtype) / 32768 - 1) * math.sqrt(3)


_kept_pattern = functools.lru_cache(maxsize=256)(_pattern)
