"""What all that looks at layers from outside asks of them: which coded steps did this input take?"""

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
        geometry: how they lie over the signal; of no axes for a matrix.
        code: ``(N, M, *S')`` or ``(N, M)``.
        gain: step size of the one thresholding that made the code; None where it took more than that.
        label: place in a layer of several dictionaries, such as ``"[0]"``.
        mask: 0 where the signal was missing; None for nowhere.
        returned: the layer returned this code as it is, so that the next layer reads it.
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
        """The signal that a code of the same size stands for."""
        size = self.signal.shape[2:]
        return self.geometry.synthesis(z, self.weight, size) if self.geometry.dims else z @ self.weight


@runtime_checkable
class Coder(Protocol):
    """A layer that computes sparse codes."""

    def coded(self, x: Tensor, output: Tensor, **arguments: Any) -> Sequence[CodedStep]:
        """The steps from ``x`` to what ``forward(x, **arguments)`` returned, in order."""

    def thresholds(self) -> dict[str, Tensor]:
        """What is taken from a correlation before it is rectified, ``(M,)`` for each dictionary, by its label."""

    def synthesize(self, z: Any, output_size: Sequence[int] | None = None) -> Tensor:
        """The signal that a code stands for."""
