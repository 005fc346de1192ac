"""Random numbers of a batch of images, in which no image depends on its neighbours."""

import torch
from torch import Tensor

__all__ = ["Draws"]


class Draws:
    """Random numbers for a batch: each image has a generator of its own.

    Args:
        seed: of the first image; image ``i`` has ``seed + i``.
        count: images N in the batch.
        device: where the numbers are drawn. Another kind of device draws other numbers.

    Every method draws numbers for all images at once, ``(N, *shape)`` of float32.
    """

    def __init__(self, seed: int, count: int, device: torch.device) -> None:
        self.device = device
        self.generators = [torch.Generator(device).manual_seed(seed + index) for index in range(count)]

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers."""
        drawn = torch.empty(len(self.generators), *shape, device=self.device)
        for image, generator in zip(drawn, self.generators, strict=True):
            image.normal_(generator=generator)
        return drawn

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Numbers that are uniform in ``[low, high)``."""
        drawn = torch.empty(len(self.generators), *shape, device=self.device)
        for image, generator in zip(drawn, self.generators, strict=True):
            image.uniform_(low, high, generator=generator)
        return drawn

    def poisson(self, rates: Tensor) -> Tensor:
        """Poisson counts of the rates ``(N, *shape)``."""
        pairs = zip(rates, self.generators, strict=True)
        return torch.stack([torch.poisson(rate, generator=generator) for rate, generator in pairs])
