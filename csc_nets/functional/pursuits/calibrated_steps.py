"""Pursuits whose coefficients are calibrated on what a layer sees in training."""

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from csc_nets.functional.checks import as_count, autocast_dtype, full_precision
from csc_nets.functional.operators import ConvGeometry
from csc_nets.functional.penalties import Penalty
from csc_nets.functional.problem import Problem
from csc_nets.functional.pursuits.calibration import (
    calibrate,
    calibrated_rows,
    calibrated_step_size,
    calibration_update,
    whitening,
)
from csc_nets.functional.pursuits.loop import run
from csc_nets.functional.pursuits.step import Pursuit, Step, register_pursuit

__all__ = ["Calibrated", "Whitened"]

# A training forward looks at one sample in so many, at so many positions at least, takes this share of the update,
# and changes no coefficient by more than the last share.
_ONE_IN, _POSITIONS, _RATE, _LIMIT = 64, 32, 0.1, 0.2
# A residual is whitened by a convolution between all of its channels: with more it costs as much as the analysis.
_CHANNELS = 8


@register_pursuit("calibrated")
class Calibrated(nn.Module, Pursuit):
    """Steps with a gain, a shift and an inertia for each atom, which follow the objective in training.

    See :mod:`csc_nets.functional.pursuits.calibration`. The coefficients are buffers, not trained by the loss: one or
    two of these steps code as well as four to twelve of FISTA.

    Args:
        count: number of steps.

    Attributes:
        coefficients: ``(T, 3, M)`` buffer, so that a checkpoint holds all that inference needs. Gains are in units of
            ISTA's step size: before any calibration, and beyond step T, a step is one of ISTA.
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
        return cls() if steps is None else cls(steps)

    def check(self, penalty: Penalty) -> None:
        """Takes the l1 norms, whose support the update knows."""
        if penalty.kernel is None:
            raise ValueError(f"{self!r} is derived for the l1 norms, got penalty={penalty!r}")

    def attach(self, dictionary: Any) -> "Calibrated":
        """A copy with coefficients for this dictionary.

        Raises:
            ValueError: residuals cannot be whitened: a stride, a dilation or more than 8 channels.
        """
        if self.whitens:
            geometry = getattr(dictionary, "geometry", None)
            plain = geometry is not None and max(*geometry.stride, *geometry.dilation) == 1
            if not plain or dictionary.in_channels > _CHANNELS:
                raise ValueError(
                    f"pursuit='whitened' takes convolutions of stride 1, dilation 1 and at most {_CHANNELS} channels, "
                    f"got {dictionary!r}; pursuit='calibrated' takes all"
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
        """A copy that takes another ``count`` of steps: fewer, or the calibrated ones and then ISTA's."""
        if changes.get("tol") is not None or changes.get("count", self.count) is None:
            raise ValueError(f"{self!r} is a fixed number of steps: it takes no tol")
        other = copy.deepcopy(self)
        other.count = as_count(changes.get("count", self.count))
        return other

    def steps(self, problem: Problem) -> list[Step]:
        """The calibrated rows, and those of ISTA behind them."""
        step_size = calibrated_step_size(problem)
        calibrated, count = self.coefficients[: self.count] * _units(step_size), self.count or 0
        rows = calibrated_rows(problem, calibrated, self.metric(problem) if self.whitens else None)
        ista = torch.zeros_like(self.coefficients[:1])
        ista[:, 0] = step_size
        return rows + calibrated_rows(problem, ista) * (count - len(rows))

    def run(self, problem: Problem, init: Tensor | None = None) -> Tensor:
        """The code ``(N, M, *S')``; in training the coefficients follow it."""
        rows = self.steps(problem)
        if not self.training or torch._C._are_functorch_transforms_active():
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
        """A small update on a few of the signals.

        Args:
            problem: what was solved.
            first: the first row's operator.
            codes: those of the steps from the zero code; None where they are not known.
        """
        if not len(problem.x):
            return  # no signal is not one that uses no atoms
        count = max(-(-len(problem.x) // _ONE_IN), -(-_POSITIONS // math.prod(problem.size)))

        def few(t: Tensor) -> Tensor:
            return t[:count] if t.ndim == problem.x.ndim and len(t) > 1 else t

        def rounded(weight: Tensor) -> Tensor:
            dtype = autocast_dtype(weight) if weight.dtype == torch.float32 else None
            return weight.detach().to(dtype or weight.dtype)  # once, not for every convolution

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
        # As many steps as were calibrated: a layer may take more or fewer.
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
    """What gain, shift and inertia are multiples of, ``(3, 1)``."""
    return torch.stack([step_size, torch.ones_like(step_size), torch.ones_like(step_size)])[:, None]
