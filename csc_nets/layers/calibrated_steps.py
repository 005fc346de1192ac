"""Steps of a layer whose coefficients are calibrated on what the layer sees in training."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from csc_nets.functional import ConvGeometry, Problem
from csc_nets.functional.calibration import calibrate, calibration_update, whitening
from csc_nets.functional.problem import align
from csc_nets.functional.pursuit import SAFETY
from csc_nets.layers.dictionary import _Atoms, _ConvDictionary, _Dictionary
from csc_nets.layers.proximal_step import ProximalStep

__all__ = ["CalibratedSteps"]

# A training forward looks at one sample in so many, at so many positions at least, takes this share of the update,
# and changes no coefficient by more than the last share.
_ONE_IN, _POSITIONS, _RATE, _LIMIT = 64, 32, 0.1, 0.2
# A residual is whitened by a convolution between all of its channels: with more it costs as much as the analysis.
_CHANNELS = 8


class CalibratedSteps(nn.Module):
    """The steps of :mod:`csc_nets.functional.calibration` for a layer, and the upkeep of their coefficients.

    Args:
        dictionary: the layer's dictionary.
        steps: number of calibrated steps T.
        whiten: whiten the residuals of these steps.

    Attributes:
        coefficients: ``(T, 3, M)`` buffer, so that a checkpoint holds all that inference needs. Gains are in units of
            ISTA's step size: before any calibration, and beyond step T, a step is one of ISTA.

    Raises:
        ValueError: ``whiten`` with a stride, a dilation or more than 8 channels.
    """

    coefficients: Tensor

    def __init__(self, dictionary: _Dictionary, steps: int, whiten: bool = False) -> None:
        super().__init__()
        if whiten:
            geometry = dictionary.geometry if isinstance(dictionary, _ConvDictionary) else None
            if geometry is None or max(*geometry.stride, *geometry.dilation) > 1 or dictionary.in_channels > _CHANNELS:
                raise ValueError(
                    f"pursuit='whitened' takes convolutions of stride 1, dilation 1 and at most {_CHANNELS} channels, "
                    f"got {dictionary!r}; pursuit='calibrated' takes all"
                )
        self.whiten = whiten
        coefficients = dictionary.lipschitz.new_zeros(steps, 3, dictionary.out_channels)
        coefficients[:, 0] = 1
        self.register_buffer("coefficients", coefficients)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # As many steps as were calibrated: a layer may take more or fewer.
        saved = state_dict.get(f"{prefix}coefficients")
        if saved is not None and saved.ndim == 3 and saved.shape[1:] == self.coefficients.shape[1:]:
            self.coefficients = self.coefficients.new_empty(saved.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def code(
        self,
        problem: Problem,
        dictionary: _Dictionary,
        weight: Tensor,
        steps: int,
        init: Tensor | None,
        learn: bool,
    ) -> Tensor:
        """Runs the steps.

        Args:
            problem: what is being solved.
            dictionary: the layer's dictionary.
            weight: its atoms.
            steps: number of steps.
            init: warm start; None for the zero code.
            learn: let the coefficients follow these signals.

        Returns:
            Codes ``(N, M, *S')``.
        """
        x, size = problem.masked(problem.x), problem.x.shape[2:]
        step_size = _step_size(problem, dictionary)
        metric = self._metric(dictionary, weight) if self.whiten else None
        before, z = None, init
        codes = []
        for k in range(steps):
            gain, shift, inertia = (align(c, x.ndim) for c in self._step(k, step_size))
            threshold = gain * problem.lam + shift
            step = ProximalStep(
                dictionary,
                weight * gain.view(-1, *(1,) * (weight.ndim - 1)),
                (threshold if problem.nonneg else threshold.clamp_min(0)).to(weight.dtype),
                prox="nonneg" if problem.nonneg else "soft",
                atoms=weight,
            )
            residual = x if z is None else problem.masked(x - step.synthesis(z, size))
            if metric is not None and k < len(self.coefficients):
                residual = metric(residual)
            if z is None:
                before, z = z, step.start(residual)
            else:
                y = z * (1 + inertia - problem.ridge * gain)
                if before is not None:
                    y = y - inertia * before
                # A warm start may be of another memory format, or one for all samples: its copy is not written into.
                before, z = z, step.advance(y, residual, disposable=k > 0)
            if learn:
                codes.append(z.detach())
        assert z is not None
        if learn:
            atoms = weight.detach()
            if torch.is_autocast_enabled(x.device.type) and atoms.dtype == torch.float32:
                atoms = atoms.to(torch.get_autocast_dtype(x.device.type))  # once, not for every convolution
            self._follow(problem, _Atoms(dictionary, atoms), step_size, metric, codes if init is None else None)
        return z

    def _step(self, k: int, step_size: Tensor) -> Tensor:
        """Coefficients ``(3, M)`` of step ``k``."""
        if k < len(self.coefficients):
            return self.coefficients[k] * _units(step_size)
        ista = torch.zeros_like(self.coefficients[0])
        ista[0] = step_size
        return ista

    def _metric(self, dictionary: _Dictionary, weight: Tensor) -> Callable[[Tensor], Tensor]:
        assert isinstance(dictionary, _ConvDictionary)
        with torch.autocast(weight.device.type, enabled=False):
            # Of a copy: the buffer moves on in the next forward pass, which may come before this one's backward pass.
            filters = whitening(weight, dictionary.lipschitz.clone())
        mode = "circular" if dictionary.geometry.padding_mode == "circular" else "zeros"
        geometry = ConvGeometry.create(weight.ndim - 2, tuple(filters.shape[2:]), padding="same", padding_mode=mode)

        def metric(residual: Tensor) -> Tensor:
            geometry.code_size(residual.shape[2:])  # refuses a signal too small for its circular border
            return geometry.analysis(residual, filters)

        return metric

    @torch.no_grad()
    def calibrate(self, problem: Problem, dictionary: _Dictionary, updates: int) -> None:
        """Coefficients for the signals of a problem, from those of ISTA on."""
        weight = dictionary.weight
        coefficients = calibrate(
            problem.x,
            _Atoms(dictionary, weight),
            problem.lam,
            len(self.coefficients),
            updates=updates,
            metric=self._metric(dictionary, weight) if self.whiten else None,
            nonneg=problem.nonneg,
            ridge=problem.ridge,
            mask=problem.mask,
        )
        self.coefficients.copy_(coefficients / _units(_step_size(problem, dictionary)))

    @torch.no_grad()
    def _follow(
        self,
        problem: Problem,
        atoms: _Atoms,
        step_size: Tensor,
        metric: Callable[[Tensor], Tensor] | None,
        codes: list[Tensor] | None,
    ) -> None:
        """A small update on a few of the signals.

        Args:
            codes: those of the steps from the zero code; None where they are not known.
        """
        if not len(problem.x):
            return  # no signal is not one that uses no atoms
        count = max(-(-len(problem.x) // _ONE_IN), -(-_POSITIONS // math.prod(problem.x.shape[2:])))

        def few(t: Tensor) -> Tensor:
            return t[:count] if t.ndim == problem.x.ndim and len(t) > 1 else t

        lam = few(problem.lam) if isinstance(problem.lam, Tensor) else problem.lam
        mask = None if problem.mask is None else few(problem.mask)
        part = Problem(problem.x[:count], atoms, lam, problem.ridge, problem.nonneg, mask)
        known = None
        if codes is not None and len(codes) >= len(self.coefficients):
            known = [z[:count] for z in codes[: len(self.coefficients)]]
        units = _units(step_size)
        now = self.coefficients * units
        new = calibration_update(part, now, step_size, _RATE, metric, codes=known, limit=_LIMIT) / units
        self.coefficients.copy_(torch.where(new.isfinite(), new, self.coefficients))

    def extra_repr(self) -> str:
        return f"steps={len(self.coefficients)}" + (", whiten=True" if self.whiten else "")


def _step_size(problem: Problem, dictionary: _Dictionary) -> Tensor:
    """ISTA's, where the ridge is in the gradient."""
    return SAFETY / (dictionary.bound(problem.x.shape[2:]) + problem.ridge)


def _units(step_size: Tensor) -> Tensor:
    """What gain, shift and inertia are multiples of, ``(3, 1)``."""
    return torch.stack([step_size, torch.ones_like(step_size), torch.ones_like(step_size)])[:, None]
