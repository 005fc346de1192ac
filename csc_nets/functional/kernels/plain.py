"""A step of a pursuit as its equation says, for any operator and penalty."""

from collections.abc import Callable

import torch
from torch import Tensor

from csc_nets.functional.operators import Operator
from csc_nets.functional.penalties import Penalty

__all__ = ["PlainStep"]


class PlainStep:
    r"""The step :math:`z \leftarrow \mathrm{prox}_t(\kappa y + g D^T (x - D p))`; arguments as for
    :class:`~csc_nets.functional.kernels.folded.FoldedStep`.

    Args:
        memory: m; the argument of the prox is then :math:`v \leftarrow m v + (1 - m)(\kappa y + g D^T (x - D p))`.
    """

    fuses_extrapolation = False

    def __init__(
        self,
        operator: Operator,
        penalty: Penalty,
        gain: Tensor | float,
        threshold: Tensor,
        *,
        shrinkage: Tensor | float | None = None,
        missing: Tensor | None = None,
        memory: float | Tensor | None = None,
    ) -> None:
        self.operator, self.penalty, self.gain, self.threshold = operator, penalty, gain, threshold
        self.shrinkage, self.missing, self.memory = shrinkage, missing, memory
        self.argument: Tensor | None = None  # v of the last step

    def start(self, x: Tensor) -> Tensor:
        """The step from the zero code, ``(N, M, *S')``, for signals without missing entries."""
        return self._finish(self.gain * self.operator.analysis(x))

    def synthesis(self, z: Tensor, size: tuple[int, ...]) -> Tensor:
        """Signal ``(N, C, *size)`` of a code."""
        return self.operator.synthesis(z, size)

    def advance(self, x: Tensor, start: Tensor, point: Tensor, estimate: Tensor, *, disposable: bool = False) -> Tensor:
        """The step from a code, as of :meth:`FoldedStep.advance`."""
        descent: Callable[[Tensor, Tensor, Tensor], Tensor] | None = getattr(self.operator, "descent", None)
        if descent is None:
            residual = (x - estimate).to(x.dtype)  # as in FoldedStep
            step = self.operator.analysis(residual if self.missing is None else residual.masked_fill(self.missing, 0))
        else:
            step = descent(x, point, estimate)
        return self._finish((start if self.shrinkage is None else self.shrinkage * start) + self.gain * step)

    def advance_and_extrapolate(
        self, x: Tensor, start: Tensor, estimate: Tensor, before: Tensor, weight: float
    ) -> tuple[Tensor, Tensor]:
        """As :meth:`FoldedStep.advance_and_extrapolate`."""
        z = self.advance(x, start, start, estimate)
        return z, torch.lerp(before, z, 1 + weight)

    def _finish(self, v: Tensor) -> Tensor:
        if self.memory is not None:
            v = (1 - self.memory) * v
            v = v if self.argument is None else self.memory * self.argument + v
            self.argument = v
        return self.penalty.prox(v, self.threshold.to(v.real.dtype if v.is_complex() else v.dtype))
