r"""LISTA and its family: ISTA whose steps are learned.

.. math:: z \leftarrow P\bigl(z + \alpha_k W_k^T (x - B_k z)\bigr), \qquad
          P = \mathrm{prox}_{\alpha_k \lambda + s_k}

All but ALISTA start as ISTA of the dictionary D, with :math:`\alpha = 0.9 / \|D\|^2`, :math:`W = B = D` and
:math:`s = 0`.

| pursuit | learned | source |
|---|---|---|
| :class:`LISTA` | :math:`W_k, B_k, s_k` | Gregor, LeCun 2010; convolutions: Sreter, Giryes 2018 |
| :class:`LISTACP` | :math:`W_k, s_k`; B = D | Chen, Liu, Wang, Yin 2018 |
| :class:`TiLISTA` | one W, :math:`\alpha_k, s_k`; B = D | Liu, Chen, Wang, Yin 2019 |
| :class:`ALISTA` | :math:`\alpha_k, s_k`; W analytic, B = D | the same |
| :class:`StepLISTA` | :math:`\alpha_k`; W = B = D | Ablin, Moreau, Massias, Gramfort 2019 |

Thresholds may become negative; for a signed prox they count as 0. With support selection the largest entries of a step
pass unshrunk (Chen et al. 2018, section 4: LISTA-CPSS).
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from csc_nets.functional.checks import as_count
from csc_nets.functional.operators import Pair
from csc_nets.functional.penalties import Penalty
from csc_nets.functional.problem import SAFETY, Problem, align
from csc_nets.functional.prox import at_least
from csc_nets.functional.pursuits.analytic_weights import analytic_weights
from csc_nets.functional.pursuits.base import Pursuit, register_pursuit
from csc_nets.functional.step import Step

__all__ = ["ALISTA", "LISTA", "LISTACP", "StepLISTA", "SupportSelection", "TiLISTA"]


@dataclass(frozen=True)
class SupportSelection(Penalty):
    """A penalty's prox that leaves the largest entries of each sample unshrunk where they are above the threshold.

    Args:
        penalty: whose prox shrinks the others.
        share: share of the entries that may pass, in [0, 1].
    """

    penalty: Penalty
    share: float

    @property
    def nonneg(self) -> bool:  # type: ignore[override]
        """As for the penalty."""
        return self.penalty.nonneg

    @property
    def any_sign(self) -> bool:  # type: ignore[override]
        """As for the penalty."""
        return self.penalty.any_sign

    def prox(self, v: Tensor, t: float | Tensor) -> Tensor:
        """The penalty's prox but for the selected entries, which are chosen without gradient."""
        size = v.detach() if self.nonneg else v.detach().abs()
        flat = size.flatten(1)
        count = int(self.share * flat.shape[1])
        if not count:
            return self.penalty.prox(v, t)
        least = flat.topk(count, dim=1).values[:, -1].view(-1, *(1,) * (v.ndim - 1))
        return torch.where((size >= least) & (size > t), v, self.penalty.prox(v, t))

    def value(self, z: Tensor, lam: float | Tensor) -> Tensor:
        """Value of the penalty."""
        return self.penalty.value(z, lam)


class LearnedSteps(nn.Module, Pursuit):
    """Base of the family. A subclass names the parts of a step that are parameters.

    Args:
        count: number of steps T.
        select: support selection: the share of entries, in percent, by which the selection grows each step; 0 for none
            (published: 1.2).
        most: largest share in percent (published: 13).

    Attributes:
        gains: :math:`\\alpha`, ``(T,)``; a buffer where it is not learned.
        shifts: s, ``(T, M)``.
        analysers: W, ``(T, M, ...)``, or ``(1, M, ...)`` where the steps share it.
        synthesisers: B of the steps from the second on, ``(T - 1, M, ...)``.
    """

    gains: Tensor
    takes_step_size = False
    learns: tuple[str, ...] = ()

    def __init__(self, count: int = 6, select: float = 0.0, most: float = 13.0) -> None:
        super().__init__()
        self.count = as_count(count)
        if not (0 <= select <= most <= 100):
            raise ValueError(
                f"select and most must be shares in percent, 0 <= select <= most <= 100, got {select}, {most}"
            )
        self.select, self.most = select, most

    def attach(self, dictionary: Any) -> "LearnedSteps":
        """A copy with parameters for this dictionary; a copy with its own where it has them already."""
        attached = copy.deepcopy(self)
        if hasattr(self, "gains"):
            return attached
        for name, tensor in self.starts(dictionary).items():
            if name in self.learns:
                attached.register_parameter(name, nn.Parameter(tensor))
            elif name in ("gains", "analysers"):
                attached.register_buffer(name, tensor)
        return attached

    def starts(self, dictionary: Any) -> dict[str, Tensor]:
        """Gains, shifts and filters at the start, for this dictionary."""
        weight, count = dictionary.weight.detach(), self.count or 1
        return {
            "gains": torch.as_tensor(SAFETY / dictionary.lipschitz).expand(count).clone(),
            "shifts": weight.new_zeros(count, len(weight)),
            **self.filters(weight, getattr(dictionary, "geometry", None)),
        }

    def filters(self, weight: Tensor, geometry: Any) -> dict[str, Tensor]:
        """Filters at the start, for atoms ``(M, ...)``."""
        return {}

    @torch.no_grad()
    def restart(self, dictionary: Any) -> None:
        """The steps are those of the start again."""
        for name, tensor in self.starts(dictionary).items():
            if hasattr(self, name):
                getattr(self, name).copy_(tensor)

    def changed(self, **changes: Any) -> "LearnedSteps":
        """Refuses another number of steps: the learned ones are for these."""
        if changes.get("tol") is not None or changes.get("count", self.count) != self.count:
            raise ValueError(f"{self!r} has learned {self.count} steps and takes no other number")
        return self

    def steps(self, problem: Problem) -> list[Step]:
        """One row for each step."""
        operator, count = problem.operator, self.count or 1
        analysers = _each(getattr(self, "analysers", None), count)
        synthesisers = [None, *_each(getattr(self, "synthesisers", None), count - 1)]
        rows = []
        for k, (gain, shift, w, b) in enumerate(
            zip(self.gains.unbind(), _each(getattr(self, "shifts", None), count), analysers, synthesisers, strict=True)
        ):
            pair = None
            if w is not None or b is not None:
                pair = Pair(*(operator if t is None else _with(operator, t) for t in (w, b)))
            rows.append(
                Step(gain, shift=_floored(shift, gain, problem), operator=pair, penalty=self._selection(k, problem))
            )
        return rows

    def _selection(self, k: int, problem: Problem) -> Penalty | None:
        if not self.select:
            return None
        return SupportSelection(problem.penalty, min(self.select * (k + 1), self.most) / 100)

    def __repr__(self) -> str:
        selection = f", select={self.select}" if self.select else ""
        return f"{type(self).__name__}({self.count}{selection})"


def _each(tensor: Tensor | None, count: int) -> Any:
    """One part for each step; a single one is shared."""
    if tensor is None:
        return [None] * count
    return tensor.unbind() if len(tensor) == count else [tensor[0]] * count


def _with(operator: Any, weight: Tensor) -> Any:
    return operator.map(lambda _: weight)


def _floored(shift: Tensor | None, gain: Tensor, problem: Problem) -> Any:
    """A shift that leaves a signed prox no threshold below 0."""
    if shift is None:
        return 0.0
    return shift if problem.nonneg else at_least(align(shift, problem.x.ndim), -gain * problem.lam)


@register_pursuit("lista")
class LISTA(LearnedSteps):
    """Filters of its own for analysis and synthesis in every step, and thresholds for each atom."""

    learns = ("shifts", "analysers", "synthesisers")

    def filters(self, weight: Tensor, geometry: Any) -> dict[str, Tensor]:
        """The atoms for every step."""
        analysers = weight.expand(self.count or 1, *weight.shape).clone()
        found = {"analysers": analysers}
        return found if len(analysers) == 1 else {**found, "synthesisers": analysers[1:].clone()}


@register_pursuit("lista_cp")
class LISTACP(LearnedSteps):
    """Filters of the analysis in every step, coupled with the dictionary's synthesis, and thresholds."""

    learns = ("shifts", "analysers")

    def filters(self, weight: Tensor, geometry: Any) -> dict[str, Tensor]:
        """The atoms for every step."""
        return {"analysers": weight.expand(self.count or 1, *weight.shape).clone()}


@register_pursuit("ti_lista")
class TiLISTA(LearnedSteps):
    """One set of filters of the analysis for all steps, with a step size and thresholds for each."""

    learns = ("gains", "shifts", "analysers")

    def filters(self, weight: Tensor, geometry: Any) -> dict[str, Tensor]:
        """The atoms once."""
        return {"analysers": weight[None].clone()}


@register_pursuit("alista")
class ALISTA(LearnedSteps):
    """Analytic filters (:mod:`csc_nets.functional.pursuits.analytic_weights`), learned step sizes and thresholds.

    The filters are those of the atoms at the start: fixed dictionaries are what it is for.
    """

    learns = ("gains", "shifts")

    def filters(self, weight: Tensor, geometry: Any) -> dict[str, Tensor]:
        """The analytic weights, for which a step of size 1 is natural: each meets its own atom with 1."""
        gains = weight.new_ones(self.count or 1)
        return {"analysers": analytic_weights(weight, geometry)[None], "gains": gains}


@register_pursuit("step_lista")
class StepLISTA(LearnedSteps):
    """Learned step sizes of ISTA, one for each step."""

    learns = ("gains",)
