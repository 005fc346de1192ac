"""One proximal gradient step of a layer, with all that can be folded into its filters folded in."""

from collections.abc import Callable, Sequence

from torch import Tensor

from csc_nets.functional import hard_threshold, soft_threshold
from csc_nets.layers.dictionary import _Dictionary

__all__ = ["ProximalStep"]

_SHRINK: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"soft": soft_threshold, "hard": hard_threshold}


class ProximalStep:
    r"""The step :math:`z \leftarrow \mathrm{prox}_t(\kappa y + \eta\kappa D^T (x - D y))` of a layer.

    Step size, shrinkage and threshold go into the filters of the analysis and their bias, so that a step is one
    synthesis and one analysis with a few in-place passes over their fresh outputs, and the first step one analysis.

    Args:
        dictionary: the layer's dictionary.
        gain: filters of the analysis, ``(M, C, *K)``: the atoms times :math:`\eta\kappa`.
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
        self.dictionary, self.gain, self.threshold, self.prox = dictionary, gain, threshold, prox
        self.descent = -gain
        self.keep, self.missing = keep, missing
        self.atoms = dictionary.weight if atoms is None else atoms
        # A non-negative threshold that is the same for all samples is the bias of the analysis.
        per_sample = threshold.ndim == gain.ndim
        self.bias = -threshold.flatten().expand(len(gain)) if prox == "nonneg" and not per_sample else None

    def start(self, x: Tensor) -> Tensor:
        """The step from the zero code, ``(N, M, *S')``, for signals ``x (N, C, *S)`` without missing entries."""
        if self.bias is not None and self._fuses(x):
            return self.dictionary.analysis_relu(x, self.gain, self.bias)
        return self._shrink(self.dictionary.analysis(x, self.gain, self.bias))

    def update(
        self,
        y: Tensor,
        x: Tensor,
        *,
        disposable: bool = False,
        foreign: bool = False,
        estimate: Tensor | None = None,
    ) -> Tensor:
        """The step from a code.

        Args:
            y: code ``(N, M, *S')``.
            x: signal ``(N, C, *S)``.
            disposable: nobody will look at ``y`` again.
            foreign: ``y`` was not computed from ``x``. Under vmap it may then have fewer batch axes, and nothing may be
                written into its synthesis.
            estimate: ``D y`` where it is known; it is left as it is.

        Returns:
            The next code ``(N, M, *S')``.
        """
        if estimate is None:
            surplus = self.synthesis(y, x.shape[2:])
            surplus = surplus - x if foreign else surplus.sub_(x)
        else:
            surplus = estimate - x
        if self.missing is not None:
            surplus = surplus.masked_fill_(self.missing, 0)
        if disposable and self.bias is not None and self._fuses(x):
            return self.dictionary.analysis_relu(surplus, self.descent, self.bias, onto=y)
        v = self.dictionary.analysis(surplus, self.descent, self.bias, exact=False)
        return self._shrink(v.add_(y if self.keep is None else y * self.keep))

    def synthesis(self, z: Tensor, output_size: Sequence[int]) -> Tensor:
        """Signal ``(N, C, *output_size)`` of a code."""
        return self.dictionary.synthesis(z, output_size, self.atoms)

    def _shrink(self, v: Tensor) -> Tensor:
        """The proximal map of a fresh tensor."""
        if self.prox == "nonneg":
            # Not in place: under vmap over weights per sample v has fewer batch axes than they.
            return (v if self.bias is not None else v - self.threshold).relu_()
        return _SHRINK[self.prox](v, self.threshold.to(v.dtype))

    def _fuses(self, x: Tensor) -> bool:
        return self.bias is not None and self.keep is None and self.dictionary.can_fuse(x)
