"""The protocol by which reports, statistics and tiles ask a layer: which coded steps did this input take?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from csc_nets.functional import ConvGeometry

__all__ = ["CodedStep", "Coder"]


@dataclass(frozen=True)
class CodedStep:
    """A dictionary with which a layer coded a signal.

    Attributes:
        signal: what was coded, ``(N, C, *S)`` or ``(N, F)``.
        weight: the filters, of any norm, ``(M, C, *K)`` or ``(M, F)``.
        geometry: stride, padding and dilation of the filters; without axes for a matrix.
        code: ``(N, M, *S')`` or ``(N, M)``.
        gain: step size, where a single thresholding made the code; None for more steps.
        label: place in a layer of several dictionaries, such as ``"[0]"``.
        mask: 0 where the signal was missing; None where all of it was there.
        returned: whether the layer returned this code unchanged, so that the next layer reads it.
    """

    signal: Tensor
    weight: Tensor
    geometry: ConvGeometry
    code: Tensor
    gain: float | Tensor | None = None
    label: str = ""
    mask: Tensor | None = None
    returned: bool = True

    def synthesis(self, z: Tensor) -> Tensor:
        """The signal of a code of the same size."""
        size = self.signal.shape[2:]
        return self.geometry.synthesis(z, self.weight, size) if self.geometry.dims else z @ self.weight


@runtime_checkable
class Coder(Protocol):
    """A layer that computes sparse codes."""

    def coded(self, x: Tensor, output: Tensor, **arguments: Any) -> Sequence[CodedStep]:
        """The steps from ``x`` to what ``forward(x, **arguments)`` returned, in order."""

    def thresholds(self) -> dict[str, Tensor]:
        """Thresholds of the correlations before they are rectified, ``(M,)`` for each dictionary, by its label."""

    def synthesize(self, z: Any, output_size: Sequence[int] | None = None) -> Tensor:
        """The signal of a code."""
