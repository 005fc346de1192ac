r"""The effective dictionary of several layers: the product :math:`D_1 D_2 \cdots D_K` as one operator."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor

__all__ = ["Cascade"]


class Cascade:
    r"""The product of dictionaries, ordered from the signal to the deepest code.

    .. math:: D^{(K)} z = D_1 (D_2 (\cdots D_K z)), \qquad {D^{(K)}}^T x = D_K^T (\cdots D_2^T (D_1^T x))

    In the multi-layer model :math:`x = D_1 \Gamma_1,\ \Gamma_{i-1} = D_i \Gamma_i` (Papyan, Romano, Elad 2017) it maps
    the deepest code to the signal. Every pursuit takes it as a dictionary.

    Args:
        dictionaries: dictionary layers, from the signal to the deepest code.

    Raises:
        ValueError: there is none, or two neighbours do not fit.
    """

    def __init__(self, dictionaries: Sequence[Any]) -> None:
        if not dictionaries:
            raise ValueError("dictionaries must be at least one, got none")
        for i, (below, above) in enumerate(pairwise(dictionaries)):
            if below.out_channels != above.in_channels:
                raise ValueError(
                    f"dictionaries[{i + 1}] must take the {below.out_channels} atoms of the one before as channels, "
                    f"got {above.in_channels}"
                )
        self.dictionaries = list(dictionaries)

    def sizes(self, signal_size: Sequence[int]) -> list[tuple[int, ...]]:
        """Spatial sizes of the K codes of a signal of spatial size ``signal_size``; empty ones for vectors."""
        sizes, size = [], tuple(signal_size)
        for dictionary in self.dictionaries:
            size = dictionary.geometry.code_size(size) if size else ()
            sizes.append(size)
        return sizes

    def analysis(self, x: Tensor) -> Tensor:
        """Signal ``(N, C, *S)`` to correlations ``(N, M_K, *S_K)`` with the effective atoms."""
        for dictionary in self.dictionaries:
            x = dictionary.analysis(x)
        return x

    def synthesis(self, z: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """Deepest code ``(N, M_K, *S_K)`` to signal ``(N, C, *output_size)``."""
        return self.codes(z, output_size)[0]

    def codes(self, z: Tensor, output_size: Sequence[int] | None = None) -> list[Tensor]:
        """The signal and the codes of layers 1 to K that a deepest code implies.

        Args:
            z: deepest code ``(N, M_K, *S_K)``.
            output_size: spatial size of the signal; None takes each dictionary's usual one.

        Returns:
            ``[D_1 ... D_K z, D_2 ... D_K z, ..., D_K z, z]``.
        """
        depth = len(self.dictionaries)
        known = [None] * depth if output_size is None else [tuple(output_size), *self.sizes(output_size)[:-1]]
        found = [z]
        for dictionary, size in zip(self.dictionaries[::-1], known[::-1], strict=True):
            found.append(dictionary.synthesis(found[-1], size))
        return found[::-1]
