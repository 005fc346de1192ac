"""How a pursuit is differentiated."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from csc_nets.functional.penalties import Penalty
from csc_nets.functional.problem import Problem
from csc_nets.functional.pursuits.base import Pursuit
from csc_nets.registry import Part, Registry

__all__ = ["Gradient", "Unroll", "as_gradient", "register_gradient"]


class Gradient(Part):
    """Runs a pursuit so that its code has a gradient. A subclass gives ``__call__``; ``check`` says its limits."""

    def check(self, pursuit: Pursuit, penalty: Penalty) -> None:
        """Refuses pursuits and penalties for which this gradient is not derived.

        Raises:
            ValueError: says why.
        """

    def __call__(self, pursuit: Pursuit, problem: Problem, init: Tensor | None = None) -> Tensor:
        """The code ``(N, M, *S')`` of a problem, from a warm start or from zero."""
        raise NotImplementedError


_GRADIENTS: Registry[Any] = Registry("gradient")
register_gradient = _GRADIENTS.decorator


def as_gradient(gradient: str | Mapping[str, Any] | Gradient) -> Gradient:
    """A gradient from an object, a registered name, or a mapping with ``name`` and the arguments of the class.

    Raises:
        ValueError: an unknown name, bad arguments.
    """
    built: Gradient = _GRADIENTS.build(gradient, Gradient)
    return built


@register_gradient("unroll")
@dataclass(frozen=True)
class Unroll(Gradient):
    """Automatic differentiation of the steps."""

    def check(self, pursuit: Pursuit, penalty: Penalty) -> None:
        """Refuses a pursuit without a number of steps."""
        if pursuit.count is None:
            raise ValueError(f"gradient='unroll' differentiates a number of steps, and {pursuit!r} has none")

    def __call__(self, pursuit: Pursuit, problem: Problem, init: Tensor | None = None) -> Tensor:
        """The code, with the gradient of its steps."""
        return pursuit.run(problem, init)
