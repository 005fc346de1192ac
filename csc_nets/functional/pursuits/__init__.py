"""Pursuits: tables of steps that compute a sparse code, and solvers to a tolerance."""

from csc_nets.functional.pursuits.analytic_weights import analytic_weights
from csc_nets.functional.pursuits.base import Pursuit, as_pursuit, register_pursuit
from csc_nets.functional.pursuits.block_coordinate import BlockCoordinate
from csc_nets.functional.pursuits.calibrated_steps import Calibrated, Whitened
from csc_nets.functional.pursuits.calibration import calibrate, calibrated, calibration_update, whitening
from csc_nets.functional.pursuits.competition import LCA, PriorISTA
from csc_nets.functional.pursuits.descending import Descending
from csc_nets.functional.pursuits.fourier_splitting import douglas_rachford
from csc_nets.functional.pursuits.lista import ALISTA, LISTA, LISTACP, StepLISTA, TiLISTA
from csc_nets.functional.pursuits.loop import advance, run, stop_rule
from csc_nets.functional.pursuits.matching import OMP, MatchingPursuit
from csc_nets.functional.pursuits.noise_adaptive import NoiseAdaptiveLISTA
from csc_nets.functional.pursuits.proximal_gradient import FISTA, ISTA, Threshold
from csc_nets.functional.pursuits.sdnet_momentum import SDNetMomentum
from csc_nets.functional.pursuits.solvers import (
    duality_gap,
    fista,
    ista,
    iterative_hard_thresholding,
    lam_max,
    objective,
    solve,
    thresholding,
)
from csc_nets.functional.pursuits.stagewise import Stagewise
from csc_nets.functional.pursuits.tolerance import ToTolerance
from csc_nets.functional.step import Step

__all__ = [
    "ALISTA",
    "FISTA",
    "ISTA",
    "LCA",
    "LISTA",
    "LISTACP",
    "OMP",
    "BlockCoordinate",
    "Calibrated",
    "Descending",
    "MatchingPursuit",
    "NoiseAdaptiveLISTA",
    "PriorISTA",
    "Pursuit",
    "SDNetMomentum",
    "Stagewise",
    "Step",
    "StepLISTA",
    "Threshold",
    "TiLISTA",
    "ToTolerance",
    "Whitened",
    "advance",
    "analytic_weights",
    "as_pursuit",
    "calibrate",
    "calibrated",
    "calibration_update",
    "douglas_rachford",
    "duality_gap",
    "fista",
    "ista",
    "iterative_hard_thresholding",
    "lam_max",
    "objective",
    "register_pursuit",
    "run",
    "solve",
    "stop_rule",
    "thresholding",
    "whitening",
]
