"""Attacks on classifiers, and what says that they are not fooled themselves."""

from csc_nets.evaluation.attacks.auto_attack import auto_attack
from csc_nets.evaluation.attacks.auto_pgd import apgd
from csc_nets.evaluation.attacks.certificates import robustness_rows
from csc_nets.evaluation.attacks.losses import list_losses, register_loss
from csc_nets.evaluation.attacks.masking import Sign, Signs, masked_gradients
from csc_nets.evaluation.attacks.projected_gradient import fgsm, pgd
from csc_nets.evaluation.attacks.search import Adversarial
from csc_nets.evaluation.attacks.square import square
from csc_nets.evaluation.attacks.straight_through import StraightThrough
from csc_nets.evaluation.attacks.strongest import Budget, strongest
from csc_nets.evaluation.attacks.surface import loss_surface

__all__ = [
    "Adversarial",
    "Budget",
    "Sign",
    "Signs",
    "StraightThrough",
    "apgd",
    "auto_attack",
    "fgsm",
    "list_losses",
    "loss_surface",
    "masked_gradients",
    "pgd",
    "register_loss",
    "robustness_rows",
    "square",
    "strongest",
]
