"""How well a classifier does on corrupted images, and what may be done about it at test time."""

from csc_nets.evaluation.robustness.methods import Method, robustness_methods
from csc_nets.evaluation.robustness.report import robustness, save_robustness

__all__ = ["Method", "robustness", "robustness_methods", "save_robustness"]
