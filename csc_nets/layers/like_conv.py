"""The attributes of ``nn.Conv``, for layers that read like it."""

from typing import Any

from csc_nets.functional import ConvGeometry

__all__ = ["LikeConv"]


class LikeConv:
    """``kernel_size``, ``stride``, ``padding``, ``dilation`` and ``padding_mode`` of a geometry, as in ``nn.Conv``."""

    geometry: Any

    @property
    def kernel_size(self) -> tuple[int, ...]:
        """Size of an atom per axis."""
        return self._sizes.kernel_size

    @property
    def stride(self) -> tuple[int, ...]:
        """Stride per axis."""
        return self._sizes.stride

    @property
    def padding(self) -> tuple[int, ...] | str:
        """Padding per axis; ``"same"`` where the two ends of an axis differ."""
        pads = self._sizes.padding
        return tuple(lo for lo, _ in pads) if all(lo == hi for lo, hi in pads) else "same"

    @property
    def dilation(self) -> tuple[int, ...]:
        """Dilation per axis."""
        return self._sizes.dilation

    @property
    def padding_mode(self) -> str:
        """``"zeros"``, ``"circular"`` or ``"reflect"``."""
        return self._sizes.padding_mode

    @property
    def _sizes(self) -> ConvGeometry:
        geometry: ConvGeometry = self.geometry
        return geometry
