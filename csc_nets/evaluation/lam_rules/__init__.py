"""Rules that choose the sparsity weight at test time, from the input alone."""

from csc_nets.evaluation.lam_rules.adaptive import AdaptiveLam, lam_rule
from csc_nets.evaluation.lam_rules.base import LamRule, LineRule, as_lam_rule, list_lam_rules, register_lam_rule
from csc_nets.evaluation.lam_rules.calibration import calibrate_rule
from csc_nets.evaluation.lam_rules.discrepancy import Discrepancy
from csc_nets.evaluation.lam_rules.noise_level import NoiseLevel
from csc_nets.evaluation.lam_rules.path import PathRule, lam_path
from csc_nets.evaluation.lam_rules.residual import Residual
from csc_nets.evaluation.lam_rules.sure import SURE

__all__ = [
    "SURE",
    "AdaptiveLam",
    "Discrepancy",
    "LamRule",
    "LineRule",
    "NoiseLevel",
    "PathRule",
    "Residual",
    "as_lam_rule",
    "calibrate_rule",
    "lam_path",
    "lam_rule",
    "list_lam_rules",
    "register_lam_rule",
]
