r"""LISTA with thresholds that follow the noise level, as CDLNet has it."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from csc_nets.functional.checks import as_count
from csc_nets.functional.operators import Pair
from csc_nets.functional.problem import SAFETY, Problem
from csc_nets.functional.pursuits.base import Pursuit, register_pursuit
from csc_nets.functional.step import Step

__all__ = ["NoiseAdaptiveLISTA", "PlainFilters"]


class PlainFilters(nn.Module):
    """Filters ``(M, C, *K)``, each entry a parameter.

    Filters of another kind, such as Gabor functions, are a module that returns the filters when it is called.

    Args:
        weight: the first values.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self) -> Tensor:
        return self.weight

    @torch.no_grad()
    def project(self) -> None:
        r"""Scales each slice of an atom, one a channel, to a norm of at most 1: :math:`w \min(1, 1/\|w\|)`."""
        axes = tuple(range(min(2, self.weight.ndim - 1), self.weight.ndim))
        norm = torch.linalg.vector_norm(self.weight, dim=axes, keepdim=True)
        self.weight.mul_(norm.reciprocal().clamp_max(1))


@register_pursuit("noise_adaptive_lista")
class NoiseAdaptiveLISTA(nn.Module, Pursuit):
    r"""Learned ISTA whose thresholds are an affine function of the noise level.

    .. math:: z \leftarrow \mathrm{prox}_{t_k}\bigl(z + A_k^T (x - B_k z)\bigr), \qquad
              t_k = \tau^0_k + \tau^1_k \lambda

    The noise level :math:`\lambda` is the layer's ``lam``: a number, or one for each sample. Janjusevic,
    Khalilian-Gourtani, Wang, `CDLNet: Noise-Adaptive Convolutional Dictionary Learning Network for Blind Denoising and
    Demosaicing <https://arxiv.org/abs/2112.00913>`_, equations (7) and (9).

    The pursuit starts as ISTA: with the step size :math:`\eta`, :math:`A_k = \eta D`, :math:`B_k = D`,
    :math:`\tau^0_k = 0`, :math:`\tau^1_k = \eta`. A dictionary without a bound counts as one with :math:`\eta = 1`.
    The first step starts from the zero code, so it has no :math:`B_1`.

    Args:
        count: number of steps.
        tied: all steps share one A, one B and one threshold.
        adaptive: thresholds follow the noise level; False leaves :math:`\tau^1` out, and ``lam`` does not count.

    Attributes:
        analysers, synthesisers: modules that return the filters ``(M, C, *K)`` of a step.
        floors: :math:`\tau^0`, ``(count, M)``.
        slopes: :math:`\tau^1`, ``(count, M)``; None where the thresholds are not adaptive.
    """

    analysers: Any
    synthesisers: Any
    floors: Tensor
    slopes: Tensor | None
    takes_step_size = False

    def __init__(self, count: int = 20, tied: bool = False, adaptive: bool = True) -> None:
        super().__init__()
        self.count = as_count(count)
        self.tied, self.adaptive = tied, adaptive

    def attach(self, dictionary: Any) -> "NoiseAdaptiveLISTA":
        """A copy with filters that start as the atoms of this dictionary.

        Where the dictionary has ``filters``, a module that returns them, the steps get copies of this module.
        """
        attached = copy.deepcopy(self)
        if hasattr(self, "analysers"):
            return attached
        weight, bound = dictionary.weight.detach(), getattr(dictionary, "lipschitz", None)
        eta = 1.0 if bound is None else SAFETY / bound
        count = 1 if self.tied else self.count or 1
        source = getattr(dictionary, "filters", None)
        if source is None:
            analysers = [PlainFilters(eta * weight) for _ in range(count)]
            synthesisers = [PlainFilters(weight.clone()) for _ in range(count if self.tied else count - 1)]
        else:
            analysers = [copy.deepcopy(source) for _ in range(count)]
            synthesisers = [copy.deepcopy(source) for _ in range(count if self.tied else count - 1)]
        attached.analysers, attached.synthesisers = nn.ModuleList(analysers), nn.ModuleList(synthesisers)
        attached.floors = nn.Parameter(weight.new_zeros(count, len(weight)))
        if self.adaptive:
            attached.slopes = nn.Parameter(eta * weight.new_ones(count, len(weight)))
        else:
            attached.register_parameter("slopes", None)
        return attached

    def changed(self, **changes: Any) -> "NoiseAdaptiveLISTA":
        """Refuses another number of steps: the learned ones are for these."""
        if changes.get("tol") is not None or changes.get("count", self.count) != self.count:
            raise ValueError(f"{self!r} has learned filters for {self.count} steps and takes no other number")
        return self

    def steps(self, problem: Problem) -> list[Step]:
        """One row for each step; with ``tied``, the same row again and again."""
        operator: Any = problem.operator
        rows: list[Step] = []
        for k, analyser in enumerate(self.analysers):
            before = self.synthesisers[k if self.tied else k - 1] if k or self.tied else None
            synthesiser = operator if before is None else _with(operator, before())
            pair = Pair(_with(operator, analyser()), synthesiser)
            # The loop adds gain times lam, with gain 1.
            shift = self._threshold(k, problem) - problem.lam
            rows.append(Step(1.0, shift=shift, operator=pair))
        return rows * (self.count or 1) if self.tied else rows

    def _threshold(self, k: int, problem: Problem) -> Tensor:
        shape = (-1, *(1,) * (problem.x.ndim - 2))
        floor = self.floors[k].view(shape)
        return floor if self.slopes is None else floor + self.slopes[k].view(shape) * problem.lam

    @torch.no_grad()
    def project(self) -> None:
        """To be called after each step of an optimiser: thresholds to 0 or more, filters to a norm of at most 1.

        Filters that are no :class:`PlainFilters` are left as they are.
        """
        self.floors.clamp_min_(0)
        if self.slopes is not None:
            self.slopes.clamp_min_(0)
        for filters in (*self.analysers, *self.synthesisers):
            if isinstance(filters, PlainFilters):
                filters.project()

    def __repr__(self) -> str:
        options = ", tied=True" * self.tied + ", adaptive=False" * (not self.adaptive)
        return f"NoiseAdaptiveLISTA({self.count}{options})"


def _with(operator: Any, weight: Tensor) -> Any:
    return operator.map(lambda _: weight)
