"""Pursuits with coefficients that are calibrated on the signals of training."""

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from csc_nets.functional.checks import as_count, autocast_dtype, full_precision, is_functional
from csc_nets.functional.operators import ConvGeometry
from csc_nets.functional.penalties import Penalty
from csc_nets.functional.problem import Problem
from csc_nets.functional.pursuits.base import Pursuit, register_pursuit
from csc_nets.functional.pursuits.calibration import (
    calibrate,
    calibrated_rows,
    calibrated_step_size,
    calibration_update,
    whitening,
)
from csc_nets.functional.pursuits.loop import run
from csc_nets.functional.step import Step

__all__ = ["Calibrated", "Whitened"]

# Each forward pass in training uses one sample in 64, or as many as have 32 positions. It takes a tenth of the update,
# and changes no coefficient by more than a fifth.
_ONE_IN, _POSITIONS, _RATE, _LIMIT = 64, 32, 0.1, 0.2
# Whitening is a convolution between all channels of a residual. With more channels it costs as much as the analysis.
_CHANNELS = 8


@register_pursuit("calibrated")
class Calibrated(nn.Module, Pursuit):
    """Steps with a gain, a shift and an inertia for each atom. Training adapts them to the objective.

    See :mod:`csc_nets.functional.pursuits.calibration`. The coefficients are buffers, not trained by the loss: one or
    two of these steps code as well as four to twelve of FISTA.

    Args:
        count: number of steps.

    Attributes:
        coefficients: ``(T, 3, M)``, a buffer, so that a checkpoint holds all that inference needs. Gains are in units
            of ISTA's step size. Before calibration, and beyond step T, every step is a step of ISTA.
    """

    coefficients: Tensor
    whitens = False
    takes_step_size = False

    def __init__(self, count: int = 2) -> None:
        super().__init__()
        self.count = as_count(count)

    @classmethod
    def spelled(cls, steps: int | None, tol: float | None, **options: Any) -> "Pursuit":
        """``tol`` is refused: the steps are a fixed number."""
        if tol is not None:
            raise ValueError(
                f"pursuit={cls.__name__.lower()!r} is a fixed number of steps: it takes no tol, got {tol!r}"
            )
        return super().spelled(steps, None, **options)

    def check(self, penalty: Penalty) -> None:
        """Refuses other penalties than the l1 norms, for which the update is derived."""
        if penalty.kernel is None:
            raise ValueError(f"{self!r} is derived for the l1 norms, got penalty={penalty!r}")

    def attach(self, dictionary: Any) -> "Calibrated":
        """A copy with coefficients for this dictionary.

        Raises:
            ValueError: residuals cannot be whitened: a stride, a dilation, groups or more than 8 channels.
        """
        if self.whitens:
            geometry = getattr(dictionary, "geometry", None)
            plain = geometry is not None and max(*geometry.stride, *geometry.dilation, geometry.groups) == 1
            if not plain or dictionary.in_channels > _CHANNELS:
                raise ValueError(
                    f"pursuit='whitened' takes convolutions without groups, of stride 1, dilation 1 and at most "
                    f"{_CHANNELS} channels, got {dictionary!r}; pursuit='calibrated' takes all"
                )
        attached = copy.deepcopy(self)
        if hasattr(self, "coefficients"):
            return attached
        coefficients = dictionary.lipschitz.new_zeros(self.count, 3, dictionary.out_channels)
        attached.register_buffer("coefficients", coefficients)
        attached.restart(dictionary)
        return attached

    @torch.no_grad()
    def restart(self, dictionary: Any) -> None:
        """The steps are ISTA's again."""
        self.coefficients.zero_()
        self.coefficients[:, 0] = 1

    def changed(self, **changes: Any) -> "Calibrated":
        """A copy with another ``count`` of steps: fewer of the calibrated ones, or these and then steps of ISTA."""
        if changes.get("tol") is not None or changes.get("count", self.count) is None:
            raise ValueError(f"{self!r} is a fixed number of steps: it takes no tol")
        other = copy.deepcopy(self)
        other.count = as_count(changes.get("count", self.count))
        return other

    def steps(self, problem: Problem) -> list[Step]:
        """The calibrated rows, followed by rows of ISTA."""
        step_size = calibrated_step_size(problem)
        calibrated, count = self.coefficients[: self.count] * _units(step_size), self.count or 0
        rows = calibrated_rows(problem, calibrated, self.metric(problem) if self.whitens else None)
        ista = torch.zeros_like(self.coefficients[:1])
        ista[:, 0] = step_size
        return rows + calibrated_rows(problem, ista) * (count - len(rows))

    def run(self, problem: Problem, init: Tensor | None = None) -> Tensor:
        """The code ``(N, M, *S')``. In training the coefficients are updated, too."""
        rows = self.steps(problem)
        if not self.training or is_functional():
            return run(problem, rows, init)
        codes: list[Tensor] = []
        z = run(problem, rows, init, trace=lambda code: codes.append(code.detach()))
        self._follow(problem, rows[0].operator, codes if init is None else None)
        return z

    def metric(self, problem: Problem) -> Callable[[Tensor], Tensor]:
        """The filter H that whitens residuals."""
        operator: Any = problem.operator
        weight: Tensor = operator.weight
        with full_precision(weight):
            filters = whitening(weight, problem.lipschitz().detach())
        mode = "circular" if operator.geometry.padding_mode == "circular" else "zeros"
        geometry = ConvGeometry.create(
            weight.ndim - 2, tuple(map(int, filters.shape[2:])), padding="same", padding_mode=mode
        )

        def whitened(residual: Tensor) -> Tensor:
            geometry.code_size(residual.shape[2:])  # refuses a signal too small for its circular border
            return geometry.analysis(residual, filters)

        return whitened

    @torch.no_grad()
    def calibrate(self, problem: Problem, updates: int) -> None:
        """Computes the coefficients for the signals of a problem, from those of ISTA on."""
        coefficients = calibrate(
            problem.x,
            problem.operator,
            problem.lam,
            len(self.coefficients),
            updates=updates,
            metric=self.metric(problem) if self.whitens else None,
            nonneg=problem.nonneg,
            ridge=problem.quadratic,
            mask=problem.mask,
        )
        self.coefficients.copy_(coefficients / _units(calibrated_step_size(problem)))

    @torch.no_grad()
    def _follow(self, problem: Problem, first: Any, codes: list[Tensor] | None) -> None:
        """Updates the coefficients a little, on a few of the signals.

        Args:
            problem: what was solved.
            first: the first row's operator.
            codes: codes after the steps from the zero code; None where they are not known.
        """
        if not len(problem.x):
            return  # an empty batch says nothing about the atoms
        count = max(-(-len(problem.x) // _ONE_IN), -(-_POSITIONS // math.prod(problem.size)))

        def few(t: Tensor) -> Tensor:
            return t[:count] if t.ndim == problem.x.ndim and len(t) > 1 else t

        def rounded(weight: Tensor) -> Tensor:
            dtype = autocast_dtype(weight) if weight.dtype == torch.float32 else None
            return weight.detach().to(dtype or weight.dtype)  # once instead of in every convolution

        lam = few(problem.lam) if isinstance(problem.lam, Tensor) else problem.lam
        mask = None if problem.mask is None else few(problem.mask)
        operator: Any = problem.operator.map(rounded)
        part = Problem(problem.x[:count], operator, lam, problem.quadratic, problem.nonneg, mask, check=False)
        known = None
        if codes is not None and len(codes) >= len(self.coefficients):
            known = [z[:count] for z in codes[: len(self.coefficients)]]
        step_size = calibrated_step_size(problem)
        units, metric = _units(step_size), getattr(first, "metric", None)
        now = self.coefficients * units
        new = calibration_update(part, now, step_size, _RATE, metric, codes=known, limit=_LIMIT) / units
        self.coefficients.copy_(torch.where(new.isfinite(), new, self.coefficients))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # The number of calibrated steps is that of the checkpoint: a layer may take more or fewer.
        saved = state_dict.get(f"{prefix}coefficients")
        if saved is not None and saved.ndim == 3 and saved.shape[1:] == self.coefficients.shape[1:]:
            self.coefficients = self.coefficients.new_empty(saved.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.count})"


@register_pursuit("whitened")
class Whitened(Calibrated):
    """Calibrated steps along whitened residuals, for stride 1 and up to 8 channels."""

    whitens = True
    local = False


def _units(step_size: Tensor) -> Tensor:
    """Units of gain, shift and inertia, ``(3, 1)``."""
    return torch.stack([step_size, torch.ones_like(step_size), torch.ones_like(step_size)])[:, None]
