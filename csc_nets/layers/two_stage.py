"""A dictionary in two stages: atoms of pixels, and atoms that are combinations of these."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from csc_nets.layers.dictionary import Dictionary2d
from csc_nets.layers.multi_scale import MultiScaleDictionary2d

__all__ = ["TwoStageDictionary2d"]


class TwoStageDictionary2d(MultiScaleDictionary2d):
    r"""Atoms of several sizes, and above the first size a second stage, whose atoms lie in its code:

    .. math:: D z = \sum_i D_i z_i + D_1 P D_{\mathrm{above}} z_{\mathrm{above}}

    with P the first ``below`` atoms of the first size. The code of the first stage is
    :math:`\Gamma_1 = z_1 + P D_{\mathrm{above}} z_{\mathrm{above}}`, so the signal is synthesised by the product of two
    dictionaries as in the multi-layer model (Papyan, Romano, Elad 2017), and what the second stage cannot say is left
    to entries of the first. Blocks of 8 pixels whose means are said by a second stage are a pyramid.

    Args:
        in_channels, out_channels, kernel_size, stride: as for :class:`MultiScaleDictionary2d`; the first size does not
            overlap.
        above: number of atoms of the second stage.
        below: atoms of the first size that they are combinations of, the first ones.
        reach: side of an atom of the second stage, in blocks of the first size; they do not overlap.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: Sequence[int],
        kernel_size: Sequence[int],
        stride: Sequence[int],
        *,
        above: int,
        below: int,
        reach: int,
    ) -> None:
        if not out_channels or not 1 <= below <= out_channels[0] or kernel_size[0] != stride[0]:
            raise ValueError(
                f"TwoStageDictionary2d: below must be some of the atoms of the first size {list(out_channels)[:1]}, "
                f"whose stride is its kernel size, got below={below}"
            )
        wide = kernel_size[0] * reach
        super().__init__(
            in_channels, [*out_channels, above], [*kernel_size, wide], [*stride, wide]
        )  # sizes of all; the last scale is put in place of one of pixels
        self.scales[-1] = Dictionary2d(below, above, reach, reach)
        self.below = below

    def parts(self, scales: Sequence[Any]) -> list[Any]:
        """The last operator reads the code of the first."""
        return [*scales[:-1], Product(scales[0], scales[-1], self.below, self.scales[0].out_channels)]  # type: ignore[arg-type]

    def pixel_atoms(self) -> list[Tensor]:
        """Atoms of all sizes; those of the second stage are effective atoms, of the product."""
        last = self.parts(list(self.scales))[-1]
        wide = [k * n for k, n in zip(last.first.weight.shape[2:], last.second.weight.shape[2:], strict=True)]
        alone = torch.eye(last.second.out_channels, device=last.second.weight.device, dtype=last.second.weight.dtype)
        return [*super().pixel_atoms()[:-1], last.synthesis(alone[:, :, None, None], wide)]


class Product:
    """The operator :math:`D_1 P D_2`.

    Args:
        first: D_1.
        second: D_2.
        below: channels of D_2.
        atoms: atoms of D_1, at least as many.
    """

    def __init__(self, first: Any, second: Any, below: int, atoms: int) -> None:
        self.first, self.second, self.below, self.atoms = first, second, below, atoms

    def analysis(self, x: Tensor, *, exact: bool = True) -> Tensor:
        """Correlations with the effective atoms."""
        return self.second.analysis(self.first.analysis(x, exact=exact)[:, : self.below].contiguous(), exact=exact)  # type: ignore[no-any-return]

    def synthesis(self, z: Tensor, output_size: Sequence[int]) -> Tensor:
        """Signals of spatial size ``output_size``."""
        code = self.second.synthesis(z)
        code = nn.functional.pad(code, (0, 0, 0, 0, 0, self.atoms - self.below))
        return self.first.synthesis(code, output_size)  # type: ignore[no-any-return]

    def bound(self, signal_size: Sequence[int]) -> Tensor:
        """The product of both bounds."""
        blocks = tuple(n // k for n, k in zip(signal_size, self.first.weight.shape[2:], strict=True))
        return self.first.bound(signal_size) * self.second.bound(blocks)  # type: ignore[no-any-return]
