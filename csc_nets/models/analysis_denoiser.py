"""A denoiser that is a proximal operator: images whose filtered versions are sparse, solved."""

from typing import Any, Unpack

import torch
from torch import Tensor

from csc_nets.functional import FISTA, dct_atoms
from csc_nets.layers import CodingOptions
from csc_nets.models.proximal_denoiser import ProximalDenoiser
from csc_nets.models.registry import register_model

__all__ = ["AnalysisDenoiser"]

_FAINT = 0.01
_ROUNDS, _STILL = 300, 1e-4  # of filling missing pixels: most of them, and the move that ends them in units of white


class AnalysisDenoiser(ProximalDenoiser):
    r"""Denoiser by filters that find little in clean images. It is the proximal operator of a convex function.

    .. math:: \hat x = \arg\min_u \tfrac12 \|y - u\|^2 + \sigma \sum_m \tau_m \|d_m \star u\|_1

    with trained filters :math:`d_m` of mean 0 and weights :math:`\tau_m`. With differences of neighbours for filters
    this is total variation. By duality :math:`\hat x = y - D z^*`, where :math:`z^*` is the code of y over the atoms
    :math:`d_m` in the box :math:`|z_m| \le \sigma \tau_m`: a coding layer with the penalty
    :class:`~csc_nets.functional.Box`, whose residual is the output.

    Everything that is said of :class:`ProximalDenoiser` holds: plug-and-play iterations converge, with one step of the
    pursuit in each, too (:meth:`refine`), and :meth:`certificate` bounds the distance from the exact image. Kowalski et
    al., `"Analysis and Synthesis Denoisers for Forward-Backward Plug-and-Play Algorithms"
    <https://arxiv.org/abs/2411.13276>`_, 2024.

    An image that is within a hundredth of the noise level of its mean becomes flat.

    Train it by steps (``pursuit="fista", steps=20``) and use the solution: where several filters that depend on each
    other find nothing, the solution has no derivative with respect to them.

    With a mask it returns the minimiser of :math:`\tfrac12 \|m \odot (y - u)\|^2 + \sigma \sum_m \tau_m
    \|d_m \star u\|_1`, by filling the missing pixels with the last image until it stands still.

    Args:
        in_chans: channels C of the image.
        atoms: M. They start as products of two cosines, the constant one left out, and others at random.
        kernel_size: side P of a filter in pixels, odd. Images are reflected at their borders.
        weight: where the weights :math:`\tau` start.
        stride: pixels between neighbouring shifts of a filter.
        **options: as for :class:`ProximalDenoiser`, without ``penalty`` and ``nonneg``.

    Raises:
        ValueError: as for :class:`ProximalDenoiser`, or a penalty.

    Shape:
        - input ``(N, in_chans, H, W)`` with white at 1, sides above ``kernel_size // 2``
        - output: the same as the input

    Example:
        >>> denoiser = AnalysisDenoiser(atoms=8, kernel_size=3)
        >>> denoiser(torch.rand(2, 1, 20, 30), sigma=0.1).shape
        torch.Size([2, 1, 20, 30])
    """

    penalty = "box"
    padding_mode = "reflect"

    def __init__(
        self,
        in_chans: int = 1,
        *,
        atoms: int = 24,
        kernel_size: int = 5,
        stride: int = 1,
        weight: float = 0.05,
        **options: Unpack[CodingOptions],
    ) -> None:
        if not {"penalty", "nonneg"}.isdisjoint(options):
            raise ValueError(f"AnalysisDenoiser is derived for codes in a box, and takes no penalty, got {options}")
        sizes = {"atoms": atoms, "kernel_size": kernel_size, "stride": stride, "weight": weight}
        super().__init__(in_chans, **sizes, **options)  # type: ignore[arg-type]

    @torch.no_grad()
    def _start(self, in_chans: int, kernel_size: int) -> None:
        waves = dct_atoms(torch.eye(in_chans), kernel_size)[in_chans:]  # the constant ones come first
        weight = self.coder.atoms.clone()
        weight[: len(waves)] = waves[: len(weight)]
        self.coder.atoms = weight - weight.mean((2, 3), keepdim=True)

    @torch.no_grad()
    def project(self) -> None:
        """Filters of mean 0 in each channel, so that a flat image stays as it is."""
        weight: Any = self.coder.dictionary.get_parameter("parametrizations.weight.original")
        weight.sub_(weight.mean((2, 3), keepdim=True))

    def image(self, z: Tensor, x: Tensor) -> Tensor:
        """What the code of ``x`` leaves: ``x - D z``."""
        return x - super().image(z, x)

    def restore(self, x: Tensor, level: float | Tensor, mask: Tensor | None) -> Tensor:
        """Clean images without mean."""
        # A box much larger than the signal holds nothing back, and the gap is lost in its rounding.
        deviation = x.detach().abs().amax((1, 2, 3), keepdim=True)
        x = x.masked_fill(deviation <= _FAINT * level, 0)
        if mask is None:
            return super().restore(x, level, None)
        return self._filled(x, level, mask)

    @torch.no_grad()
    def _filled(self, x: Tensor, level: float | Tensor, mask: Tensor) -> Tensor:
        # Majorise and minimise: what is missing is taken from the last image, which costs nothing there.
        weights, clean, z = self._levelled.weights(x, level), x, None
        for _ in range(_ROUNDS):
            filled = torch.where(mask, x, clean)
            z = FISTA(1).run(self.coder.problem(filled, weights), z)
            last, clean = clean, self.image(z, filled)
            if bool((clean - last).abs().amax() <= _STILL):
                break
        return clean


@register_model
def analysis_denoiser(*, in_chans: int = 1, **overrides: Any) -> AnalysisDenoiser:
    """24 filters of 5 x 5 pixels: 624 parameters for grey images."""
    return AnalysisDenoiser(in_chans, **overrides)
