r"""One row of the table that a pursuit is."""

from typing import NamedTuple

from torch import Tensor

from csc_nets.functional.operators import Operator
from csc_nets.functional.penalties import Penalty

__all__ = ["Step"]


class Step(NamedTuple):
    r"""One row of a pursuit's table. It leads from the code z, whose predecessor is :math:`z_-`, to the next code:

    .. math:: v = \mu u + (1 - \mu) \bigl(z + \iota (z - z_-) + g D^T (x - D (z + \alpha (z - z_-)))\bigr), \qquad
              z_+ = \mathrm{prox}_{(g \lambda + s) R}(v)

    where u is the v of the row before. A pursuit starts at a warm start or at the zero code; the predecessor of the
    first code is that code itself. Numbers are floats, 0-d tensors, or tensors with one value per atom ``(M,)``.

    Attributes:
        gain: g, the step size.
        ahead: :math:`\alpha`; the gradient is taken at the code extrapolated by this weight.
        inertia: :math:`\iota`; the step starts at the code extrapolated by this weight.
        shift: s, added to the threshold. A sum below 0 counts as 0, unless the penalty takes thresholds of any
            sign, as the non-negative l1 norm does: ``relu(v - t)``.
        operator: D of this row; None for the problem's.
        memory: :math:`\mu`, the share of the last v that stays; None for a pursuit that keeps no v.
        penalty: R of this row; None for the problem's.
    """

    gain: float | Tensor
    ahead: float | Tensor = 0.0
    inertia: float | Tensor = 0.0
    shift: float | Tensor = 0.0
    operator: Operator | None = None
    memory: float | Tensor | None = None
    penalty: Penalty | None = None

    def with_momentum(self, ahead: float | Tensor, inertia: float | Tensor) -> "Step":
        """The row with other extrapolations."""
        # Not by _replace, which the compiler of torch 2.6 does not know.
        return Step(self.gain, ahead, inertia, self.shift, self.operator, self.memory, self.penalty)
