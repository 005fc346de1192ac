"""Codes of signals that are too large to be coded at once: tile by tile, equal to the code of the whole signal."""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from csc_nets.functional.problem import as_weight
from csc_nets.functional.tiling.receptive_field import Window, window
from csc_nets.layers.csc import ConvCSC

__all__ = ["chain", "encode", "encode_tiles", "synthesize_tiles", "tile_bytes", "tile_size"]

Where = tuple[slice, ...]

BUDGET = 96 * 2**20  # codes of a tile then stay in the cache of a processor: faster than the whole at once
# Arrays of the size of a tile's signal and code that are alive at once; measured by benchmarks/tiles.py.
SIGNALS, CODES = 4, 5
POINTWISE = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.ReLU, nn.Identity, nn.Dropout)


def encode_tiles(
    layer: nn.Module,
    x: Tensor,
    *,
    tile: int | Sequence[int] | None = None,
    budget: float = BUDGET,
    lam: float | Tensor | None = None,
    mask: Tensor | None = None,
) -> Iterator[tuple[Where, Tensor]]:
    r"""Codes of signals of any size in tiles, equal to ``layer(x)`` up to rounding; without gradient.

    With T steps from zero, a position of the code depends on nearby samples alone. A tile is coded together with these
    samples around it (:func:`csc_nets.functional.tiling.receptive_field.window`); only they are coded more than once.
    The borders of the whole signal have the layer's padding.

    Args:
        layer: a ``CSC1d``, ``CSC2d`` or ``CSC3d`` in evaluation mode, or a chain of them (``nn.Sequential``,
            ``nn.ModuleList``) with batch norm, ReLU and the like in between, such as ``model.stages`` of ``csc_small``.
        x: signals ``(N, C, *S)``; a memory-mapped tensor is read tile by tile.
        tile: positions of the code per axis in a tile; None for as many as the budget allows (:func:`tile_size`).
        budget: bytes that the work on a tile may take, ``x`` and what is done with the tiles not counted. Where a whole
            signal fits, as many signals as fit are coded at once.
        lam: as for the layer; also a map with one weight per position. For a single layer.
        mask: as for the layer.

    Yields:
        ``where`` and the code there, so that ``z[where] = code`` fills ``z (N, M, *S')``; row by row.

    Raises:
        ValueError: a layer in training mode, or one whose code is not decided nearby (``tol``, other pursuits, a
            penalty such as ``TopK``) or whose step size depends on the size of the signal (``EffectiveCSC2d``), a
            module that is neither CSC nor pointwise, a budget below one position, a circular signal that cannot be
            cut.

    Example:
        >>> from csc_nets.layers import CSC2d
        >>> layer, x = CSC2d(1, 8, 3, padding=1, steps=4).eval(), torch.randn(1, 1, 50, 40)
        >>> z = torch.empty(1, 8, 50, 40)
        >>> for where, code in encode_tiles(layer, x, tile=16):
        ...     z[where] = code
        >>> torch.allclose(z, layer(x), atol=1e-5)
        True
    """
    modules = chain(layer)
    layers = _coded(modules)
    if lam is not None:
        if len(layers) > 1:
            raise ValueError(f"encode_tiles: lam is for a single layer, got {len(layers)} of them")
        lam = as_weight(lam, x.ndim, "encode_tiles: lam")
    sizes, atoms = _sizes(layers, x), layers[-1].dictionary.out_channels
    if isinstance(lam, Tensor):
        _expanded("lam", lam, (len(x), atoms, *sizes[-1]))
    mask = None if mask is None else _expanded("mask", mask, tuple(x.shape))
    shape = tile_size(layer, x, budget) if tile is None else _per_axis(tile, sizes[-1])
    together = max(1, int(budget // tile_bytes(layer, x, shape)))
    grid = [[slice(i, min(i + t, n)) for i in range(0, n, t)] for n, t in zip(sizes[-1], shape, strict=True)]
    plans = [(where, _plan(layers, sizes, where)) for where in itertools.product(*grid)]

    def tiles() -> Iterator[tuple[Where, Tensor]]:
        for i in range(0, max(1, len(x)), together):
            batch = slice(i, min(i + together, len(x)))
            for where, plan in plans:
                yield (batch, slice(0, atoms), *where), _code(modules, x, batch, plan, lam, mask)

    return tiles()


def encode(layer: nn.Module, x: Tensor, *, out: Tensor | None = None, **options: Any) -> Tensor:
    """The code of :func:`encode_tiles` in one dense tensor.

    Args:
        layer, x, options: as for :func:`encode_tiles`.
        out: where to write it, ``(N, M, *S')``, such as a memory-mapped tensor (``torch.from_file``); None for a new
            one on the device of ``x``.

    Raises:
        ValueError: ``out`` of another shape; as for :func:`encode_tiles`.
    """
    layers = _coded(chain(layer))
    shape = (len(x), layers[-1].dictionary.out_channels, *_sizes(layers, x)[-1])
    if out is None:
        out = torch.empty(shape, dtype=layers[-1].dictionary.lipschitz.dtype, device=x.device)
    elif tuple(out.shape) != shape:
        raise ValueError(f"encode: out must have the shape of the code {shape}, got {tuple(out.shape)}")
    for where, code in encode_tiles(layer, x, **options):
        out[where] = code
    return out


@torch.no_grad()
def synthesize_tiles(layer: ConvCSC, tiles: Iterable[tuple[Where, Tensor]], shape: Sequence[int]) -> Tensor:
    """The signal ``D z`` of a code that comes in tiles, each added where its atoms lie; equal to ``layer.synthesize``.

    Args:
        layer: the layer that made the code.
        tiles: as of :func:`encode_tiles`, in any order; positions that are left out count as zero.
        shape: of the signal, ``(N, C, *S)``.
    """
    geometry, atoms = layer.dictionary.geometry, layer.atoms
    plain = replace(geometry, padding=((0, 0),) * geometry.dims, padding_mode="zeros")
    canvas = atoms.new_zeros(*shape[:2], *(n + sum(pads) for n, pads in zip(shape[2:], geometry.padding, strict=True)))
    for where, code in tiles:
        places = []
        for w, s, k, d in zip(where[2:], plain.stride, plain.kernel_size, plain.dilation, strict=True):
            places.append(slice(w.start * s, (w.stop - 1) * s + d * (k - 1) + 1))
        size = [p.stop - p.start for p in places]
        canvas[(where[0], slice(None), *places)] += plain.synthesis(code, atoms, size)
    if geometry.padding_mode == "zeros":
        inside = [slice(lo, lo + n) for n, (lo, _) in zip(shape[2:], geometry.padding, strict=True)]
        return canvas[(slice(None), slice(None), *inside)]
    # Padding is an analysis with an atom of one sample per channel. Its adjoint adds the borders back to the signal.
    one = (1,) * geometry.dims
    border = replace(geometry, kernel_size=one, stride=one, dilation=one)
    return border.synthesis(canvas, torch.eye(shape[1]).to(atoms).view(shape[1], shape[1], *one), tuple(shape[2:]))


def tile_size(layer: nn.Module, x: Tensor, budget: float) -> tuple[int, ...]:
    """Positions per axis of the largest tiles that the budget allows by :func:`tile_bytes`, of equal sizes.

    Raises:
        ValueError: a single position takes more.
    """
    whole = _sizes(_coded(chain(layer)), x)[-1]

    def cost(side: int) -> int:
        return tile_bytes(layer, x, [min(side, n) for n in whole])

    if cost(max(whole)) <= budget:
        return whole
    if cost(1) > budget:
        raise ValueError(f"budget must be at least {cost(1)} bytes, the work on one position, got {budget:.0f}")
    low, high = 1, max(whole)  # low fits, high does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if cost(middle) <= budget else (low, middle)
    return tuple(-(-n // -(-n // low)) for n in whole)


def tile_bytes(layer: nn.Module, x: Tensor, tile: Sequence[int]) -> int:
    """Bytes that coding a tile of one signal takes at most, its surroundings included.

    Counted are the arrays of a pursuit in evaluation mode: two iterates, two that convolutions rearrange, and the tile
    before, which a caller still holds; and four signals. torch's own kernels, some 100 MB, come once on top.
    """
    layers = _coded(chain(layer))
    sizes = _sizes(layers, x)
    centre = [slice((n - t) // 2, (n - t) // 2 + t) for n, t in zip(sizes[-1], tile, strict=True)]
    bytes_of_stage = []
    for stage, (windows, _, _) in zip(layers, _plan(layers, sizes, centre), strict=True):
        signal = [w.stop - w.start for w in windows]
        numbers = SIGNALS * stage.dictionary.in_channels * math.prod(signal)
        numbers += CODES * stage.dictionary.out_channels * math.prod(stage.dictionary.geometry.code_size(signal))
        bytes_of_stage.append(numbers * stage.dictionary.lipschitz.element_size())
    return max(bytes_of_stage)


def chain(layer: nn.Module) -> list[nn.Module]:
    """The modules that :func:`encode_tiles` runs one after the other.

    Raises:
        ValueError: one that is not in evaluation mode or cannot be cut, or no CSC layer among them.
    """
    modules = _modules(layer)
    if not _coded(modules):
        raise ValueError("encode_tiles: the chain has no CSC layer")
    return modules


def _coded(modules: Iterable[nn.Module]) -> list[ConvCSC]:
    return [m for m in modules if isinstance(m, ConvCSC)]


def _modules(layer: nn.Module) -> list[nn.Module]:
    if isinstance(layer, nn.Sequential | nn.ModuleList):
        return [m for child in layer for m in _modules(child)]
    if not isinstance(layer, (ConvCSC, *POINTWISE)):
        kinds = ", ".join(["CSC1d, CSC2d, CSC3d", *(kind.__name__ for kind in POINTWISE)])
        raise ValueError(f"encode_tiles: layer must be one of {kinds} or a chain of them, got {type(layer).__name__}")
    if layer.training:
        raise ValueError(f"encode_tiles: {type(layer).__name__} must be in evaluation mode: call layer.eval()")
    if isinstance(layer, POINTWISE[:3]) and layer.running_mean is None:
        raise ValueError(
            f"encode_tiles: {type(layer).__name__} must keep running statistics: those of a tile are others"
        )
    if isinstance(layer, ConvCSC):
        if layer.tol is not None:
            raise ValueError(
                f"encode_tiles: tol must be None, where to stop is decided by the whole signal, got {layer.tol}"
            )
        for part, value in (("pursuit", layer.pursuit), ("penalty", layer.penalty)):
            if not value.local:
                raise ValueError(
                    f"encode_tiles: a tile would have another code than the whole, because the {part} looks at all "
                    f"positions together: {value!r}"
                )
    return [layer]


Plan = list[tuple[list[Window], list[slice], tuple[int, ...]]]


def _plan(layers: Sequence[ConvCSC], sizes: Sequence[tuple[int, ...]], wanted: Sequence[slice]) -> Plan:
    """For wanted positions of the last code: the window that each layer reads, the kept positions of its code, and the
    size of its whole signal."""
    plan: Plan = []
    for layer, size in zip(reversed(layers), reversed(sizes[:-1]), strict=True):
        steps = layer.steps or 1
        geometry = layer.dictionary.geometry
        windows = [
            window(geometry, i, n, steps, w.start, w.stop) for i, (n, w) in enumerate(zip(size, wanted, strict=True))
        ]
        plan.insert(0, (windows, list(wanted), size))
        wanted = [slice(w.start, w.stop) for w in windows]
    return plan


@torch.no_grad()
def _code(
    modules: Sequence[nn.Module],
    x: Tensor,
    batch: slice,
    plan: Plan,
    lam: float | Tensor | None,
    mask: Tensor | None,
) -> Tensor:
    """One tile of the code."""
    ranges = [(w.start, w.stop) for w in plan[0][0]]
    code, missing = _cut(x[batch], ranges), None if mask is None else _cut(mask[batch], ranges)
    stages = iter(plan)
    # The fused pass needs channels_last. Only a clone changes the layout: a single channel counts as either one.
    layout = torch.channels_last if x.ndim == 4 else torch.contiguous_format
    for module in modules:
        if isinstance(module, ConvCSC):
            windows, kept, whole = next(stages)
            code = code.clone(memory_format=layout)
            with module.dictionary.bound_as_of(whole):  # a small tile may have another step size
                code = module(code, lam=_weight(lam, module, batch, windows, code), mask=missing)
            missing = None
            for axis, (w, k) in enumerate(zip(windows, kept, strict=True), start=2):
                code = code.narrow(axis, w.skip, k.stop - k.start)
        else:
            code = module(code)
    return code


def _weight(
    lam: float | Tensor | None, layer: ConvCSC, batch: slice, windows: Sequence[Window], x: Tensor
) -> float | Tensor | None:
    """The part of a sparsity weight that belongs to a window."""
    if not isinstance(lam, Tensor) or lam.ndim < x.ndim:
        return lam
    geometry = layer.dictionary.geometry
    first = [w.start // s for w, s in zip(windows, geometry.stride, strict=True)]
    counts = geometry.code_size(x.shape[2:])
    return _cut(lam if len(lam) == 1 else lam[batch], [(i, i + n) for i, n in zip(first, counts, strict=True)])


def _cut(t: Tensor, ranges: Sequence[tuple[int, int]]) -> Tensor:
    """A part of ``(N, C, *S)``, periodic beyond the borders; axes of size 1 stay."""
    for axis, (start, stop) in enumerate(ranges, start=2):
        n = t.shape[axis]
        if start >= 0 and stop <= n:
            t = t.narrow(axis, start, stop - start)
        elif n > 1:
            t = t.index_select(axis, torch.arange(start, stop, device=t.device) % n)
    return t


def _sizes(layers: Sequence[ConvCSC], x: Tensor) -> list[tuple[int, ...]]:
    """Spatial sizes of the signal and of every layer's code."""
    dictionary = layers[0].dictionary
    dims, channels = dictionary.geometry.dims, dictionary.in_channels
    if x.ndim != dims + 2 or x.shape[1] != channels:
        raise ValueError(f"encode_tiles: expected {channels} input channels and {dims} axes, got {tuple(x.shape)}")
    sizes = [tuple(x.shape[2:])]
    for layer in layers:
        sizes.append(layer.dictionary.geometry.code_size(sizes[-1]))
    return sizes


def _expanded(name: str, t: Tensor, shape: tuple[int, ...]) -> Tensor:
    """``t`` in the shape to which it must broadcast. Checked here: a part of a wrong shape may fit a tile."""
    try:
        return t.expand(shape)
    except RuntimeError:
        raise ValueError(f"encode_tiles: {name} must broadcast to {tuple(shape)}, got shape {tuple(t.shape)}") from None


def _per_axis(tile: int | Sequence[int], whole: Sequence[int]) -> tuple[int, ...]:
    shape = tuple(tile) if isinstance(tile, Sequence) else (tile,) * len(whole)
    if len(shape) != len(whole) or any(isinstance(t, bool) or not isinstance(t, int) or t < 1 for t in shape):
        raise ValueError(f"encode_tiles: tile must be an int >= 1 or {len(whole)} of them, got {tile!r}")
    return tuple(min(t, n) for t, n in zip(shape, whole, strict=True))
