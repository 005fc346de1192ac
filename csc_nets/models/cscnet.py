"""CSCNet: unrolled convolutional sparse coding with a large stride, averaged over all shifts of the image."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from csc_nets.functional import FreeL1, NoiseAdaptiveLISTA
from csc_nets.functional.pursuits.noise_adaptive import PlainFilters
from csc_nets.layers import CSC
from csc_nets.layers.leaf import leaf
from csc_nets.layers.learned_filters import FilterDictionary2d
from csc_nets.models.checkpointing import checkpoint_stage
from csc_nets.models.denoiser import Denoiser
from csc_nets.models.registry import register_model

__all__ = ["CSCNet"]


class ShiftCoder(nn.Module):
    """Codes of images, which are reflected at their borders so that there is one position for each stride.

    Args:
        coder: the coding layer.
        kernel_size: side of a filter, at least ``stride``.
        stride: of its dictionary.
    """

    def __init__(self, coder: CSC, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.coder, self.kernel_size, self.stride = coder, kernel_size, stride

    @leaf
    def forward(self, x: Tensor) -> Tensor:
        total = [self.stride * (-(-n // self.stride) - 1) + self.kernel_size - n for n in reversed(x.shape[2:])]
        return self.coder(F.pad(x, [m for n in total for m in (n // 2, n - n // 2)], mode="reflect"))  # type: ignore[no-any-return]


class ShiftedDenoiser(nn.Module):
    """One shift of the image, coded and synthesised.

    Args:
        coder: the coding layer.
    """

    def __init__(self, coder: CSC) -> None:
        super().__init__()
        self.coder = coder

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.coder.synthesize(self.coder(x, mask=mask), x.shape[2:])


class CSCNet(Denoiser):
    r"""Unrolled sparse coding over a dictionary of large stride, averaged over the shifts of the image.

    .. math:: z \leftarrow S_\theta\bigl(z - B (A z - y)\bigr), \qquad \hat x = C z

    A, B and C and the thresholds, one an atom, are the same in all steps. The thresholds are of any sign. With a stride
    s the dictionary treats the :math:`s^2` shifts of an image differently; the output is the mean over all of them.
    Simon, Elad, `Rethinking the CSC Model for Natural Images <https://arxiv.org/abs/1909.05742>`_. It has
    :math:`3 M C P^2 + M` parameters.

    A network is trained for one noise level; ``sigma`` is accepted and does not count.

    Stage 0 is the image, stage 1 the code of one shift.

    Args:
        in_chans: channels C of the image.
        steps: of the pursuit, the first from the zero code included.
        atoms: M.
        kernel_size: side P of a filter in pixels, at least the stride.
        stride: s.
        threshold: first value of all thresholds.

    Shape:
        - input ``(N, in_chans, H, W)`` with white at 1, more than ``4 stride`` pixels a side
        - output: the same as the input
    """

    def __init__(
        self,
        in_chans: int = 1,
        *,
        steps: int = 12,
        atoms: int = 175,
        kernel_size: int = 11,
        stride: int = 8,
        threshold: float = 0.01,
    ) -> None:
        if kernel_size < stride:
            raise ValueError(f"kernel_size must be at least stride = {stride}, got {kernel_size}")
        filters = PlainFilters(torch.randn(atoms, in_chans, kernel_size, kernel_size))
        dictionary = FilterDictionary2d(filters, stride, padding=0)
        if not filters.weight.is_meta:
            filters.weight.data.mul_(dictionary.squared_norm().rsqrt())
        pursuit = NoiseAdaptiveLISTA(steps, tied=True, adaptive=False)
        coder = CSC(dictionary, pursuit=pursuit, penalty=FreeL1(), lam=0.0)
        nn.init.constant_(coder.pursuit.floors, threshold)
        super().__init__(
            [nn.Identity(), ShiftCoder(coder, kernel_size, stride)],
            [in_chans, atoms],
            [1, stride],
            in_chans=in_chans,
            input_size=128,
        )
        self.kernel_size, self.stride = kernel_size, stride
        self.reach, self.align = steps * (kernel_size - 1), stride

    @property
    def coder(self) -> CSC:
        """The layer that computes the code; its dictionary is C, its pursuit holds A, B and the thresholds."""
        return self.stages[1].coder  # type: ignore[return-value]

    def level(self, x: Tensor, sigma: float | Tensor | None, mask: Tensor | None = None) -> float | Tensor:
        """Checks a noise level, which does not count."""
        return 0.0 if sigma is None else super().level(x, sigma, mask)

    def restore(self, x: Tensor, level: float | Tensor, mask: Tensor | None) -> Tensor:
        """The mean over all shifts, one row of them at a time."""
        stride, (height, width) = self.stride, x.shape[2:]
        if min(height, width) <= 4 * stride:
            raise ValueError(f"{self._label}: images must have more than {4 * stride} pixels a side, got {x.shape[2:]}")
        down, across = ((stride - (n + stride - self.kernel_size) % stride) % stride + stride for n in (height, width))
        shifted = ShiftedDenoiser(self.coder)
        recompute = self.grad_checkpointing and torch.is_grad_enabled()
        total = torch.zeros_like(x)
        for i in range(stride):
            pads = [(stride - j, across + j, stride - i, down + i) for j in range(stride)]
            batch = torch.stack([F.pad(x, p, mode="reflect") for p in pads]).flatten(0, 1)
            seen = None
            if mask is not None:
                seen = torch.stack([F.pad(mask.to(x), p, mode="reflect") for p in pads]).flatten(0, 1)
            clean = checkpoint_stage(shifted, batch, seen) if recompute else shifted(batch, seen)
            for j, part in enumerate(clean.unflatten(0, (stride, -1))):
                top, left = stride - i, stride - j
                total = total + part[..., top : top + height, left : left + width]
        return total / stride**2

    def no_weight_decay(self) -> set[str]:
        """All parameters, as published."""
        return {name for name, _ in self.named_parameters()}


@register_model
def cscnet(*, in_chans: int = 1, **overrides: Any) -> CSCNet:
    """12 steps, 175 atoms of 11 x 11 pixels at stride 8, tied: 63,700 parameters for grey images."""
    return CSCNet(in_chans, **overrides)
