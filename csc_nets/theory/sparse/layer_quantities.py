r"""What the guarantees of the multi-layer model know of a dictionary and its codes, measured."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from csc_nets.functional import ConvGeometry
from csc_nets.theory.sparse.coherence import mutual_coherence
from csc_nets.theory.sparse.local_sparsity import patch_norm, stripe_norm

__all__ = ["LayerQuantities", "atom_norms", "check_model", "measure"]


@dataclass(frozen=True)
class LayerQuantities:
    r"""The numbers of one layer, of unit atoms.

    Attributes:
        coherence: :math:`\mu_i`, of the dictionary.
        stripe: :math:`k_i = \|\Gamma_i\|^S_{0,\infty}`, most non-zeros in a stripe.
        patch: :math:`p_i = \|\Gamma_i\|^P_{0,\infty}`, most non-zeros in a patch that the next layer sees.
        smallest: least absolute non-zero of the code; inf where there is none.
        largest: largest absolute entry of the code.
        name: what to call the layer in a table.
        cut: non-zeros whose atom does not lie in the signal as a whole, and 1 for a code of zeros whose border folds
            atoms; the guarantees hold for 0 only, see :func:`measure`.

    Raises:
        ValueError: numbers that no dictionary and code have.
    """

    coherence: float
    stripe: int
    patch: int
    smallest: float
    largest: float
    name: str = ""
    cut: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.coherence <= 1:
            raise ValueError(f"coherence must be 0 to 1, got {self.coherence!r}")
        for field in ("stripe", "patch", "cut"):
            count = getattr(self, field)
            if isinstance(count, bool) or not isinstance(count, int) or count < 0:
                raise ValueError(f"{field} must be an int >= 0, got {count!r}")
        empty = self.smallest == math.inf and self.largest == 0
        if not (empty or 0 < self.smallest <= self.largest < math.inf):
            raise ValueError(
                f"smallest and largest must be 0 < smallest <= largest, or inf and 0 for a code of zeros, got "
                f"{self.smallest!r} and {self.largest!r}"
            )


def atom_norms(dictionaries: Sequence[Any]) -> list[Tensor]:
    r"""Norms :math:`\nu_i` of the atoms of the equivalent model of unit atoms, one tensor ``(M_i,)`` a layer, float64.

    The guarantees are about unit atoms. With :math:`N_i = \mathrm{diag}(\nu_i)` and :math:`N_0 = I` the model
    :math:`\Gamma_{i-1} = D_i \Gamma_i` is, exactly,

    .. math:: N_{i-1} \Gamma_{i-1} = \bar D_i (N_i \Gamma_i), \qquad \bar D_i = N_{i-1} D_i N_i^{-1}

    and :math:`\nu_i`, the norms of the columns of :math:`N_{i-1} D_i`, make the atoms of :math:`\bar D_i` unit: the
    norms of one layer move into its coefficients, which are the channels of the next layer's atoms.

    Args:
        dictionaries: from the signal to the deepest code: layers with a ``weight``, or weights ``(M, C, *K)`` or
            ``(M, F)``.

    Returns:
        All ones where every atom has unit norm.
    """
    return [norms for _, norms in _normalised(dictionaries)]


def measure(
    dictionaries: Sequence[Any],
    codes: Sequence[Tensor],
    window: int | Sequence[int] | None = None,
    signal_size: Sequence[int] | None = None,
) -> list[LayerQuantities]:
    r"""Measures every layer: the worst of all samples.

    Atoms need not have unit norm. Their norms are absorbed as :func:`atom_norms` says: coherences are those of
    :math:`\bar D_i`, and all numbers of the codes are those of :math:`N_i \Gamma_i`. What the guarantees then speak of
    is the pursuit with :math:`\bar D_i`, and errors are those of :math:`N_i \Gamma_i`.

    The coherence is that of whole atoms. An atom that a border of zeros cuts is shorter and may look more like others;
    the guarantees of the pursuits hold all the same as long as no *true* coefficient belongs to such an atom
    (derivation: a whole atom sees of the cut one only what is in the signal, so their inner product is that of the
    whole ones), and those of uniqueness and global stability hold among codes of whole atoms. ``cut`` counts the
    coefficients that break this. A circular border cuts nothing if the signal is a multiple of the stride and at least
    twice the atom less one sample, and the code goes all around it or neighbouring atoms meet (else the stripes of
    the code, which close where the code ends, miss some that meet); on others every atom that reaches the border
    counts. A reflected border folds atoms onto themselves, and so does a circular one on signals shorter than an atom.
    They are longer than 1 then, so all count, and even a code of zeros is not safe from noise.

    Args:
        dictionaries: K of them, from the signal to the deepest code: dictionary layers, or weights ``(M, C, *K)``
            (stride 1, no padding) or ``(M, F)``.
        codes: K codes ``(N, M_i, *S_i)`` or ``(N, M_i)``, from shallow to deep.
        window: patch of the deepest code, which no layer sees: needles per axis, 1 for single needles, None for the
            whole code. Patches of the other codes are what an atom of the next layer sees.
        signal_size: spatial size of the signal, which decides what is cut. None will do where all signals with such a
            code cut the same atoms: without padding or with stride 1.

    Returns:
        One :class:`LayerQuantities` a layer.

    Raises:
        ValueError: as many codes as dictionaries are needed, of their atoms and positions, real and finite, and one
            sample at least; padding with a stride and no ``signal_size``.

    Example:
        >>> code = torch.zeros(1, 1, 20)
        >>> code[0, 0, 3], code[0, 0, 5] = 2.0, -0.5
        >>> layer = measure([torch.tensor([[[3.0, 4.0]]])], [code], window=1)[0]  # one atom, of norm 5
        >>> layer.stripe, layer.patch, layer.smallest, layer.largest  # position 4 meets both neighbours
        (2, 1, 2.5, 10.0)
    """
    if len(dictionaries) != len(codes) or not codes:
        raise ValueError(f"measure: {len(dictionaries)} dictionaries need as many codes, got {len(codes)}")
    grids = [_grid(dictionary) for dictionary in dictionaries]
    size = signal_size
    layers = []
    for i, ((weight, norms), grid, code) in enumerate(zip(_normalised(dictionaries), grids, codes, strict=True)):
        if code.ndim != weight.ndim or code.shape[1] != len(weight) or len(code) == 0:
            raise ValueError(f"measure: codes[{i}] must have {len(weight)} atoms, got shape {tuple(code.shape)}")
        if code.is_complex() or not bool(code.isfinite().all()):
            raise ValueError(f"measure: codes[{i}] must be real and hold no NaN or infinite values, got {code.dtype}")
        if size is None:
            if any(s > 1 and pads != (0, 0) for s, pads in zip(grid.stride, grid.padding, strict=True)):
                raise ValueError(
                    f"measure: signal_size must be given for stride {grid.stride} with padding {grid.padding}: signals "
                    f"of several sizes have a code of {tuple(code.shape[2:])} positions, got None"
                )
            size = grid.signal_size(code.shape[2:])
        if grid.code_size(size) != tuple(code.shape[2:]):
            raise ValueError(
                f"measure: codes[{i}] must have {grid.code_size(size)} positions for a signal of size {tuple(size)}, "
                f"got {tuple(code.shape[2:])}"
            )
        code = code.detach().double() * norms.to(code.device).view(-1, *(1,) * (code.ndim - 2))
        support = code != 0
        magnitudes = code[support].abs()
        patch = (
            patch_norm(code, grids[i + 1].kernel_size, dilation=grids[i + 1].dilation)
            if i + 1 < len(grids)
            else patch_norm(code, window)
        )
        layers.append(
            LayerQuantities(
                coherence=mutual_coherence(weight, grid.stride, grid.dilation),
                stripe=int(stripe_norm(code, grid.kernel_size, grid.stride, dilation=grid.dilation).max()),
                patch=int(patch.max()),
                smallest=magnitudes.min().item() if len(magnitudes) else math.inf,
                largest=magnitudes.max().item() if len(magnitudes) else 0.0,
                name=f"layer {i + 1}",
                cut=max(int((support & ~_whole(grid, size, support)).flatten(1).sum(1).max()), int(_folds(grid, size))),
            )
        )
        size = code.shape[2:]
    return layers


def check_model(dictionaries: Sequence[Any], codes: Sequence[Tensor]) -> None:
    r"""Refuses codes that are no codes of the multi-layer model, :math:`\Gamma_{i-1} = D_i \Gamma_i` up to rounding.

    Rounding is taken as the square root of the largest machine precision of codes and weights, in units of
    :math:`\| |D_i| |\Gamma_i| \|`, for each sample.

    Args:
        dictionaries: as for :func:`measure`.
        codes: as for :func:`measure`, which checks their shapes.

    Raises:
        ValueError: two neighbouring codes that do not fit.
    """
    tensors = [*codes, *(d if isinstance(d, Tensor) else d.weight for d in dictionaries)]
    rounding = math.sqrt(max(torch.finfo(t.dtype).eps for t in tensors if t.is_floating_point()))
    for i, (dictionary, above, code) in enumerate(zip(dictionaries[1:], codes, codes[1:], strict=False), start=1):
        grid, weight = _grid(dictionary), _weight(dictionary)
        made, size = (
            grid.synthesis(z, w, above.shape[2:]) if grid.dims else z @ w
            for z, w in ((code.detach().double(), weight), (code.detach().double().abs(), weight.abs()))
        )
        gap = torch.linalg.vector_norm((above.detach().double() - made).flatten(1), dim=1)
        allowed = rounding * torch.linalg.vector_norm(size.flatten(1), dim=1)
        if bool((gap > allowed).any()):
            raise ValueError(
                f"codes[{i - 1}] must be the synthesis of codes[{i}] by dictionaries[{i}], as in a multi-layer model, "
                f"got codes that are up to {gap.max().item():.3g} apart"
            )


def _weight(dictionary: Any) -> Tensor:
    weight = dictionary if isinstance(dictionary, Tensor) else getattr(dictionary, "weight", None)
    if not isinstance(weight, Tensor) or not 2 <= weight.ndim <= 5:
        raise ValueError(f"dictionaries must be dictionary layers or weights, got {type(dictionary).__name__}")
    return weight.detach().double()


def _grid(dictionary: Any) -> ConvGeometry:
    geometry = getattr(dictionary, "geometry", None)
    weight = _weight(dictionary)
    if isinstance(geometry, ConvGeometry):
        return geometry
    if isinstance(dictionary, Tensor) or weight.ndim == 2:
        return ConvGeometry.create(weight.ndim - 2, tuple(weight.shape[2:]))
    raise ValueError(f"dictionaries must be dictionary layers or weights, got {type(dictionary).__name__}")


def _normalised(dictionaries: Sequence[Any]) -> list[tuple[Tensor, Tensor]]:
    r""":math:`N_{i-1} D_i` and the norms of its atoms, for every layer."""
    found: list[tuple[Tensor, Tensor]] = []
    for i, dictionary in enumerate(dictionaries):
        weight = _weight(dictionary)
        if found:
            scale = found[-1][1]
            if weight.shape[1] != len(scale):
                raise ValueError(
                    f"dictionaries[{i}] must take the {len(scale)} atoms of the one before as channels, got "
                    f"{weight.shape[1]}"
                )
            weight = weight * scale.view(-1, *(1,) * (weight.ndim - 2))
        found.append((weight, torch.linalg.vector_norm(weight.flatten(1), dim=1)))
    return found


def _whole(grid: ConvGeometry, size: Sequence[int], support: Tensor) -> Tensor:
    """Positions whose atoms the border leaves alone; broadcasts against ``support``."""
    whole = torch.ones((), dtype=torch.bool, device=support.device)
    for axis, (n, kernel, stride, (low, high), dilation) in enumerate(
        zip(size, grid.kernel_size, grid.stride, grid.padding, grid.dilation, strict=True), start=2
    ):
        count, extent = support.shape[axis], dilation * (kernel - 1) + 1
        # Stripes are circles of the code. One shorter than the signal's holds all neighbours that meet across the
        # border, but where there are gaps between those that meet it holds others.
        closed = count * stride == n or (count * stride < n and dilation // math.gcd(stride, dilation) == 1)
        if grid.padding_mode == "circular" and n % stride == 0 and closed and n >= 2 * extent - 1:
            continue
        # What is copied into the border comes from this far inside, and meets the atoms there.
        margin = {"zeros": 0, "circular": max(low, high), "reflect": n}[grid.padding_mode] if low or high else 0
        first = torch.arange(count, device=support.device) * stride - low
        inside = (first >= margin) & (first + extent <= n - margin)
        whole = whole & inside.view(-1, *(1,) * (support.ndim - 1 - axis))
    return whole


def _folds(grid: ConvGeometry, size: Sequence[int]) -> bool:
    """Whether the border lays a part of an atom onto another part of it."""
    for n, kernel, pads, dilation in zip(size, grid.kernel_size, grid.padding, grid.dilation, strict=True):
        short = grid.padding_mode == "circular" and n < dilation * (kernel - 1) + 1
        if pads != (0, 0) and (grid.padding_mode == "reflect" or short):
            return True
    return False
