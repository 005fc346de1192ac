"""What may be done at test time against corruptions: the rows of the table."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from csc_nets.evaluation.batch_statistics import batch_statistics
from csc_nets.evaluation.lam_rules import LamRule, LineRule, as_lam_rule, lam_rule
from csc_nets.evaluation.lam_rules.adaptive import Layers, coding_layers, weighted_layers
from csc_nets.evaluation.lam_rules.base import own_lam
from csc_nets.evaluation.lam_rules.calibration import best_weights, fit_line
from csc_nets.layers import CSC
from csc_nets.tasks.precise_batch_norm import BATCH_NORMS

__all__ = ["ORACLE", "WITH_NORM", "Method", "Multiple", "robustness_methods"]

ORACLE, WITH_NORM = "oracle, by test labels", " + batch norm"
FACTORS = (2.0, 4.0, 8.0, 16.0)
"""Multiples of the layer's own lam among which, and 1, the oracle chooses."""

CALIBRATION_NOISE = (0.0, 0.04, 0.08, 0.12, 0.16, 0.2)
"""Standard deviations of the Gaussian noise on training images to which lines are fitted, with white at 1."""


@dataclass(frozen=True)
class Method:
    """A way to classify corrupted images.

    Attributes:
        name: of the row.
        around: makes the context in which the network is called.
        before: from pixels ``(N, C, H, W)`` in [0, 1] to pixels.
        candidate_of: the oracle of whose choices this one is; "" for a row of its own.
        uses_batch: whether the answer for an image depends on the other images of its batch.
    """

    name: str
    around: Callable[[], AbstractContextManager[Any]] = nullcontext
    before: Callable[[Tensor], Tensor] | None = None
    candidate_of: str = ""
    uses_batch: bool = False

    @property
    def is_attackable(self) -> bool:
        """Whether the answer for an image depends on this image alone, differentiably, and on no label."""
        return self.before is None and not self.candidate_of and not self.uses_batch


@dataclass(frozen=True)
class Multiple(LamRule):
    """The layer's own weight times a number, for every image alike."""

    factor: float

    def __call__(self, layer: CSC, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """See :class:`~csc_nets.evaluation.LamRule`."""
        return self.factor * own_lam(layer).expand(len(x))


class Remembered(LamRule):
    """A rule that keeps its last answer, for calls with the same input that ask for no gradient."""

    def __init__(self, rule: LamRule) -> None:
        self.rule = rule
        self.last: tuple[Tensor, Tensor] | None = None

    def __call__(self, layer: CSC, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """See :class:`~csc_nets.evaluation.LamRule`."""
        if x.requires_grad:
            return self.rule(layer, x, mask)
        if self.last is None or not torch.equal(self.last[0], x):
            self.last = x, self.rule(layer, x, mask)
        return self.last[1]


def robustness_methods(
    model: nn.Module,
    rules: Sequence[Any] = (),
    *,
    layers: Layers = "first",
    training: Sequence[Tensor] | None = None,
    denoise: Callable[[Tensor], Tensor] | None = None,
) -> list[Method]:
    """Rows of the table, each without and with batch norm by the corrupted batch.

    The network as it was trained; each rule for lam; the oracle's candidates; a denoiser in front. A network whose
    first coding layer sees no images, or that has none, has no rules and no oracle; one without batch norm has no
    second half.

    Args:
        model: the network, in evaluation mode.
        rules: as for :func:`~csc_nets.evaluation.as_lam_rule`.
        layers: for which lam is chosen, see :func:`~csc_nets.evaluation.lam_rule`.
        training: the same training images at rising noise, the network's input, for rules with a line to fit; see
            :func:`~csc_nets.evaluation.calibrate_rule`. None leaves out the fitted ones.
        denoise: from pixels to pixels.
    """
    methods = [Method("fixed lam")]
    if _codes_images(model):
        methods += [
            Method(name, partial(lam_rule, model, Remembered(rule), layers=layers))
            for name, rule in _named_rules(model, rules, layers, training)
        ]
        candidates = {f"lam x {factor:g}": Multiple(factor) for factor in FACTORS}
        methods += [
            Method(name, partial(lam_rule, model, rule, layers=layers), candidate_of=ORACLE)
            for name, rule in candidates.items()
        ]
    else:
        methods = [Method("as trained")]
    if denoise is not None:
        methods.append(Method("denoiser in front", before=denoise))
    if not any(isinstance(m, BATCH_NORMS) and m.running_mean is not None for m in model.modules()):
        return methods
    return methods + [_with_batch_norm(model, method) for method in methods]


def _codes_images(model: nn.Module) -> bool:
    first = next(iter(weighted_layers(model)), None)
    geometry = getattr(getattr(first, "dictionary", None), "geometry", None)
    return geometry is not None and geometry.dims == 2


def _named_rules(
    model: nn.Module, rules: Sequence[Any], layers: Layers, training: Sequence[Tensor] | None
) -> list[tuple[str, LamRule]]:
    found: list[tuple[str, LamRule]] = []
    built = [as_lam_rule(rule) for rule in rules]
    to_fit = training is not None and any(isinstance(rule, LineRule) and rule.slope is None for rule in built)
    best = best_weights(model, training, layers=layers) if to_fit and training is not None else []
    for rule in built:
        name = str(rule.registered_name).replace("_", " ")
        if not isinstance(rule, LineRule) or rule.works_unfitted or rule.slope is not None:
            found.append((name, rule))
        if isinstance(rule, LineRule) and rule.slope is None and best:
            found.append((f"{name}, fitted", fit_line(rule, coding_layers(model)[0], best)))
    return found


def _with_batch_norm(model: nn.Module, method: Method) -> Method:
    @contextmanager
    def both() -> Any:
        with ExitStack() as stack:
            stack.enter_context(method.around())
            stack.enter_context(batch_statistics(model))
            yield

    oracle = f"{method.candidate_of}{WITH_NORM}" if method.candidate_of else ""
    return Method(f"{method.name}{WITH_NORM}", both, method.before, oracle, uses_batch=True)


def noisy_copies(pixels: Tensor, seed: int = 0) -> list[Tensor]:
    """The same pixels ``(N, C, H, W)`` with more and more Gaussian noise, clipped to [0, 1]."""
    noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(seed)).to(pixels)
    return [(pixels + level * noise).clamp(0, 1) for level in CALIBRATION_NOISE]
