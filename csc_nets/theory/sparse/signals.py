r"""Signals that obey the multi-layer model, :math:`X = D_1 \Gamma_1, \Gamma_{i-1} = D_i \Gamma_i`, all codes sparse.

With arbitrary dictionaries the zero signal may be the only one that obeys the model: a code in between is sparse only
if the atoms that make it are sparse. Here all dictionaries after the first have sparse atoms. The deepest code is drawn
at random; the other codes and the signal are synthesised from it. (On the need for sparse dictionaries: Sulam, Papyan,
Romano, Elad, `Multi-Layer Convolutional Sparse Modeling <https://arxiv.org/abs/1708.08705>`_, 2018.)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from csc_nets.functional import Cascade
from csc_nets.layers import Dictionary1d, Dictionary2d
from csc_nets.theory.sparse.dictionary_design import low_coherence_atoms, sparse_atoms
from csc_nets.theory.sparse.local_sparsity import patch_norm

__all__ = ["Signals", "sample_code", "sample_dictionaries", "sample_signals"]


@dataclass(frozen=True)
class Signals:
    """A batch of signals, with the codes and the noise that they were made of.

    Attributes:
        signal: :math:`X = D_1 \\Gamma_1`, ``(N, C, *S)``.
        codes: the K codes, from the first to the deepest, ``(N, M_i, *S_i)``.
        noise: shaped as ``signal``; 0 where none was asked for.
    """

    signal: Tensor
    codes: list[Tensor]
    noise: Tensor

    @property
    def observed(self) -> Tensor:
        """Signal plus noise: the input of a pursuit."""
        return self.signal + self.noise


def sample_dictionaries(
    atoms: Sequence[int] = (6, 3),
    kernel_sizes: Sequence[int] = (128, 32),
    strides: Sequence[int] | None = None,
    *,
    dims: int = 1,
    channels: int = 1,
    nonzeros: int = 2,
    steps: int = 1000,
    nonneg: bool = False,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> list[Dictionary1d | Dictionary2d]:
    """Dictionaries of a multi-layer model with many signals: the first has low coherence, the deeper ones are sparse.

    Boundaries are circular, as in the theory, and a code has as many positions as its signal divided by the stride.
    With the defaults the coherences are 0.044 and 0: uniqueness, and recovery by basis pursuit, hold up to 11 non-zeros
    in a stripe of the first code and any number in one of the second. ``sample_signals(dictionaries, N, 512,
    per_stripe=k)`` with k up to 3 makes such signals, and with k = 4 nearly always.

    Args:
        atoms: number of atoms of each layer.
        kernel_sizes: extent of the atoms of each layer, in every axis.
        strides: of each layer; None is 4 for the first (2 in two dimensions) and 1 for the others.
        dims: spatial axes, 1 or 2.
        channels: channels of the signal.
        nonzeros: number of non-zeros of an atom of the deeper layers, usually 2 to 4; see
            :func:`~csc_nets.theory.sparse_atoms`.
        steps: gradient steps that lower the coherence of the first layer; 0 keeps Gaussian atoms.
        nonneg: the deeper atoms have no negative entries. All codes are then non-negative if the deepest one is.
        seed: fixes the result.
        dtype: of the atoms.

    Returns:
        ``Dictionary1d`` or ``Dictionary2d`` layers, from the signal to the deepest code.

    Raises:
        ValueError: the lists differ in length, dims is not 1 or 2, a size is not positive, or an atom has fewer entries
            than non-zeros.
    """
    strides = [2 if dims == 2 else 4] + [1] * (len(atoms) - 1) if strides is None else strides
    if not len(atoms) == len(kernel_sizes) == len(strides) or not atoms:
        raise ValueError(
            "sample_dictionaries: atoms, kernel_sizes and strides must have one entry per layer, got "
            f"{list(atoms)}, {list(kernel_sizes)}, {list(strides)}"
        )
    if dims not in (1, 2):
        raise ValueError(f"sample_dictionaries: dims must be 1 or 2, got {dims!r}")
    layer = Dictionary1d if dims == 1 else Dictionary2d
    dictionaries: list[Dictionary1d | Dictionary2d] = []
    below = channels
    for i, (count, size, stride) in enumerate(zip(atoms, kernel_sizes, strides, strict=True)):
        kernel = (size,) * dims
        if i == 0:
            weight = low_coherence_atoms(count, below, kernel, stride=stride, steps=steps, seed=seed)
        else:
            weight = sparse_atoms(count, below, kernel, nonzeros, stride=stride, nonneg=nonneg, seed=seed + i)
        # Half an atom on each side. With stride 1 an atom of even size needs one more sample on one side: "same".
        padding: int | str = "same" if stride == 1 else (size - 1) // 2
        dictionary = layer(below, count, size, stride, padding, padding_mode="circular", dtype=dtype)
        dictionary.weight = weight.to(dtype)
        dictionary.refresh()
        dictionaries.append(dictionary.requires_grad_(False))
        below = count
    return dictionaries


def sample_code(
    samples: int,
    atoms: int,
    size: Sequence[int],
    *,
    density: float | None = None,
    count: int | None = None,
    per_stripe: int | None = None,
    reach: int | Sequence[int] = 0,
    magnitudes: tuple[float, float] = (1.0, 2.0),
    nonneg: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Random sparse codes. Give one of ``density``, ``count``, ``per_stripe``.

    Args:
        samples, atoms, size: shape ``(samples, atoms, *size)``.
        density: each entry is non-zero with this probability, independently.
        count: non-zeros of a sample, at random places.
        per_stripe: largest number of non-zeros in a stripe. Positions are visited in random order; each gets a non-zero
            unless a stripe would then have too many. At the end no empty needle could get one. So the number is
            reached if a stripe has at least that many needles.
        reach: for ``per_stripe``: number of needles on each side that belong to the stripe of a position; one number,
            or one per axis.
        magnitudes: least and largest magnitude; drawn uniformly between them.
        nonneg: positive entries instead of random signs.
        generator: of the random numbers.

    Returns:
        Codes, float64.

    Raises:
        ValueError: none or several of the three are given, or a number is out of range.
    """
    given = {"density": density, "count": count, "per_stripe": per_stripe}
    if sum(value is not None for value in given.values()) != 1:
        raise ValueError(f"give one of density, count and per_stripe, got {given}")
    for name, value in (("samples", samples), ("atoms", atoms), *(("size", n) for n in size)):
        if not _is_int(value, 1):
            raise ValueError(f"{name} must be an int >= 1, got {value!r}")
    entries = atoms * math.prod(size)
    if density is not None and not 0 <= density <= 1:
        raise ValueError(f"density must be between 0 and 1, got {density!r}")
    if count is not None and not (_is_int(count, 0) and count <= entries):
        raise ValueError(f"count must be an int, 0 to {entries}, the entries of a code, got {count!r}")
    if per_stripe is not None and not _is_int(per_stripe, 0):
        raise ValueError(f"per_stripe must be an int >= 0, got {per_stripe!r}")
    around = [reach] * len(size) if isinstance(reach, int) else list(reach)
    if len(around) != len(size) or not all(_is_int(r, 0) for r in around):
        raise ValueError(f"reach must be an int >= 0 or {len(size)} of them, got {reach!r}")
    low, high = magnitudes
    if not 0 < low <= high < math.inf:
        raise ValueError(f"magnitudes must be two finite numbers 0 < low <= high, got {magnitudes!r}")
    shape = (samples, atoms, *size)
    score = torch.rand(shape, generator=generator, dtype=torch.float64)
    if density is not None:
        support = score < density
    elif count is not None:
        places = score.flatten(1).topk(count, dim=1).indices
        support = torch.zeros(samples, entries, dtype=torch.bool).scatter(1, places, True).view(shape)
    else:
        support = _packed(score, per_stripe or 0, around)
    magnitude = low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)
    signs = 2.0 * torch.randint(2, shape, generator=generator) - 1
    return support * magnitude * (signs.abs() if nonneg else signs)


def _is_int(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _packed(score: Tensor, most: int, reach: Sequence[int]) -> Tensor:
    """Supports with at most ``most`` non-zeros per stripe and one per needle, from a random ``score (N, M, *S)``."""
    needle, atom = score.max(1)
    size = needle.shape[1:]
    filled = torch.zeros_like(needle, dtype=torch.bool)
    counts = torch.zeros_like(needle, dtype=torch.long)  # non-zeros in the stripe of each position
    for place in needle.flatten(1).argsort(1).unbind(1):
        stripe = torch.ones_like(filled)
        for axis, (position, n) in enumerate(zip(torch.unravel_index(place, size), size, strict=True), start=1):
            distance = (torch.arange(n) - position[:, None]).abs()
            near = torch.minimum(distance, n - distance) <= reach[axis - 1]
            stripe &= near.view(len(near), *(n if a == axis else 1 for a in range(1, needle.ndim)))
        fits = (counts * stripe).flatten(1).amax(1) < most
        counts += stripe * fits.view(-1, *(1,) * len(size))
        filled.flatten(1)[torch.arange(len(place)), place] = fits
    return torch.zeros_like(score, dtype=torch.bool).scatter(1, atom[:, None], filled[:, None])


def sample_signals(
    dictionaries: Sequence[Dictionary1d | Dictionary2d],
    samples: int,
    signal_size: int,
    *,
    density: float | None = None,
    count: int | None = None,
    per_stripe: int | None = None,
    magnitudes: tuple[float, float] = (1.0, 2.0),
    nonneg: bool = False,
    noise: float = 0.0,
    sigma: float = 0.0,
    seed: int = 0,
) -> Signals:
    r"""Draws signals of the multi-layer model: draws the deepest code, synthesises the rest, and adds noise.

    Args:
        dictionaries: from the signal to the deepest code, such as :func:`sample_dictionaries` makes.
        samples: number N of signals.
        signal_size: samples per axis. For circular dictionaries it must be a multiple of all strides, and every layer's
            signal must have at least the length of two atoms less one sample. Otherwise the border cuts atoms, and no
            theorem applies.
        density, count, per_stripe, magnitudes, nonneg: of the deepest code, as for :func:`sample_code`.
        noise: local level :math:`\epsilon_0`. Gaussian noise is scaled, for each signal, to
            :math:`\|E\|^P_{2,\infty} = \epsilon_0` over the patches of the first dictionary's atoms.
        sigma: standard deviation of Gaussian noise, in place of ``noise``.
        seed: fixes the result.

    Raises:
        ValueError: there are no dictionaries, ``noise`` and ``sigma`` are both given or one is negative, the size does
            not fit, or ``per_stripe`` is given for a deepest dictionary with dilation (its stripes have gaps). See also
            :func:`sample_code`.

    Example:
        >>> from csc_nets.theory import stripe_norm
        >>> dictionaries = sample_dictionaries((4, 2), (32, 8), steps=100)
        >>> signals = sample_signals(dictionaries, 5, 128, per_stripe=2, noise=0.01)
        >>> stripe_norm(signals.codes[1], 8)
        tensor([2, 2, 2, 2, 2])
        >>> bool((signals.signal - dictionaries[0].synthesis(signals.codes[0])).abs().max() < 1e-12)
        True
    """
    if not 0 <= noise < math.inf or not 0 <= sigma < math.inf or (noise and sigma):
        raise ValueError(f"sample_signals: noise or sigma must be a finite number >= 0, got {noise!r} and {sigma!r}")
    if not dictionaries:
        raise ValueError("sample_signals: dictionaries must be at least one, got none")
    geometry = dictionaries[-1].geometry
    if per_stripe is not None and set(geometry.dilation) != {1}:
        raise ValueError(f"sample_signals: per_stripe needs a deepest dictionary without dilation, got {geometry}")
    shape = (signal_size,) * geometry.dims
    _refuse_cut_atoms(dictionaries, shape)
    deepest = sample_code(
        samples,
        dictionaries[-1].out_channels,
        Cascade(dictionaries).sizes(shape)[-1],
        density=density,
        count=count,
        per_stripe=per_stripe,
        reach=[(n - 1) // s for n, s in zip(geometry.kernel_size, geometry.stride, strict=True)],
        magnitudes=magnitudes,
        nonneg=nonneg,
        generator=(generator := torch.Generator().manual_seed(seed)),
    )
    with torch.no_grad():
        signal, *codes = Cascade(dictionaries).codes(deepest.to(dictionaries[0].weight.dtype), shape)
    codes = [torch.where(code.abs() > _rounding(code), code, 0.0) for code in codes]
    error = torch.randn(signal.shape, generator=generator, dtype=torch.float64).to(signal.dtype)
    if not sigma:
        first = dictionaries[0].geometry
        level = patch_norm(error, first.kernel_size, 2, first.dilation)
        return Signals(signal, codes, error * (noise / level).view(-1, *(1,) * (signal.ndim - 1)))
    return Signals(signal, codes, error * sigma)


def _refuse_cut_atoms(dictionaries: Sequence[Dictionary1d | Dictionary2d], shape: Sequence[int]) -> None:
    """Refuses circles that are not a whole number of strides, or shorter than two atoms less one sample."""
    size = shape
    for i, dictionary in enumerate(dictionaries):
        grid = dictionary.geometry
        codes = grid.code_size(size)
        for n, count, kernel, stride, dilation, pads in zip(
            size, codes, grid.kernel_size, grid.stride, grid.dilation, grid.padding, strict=True
        ):
            least = 2 * dilation * (kernel - 1) + 1
            if grid.padding_mode == "circular" and any(pads) and (count * stride != n or n < least):
                raise ValueError(
                    f"sample_signals: signal_size must make the signals of dictionaries[{i}] a multiple of {stride} "
                    f"(its stride, one position each) and at least {least} (two atoms less a sample), got {n} and "
                    f"{count} positions from signal_size={shape[0]}"
                )
        size = codes


def _rounding(code: Tensor) -> float:
    """Entries below this magnitude are rounding errors of two non-zeros that cancel."""
    return 64 * torch.finfo(code.dtype).eps * code.abs().amax().item()
