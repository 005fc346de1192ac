"""The non-zeros of a code, for codes that are too large for memory or for a file."""

import math
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor

__all__ = ["SparseCode"]

# Entries of a tile whose positions fit int32.
INT32 = 2**31

Where = tuple[slice, ...]


class SparseCode:
    """A code ``(N, M, *S')`` as the positions and values of its non-zeros, tile by tile.

    A non-zero takes 8 bytes in float32 (one int32 for its position in the tile); torch's COO format takes 36. At 5 %
    density the code takes a tenth of the memory of the dense one.

    Args:
        tiles: ``(where, index, value)`` each: the part of the code, positions int32 ``(n,)`` in it (int64 in a tile of
            more than 2^31 entries) and values ``(n,)``. Positions count atoms fastest, then the last axis, samples
            slowest.

    Example:
        >>> import torch
        >>> z = torch.relu(torch.randn(2, 8, 30, 30) - 2)
        >>> code = SparseCode.of(z)
        >>> code.shape, bool((code.dense() == z).all()), code.nbytes < z.nbytes / 10
        ((2, 8, 30, 30), True, True)
    """

    def __init__(self, tiles: Iterable[tuple[Where, Tensor, Tensor]]) -> None:
        self.parts = list(tiles)
        if not self.parts:
            raise ValueError("SparseCode: expected at least one tile")

    @classmethod
    def of(cls, code: Tensor | Iterable[tuple[Where, Tensor]]) -> "SparseCode":
        """The non-zeros of a dense code, or of a code that comes in tiles; one tile is in memory at a time."""
        if isinstance(code, Tensor):
            code = [(tuple(slice(0, n) for n in code.shape), code)]
        return cls((_explicit(where, tile.shape), *_nonzeros(tile)) for where, tile in code)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the dense code."""
        return tuple(max(w.stop for w in axis) for axis in zip(*(where for where, _, _ in self.parts), strict=True))

    @property
    def nbytes(self) -> int:
        """Bytes of positions and values."""
        return sum(index.nbytes + value.nbytes for _, index, value in self.parts)

    @property
    def density(self) -> float:
        """Share of non-zeros."""
        return sum(len(index) for _, index, _ in self.parts) / max(1, math.prod(self.shape))

    def __iter__(self) -> Iterator[tuple[Where, Tensor]]:
        """The dense tiles one after the other, as ``encode_tiles`` gives them."""
        for where, index, value in self.parts:
            samples, atoms, *positions = (w.stop - w.start for w in where)
            flat = value.new_zeros(samples * atoms * math.prod(positions))
            flat[index.long()] = value
            yield where, flat.view(samples, *positions, atoms).movedim(-1, 1)

    def dense(self) -> Tensor:
        """The dense code."""
        code = self.parts[0][2].new_zeros(self.shape)
        for where, tile in self:
            code[where] = tile
        return code

    def state_dict(self) -> dict[str, Any]:
        """Plain lists and tensors, which ``torch.load(..., weights_only=True)`` reads back."""
        return {
            "where": [[(w.start, w.stop) for w in where] for where, _, _ in self.parts],
            "index": [index for _, index, _ in self.parts],
            "value": [value for _, _, value in self.parts],
        }

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> "SparseCode":
        """The code of a :meth:`state_dict`.

        Raises:
            ValueError: the lists do not belong together.
        """
        try:
            parts = zip(state["where"], state["index"], state["value"], strict=True)
            code = cls((tuple(slice(*ends) for ends in where), index, value) for where, index, value in parts)
            for where, index, value in code.parts:
                size = math.prod(w.stop - w.start for w in where)
                if index.shape != value.shape or (len(index) and not 0 <= int(index.min()) <= int(index.max()) < size):
                    raise ValueError(
                        f"SparseCode: expected one position below {size} for each value of the tile {where}, got "
                        f"positions of shape {tuple(index.shape)} and values of shape {tuple(value.shape)}"
                    )
            return code
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"SparseCode: expected a dict of where, index and value, got {type(state).__name__}"
            ) from error

    def __repr__(self) -> str:
        return f"SparseCode(shape={self.shape}, density={self.density:.3g}, tiles={len(self.parts)})"


def _nonzeros(tile: Tensor) -> tuple[Tensor, Tensor]:
    flat = tile.detach().movedim(1, -1).flatten()
    index = flat.nonzero().flatten()
    return index.int() if len(flat) <= INT32 else index, flat.index_select(0, index)


def _explicit(where: Where, shape: Iterable[int]) -> Where:
    """Slices with both ends."""
    return tuple(slice(w.start or 0, (w.start or 0) + n) for w, n in zip(where, shape, strict=True))
