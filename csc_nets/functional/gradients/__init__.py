"""How pursuits are differentiated: unrolled, from fewer stored codes, or at a solution."""

from csc_nets.functional.gradients.base import Gradient, Unroll, as_gradient, register_gradient
from csc_nets.functional.gradients.implicit import Implicit
from csc_nets.functional.gradients.recompute import Recompute

__all__ = ["Gradient", "Implicit", "Recompute", "Unroll", "as_gradient", "register_gradient"]
