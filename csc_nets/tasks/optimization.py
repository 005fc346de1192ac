"""What is optimised, by which rule, and at which learning rate at each step."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from csc_nets.layers.dictionary import UnitNorm
from csc_nets.tasks.precise_batch_norm import BATCH_NORMS

__all__ = ["build_optimizer", "idle_decay", "learning_rate_factor", "parameter_groups"]


def parameter_groups(
    model: nn.Module,
    weight_decay: float,
    among: Sequence[nn.Parameter] | None = None,
    *,
    biases_apart: bool = False,
    decay_atoms: bool = False,
) -> list[dict[str, Any]]:
    r"""Splits the trainable parameters into those that weight decay acts on and those that it must leave alone.

    Left alone are the tensors behind a parametrisation, everything with at most one axis (norms, biases, learned
    sparsity weights), and what the model itself names in ``no_weight_decay()``.

    The tensor v behind an atom :math:`d = v / \|v\|` has a norm that changes no code. But gradients are orthogonal to
    v, so a step of plain SGD lengthens it, and the same step turns a longer v less. Decay keeps it short, as it does
    with filters before a batch norm: van Laarhoven, `L2 Regularization versus Batch and Weight Normalization
    <https://arxiv.org/abs/1706.05350>`_, 2017. ``decay_atoms`` asks for that, against ``no_weight_decay()`` too.

    Args:
        model: any network.
        weight_decay: decay of the first group, >= 0.
        among: the parameters to take; None for all.
        biases_apart: whether the biases of norm layers are a group of their own, the third.
        decay_atoms: whether weight decay acts on the tensors behind atoms of unit norm, too, where there are any.

    Returns:
        Two groups for an optimiser, the second one with ``weight_decay=0``, and the third one too.

    Raises:
        ValueError: negative ``weight_decay``, or a model without trainable parameters.
    """
    if not weight_decay >= 0:
        raise ValueError(f"weight_decay must be >= 0, got {weight_decay}")
    ask = getattr(model, "no_weight_decay", None)
    named_by_model: set[str] = ask() if ask else set()
    decay: list[nn.Parameter] = []
    no_decay: list[nn.Parameter] = []
    biases: list[nn.Parameter] = []
    of_norms = {id(module.bias) for module in model.modules() if biases_apart and isinstance(module, BATCH_NORMS)}
    atoms = {id(original) for original in _behind_atoms(model)} if decay_atoms else set()
    chosen = None if among is None else {id(parameter) for parameter in among}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad or (chosen is not None and id(parameter) not in chosen):
            continue
        left = parameter.ndim <= 1 or "parametrizations." in name or name in named_by_model
        alone = left and id(parameter) not in atoms
        (biases if id(parameter) in of_norms else no_decay if alone else decay).append(parameter)
    if not decay and not no_decay and not biases:
        raise ValueError(f"{type(model).__name__} has no trainable parameters")
    groups = [{"params": decay, "weight_decay": weight_decay}, {"params": no_decay, "weight_decay": 0.0}]
    return [*groups, {"params": biases, "weight_decay": 0.0}] if biases_apart else groups


def idle_decay(model: nn.Module, weight_decay: float) -> str | None:
    """Why ``decay_atoms`` changes nothing; None where it does."""
    if not weight_decay:
        return "task.weight_decay is 0"
    if not any(original.requires_grad for original in _behind_atoms(model)):
        return f"{getattr(model, 'model_name', '') or type(model).__name__} has no atoms that are trained"
    return None


def _behind_atoms(model: nn.Module) -> Iterator[Tensor]:
    """The trained tensors whose directions are the atoms."""
    for module in model.modules():
        if isinstance(module, ParametrizationList) and any(isinstance(part, UnitNorm) for part in module):
            yield module.original


def build_optimizer(
    model: nn.Module,
    name: str,
    *,
    lr: float,
    weight_decay: float,
    momentum: float,
    nesterov: bool,
    bias_rate: float = 1.0,
    decay_atoms: bool = False,
    among: Sequence[nn.Parameter] | None = None,
) -> torch.optim.Optimizer:
    """The optimiser of ``model`` over :func:`parameter_groups`.

    Args:
        model: any network.
        name: ``"sgd"`` or ``"adamw"``.
        lr: peak learning rate, > 0.
        weight_decay, decay_atoms: see :func:`parameter_groups`.
        momentum: of SGD, and the first beta of AdamW.
        nesterov: Nesterov's form of SGD's momentum.
        bias_rate: learning rate of the biases of batch norms as a multiple of ``lr``, > 0.

    Raises:
        ValueError: unknown ``name``, or a number out of range.
    """
    if not lr > 0 or math.isinf(lr):
        raise ValueError(f"lr must be a positive number, got {lr}")
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum must be in [0, 1), got {momentum}")
    if not bias_rate > 0 or math.isinf(bias_rate):
        raise ValueError(f"bias_rate must be a positive number, got {bias_rate}")
    # Two groups where nobody asks for three: older checkpoints hold two.
    groups = parameter_groups(model, weight_decay, among, biases_apart=bias_rate != 1, decay_atoms=decay_atoms)
    for group in groups[2:]:
        group["lr"] = lr * bias_rate
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov and momentum > 0)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=(momentum, 0.999))
    raise ValueError(f"optimizer must be 'sgd' or 'adamw', got {name!r}")


def learning_rate_factor(
    step: int, *, total: int, warmup: int, schedule: str, final: float, milestones: Sequence[float], gamma: float
) -> float:
    """Learning rate at ``step`` as a share of its peak.

    The rate climbs linearly, ``(step + 1) / warmup``, for ``warmup`` steps. Then ``"cosine"`` falls along half a
    cosine from 1 to ``final`` at ``total`` and ``"linear"`` along a line; ``"step"`` is multiplied by ``gamma`` at each
    milestone; ``"constant"`` stays.

    Args:
        step: optimiser steps taken so far.
        total: optimiser steps of the whole training.
        warmup: optimiser steps of the warm-up, 0 for none.
        schedule: ``"cosine"``, ``"linear"``, ``"step"`` or ``"constant"``.
        final: last rate as a share of the peak, of ``"cosine"`` and ``"linear"``.
        milestones: optimiser steps at which ``"step"`` falls.
        gamma: factor of each fall.

    Raises:
        ValueError: unknown ``schedule``.
    """
    if schedule not in ("cosine", "linear", "step", "constant"):
        raise ValueError(f"schedule must be 'cosine', 'linear', 'step' or 'constant', got {schedule!r}")
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    if schedule == "linear":
        return final + (1 - final) * (1 - progress)
    if schedule == "cosine":
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))
    if schedule == "step":
        return float(gamma ** sum(step >= milestone for milestone in milestones))
    return 1.0
