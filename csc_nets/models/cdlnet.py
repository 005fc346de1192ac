"""CDLNet and GDLNet: unrolled sparse coding whose thresholds follow the noise level."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from csc_nets.functional import NoiseAdaptiveLISTA, estimate_noise_level
from csc_nets.functional.pursuits.noise_adaptive import PlainFilters
from csc_nets.layers import CSC
from csc_nets.layers.leaf import leaf
from csc_nets.layers.learned_filters import FilterDictionary2d, GaborFilters
from csc_nets.models.checkpointing import checkpoint_stage
from csc_nets.models.denoiser import Centre, Denoiser
from csc_nets.models.registry import register_model

__all__ = ["CDLNet", "GDLNet"]


class PaddedCoder(nn.Module):
    """Codes of images, which are reflected at their borders up to a multiple of the stride.

    Args:
        coder: the coding layer.
        stride: of its dictionary.
    """

    def __init__(self, coder: CSC, stride: int) -> None:
        super().__init__()
        self.coder, self.stride = coder, stride

    @leaf
    def forward(self, x: Tensor, level: float | Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        if level is None:
            level = estimate_noise_level(x, mask).view(-1, 1, 1, 1)
        if isinstance(level, Tensor):
            level = level.to(self.coder.lam)  # levels are estimated in single precision at least
        return self.coder(self.pad(x), lam=level, mask=None if mask is None else self.pad(mask))  # type: ignore[no-any-return]

    def pad(self, x: Tensor) -> Tensor:
        """Images of a multiple of the stride; masks too."""
        if self.stride == 1:
            return x
        borders = self.borders(x.shape[2:])  # of 0, too: to ask would tie a graph to the sizes that need none
        if x.dtype == torch.bool:
            return F.pad(x.float(), borders, mode="reflect") != 0
        return F.pad(x, borders, mode="reflect")

    def crop(self, x: Tensor, size: tuple[int, ...]) -> Tensor:
        """Images of the size that they had. A slice would tie a graph to the sizes that need none."""
        return F.pad(x, [-n for n in self.borders(size)])

    def borders(self, size: tuple[int, ...]) -> list[int]:
        """Left, right, top and bottom."""
        missing = [-n % self.stride for n in reversed(size)]
        return [n for total in missing for n in (total // 2, total - total // 2)]


class CDLNet(Denoiser):
    r"""Convolutional dictionary learning network: learned ISTA with thresholds that follow the noise level.

    .. math:: z_k = S_{t_k}\bigl(z_{k-1} - A_k (m \odot B_k z_{k-1} - y)\bigr), \qquad
              t_k = \tau^0_k + \tau^1_k \sigma, \qquad \hat x = D z_T

    where y is the image less its mean, m the mask of observed pixels, and S the soft threshold. All filters are untied
    over the steps. Janjusevic, Khalilian-Gourtani, Wang, `CDLNet: Noise-Adaptive Convolutional Dictionary Learning
    Network for Blind Denoising and Demosaicing <https://arxiv.org/abs/2112.00913>`_. It has
    :math:`2 T M (C P^2 + 1)` parameters.

    Stage 0 takes the mean away; stage 1 is the code.

    Args:
        in_chans: channels C of the image.
        steps: T.
        atoms: M.
        kernel_size: side P of a filter in pixels, odd.
        stride: pixels between neighbouring shifts of a filter.
        gradient: of the coding layer, see :class:`~csc_nets.layers.CodingOptions`; ``"recompute"`` takes less memory.

    Shape:
        - input ``(N, in_chans, H, W)`` with white at 1, any size
        - output: the same as the input
    """

    def __init__(
        self,
        in_chans: int = 1,
        *,
        steps: int = 20,
        atoms: int = 32,
        kernel_size: int = 7,
        stride: int = 1,
        gradient: str | None = None,
    ) -> None:
        filters = self._filters(atoms, in_chans, kernel_size)
        dictionary = FilterDictionary2d(filters, stride)
        if not filters_are_meta(filters):
            self._scale(filters, dictionary.squared_norm().rsqrt())
        coder = CSC(dictionary, pursuit=NoiseAdaptiveLISTA(steps), nonneg=False, gradient=gradient)
        nn.init.zeros_(coder.pursuit.slopes)
        super().__init__(
            [Centre(), PaddedCoder(coder, stride)], [in_chans, atoms], [1, stride], in_chans=in_chans, input_size=128
        )
        self.reach, self.align = steps * (kernel_size - 1), stride

    def _filters(self, atoms: int, in_chans: int, kernel_size: int) -> nn.Module:
        # In this memory order torch trains a third faster on CPUs, whatever the order of the images is.
        weight = torch.randn(atoms, in_chans, kernel_size, kernel_size)
        return PlainFilters(weight.to(memory_format=torch.channels_last))

    @torch.no_grad()
    def _scale(self, filters: Any, factor: Tensor) -> None:
        filters.weight.mul_(factor)

    @property
    def coder(self) -> CSC:
        """The layer that computes the code; its dictionary is D, its pursuit holds the other filters."""
        return self.stages[1].coder  # type: ignore[return-value]

    def prepare(
        self, x: Tensor, sigma: float | Tensor | None, mask: Tensor | None
    ) -> tuple[Tensor, float | Tensor, Tensor | None, Callable[[Tensor], Tensor]]:
        """Takes the mean away and pads to a multiple of the stride."""
        x, level, mask, _ = super().prepare(x, sigma, mask)
        centre: Any = self.stages[0]
        padded: Any = self.stages[1]
        mean = centre.mean(x, mask)
        size = x.shape[2:]
        x = x - mean if mask is None else (x - mean).masked_fill(~mask, 0)
        mask = None if mask is None else padded.pad(mask)
        return padded.pad(x), level, mask, lambda clean: padded.crop(clean, size) + mean

    def restore(self, x: Tensor, level: float | Tensor, mask: Tensor | None) -> Tensor:
        """Codes and synthesises images without mean, of a multiple of the stride."""
        recompute = self.grad_checkpointing and torch.is_grad_enabled()
        stage = self.stages[1]
        z = checkpoint_stage(stage, x, level, mask) if recompute else stage(x, level, mask)
        return self.coder.synthesize(z, x.shape[2:])

    @torch.no_grad()
    def project(self) -> None:
        """Thresholds to 0 or more; each channel of a filter to a norm of at most 1."""
        self.coder.pursuit.project()
        if isinstance(self.coder.dictionary.filters, PlainFilters):
            self.coder.dictionary.filters.project()

    def no_weight_decay(self) -> set[str]:
        """All parameters: the projection keeps filters small."""
        return {name for name, _ in self.named_parameters()}


class GDLNet(CDLNet):
    """CDLNet whose filters are sums of Gabor functions, see :class:`~csc_nets.layers.learned_filters.GaborFilters`.

    Args:
        in_chans: channels of the image.
        order: Gabor functions in a filter; six parameters each.
        **options: see :class:`CDLNet`.
    """

    def __init__(
        self,
        in_chans: int = 1,
        *,
        order: int = 1,
        steps: int = 30,
        atoms: int = 169,
        kernel_size: int = 7,
        stride: int = 2,
        gradient: str | None = None,
    ) -> None:
        self._order = order
        options: dict[str, Any] = {"steps": steps, "atoms": atoms, "kernel_size": kernel_size, "stride": stride}
        super().__init__(in_chans, gradient=gradient, **options)

    def _filters(self, atoms: int, in_chans: int, kernel_size: int) -> nn.Module:
        return GaborFilters(atoms, in_chans, kernel_size, self._order)

    @torch.no_grad()
    def _scale(self, filters: Any, factor: Tensor) -> None:
        filters.scale.mul_(factor)


def filters_are_meta(filters: nn.Module) -> bool:
    """Whether filters have a shape and no values."""
    return any(p.is_meta for p in filters.parameters())


@register_model
def cdlnet(*, in_chans: int = 1, **overrides: Any) -> CDLNet:
    """20 steps, 32 atoms of 7 x 7 pixels: 64,000 parameters for grey images."""
    return CDLNet(in_chans, **overrides)


@register_model
def cdlnet_large(*, in_chans: int = 1, **overrides: Any) -> CDLNet:
    """30 steps, 169 atoms of 7 x 7 pixels at stride 2: 507,000 parameters for grey images."""
    return CDLNet(in_chans, **{"steps": 30, "atoms": 169, "stride": 2, **overrides})


@register_model
def gdlnet(*, in_chans: int = 1, **overrides: Any) -> GDLNet:
    """As ``cdlnet_large`` with filters of one Gabor function each: 70,980 parameters for grey images."""
    return GDLNet(in_chans, **overrides)
