"""A dictionary of atoms of several sizes, each on a grid of its own."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from csc_nets.layers.dictionary import Dictionary2d

__all__ = ["MultiScaleDictionary2d"]


class MultiScaleDictionary2d(nn.Module):
    r"""Several convolutional dictionaries side by side, :math:`D z = \sum_i D_i z_i`.

    Small atoms say where an edge is, large ones say much of a smooth area by one number; a sparse code takes whatever
    is shorter. The code of every scale is folded onto the grid of the largest stride, so that all codes are one tensor:
    ``(N, M, H / s, W / s)`` with :math:`M = \sum_i M_i (s / s_i)^2`.

    Args:
        in_channels: channels C of the signal.
        out_channels: atoms M_i of each scale.
        kernel_size: side k_i of the atoms of each scale.
        stride: s_i of each scale; the largest is a multiple of every other one. Signals get ``(k_i - s_i) // 2`` zeros
            around them.

    Shape:
        - analysis: ``(N, C, H, W)``, any size, to ``(N, M, ceil(H / s), ceil(W / s))``
        - synthesis: back, to ``output_size``; the adjoint. What lies over the border is cut off.

    Attributes:
        disjoint: atoms of different positions of the code do not overlap, so each position is a problem of its own.

    Raises:
        ValueError: lists of different lengths, or strides that do not fit.
    """

    def __init__(
        self, in_channels: int, out_channels: Sequence[int], kernel_size: Sequence[int], stride: Sequence[int]
    ) -> None:
        super().__init__()
        if not len(out_channels) == len(kernel_size) == len(stride) or not stride:
            raise ValueError(
                "MultiScaleDictionary2d: out_channels, kernel_size and stride must be as many, "
                f"got {list(out_channels)}, {list(kernel_size)}, {list(stride)}"
            )
        self.stride, self.in_channels = max(stride), in_channels
        for k, s in zip(kernel_size, stride, strict=True):
            if s < 1 or self.stride % s or k < s or (k - s) % 2:
                raise ValueError(
                    f"MultiScaleDictionary2d: each stride must divide the largest, {self.stride}, and be the kernel "
                    f"size less an even number, got kernel_size={k}, stride={s}"
                )
        self.scales = nn.ModuleList(
            Dictionary2d(in_channels, m, k, s, (k - s) // 2)
            for m, k, s in zip(out_channels, kernel_size, stride, strict=True)
        )
        self.folds = [self.stride // s for s in stride]
        self.extents = list(kernel_size)
        self.widths = [m * fold**2 for m, fold in zip(out_channels, self.folds, strict=True)]
        self.out_channels = sum(self.widths)
        self.disjoint = all(k == s for k, s in zip(kernel_size, stride, strict=True))

    def read(self) -> Any:
        """The dictionary with its atoms read once, as an operator."""
        return MultiScale(self.parts([scale.read() for scale in self.scales]), self)  # type: ignore[operator]

    def track(self) -> Any:
        """:meth:`read` for a forward pass: in training the bound follows the atoms by one step."""
        return MultiScale(self.parts([scale.track() for scale in self.scales]), self)  # type: ignore[operator]

    def parts(self, scales: Sequence[Any]) -> list[Any]:
        """The operators of all scales; a subclass composes some."""
        return list(scales)

    def analysis(self, x: Tensor) -> Tensor:
        """Correlations ``(N, M, H', W')`` of signals with all atoms."""
        return MultiScale(self.parts(list(self.scales)), self).analysis(x)

    def synthesis(self, z: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """Signal ``(N, C, *output_size)``; None takes the size of the code times the stride."""
        return MultiScale(self.parts(list(self.scales)), self).synthesis(z, output_size)

    def bound(self, signal_size: Sequence[int]) -> Tensor:
        """The sum of the bounds of all scales, 0-d."""
        return MultiScale(self.parts(list(self.scales)), self).bound(signal_size)

    def codes(self, z: Tensor) -> list[Tensor]:
        """The code of each scale on its own grid, ``(N, M_i, H / s_i, W / s_i)``."""
        parts = z.split(self.widths, 1)
        return [F.pixel_shuffle(part, fold) for part, fold in zip(parts, self.folds, strict=True)]

    def pixel_atoms(self) -> list[Tensor]:
        """What one number of each scale looks like in the signal, ``(M_i, C, *K_i)`` each."""
        return [scale.weight for scale in self.scales]  # type: ignore[misc]

    def reset_parameters(self) -> None:
        """Draws fresh atoms."""
        for scale in self.scales:
            scale.reset_parameters()  # type: ignore[operator]

    def refresh(self) -> None:
        """Computes all bounds from scratch, after atoms were set by hand."""
        for scale in self.scales:
            scale.refresh()  # type: ignore[operator]

    def extra_repr(self) -> str:
        sizes = [f"{s.out_channels} of {s.geometry.kernel_size[0]}" for s in self.scales]  # type: ignore[union-attr, index]
        return f"{self.in_channels}, {' + '.join(sizes)}, stride={self.stride}"


class MultiScale:
    """The operator of a :class:`MultiScaleDictionary2d` whose atoms were read.

    Args:
        parts: an operator for each scale.
        layout: the dictionary, which knows how codes are folded.

    Attributes:
        blocks: the operators of single scales, whose codes lie on their own grids, for
            :class:`~csc_nets.functional.BlockCoordinate`. Large atoms come first: they say smooth areas by few numbers
            before small ones look.
    """

    def __init__(self, parts: list[Any], layout: MultiScaleDictionary2d) -> None:
        self.layout, self.disjoint = layout, layout.disjoint
        self._order = sorted(range(len(parts)), key=lambda i: -layout.extents[i])
        self.blocks = [_Scale(parts[i], layout.stride) for i in self._order]

    def split(self, z: Tensor) -> list[Tensor]:
        """The codes of :attr:`blocks`."""
        codes = self.layout.codes(z)
        return [codes[i] for i in self._order]

    def join(self, codes: Sequence[Tensor]) -> Tensor:
        """One tensor ``(N, M, H', W')`` of the codes of :attr:`blocks`."""
        found = dict(zip(self._order, codes, strict=True))
        return torch.cat([F.pixel_unshuffle(found[i], fold) for i, fold in enumerate(self.layout.folds)], 1)

    def analysis(self, x: Tensor) -> Tensor:
        """Correlations of signals, which are continued by zeros to whole steps of the largest stride."""
        return self.join([block.analysis(x) for block in self.blocks])

    def synthesis(self, z: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """Sum of the signals of all scales."""
        size = [n * self.layout.stride for n in z.shape[2:]] if output_size is None else output_size
        return sum(block.synthesis(code, size) for block, code in zip(self.blocks, self.split(z), strict=True))  # type: ignore[return-value]

    def bound(self, signal_size: Sequence[int]) -> Tensor:
        """Triangle inequality: the squared norm of ``[D_1 D_2 ...]`` is at most the sum of the squared norms."""
        return torch.stack([block.bound(signal_size) for block in self.blocks]).sum()


class _Scale:
    """One scale, for signals of any size: they are continued by zeros to whole steps of the largest stride."""

    def __init__(self, operator: Any, stride: int) -> None:
        self.operator, self.stride = operator, stride

    def analysis(self, x: Tensor) -> Tensor:
        height, width = (-n % self.stride for n in x.shape[2:])
        x = F.pad(x, (0, width, 0, height)) if height or width else x
        return self.operator.analysis(x, exact=False)  # type: ignore[no-any-return]

    def synthesis(self, z: Tensor, output_size: Sequence[int]) -> Tensor:
        height, width = output_size
        return self.operator.synthesis(z, self._whole(output_size))[..., :height, :width]  # type: ignore[no-any-return]

    def bound(self, signal_size: Sequence[int]) -> Tensor:
        return self.operator.bound(self._whole(signal_size))  # type: ignore[no-any-return]

    def _whole(self, size: Sequence[int]) -> tuple[int, ...]:
        return tuple(n + -n % self.stride for n in size)
