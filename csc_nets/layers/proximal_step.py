"""One proximal gradient step of a layer, with all that can be folded into its filters folded in."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from csc_nets.functional import few_channels, hard_threshold, one_pass, soft_threshold
from csc_nets.layers.dictionary import _ConvDictionary, _Dictionary

__all__ = ["ProximalStep"]

_SHRINK: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"soft": soft_threshold, "hard": hard_threshold}


class ProximalStep:
    r"""The step :math:`z \leftarrow \mathrm{prox}_t(\kappa y + \eta\kappa D^T (x - D y))` of a layer.

    Step size, shrinkage and threshold go into the filters of the analysis and their bias, so that a step is one
    synthesis and one analysis with a few in-place passes over their fresh outputs, and the first step one analysis.

    Under autocast the convolutions take what they read in half precision, so codes, estimates and thresholds as they
    are added are in it, too. Atoms, their normalisation, :math:`\eta`, :math:`\kappa` and the product that is the
    threshold are computed in float32 and rounded once; a signal in float32 is subtracted from in float32.

    Args:
        dictionary: the layer's dictionary.
        gain: filters of the analysis, ``(M, C, *K)``: the atoms times :math:`\eta\kappa`. Or that factor, 0-d: then it
            goes into the signals instead where these are the smaller tensor, as in the last layers of a network, where
            a copy of the filters is most of what a step reads and keeps.
        threshold: t, a 0-d tensor, ``(M, 1, ...)`` or per sample ``(N, 1, ...)``. The non-negative map takes any sign.
        prox: ``"nonneg"``, ``"soft"`` or ``"hard"``.
        keep: factor :math:`\kappa` of the code, below 1 with a ridge; None for 1.
        atoms: atoms of the synthesis; None for the dictionary's.
        missing: True where the signal is not known.
    """

    def __init__(
        self,
        dictionary: _Dictionary,
        gain: Tensor,
        threshold: Tensor,
        *,
        prox: str = "nonneg",
        keep: Tensor | None = None,
        atoms: Tensor | None = None,
        missing: Tensor | None = None,
    ) -> None:
        self.dictionary, self.threshold, self.prox = dictionary, threshold, prox
        self.keep, self.missing = keep, missing
        self._exact = dictionary.weight if atoms is None else atoms
        self.atoms, self.gain = _rounded(self._exact), _rounded(gain) if gain.ndim else gain
        # Whether what follows an analysis is one kernel; then a leap is, too.
        self.leaps = prox != "hard" and one_pass.serves(self.atoms.device)
        # Else a non-negative threshold that is the same for all samples is the bias of the analysis.
        folds = prox == "nonneg" and threshold.ndim < self.atoms.ndim and not self.leaps
        self.bias = -threshold.flatten().expand(len(self.atoms)) if folds else None

    def start(self, x: Tensor) -> Tensor:
        """The step from the zero code, ``(N, M, *S')``, for signals ``x (N, C, *S)`` without missing entries."""
        filters, x = self._weighted(x)
        if self.bias is not None and self._fuses(x):
            return self.dictionary.analysis_relu(x, filters, self.bias)
        return self._shrink(self._analysis(x, filters))[0]

    def update(self, y: Tensor, x: Tensor, *, disposable: bool = False, estimate: Tensor | None = None) -> Tensor:
        """The step from a code.

        Args:
            y: code ``(N, M, *S')``.
            x: signal ``(N, C, *S)``.
            disposable: nobody will look at ``y`` again.
            estimate: ``D y`` where it is known; it is left as it is.

        Returns:
            The next code ``(N, M, *S')``.
        """
        return self.advance(y, self._residual(y, x, estimate), disposable=disposable)

    def leap(
        self, y: Tensor, x: Tensor, before: Tensor, weight: float, *, estimate: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The step from a code y, and its extrapolation from the code before by a weight, all ``(N, M, *S')``."""
        filters, residual = self._weighted(self._residual(y, x, estimate))
        return self._shrink(self._analysis(residual, filters, like=y), y, before, weight)

    def advance(self, y: Tensor, residual: Tensor, *, disposable: bool = False) -> Tensor:
        """The step from a code ``(N, M, *S')`` given a residual ``(N, C, *S)`` in the place of ``x - D y``."""
        filters, residual = self._weighted(residual)
        if disposable and self.bias is not None and self._fuses(residual):
            return self.dictionary.analysis_relu(residual, filters, self.bias, onto=y)
        return self._shrink(self._analysis(residual, filters, like=y), y)[0]

    def synthesis(self, z: Tensor, output_size: Sequence[int]) -> Tensor:
        """Signal ``(N, C, *output_size)`` of a code."""
        return self.dictionary.synthesis(z, output_size, self.atoms)

    def _analysis(self, signal: Tensor, filters: Tensor, like: Tensor | None = None) -> Tensor:
        """Correlations plus the bias, exact in the first step, where there is no code that they are ``like``."""
        if like is not None and signal.requires_grad and isinstance(self.dictionary, _ConvDictionary):
            geometry = self.dictionary.geometry
            if few_channels.applies(like, filters, geometry, signal.shape[2:]):
                return few_channels.analysis(signal, filters, self.bias, geometry)
        return self.dictionary.analysis(signal, filters, self.bias, exact=like is None)

    def _weighted(self, signal: Tensor) -> tuple[Tensor, Tensor]:
        """Filters and signal, one of them times the gain."""
        if self.gain.ndim:
            return self.gain, signal
        # A compiler would take the answer for a promise on the size of the batch.
        if not torch.compiler.is_compiling() and 2 * signal.numel() < self.atoms.numel():
            return self.atoms, signal * self.gain
        self.gain = _rounded(self._exact * self.gain)
        return self.gain, signal

    def _residual(self, y: Tensor, x: Tensor, estimate: Tensor | None) -> Tensor:
        """The observed part of ``x - D y``, ``(N, C, *S)``, given ``D y`` where it is known."""
        # Out of place, because a sign that the filters take costs a second copy of them.
        residual = x - (self.synthesis(y, x.shape[2:]) if estimate is None else estimate)
        return residual if self.missing is None else residual.masked_fill_(self.missing, 0)

    def _shrink(
        self, v: Tensor, y: Tensor | None = None, before: Tensor | None = None, weight: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """The proximal map of a fresh tensor plus the code y, and its extrapolation where there is a code before."""
        if self.leaps and one_pass.applies(v, self.threshold):
            return one_pass.shrink(
                v, self.threshold, y=y, keep=self.keep, before=before, inertia=weight, nonneg=self.prox == "nonneg"
            )
        if y is not None:
            v = v.add_(y if self.keep is None else y * self.keep)
        if self.prox == "nonneg":
            # Not in place: under vmap over weights per sample v has fewer batch axes than they.
            z = (v if self.bias is not None else v - self.threshold.to(v.dtype)).relu_()
        else:
            z = _SHRINK[self.prox](v, self.threshold.to(v.dtype))
        return z, z if before is None else torch.lerp(before, z, 1 + weight)

    def _fuses(self, x: Tensor) -> bool:
        return self.bias is not None and self.keep is None and self.dictionary.can_fuse(x)


def _rounded(weight: Tensor) -> Tensor:
    """What autocast makes of a weight, once: it would make a copy, and keep it, for every convolution."""
    device = weight.device.type
    if weight.dtype != torch.float32 or not torch.is_autocast_enabled(device):
        return weight
    return weight.to(torch.get_autocast_dtype(device))
