r"""LISTA: ISTA whose every step has learned filters and thresholds of its own."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from csc_nets.functional.checks import as_count
from csc_nets.functional.operators import Pair
from csc_nets.functional.problem import SAFETY, Problem
from csc_nets.functional.pursuits.step import Pursuit, Step, register_pursuit

__all__ = ["LISTA"]


@register_pursuit("lista")
class LISTA(nn.Module, Pursuit):
    r"""Learned ISTA: :math:`z \leftarrow \mathrm{prox}_{\eta\lambda + s_k}(z + \eta A_k^T (x - B_k z))`.

    Gregor, LeCun, "Learning Fast Approximations of Sparse Coding", 2010, in the form with two sets of filters of
    Sreter, Giryes, "Learned Convolutional Sparse Coding", 2018. It starts as ISTA: :math:`A_k = B_k = D`,
    :math:`s_k = 0`. The first step from the zero code has no :math:`B_1`.

    Args:
        count: number of steps.
    """

    analysers: Any
    synthesisers: Any
    shifts: Any
    gain: Tensor
    takes_step_size = False

    def __init__(self, count: int = 6) -> None:
        super().__init__()
        self.count = as_count(count)

    def attach(self, dictionary: Any) -> "LISTA":
        """A copy with filters that start as the atoms of this dictionary."""
        attached = copy.deepcopy(self)
        if hasattr(self, "analysers"):
            return attached
        weight = dictionary.weight.detach()
        count = self.count or 1
        attached.analysers = nn.ParameterList(weight.clone() for _ in range(count))
        attached.synthesisers = nn.ParameterList(weight.clone() for _ in range(count - 1))
        attached.shifts = nn.ParameterList(weight.new_zeros(len(weight)) for _ in range(count))
        attached.register_buffer("gain", torch.as_tensor(SAFETY / dictionary.lipschitz).clone())
        return attached

    @torch.no_grad()
    def restart(self, dictionary: Any) -> None:
        """Filters are the atoms again, and thresholds those of ISTA."""
        for filters in (*self.analysers, *self.synthesisers):
            filters.copy_(dictionary.weight)
        for shift in self.shifts:
            shift.zero_()
        self.gain.copy_(SAFETY / dictionary.lipschitz)

    def changed(self, **changes: Any) -> "LISTA":
        """Refuses another number of steps: the learned ones are for these."""
        if changes.get("tol") is not None or changes.get("count", self.count) != self.count:
            raise ValueError(f"{self!r} has learned filters for {self.count} steps and takes no other number")
        return self

    def steps(self, problem: Problem) -> list[Step]:
        """One row for each set of filters."""
        operator: Any = problem.operator
        rows = []
        for k, (analyser, shift) in enumerate(zip(self.analysers, self.shifts, strict=True)):
            synthesiser = operator if k == 0 else _with(operator, self.synthesisers[k - 1])
            rows.append(Step(self.gain, shift=shift, operator=Pair(_with(operator, analyser), synthesiser)))
        return rows

    def __repr__(self) -> str:
        return f"LISTA({self.count})"


def _with(operator: Any, weight: Tensor) -> Any:
    return operator.map(lambda _: weight)
