"""The options of every coding layer, declared once. Layers and models pass them on as one mapping."""

import difflib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from torch import Tensor

from csc_nets.functional import Gradient, Penalty, Pursuit, Unroll, as_gradient, as_penalty, as_pursuit
from csc_nets.functional.checks import check_step_size, errors_of
from csc_nets.functional.gradients import Implicit
from csc_nets.functional.penalties import check_ridge
from csc_nets.functional.pursuits.base import takes_steps

__all__ = ["CodingOptions", "Parts", "default_gradient", "renamed_gradient", "step_sizes", "with_defaults"]


class CodingOptions(TypedDict, total=False):
    r"""Keywords of :class:`~csc_nets.layers.CSC2d` and of every layer and model that is built from it.

    Attributes:
        lam: sparsity weight, a number or one per atom ``(M,)``, in units of the signal (atoms have unit norm); 0.1.
        pursuit: a :class:`~csc_nets.functional.Pursuit` such as ``FISTA(4)``; or a registered name, such as
            ``"fista"``, ``"ista"``, ``"threshold"``, ``"calibrated"``, ``"whitened"``, ``"lista"``; or a mapping with
            ``name`` and the arguments of the pursuit. ``"fista"``.
        steps: number of steps, for a name; 2. None, with a ``tol``, is the equilibrium layer, which stops there.
        tol: for a name: stop each sample when its duality gap falls below ``tol`` times half its squared norm, after
            ``steps`` steps at the latest.
        penalty: a :class:`~csc_nets.functional.Penalty` such as ``TopK(32)``, a registered name, or a mapping; None is
            the l1 norm.
        nonneg: for the l1 norm: codes are non-negative, True; False is the signed soft threshold.
        step_size: step size of the pursuit, a number above 0; None for 0.9 over the bound of :math:`\|D\|^2`. Above
            :math:`2 / \|D\|^2` steps need not converge. For pursuits without step sizes of their own.
        ridge: weight :math:`\mu` of half the squared norm of the code; 0.
        learn_lam: train ``lam``, kept positive by a softplus; False.
        gradient: a :class:`~csc_nets.functional.Gradient` such as ``Recompute()``, or its name: ``"unroll"``,
            ``"recompute"``, ``"implicit"``. None is ``"unroll"`` for a number of steps, and ``"implicit"`` for a
            tolerance without one.
        backward: older name of ``gradient``.
    """

    lam: float | Tensor
    pursuit: str | Mapping[str, Any] | Pursuit | None
    steps: int | None
    tol: float | None
    penalty: str | Mapping[str, Any] | Penalty | None
    nonneg: bool | None
    step_size: float | None
    ridge: float
    learn_lam: bool
    gradient: str | Mapping[str, Any] | Gradient | None
    backward: str | None


@dataclass(frozen=True)
class Parts:
    """The parts and numbers of a layer, made from its options."""

    lam: float | Tensor
    learn_lam: bool
    step_size: float | None
    ridge: float
    penalty: Penalty
    pursuit: Pursuit
    gradient: Gradient | None

    @classmethod
    def of(cls, owner: str, options: Mapping[str, Any]) -> "Parts":
        """The parts of a layer.

        Args:
            owner: name of the layer, for errors.
            options: some of :class:`CodingOptions`.

        Raises:
            TypeError: an unknown option.
            ValueError: bad values, or values that contradict each other.
        """
        for key in options:
            if key not in CodingOptions.__annotations__:
                near = difflib.get_close_matches(key, CodingOptions.__annotations__, 1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise TypeError(f"{owner} got an unexpected keyword argument {key!r}{hint}")
        gradient = renamed_gradient(options.get("gradient"), options.get("backward"))
        return cls(
            lam=options.get("lam", 0.1),
            learn_lam=options.get("learn_lam", False),
            step_size=check_step_size(options.get("step_size")),
            ridge=check_ridge(options.get("ridge", 0.0)),
            penalty=as_penalty(options.get("penalty"), options.get("nonneg")),
            pursuit=_pursuit(options),
            gradient=None if gradient is None else as_gradient(gradient),
        )


def _pursuit(options: Mapping[str, Any]) -> Pursuit:
    pursuit = options.get("pursuit", "fista")
    counted = takes_steps(pursuit)
    steps, tol = options.get("steps", 2 if counted else None), options.get("tol")
    if counted and steps is None and tol is None:
        raise ValueError(f"steps=None solves to a tolerance: give tol, got steps=None, tol=None, pursuit={pursuit!r}")
    return as_pursuit(pursuit, steps, tol)


def renamed_gradient(gradient: Any, backward: str | None) -> Any:
    """``gradient``, or the value of its older name with a warning."""
    if backward is None:
        return gradient
    if gradient is not None:
        raise ValueError(f"backward is the older name of gradient: give one, got {backward!r} and {gradient!r}")
    warnings.warn("backward= is now called gradient=", DeprecationWarning, stacklevel=2)
    return backward


def default_gradient(pursuit: Pursuit) -> Gradient:
    """The gradient of a pursuit for which none was chosen."""
    return Implicit() if pursuit.count is None else Unroll()


def with_defaults(options: Mapping[str, Any], **defaults: Any) -> dict[str, Any]:
    """Options of a layer with defaults of a model.

    ``steps`` holds for pursuits by name. ``penalty`` and ``nonneg`` exclude each other.
    """
    if not takes_steps(options.get("pursuit", "fista")):
        defaults.pop("steps", None)
    for one, other in (("penalty", "nonneg"), ("nonneg", "penalty")):
        if options.get(one) is not None:
            defaults.pop(other, None)
    return {**defaults, **options}


def step_sizes(owner: str, step_size: Any, depth: int) -> list[float | None]:
    """One step size for each of ``depth`` layers, from one for all or one for each; None for the usual one.

    Raises:
        ValueError: another number of them, or one that is no finite number above 0.
    """
    sizes = list(step_size) if isinstance(step_size, Sequence) else [step_size] * depth
    if len(sizes) != depth:
        raise ValueError(f"{owner}: step_size must be one number or {depth}, one for each layer, got {step_size!r}")
    with errors_of(owner):
        return [check_step_size(size) for size in sizes]
