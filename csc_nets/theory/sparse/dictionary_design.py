"""Dictionaries for which the guarantees hold with many non-zeros: atoms of low coherence, and sparse atoms."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from csc_nets.functional import unit_norm
from csc_nets.theory.sparse.coherence import mutual_coherence

__all__ = ["low_coherence_atoms", "sparse_atoms"]

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def low_coherence_atoms(
    atoms: int,
    channels: int,
    kernel_size: Sequence[int],
    *,
    stride: int = 1,
    steps: int = 1000,
    seed: int = 0,
) -> Tensor:
    r"""Unit atoms of low coherence, by gradient descent on the correlations of their shifts.

    Adam starts from Gaussian atoms and minimises the smooth maximum
    :math:`\bigl(\sum_{(a, b, \tau) \ne (a, a, 0)} |\langle a, T_\tau b \rangle|^p\bigr)^{1/p}`. Meanwhile p grows from
    4 to 64 and the step size falls to 0. Example: the coherence of two atoms of 48 samples falls from about 0.4 to
    about 0.1; the Welch bound is 0.073.

    Args:
        atoms: number M of atoms.
        channels: channels C of the signal.
        kernel_size: extent of an atom, one number per axis.
        stride: samples between neighbouring shifts of an atom, the same for all axes.
        steps: steps of Adam; 0 returns the Gaussian atoms.
        seed: seed of the Gaussian atoms; it fixes the result.

    Returns:
        Atoms ``(M, C, *K)``, float64.

    Raises:
        ValueError: a size is not positive, or the number of axes is not 1 to 3.

    Example:
        >>> gaussian, better = (low_coherence_atoms(2, 1, [16], steps=steps) for steps in (0, 200))
        >>> mutual_coherence(better) < 0.5 * mutual_coherence(gaussian)
        True
    """
    kernel = tuple(kernel_size)
    if min(atoms, channels, stride, *kernel) < 1 or not 1 <= len(kernel) <= 3:
        raise ValueError(
            "low_coherence_atoms: atoms, channels, stride and one to three kernel sizes must be positive, got "
            f"{atoms}, {channels}, {stride}, {kernel}"
        )
    if steps < 0:
        raise ValueError(f"low_coherence_atoms: steps must be an int >= 0, got {steps!r}")
    generator = torch.Generator().manual_seed(seed)
    weight = unit_norm(torch.randn(atoms, channels, *kernel, generator=generator, dtype=torch.float64))
    reach = [(n - 1) // stride for n in kernel]
    padding = [stride * r for r in reach]
    itself = torch.zeros(atoms, atoms, *(2 * r + 1 for r in reach), dtype=torch.bool)
    itself.view(atoms, atoms, -1)[range(atoms), range(atoms), itself[0, 0].numel() // 2] = True
    with torch.enable_grad():
        weight.requires_grad_()
        optimizer = torch.optim.Adam([weight], lr=0.02)
        for step in range(steps):
            progress = step / steps
            optimizer.param_groups[0]["lr"] = 0.01 * (1 + math.cos(math.pi * progress))
            unit = unit_norm(weight)
            correlation = _CONV[len(kernel)](unit, unit, stride=stride, padding=padding).masked_fill(itself, 0)
            # Divide by the largest one: small numbers to the power of 64 would be 0.
            largest = correlation.detach().abs().amax().clamp_min(torch.finfo(torch.float64).tiny)
            loss = largest * torch.linalg.vector_norm((correlation / largest).flatten(), 4 * 16**progress)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return unit_norm(weight.detach())


def sparse_atoms(
    atoms: int,
    channels: int,
    kernel_size: Sequence[int],
    nonzeros: int,
    *,
    stride: int = 1,
    nonneg: bool = False,
    candidates: int = 100,
    seed: int = 0,
) -> Tensor:
    r"""Unit atoms with few non-zeros of equal magnitude, chosen for low coherence.

    Atoms are chosen one by one. Each is the best of ``candidates`` random ones, given the atoms chosen before. The
    coherence is 0 if every non-zero has a channel of its own, ``atoms * nonzeros <= channels``. Otherwise it is
    1 / ``nonzeros`` if no two shifts have more than one non-zero in common. It may also be 0 if the products of the
    common non-zeros cancel, as for a sum and a difference.

    Args:
        atoms: number M of atoms.
        channels: channels C, the atoms of the layer below.
        kernel_size: extent of an atom, one number per axis.
        nonzeros: number of non-zeros of an atom. They are in different channels if there are enough channels.
        stride: samples between neighbouring shifts of an atom, the same for all axes.
        nonneg: take positive entries only. A non-negative code then makes a non-negative signal.
        candidates: draws per atom.
        seed: fixes the result.

    Returns:
        Atoms ``(M, C, *K)``, float64.

    Raises:
        ValueError: an atom has fewer entries than non-zeros, or a size is not positive.

    Example:
        >>> atoms = sparse_atoms(4, 4, [16], nonzeros=3)
        >>> (atoms != 0).flatten(1).sum(1), round(mutual_coherence(atoms), 4)
        (tensor([3, 3, 3, 3]), 0.3333)
    """
    kernel = tuple(kernel_size)
    if min(atoms, channels, stride, candidates, *kernel) < 1 or not 1 <= len(kernel) <= 3:
        raise ValueError(
            "sparse_atoms: atoms, channels, stride, candidates and one to three kernel sizes must be positive, got "
            f"{atoms}, {channels}, {stride}, {candidates}, {kernel}"
        )
    positions = math.prod(kernel)
    if not 1 <= nonzeros <= channels * positions:
        raise ValueError(f"sparse_atoms: nonzeros must be 1 to {channels * positions} (C x K), got {nonzeros!r}")
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.empty(0, channels * positions, dtype=torch.float64)
    reached = 0.0  # coherence of the chosen atoms; a further atom cannot lower it
    for _ in range(atoms):
        best, least = None, math.inf
        for _ in range(candidates):
            # Rounds with one entry per channel, the least used first: entries of different channels do not overlap.
            use = (chosen.view(-1, channels, positions) != 0).sum((0, 2))
            first = (use + torch.rand(channels, generator=generator)).argsort()
            rest = [torch.randperm(channels, generator=generator) for _ in range(positions - 1)]
            order = torch.cat([first, *rest])
            places = torch.stack([torch.randperm(positions, generator=generator) for _ in range(channels)])
            rounds = torch.arange(len(order)) // channels
            entries = (order * positions + places[order, rounds])[:nonzeros]
            signs = 2.0 * torch.randint(2, (nonzeros,), generator=generator) - 1
            atom = torch.zeros(1, channels * positions, dtype=torch.float64)
            atom[0, entries] = (signs.abs() if nonneg else signs).double() / math.sqrt(nonzeros)
            coherence = mutual_coherence(torch.cat([chosen, atom]).view(-1, channels, *kernel), stride)
            if coherence < least:
                best, least = atom, coherence
            if least <= reached:
                break
        if best is not None:
            chosen, reached = torch.cat([chosen, best]), least
    return chosen.view(atoms, channels, *kernel)
