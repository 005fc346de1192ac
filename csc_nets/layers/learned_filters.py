r"""Filters of any norm as an operator: plain ones, or Gabor functions of six numbers each."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from csc_nets.functional import ConvGeometry, Convolution, largest_eigenpair

__all__ = ["FilterDictionary2d", "GaborFilters"]


class GaborFilters(nn.Module):
    r"""Filters ``(M, C, P, P)``, each the sum of Gabor functions,

    .. math:: \sum_{r} \alpha_r \exp\bigl(-\|a_r \odot p\|^2\bigr) \cos(\omega_r \cdot p + \psi_r)

    where p is the distance from the middle of the filter, in pixels. Janjusevic, Khalilian-Gourtani, Wang, `Gabor is
    Enough: Interpretable Deep Denoising with a Gabor Synthesis Dictionary Prior <https://arxiv.org/abs/2204.11146>`_.

    Args:
        out_channels: number M of filters.
        in_channels: channels C of a filter.
        kernel_size: side P in pixels.
        order: Gabor functions in a filter; each has six parameters.
    """

    def __init__(self, out_channels: int, in_channels: int, kernel_size: int, order: int = 1) -> None:
        super().__init__()
        if isinstance(order, bool) or not isinstance(order, int) or order < 1:
            raise ValueError(f"order must be an int >= 1, got {order!r}")
        shape = (order, out_channels, in_channels)
        self.kernel_size = kernel_size
        self.scale = nn.Parameter(torch.randn(shape))
        self.precision = nn.Parameter(torch.randn(*shape, 2))
        self.frequency = nn.Parameter(torch.randn(*shape, 2))
        self.phase = nn.Parameter(torch.randn(shape))

    def forward(self) -> Tensor:
        along = torch.arange(self.kernel_size, device=self.scale.device, dtype=self.scale.dtype)
        along = along - (self.kernel_size - 1) / 2
        # Both factors are sums over the two axes, so no grid of points is needed.
        decay = (self.precision[..., None] * along).square()
        wave = self.frequency[..., None] * along
        bell = torch.exp(-decay[..., 0, :, None] - decay[..., 1, None, :])
        angle = wave[..., 0, :, None] + wave[..., 1, None, :] + self.phase[..., None, None]
        return (self.scale[..., None, None] * bell * torch.cos(angle)).sum(0)


class FilterDictionary2d(nn.Module):
    r"""A convolutional dictionary whose filters come from a module, with no constraint on their norm.

    Zero padding of half a filter; an image of a multiple of the stride has a code of that part of its size.

    Args:
        filters: returns the filters ``(M, C, P, P)`` when it is called; P is odd unless ``padding`` is given.
        stride: positions between neighbouring shifts of a filter, in pixels.
        padding: None for ``(P - 1) / 2``.
    """

    def __init__(self, filters: nn.Module, stride: int = 1, padding: int | None = None) -> None:
        super().__init__()
        self.filters = filters
        self.out_channels, self.in_channels, kernel_size = self.weight.shape[:3]
        if padding is None and kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}")
        padding = (kernel_size - 1) // 2 if padding is None else padding
        self.geometry = ConvGeometry.create(2, kernel_size, stride, padding)

    @property
    def weight(self) -> Tensor:
        """The filters ``(M, C, P, P)``."""
        return self.filters()  # type: ignore[no-any-return]

    def read(self) -> Convolution:
        """The dictionary with its filters computed once."""
        return Convolution(self.weight, self.geometry)

    def analysis(self, x: Tensor, **options: Any) -> Tensor:
        """Correlations ``(N, M, *S')`` of images ``(N, C, *S)``."""
        return self.read().analysis(x, **options)

    def synthesis(self, z: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """Images ``(N, C, *output_size)`` of codes ``(N, M, *S')``."""
        return self.read().synthesis(z, output_size)

    @torch.no_grad()
    def squared_norm(self) -> Tensor:
        r"""An estimate of :math:`\|D\|^2`, 0-d; see :meth:`csc_nets.functional.ConvGeometry.probe`."""
        weight = self.weight
        geometry, size = self.geometry.probe()
        start = torch.randn(1, self.in_channels, *size, generator=torch.Generator().manual_seed(0))
        probe = lambda u: geometry.synthesis(geometry.analysis(u, weight), weight, size)  # noqa: E731
        return largest_eigenpair(probe, start.to(weight), 32)[1]

    def extra_repr(self) -> str:
        g = self.geometry
        return f"{self.in_channels}, {self.out_channels}, kernel_size={g.kernel_size}, stride={g.stride}"
