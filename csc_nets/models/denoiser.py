"""What all denoisers have in common: a noise level beside the image, missing pixels, images of any size in tiles."""

import math
from collections.abc import Callable
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from csc_nets.functional import estimate_noise_level
from csc_nets.functional.checks import is_number
from csc_nets.functional.inputs import broadcasts, check_mask
from csc_nets.functional.problem import as_weight, observed
from csc_nets.models.least_side import naming_least_side
from csc_nets.models.staged_encoder import StagedEncoder

__all__ = ["Centre", "Denoiser"]


class Centre(nn.Module):
    """Images less their mean over channels and observed pixels."""

    def forward(self, x: Tensor) -> Tensor:
        return x - self.mean(x)

    def mean(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Means ``(N, 1, 1, 1)``; missing pixels hold 0."""
        if mask is None:
            return x.mean((1, 2, 3), keepdim=True)
        return x.sum((1, 2, 3), keepdim=True) / mask.sum((1, 2, 3), keepdim=True).clamp_min(1)


class Denoiser(StagedEncoder):
    """A network from noisy images and their noise level to clean images.

    The call is that of deepinv's denoisers, ``model(x, sigma)``. A subclass gives ``restore``, and ``prepare`` where it
    does more than to fill missing pixels.

    Attributes:
        reach: how far away a pixel may be that an output pixel depends on, in pixels.
        align: tiles begin at multiples of it.

    Shape:
        images ``(N, in_chans, H, W)`` with white at 1, to the same.
    """

    reach: int = 0
    align: int = 1

    def forward(self, x: Tensor, sigma: float | Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Clean images.

        Args:
            x: noisy images ``(N, in_chans, H, W)``.
            sigma: standard deviation of the noise in the units of ``x``, for all images or one each ``(N,)``. None
                estimates it from each image, see :func:`csc_nets.functional.estimate_noise_level`.
            mask: 0 or NaN where ``x`` is missing; broadcasts against ``x``, which may be NaN there.

        Raises:
            ValueError: images of another shape or type, a noise level that is negative or not finite, a mask that does
                not broadcast.
        """
        self.check(x)
        if torch.compiler.is_compiling():
            return self._restored(x, sigma, mask)
        level = 0.1 if isinstance(sigma, Tensor) else sigma
        with naming_least_side(self, x, lambda images: self._restored(images, level, None), self.input_size):
            return self._restored(x, sigma, mask)

    def _restored(self, x: Tensor, sigma: float | Tensor | None, mask: Tensor | None) -> Tensor:
        x, level, mask, finish = self.prepare(x, sigma, mask)
        return finish(self.restore(x, level, mask))

    def restore(self, x: Tensor, level: Any, mask: Tensor | None) -> Tensor:
        """Clean images of what :meth:`prepare` made, or of a part of it."""
        raise NotImplementedError

    def prepare(
        self, x: Tensor, sigma: float | Tensor | None, mask: Tensor | None
    ) -> tuple[Tensor, float | Tensor, Tensor | None, Callable[[Tensor], Tensor]]:
        """What depends on whole images: ``(x, level, mask, finish)``, with the last for clean images."""
        self.check(x)
        if mask is not None:
            mask = observed(check_mask(self._label, mask, x)).expand_as(x)
            x = x.masked_fill(~mask, 0)
        return x, self.level(x, sigma, mask), mask, lambda clean: clean

    def level(self, x: Tensor, sigma: float | Tensor | None, mask: Tensor | None = None) -> float | Tensor:
        """The noise level, a number or ``(N, 1, 1, 1)``."""
        if sigma is None:
            return estimate_noise_level(x, mask).view(-1, 1, 1, 1)
        if not isinstance(sigma, Tensor):
            number = is_number(sigma) or (isinstance(sigma, Real) and not isinstance(sigma, bool))
            if not number or not 0 <= sigma < math.inf:
                raise ValueError(f"{self._label}: sigma must be a finite number >= 0, got {sigma!r}")
            return float(sigma)
        if sigma.is_complex() or sigma.dtype == torch.bool:
            raise ValueError(f"{self._label}: sigma must be real numbers, got {sigma.dtype}")
        one_each = broadcasts(sigma.shape[:1], x.shape[:1]) and sigma.numel() == max(sigma.shape[:1], default=1)
        if sigma.ndim > 4 or not one_each:
            raise ValueError(
                f"{self._label}: sigma must be a number or one for each of {len(x)} images, got {tuple(sigma.shape)}"
            )
        level = sigma.to(x.device, torch.promote_types(x.dtype, torch.float32)).reshape(-1, 1, 1, 1)
        return as_weight(level, 4, f"{self._label}: sigma")

    def check(self, x: Tensor) -> None:
        """Refuses what is no batch of images with the right number of channels."""
        if not isinstance(x, Tensor) or not x.is_floating_point():
            seen = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"{self._label}: images must be a tensor of floats with white at 1, got {seen}")
        if x.ndim != 4 or x.shape[1] != self.in_chans:
            raise ValueError(f"{self._label}: expected images (N, {self.in_chans}, H, W), got {tuple(x.shape)}")

    @property
    def _label(self) -> str:
        return self.model_name or type(self).__name__

    @torch.no_grad()
    def tiled(
        self, x: Tensor, sigma: float | Tensor | None = None, mask: Tensor | None = None, *, tile: int = 256
    ) -> Tensor:
        """Clean images, one tile at a time: the same as ``model(x, sigma, mask)`` from the memory of one tile.

        Each tile is restored with a border of :attr:`reach` pixels, so what it takes is that of an image of
        ``tile + 2 reach`` pixels a side.

        Args:
            x, sigma, mask: as for :meth:`forward`; the network must be in eval mode.
            tile: side of a tile in pixels, without its border.

        Raises:
            ValueError: ``tile`` is no whole number above 0.
        """
        if isinstance(tile, bool) or not isinstance(tile, int) or tile < 1:
            raise ValueError(f"{self._label}: tile must be an int >= 1, got {tile!r}")
        x, level, mask, finish = self.prepare(x, sigma, mask)
        tile = -(-tile // self.align) * self.align
        border = -(-self.reach // self.align) * self.align
        clean = torch.empty_like(x)
        height, width = x.shape[2:]
        for top in range(0, height, tile):
            for left in range(0, width, tile):
                first, start = max(top - border, 0), max(left - border, 0)
                window = (..., slice(first, top + tile + border), slice(start, left + tile + border))
                part = self.restore(x[window], level, None if mask is None else mask[window])
                inner = part[..., top - first :, left - start :][..., :tile, :tile]
                clean[..., top : top + tile, left : left + tile] = inner
        return finish(clean)

    def project(self) -> None:
        """Brings parameters back to where they are allowed to be; to be called after each step of an optimiser."""
