r"""Several layers coded together: ISTA's and FISTA's tables on a problem whose signal is a code, too.

A step of ML-ISTA (Sulam, Aberdam, Beck, Elad 2019) is top-down :math:`\hat\Gamma_K = \Gamma_K,\ \hat\Gamma_{i-1} = D_i
\hat\Gamma_i` and then bottom-up :math:`\Gamma_i \leftarrow P(\hat\Gamma_i + \eta_i D_i^T (\Gamma_{i-1} - D_i
\hat\Gamma_i))` with the new :math:`\Gamma_{i-1}`. For the deepest layer that is a row of ISTA whose signal is
:math:`\Gamma_{K-1}`, one row of the layer below from the estimate :math:`D_K \Gamma_K`; and so on down to the signal.
"""

from dataclasses import dataclass, field

from torch import Tensor

from csc_nets.functional.kernels import FoldedStep, Kernels, PlainStep
from csc_nets.functional.problem import Problem
from csc_nets.functional.step import Step

__all__ = ["CoupledProblem"]


@dataclass(frozen=True)
class CoupledProblem(Problem):
    """The problem of a layer whose signal is the code of a layer below, which moves with the estimate.

    Args:
        x: a tensor with the shape of that code; its values do not count.
        lower: the problem of the layer below.
        row: the layer's step.
        codes: receives the codes of the layers below, from the first on.
    """

    lower: Problem | None = None
    row: Step | None = None
    codes: list[Tensor] = field(default_factory=list)
    _kernels: list[FoldedStep | PlainStep] = field(default_factory=list, init=False, repr=False, compare=False)

    def signal(self, estimate: Tensor | None) -> Tensor:
        """The code of the layer below: one row from the estimate, or from zero."""
        lower, row = self.lower, self.row
        assert lower is not None and row is not None
        if not self._kernels:
            self._kernels.append(Kernels(lower)(row))
        (kernel,) = self._kernels
        if estimate is None:
            code = kernel.start(lower.masked(lower.signal(None)))
        else:
            own = kernel.synthesis(estimate, lower.size)
            code = kernel.advance(lower.signal(own), estimate, estimate, own)
        self.codes[:] = [*getattr(lower, "codes", ()), code]
        return code
