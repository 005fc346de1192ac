"""Deconvolutional decoder: synthesis stages from a deep code back to the signal."""

import math
from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor, nn

from csc_nets.functional.inputs import as_batch
from csc_nets.layers.dictionary import ConvDictionary, Dictionary1d, Dictionary2d, Dictionary3d
from csc_nets.layers.leaf import leaf

__all__ = ["DeconvDecoder"]

_DICTIONARY: dict[int, type[ConvDictionary]] = {1: Dictionary1d, 2: Dictionary2d, 3: Dictionary3d}
_NORM: dict[int, type[nn.Module]] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class DeconvDecoder(nn.Module):
    r"""Stages of synthesis with their own unit-norm dictionaries, from the deepest code to the signal.

    .. math:: \hat u_{l-1} = D_l \, \mathrm{BN}(\hat u_l), \qquad l = L, \dots, 1

    Codes of the inner stages are non-negative, so a ReLU stands between two stages; the signal is not constrained.

    Args:
        channels: channels from the deepest code to the signal, such as ``[256, 128, 64, 3]``.
        kernel_size, stride, padding: one value for all stages, or one per stage in the order of ``channels``.
        norm: batch normalisation before each synthesis.
        dims: spatial axes, 1 to 3.

    Shape:
        ``(N, channels[0], *S')`` to ``(N, channels[-1], *output_size)``, both with or without N.
    """

    def __init__(
        self,
        channels: Sequence[int],
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        *,
        norm: bool = True,
        dims: int = 2,
    ) -> None:
        super().__init__()
        if dims not in _DICTIONARY:
            raise ValueError(f"DeconvDecoder: dims must be 1, 2 or 3, got {dims!r}")
        stages = len(channels) - 1
        if stages < 1:
            raise ValueError(f"DeconvDecoder: channels must name at least a code and a signal, got {list(channels)}")
        settings = {}
        for name, value in (("kernel_size", kernel_size), ("stride", stride), ("padding", padding)):
            settings[name] = list(value) if isinstance(value, Sequence) else [value] * stages
            if len(settings[name]) != stages:
                raise ValueError(f"DeconvDecoder: {name} must be one int or {stages} of them, got {value}")
        self.dictionaries = nn.ModuleList(
            _DICTIONARY[dims](out, code, k, s, p)
            for code, out, k, s, p in zip(channels[:-1], channels[1:], *settings.values(), strict=True)
        )
        self.norms = nn.ModuleList(_NORM[dims](c) if norm else nn.Identity() for c in channels[:-1])
        self.reset_gains()

    def reset_parameters(self) -> None:
        """Draws fresh atoms, and starts the batch norms afresh."""
        for module in (*self.dictionaries, *self.norms):
            if not isinstance(module, nn.Identity):
                cast(Any, module).reset_parameters()
        self.reset_gains()

    def reset_gains(self) -> None:
        """Starts each batch norm at the gain with which synthesis keeps the variance of its code.

        With unit atoms the mean eigenvalue of ``D D^T`` is ``M / (C stride^dims)``. With a gain of 1, the first
        reconstruction has many times the variance of the signal, and training begins by shrinking it.
        """
        for dictionary, norm in zip(self.dictionaries, self.norms, strict=True):
            if isinstance(norm, nn.Identity):
                continue
            dictionary = cast(ConvDictionary, dictionary)
            gain = math.sqrt(dictionary.in_channels * math.prod(dictionary.geometry.stride) / dictionary.out_channels)
            nn.init.constant_(norm.get_parameter("weight"), gain)

    @leaf
    def forward(self, z: Tensor, output_size: Sequence[int] | None = None, start: int = 0) -> Tensor:
        """Decodes a code.

        Args:
            z: code of stage ``start``, ``(N, channels[start], *S')``.
            output_size: spatial size of the signal; None as in
                :meth:`~csc_nets.functional.ConvGeometry.signal_size`, stage by stage.
            start: first stage to run, for codes that are not the deepest.

        Raises:
            ValueError: the code does not belong to a signal of ``output_size``, or is of another type or device than
                the dictionaries.
        """
        if isinstance(start, bool) or not isinstance(start, int) or not 0 <= start < len(self.dictionaries):
            raise ValueError(f"DeconvDecoder: start must name one of {len(self.dictionaries)} stages, got {start!r}")
        dictionaries = cast("list[ConvDictionary]", list(self.dictionaries)[start:])
        first, like = dictionaries[0], next(dictionaries[0].parameters())
        dims = first.geometry.dims
        z, single = as_batch("DeconvDecoder", z, first.out_channels, dims, like, "z", "code channels")
        if output_size is not None and len(output_size) != dims:
            raise ValueError(f"DeconvDecoder: output_size must be {dims} sizes, got {tuple(output_size)}")
        sizes: list[Sequence[int] | None] = [output_size]
        for dictionary in reversed(dictionaries[1:]):
            inner = sizes[0]
            sizes.insert(0, None if inner is None else dictionary.geometry.code_size(inner))
        for i, (dictionary, norm, size) in enumerate(zip(dictionaries, list(self.norms)[start:], sizes, strict=True)):
            z = dictionary.synthesis(norm(z if i == 0 else z.relu()), size)
        return z[0] if single else z
