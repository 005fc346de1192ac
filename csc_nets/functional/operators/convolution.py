r"""A convolutional dictionary with given atoms, as an operator."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from csc_nets.functional.operators import blocks, col2im
from csc_nets.functional.operators.fit_vectors import fit_vectors
from csc_nets.functional.operators.geometry import ConvGeometry
from csc_nets.functional.operators.mkldnn import analysis_relu, can_fuse
from csc_nets.functional.operators.spectral import operator_norm

__all__ = ["Convolution", "analyse", "synthesize"]

Bound = Callable[[Sequence[int]], Tensor]


@dataclass(frozen=True)
class Convolution:
    r"""Atoms laid over a signal: :math:`D^T x = \mathrm{conv}(x, W)`, and its exact adjoint.

    Args:
        weight: atoms ``(M, C, *K)``.
        geometry: stride, padding, dilation, padding mode.
        norm: signal size to a bound of :math:`\|D\|^2`, where it is known; None computes it.
    """

    weight: Tensor
    geometry: ConvGeometry
    norm: Bound | None = None

    def analysis(
        self, x: Tensor, bias: Tensor | None = None, *, exact: bool = True, like: Tensor | None = None
    ) -> Tensor:
        """Correlations ``(N, M, *S')`` of signals ``(N, C, *S)`` with the atoms, plus a bias per atom ``(M,)``.

        Args:
            x: signals.
            bias: what to add.
            exact: bit for bit torch's convolution. False allows differences of rounding, which may be faster.
            like: the code to which the correlations will be added; its memory layout decides which way is faster.
        """
        if like is not None and x.requires_grad and self._prefers_col2im(like, x):
            return col2im.analysis(x, self.weight, bias, self.geometry)
        return analyse(x, self.weight, self.geometry, bias, exact=exact)

    def _prefers_col2im(self, code: Tensor, x: Tensor) -> bool:
        return col2im.applies(code, self.weight, self.geometry, x.shape[2:])

    def synthesis(self, z: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """Signals ``(N, C, *output_size)`` of codes ``(N, M, *S')``."""
        return synthesize(z, self.weight, self.geometry, output_size)

    def fit_support(self, x: Tensor, code: Tensor, nonneg: bool = False) -> Tensor | None:
        """As that of a matrix, where an atom is one vector, so that positions do not touch each other."""
        g = self.geometry
        if any(n != 1 for n in (*g.kernel_size, *g.stride, g.groups)) or any(p != (0, 0) for p in g.padding):
            return None
        vectors, codes = (t.movedim(1, -1).flatten(0, -2) for t in (x, code))
        found = fit_vectors(self.weight.flatten(1), vectors, codes, nonneg)
        return None if found is None else found.unflatten(0, (len(code), *code.shape[2:])).movedim(-1, 1)

    def bound(self, signal_size: Sequence[int]) -> Tensor:
        r"""Bound of :math:`\|D\|^2` on signals of this size, 0-d."""
        if self.norm is not None:
            return self.norm(signal_size)
        wide = self.map(lambda w: w.detach().to(torch.promote_types(w.dtype, torch.float32)))  # no half eigenvalues
        value = operator_norm(wide, wide.weight.new_empty(1, self.weight.shape[1] * self.geometry.groups, *signal_size))
        return value.to(self.weight.dtype)

    def analysis_gradients(
        self, code: Tensor, x: Tensor, *, signal: bool = True, atoms: bool = True
    ) -> tuple[Tensor | None, Tensor | None]:
        """See :meth:`ConvGeometry.analysis_gradients`."""
        return self.geometry.analysis_gradients(code, x, self.weight, signal=signal, atoms=atoms)

    def synthesis_gradients(self, signal: Tensor, z: Tensor, *, atoms: bool = True) -> tuple[Tensor, Tensor | None]:
        """See :meth:`ConvGeometry.synthesis_gradients`."""
        return self.geometry.synthesis_gradients(signal, z, self.weight, atoms=atoms)

    def scaled(self, gain: Tensor) -> "Convolution":
        """With the filters times a gain, 0-d or one per atom ``(M,)``."""
        return Convolution(self.weight * _per_filter(gain, self.weight), self.geometry, self.norm)

    def map(self, change: Callable[[Tensor], Tensor]) -> "Convolution":
        """With changed filters, such as rounded ones."""
        return Convolution(change(self.weight), self.geometry, self.norm)

    def can_fuse(self, x: Tensor) -> bool:
        """Whether :meth:`analysis_relu` may be called."""
        return can_fuse(x, self.weight, self.geometry)

    def analysis_relu(self, x: Tensor, bias: Tensor, onto: Tensor | None = None) -> Tensor:
        """See :func:`csc_nets.functional.operators.mkldnn.analysis_relu`."""
        return analysis_relu(x, self.weight, bias, self.geometry, onto)


def analyse(
    x: Tensor, weight: Tensor, geometry: ConvGeometry, bias: Tensor | None = None, *, exact: bool = True
) -> Tensor:
    """:meth:`ConvGeometry.analysis`; by one product of matrices where atoms do not overlap and ``exact`` allows it."""
    if exact or bias is not None or x.dtype != weight.dtype or not blocks.applies(weight, geometry, x.shape[2:]):
        return geometry.analysis(x, weight, bias, exact=exact)
    return blocks.analysis(x, weight)


def synthesize(z: Tensor, weight: Tensor, geometry: ConvGeometry, output_size: Sequence[int] | None = None) -> Tensor:
    """:meth:`ConvGeometry.synthesis`; by products of matrices where atoms do not overlap, or signals have few channels,
    and this is faster."""
    size = geometry.checked_size(z.shape[2:], output_size)
    if z.dtype == weight.dtype and blocks.applies(weight, geometry, size):
        return blocks.synthesis(z, weight)
    bare, whole = geometry.bare(size)
    if geometry.is_matrix(size) or not col2im.applies(z, weight, bare, whole):
        return geometry.synthesis(z, weight, size)
    signal = col2im.synthesis(z, weight, bare, whole)
    return signal if bare is geometry else geometry.fold(signal)


def _per_filter(gain: Tensor, weight: Tensor) -> Tensor:
    return gain.view(-1, *(1,) * (weight.ndim - 1)) if gain.ndim else gain
