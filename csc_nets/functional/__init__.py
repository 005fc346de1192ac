"""Pure functions on tensors: proximal maps, the adjoint pair, pursuits."""

from csc_nets.functional.calibration import calibrate, calibrated, calibration_update, whitening
from csc_nets.functional.cascade import Cascade
from csc_nets.functional.dictionary import ConvGeometry, largest_eigenpair, power_step, unit_norm
from csc_nets.functional.filter_bank import (
    FilterBank,
    kymatio_bank,
    wavelet_bank,
    wavelet_bank_2d,
    weyl_heisenberg_bank,
)
from csc_nets.functional.morlet import morlet_bank
from csc_nets.functional.pooling import absolute_pool, unpool
from csc_nets.functional.problem import AdjointPair, Problem, as_adjoint_pair, as_weight
from csc_nets.functional.prox import (
    elastic_net_threshold,
    group_soft_threshold,
    hard_threshold,
    nonneg_soft_threshold,
    one_per_block,
    soft_threshold,
    top_k,
)
from csc_nets.functional.pursuit import (
    duality_gap,
    fista,
    ista,
    iterate,
    iterative_hard_thresholding,
    lam_max,
    objective,
    solve,
    stop_rule,
    thresholding,
)
from csc_nets.functional.rates import (
    class_coding_rate,
    coding_rate,
    ctrl_binary,
    ctrl_multi,
    ctrl_terms,
    rate_distance,
    rate_reduction,
)
from csc_nets.functional.recovery import sparse_code_recovery
from csc_nets.functional.scattering import Scattering, ScatteringEnergy, scattering_energy, scattering_features
from csc_nets.functional.sparse_code import SparseCode
from csc_nets.functional.splitting import douglas_rachford

__all__ = [
    "AdjointPair",
    "Cascade",
    "ConvGeometry",
    "FilterBank",
    "Problem",
    "Scattering",
    "ScatteringEnergy",
    "SparseCode",
    "absolute_pool",
    "as_adjoint_pair",
    "as_weight",
    "calibrate",
    "calibrated",
    "calibration_update",
    "class_coding_rate",
    "coding_rate",
    "ctrl_binary",
    "ctrl_multi",
    "ctrl_terms",
    "douglas_rachford",
    "duality_gap",
    "elastic_net_threshold",
    "fista",
    "group_soft_threshold",
    "hard_threshold",
    "ista",
    "iterate",
    "iterative_hard_thresholding",
    "kymatio_bank",
    "lam_max",
    "largest_eigenpair",
    "morlet_bank",
    "nonneg_soft_threshold",
    "objective",
    "one_per_block",
    "power_step",
    "rate_distance",
    "rate_reduction",
    "scattering_energy",
    "scattering_features",
    "soft_threshold",
    "solve",
    "sparse_code_recovery",
    "stop_rule",
    "thresholding",
    "top_k",
    "unit_norm",
    "unpool",
    "wavelet_bank",
    "wavelet_bank_2d",
    "weyl_heisenberg_bank",
    "whitening",
]
