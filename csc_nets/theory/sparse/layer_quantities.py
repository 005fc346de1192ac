r"""Measures the numbers of a dictionary and its code on which the theorems of the multi-layer model depend."""

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
    r"""The numbers of one layer with unit atoms.

    Attributes:
        coherence: :math:`\mu_i`, mutual coherence of the dictionary.
        stripe: :math:`k_i = \|\Gamma_i\|^S_{0,\infty}`, largest number of non-zeros in a stripe.
        patch: :math:`p_i = \|\Gamma_i\|^P_{0,\infty}`, largest number of non-zeros in a patch of the next layer.
        smallest: smallest magnitude of a non-zero of the code; inf for a code of zeros.
        largest: largest magnitude of the code.
        name: name of the layer in tables.
        cut: number of non-zeros whose atom is not whole in the signal. It is 1 for a code of zeros if the border folds
            atoms. The guarantees hold only for 0, see :func:`measure`.

    Raises:
        ValueError: no dictionary and code can have these numbers.
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
    r"""Norms :math:`\nu_i` that turn a multi-layer model into an equivalent one with unit atoms.

    The guarantees are about unit atoms. Let :math:`N_i = \mathrm{diag}(\nu_i)` and :math:`N_0 = I`. The model
    :math:`\Gamma_{i-1} = D_i \Gamma_i` is then the same as

    .. math:: N_{i-1} \Gamma_{i-1} = \bar D_i (N_i \Gamma_i), \qquad \bar D_i = N_{i-1} D_i N_i^{-1}

    Take for :math:`\nu_i` the norms of the columns of :math:`N_{i-1} D_i`. Then the atoms of :math:`\bar D_i` have unit
    norm. The norms of one layer go into its coefficients, and these are the channels of the next layer's atoms.

    Args:
        dictionaries: from the signal to the deepest code: layers with a ``weight``, or weights ``(M, C, *K)`` or
            ``(M, F)``.

    Returns:
        One tensor ``(M_i,)`` per layer, float64. All entries are 1 if every atom has unit norm.
    """
    return [norms for _, norms in _normalised(dictionaries)]


def measure(
    dictionaries: Sequence[Any],
    codes: Sequence[Tensor],
    window: int | Sequence[int] | None = None,
    signal_size: Sequence[int] | None = None,
) -> list[LayerQuantities]:
    r"""Measures every layer. Each number is the worst one over all samples.

    **Norms.** Atoms may have any norm; the norms are moved into the codes as :func:`atom_norms` describes. So the
    coherence is measured on :math:`\bar D_i`, and all numbers of a code on :math:`N_i \Gamma_i`. The guarantees are
    then about the pursuit with :math:`\bar D_i` and about the errors of :math:`N_i \Gamma_i`.

    **Borders.** The coherence is measured on whole atoms. A border of zeros cuts an atom: the rest is shorter, and may
    be more similar to other atoms. ``cut`` counts the non-zero coefficients of such atoms. If it is 0,

    - the guarantees of the pursuits hold, although other atoms are cut. Derivation: the inner product of a whole atom
      with a cut one takes only samples inside of the signal, so it equals the inner product with the uncut atom;
    - uniqueness and global stability hold among the codes of whole atoms.

    Other borders:

    - A circular border cuts no atom if the length of the signal is a multiple of the stride, and at least twice the
      length of an atom less one sample, and if the code covers the whole circle or neighbouring atoms overlap.
      (Otherwise the stripes of the code, which close at the end of the code, miss atoms that overlap.) If this fails,
      every atom that reaches the border counts as cut.
    - A reflected border folds atoms onto themselves, and so does a circular border if the signal is shorter than an
      atom. The norm of a folded atom may exceed 1. So all atoms count as cut, and no guarantee holds under noise, even
      for a code of zeros.

    Args:
        dictionaries: K of them, from the signal to the deepest code: dictionary layers, or weights ``(M, C, *K)``
            (stride 1, no padding) or ``(M, F)``.
        codes: K codes ``(N, M_i, *S_i)`` or ``(N, M_i)``, from shallow to deep.
        window: size of the patches of the deepest code, in needles per axis: 1 for single needles, None for the whole
            code. (No layer follows the deepest code. A patch of another code is the window of the next layer's atoms.)
        signal_size: spatial size of the signal, on which ``cut`` depends. It may be None without padding or with
            stride 1: ``cut`` is then the same for all signals with a code of this size.

    Returns:
        One :class:`LayerQuantities` per layer.

    Raises:
        ValueError: the numbers of codes and dictionaries differ, a code does not fit its dictionary, is not real and
            finite or has no sample, or ``signal_size`` is missing for a padding with a stride above 1.

    Example:
        >>> code = torch.zeros(1, 1, 20)
        >>> code[0, 0, 3], code[0, 0, 5] = 2.0, -0.5
        >>> layer = measure([torch.tensor([[[3.0, 4.0]]])], [code], window=1)[0]  # one atom, of norm 5
        >>> layer.stripe, layer.patch, layer.smallest, layer.largest  # the atom at 4 overlaps both neighbours
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
    r"""Refuses codes that do not obey the multi-layer model :math:`\Gamma_{i-1} = D_i \Gamma_i` up to rounding.

    The tolerance of a sample is :math:`\sqrt{u}\, \| |D_i| |\Gamma_i| \|`, where u is the largest machine precision of
    codes and weights.

    Args:
        dictionaries: as for :func:`measure`.
        codes: as for :func:`measure`, which checks their shapes.

    Raises:
        ValueError: a code is not the synthesis of the next one.
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
    """Positions whose atoms are whole, as a boolean mask that broadcasts against ``support``."""
    whole = torch.ones((), dtype=torch.bool, device=support.device)
    for axis, (n, kernel, stride, (low, high), dilation) in enumerate(
        zip(size, grid.kernel_size, grid.stride, grid.padding, grid.dilation, strict=True), start=2
    ):
        count, extent = support.shape[axis], dilation * (kernel - 1) + 1
        # Stripes are windows on the circle of the code. If that circle is shorter than the signal, a stripe still holds
        # all atoms that overlap across the border, unless the dilation leaves gaps between the atoms that overlap.
        closed = count * stride == n or (count * stride < n and dilation // math.gcd(stride, dilation) == 1)
        if grid.padding_mode == "circular" and n % stride == 0 and closed and n >= 2 * extent - 1:
            continue
        # The border holds copies of samples up to this far inside; atoms there overlap the copies.
        margin = {"zeros": 0, "circular": max(low, high), "reflect": n}[grid.padding_mode] if low or high else 0
        first = torch.arange(count, device=support.device) * stride - low
        inside = (first >= margin) & (first + extent <= n - margin)
        whole = whole & inside.view(-1, *(1,) * (support.ndim - 1 - axis))
    return whole


def _folds(grid: ConvGeometry, size: Sequence[int]) -> bool:
    """Whether the border adds a part of an atom to another part of the same atom."""
    for n, kernel, pads, dilation in zip(size, grid.kernel_size, grid.padding, grid.dilation, strict=True):
        short = grid.padding_mode == "circular" and n < dilation * (kernel - 1) + 1
        if pads != (0, 0) and (grid.padding_mode == "reflect" or short):
            return True
    return False
