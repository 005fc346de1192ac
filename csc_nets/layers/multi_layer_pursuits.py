"""Ways to code several layers: what :class:`~csc_nets.layers.MultiLayerCSC` runs."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from csc_nets.functional import Cascade, Lateral, Pair, Problem, advance, run, stop_rule
from csc_nets.functional.problem import align
from csc_nets.functional.pursuits.proximal_gradient import extrapolations
from csc_nets.registry import Part, Registry

__all__ = ["MultiLayerPursuit", "as_multi_layer_pursuit", "multi_layer_pursuits", "register_multi_layer_pursuit"]


class MultiLayerPursuit(Part):
    """One way to code all layers. It has no numbers: the layer holds dictionaries, weights, biases and step sizes.

    Attributes:
        least_steps: smallest number of steps.
        unit_step: step sizes are 1 where none are given.
        hard: whether hard thresholds are allowed.
        tolerant: whether a tolerance may stop each layer.
        coupled: whether the gradient of a layer passes the steps of the layers below, which scale its threshold.
        feedforward: whether second dictionaries take the input.
        untied: whether each step after the first has dictionaries and biases of its own.
    """

    least_steps = 0
    unit_step = False
    hard = False
    tolerant = False
    coupled = False
    feedforward = False
    untied = False

    def rows(self, steps: int) -> int:
        """Number of thresholdings of a layer."""
        return steps + 1

    def codes(self, layer: Any, x: Tensor, lam: Sequence[float | Tensor]) -> list[Tensor]:
        """Codes ``(N, M_i, *S_i)`` of signals ``(N, C, *S)``, from the first layer to the deepest.

        Args:
            layer: the :class:`~csc_nets.layers.MultiLayerCSC`.
            x: signals.
            lam: a checked weight for each layer.
        """
        raise NotImplementedError

    def last(self, layer: Any) -> Any:
        """The dictionaries that compute the codes in the last row."""
        return layer.dictionaries


_PURSUITS: Registry[Any] = Registry("multi-layer pursuit", "register_multi_layer_pursuit")
register_multi_layer_pursuit = _PURSUITS.decorator
multi_layer_pursuits = _PURSUITS.names


def as_multi_layer_pursuit(pursuit: str | MultiLayerPursuit) -> MultiLayerPursuit:
    """The object of a registered name.

    Raises:
        ValueError: an unknown name.
    """
    found: MultiLayerPursuit = _PURSUITS.build(pursuit, MultiLayerPursuit)
    return found


class Layered(MultiLayerPursuit):
    """One layer after the other: the code of a layer is the signal of the next."""

    def codes(self, layer: Any, x: Tensor, lam: Sequence[float | Tensor]) -> list[Tensor]:
        """See :meth:`MultiLayerPursuit.codes`."""
        codes: list[Tensor] = []
        count = self.rows(layer.steps)
        for i, operator in enumerate(layer.operators()):
            problem = layer.problem(x, operator, lam[i])
            rows, stop = [layer.row(i, layer.step_size_of(i, operator, problem.size))] * count, None
            if layer.tol is not None:
                stop = stop_rule(problem, layer.tol)
                rows = [row.with_momentum(beta, beta) for row, beta in zip(rows, extrapolations(count), strict=True)]
            x = run(problem, rows, stop=stop)
            codes.append(x)
        return codes


@register_multi_layer_pursuit("layered_thresholding")
class LayeredThresholding(Layered):
    """One thresholding a layer: the forward pass of a CNN."""

    unit_step = True
    hard = True

    def rows(self, steps: int) -> int:
        """One, whatever the number of steps."""
        return 1


@register_multi_layer_pursuit("layered_iterative_thresholding")
class LayeredIterativeThresholding(Layered):
    """ISTA from zero in each layer."""

    least_steps = 1

    def rows(self, steps: int) -> int:
        """The steps themselves."""
        return steps


@register_multi_layer_pursuit("layered_basis_pursuit")
class LayeredBasisPursuit(Layered):
    """The thresholding and further steps in each layer; with a tolerance, FISTA to the solution."""

    tolerant = True


@register_multi_layer_pursuit("ml_ista")
class MLISTA(MultiLayerPursuit):
    """All layers together: the table of the deepest layer, whose signal is a row of the layer below."""

    coupled = True

    def extrapolations(self, count: int) -> list[float]:
        """Momentum of each row of the deepest layer."""
        return [0.0] * count

    def codes(self, layer: Any, x: Tensor, lam: Sequence[float | Tensor]) -> list[Tensor]:
        """See :meth:`MultiLayerPursuit.codes`."""
        sizes = [tuple(x.shape[2:]), *Cascade(list(layer.dictionaries)).sizes(x.shape[2:])]
        problem: Problem | None = None
        row = None
        scale = x.new_ones((), dtype=layer.lam[0].dtype)
        laterals = [dictionary.track() for dictionary in layer.feedforward] or [None] * len(lam)
        for i, (operator, lateral) in enumerate(zip(layer.operators(), laterals, strict=True)):
            eta = layer.step_size_of(i, operator, sizes[i])
            weight = scale * align(torch.as_tensor(lam[i], dtype=scale.dtype, device=x.device), x.ndim)
            chosen = operator if lateral is None else Lateral(lateral, lateral, operator)
            if problem is None:
                problem = layer.problem(x, chosen, weight)
            else:  # only the shape of this signal is used
                like = x.new_zeros(()).expand(x.shape[0], layer.dictionaries[i].in_channels, *sizes[i])
                problem = layer.problem(like, chosen, weight, lower=problem, row=row)
            row, scale = layer.row(i, eta), scale * eta
        assert problem is not None and row is not None
        betas = self.extrapolations(self.rows(layer.steps))
        deepest = run(problem, [row.with_momentum(beta, beta) for beta in betas])
        return [*getattr(problem, "codes", ()), deepest]


@register_multi_layer_pursuit("ml_fista")
class MLFISTA(MLISTA):
    """ML-ISTA with FISTA's extrapolation of the deepest code."""

    def extrapolations(self, count: int) -> list[float]:
        """FISTA's weights."""
        return list(extrapolations(count))


@register_multi_layer_pursuit("ml_lista")
class MLLISTA(MLISTA):
    """ML-ISTA with second dictionaries that take the input and synthesise top-down."""

    feedforward = True

    def last(self, layer: Any) -> Any:
        """The second ones without steps."""
        return layer.dictionaries if layer.steps else layer.feedforward


@register_multi_layer_pursuit("all_free")
class AllFree(MultiLayerPursuit):
    """Dictionaries and biases of its own in each step, without a top-down pass."""

    untied = True

    def codes(self, layer: Any, x: Tensor, lam: Sequence[float | Tensor]) -> list[Tensor]:
        """See :meth:`MultiLayerPursuit.codes`."""
        codes: list[Tensor] = []
        before: list[Any] = []
        for entry in range(self.rows(layer.steps)):
            below, now = x, layer.operators(entry)
            for i, operator in enumerate(now):
                eta = layer.step_size_of(i, operator, below.shape[2:])
                pair = Pair(operator, before[i]) if before else None
                problem = layer.problem(below, operator, lam[i])
                below = advance(problem, layer.row(i, eta, pair, entry), codes[i] if before else None)
                codes[i:] = [below, *codes[i + 1 :]]
            before = now
        return codes

    def last(self, layer: Any) -> Any:
        """The last set."""
        return layer.sets[-1] if len(layer.sets) else layer.dictionaries
