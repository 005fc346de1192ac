"""Numbers about weights and codes: coherence, local sparsity, and what they guarantee."""

from csc_nets.theory.code_layers import CodeLayer, find_code_layers
from csc_nets.theory.coherence import mutual_coherence, welch_bound
from csc_nets.theory.design import low_coherence_atoms, sparse_atoms
from csc_nets.theory.energy_bounds import (
    conservation_bounds,
    decay_base,
    decay_radius,
    energy_decay_bound,
    growth_exponent,
    mean_frequency,
    spectral_decay_bound,
    support_base,
)
from csc_nets.theory.energy_depth import Depth, depth_for_energy
from csc_nets.theory.invariance import deform, deformation_bound, feature_distance, translation_bound
from csc_nets.theory.isometry import RestrictedIsometry, restricted_isometry
from csc_nets.theory.isometry_theorems import (
    RandomLayer,
    ReconstructionBound,
    calibrate_constant,
    reconstruction_bound,
)
from csc_nets.theory.matching import AtomMatch, atom_match
from csc_nets.theory.modes import evaluation_mode
from csc_nets.theory.network_report import Report, report
from csc_nets.theory.priors import LayerRates, PriorRates, prior_rates
from csc_nets.theory.profile import EnergyProfile, EnergyRow, energy_profile
from csc_nets.theory.quantities import LayerQuantities, atom_norms, measure
from csc_nets.theory.random_model import random_filters, sample_model_code
from csc_nets.theory.signals import Signals, sample_code, sample_dictionaries, sample_signals
from csc_nets.theory.sparsity import patch_norm, stripe_norm
from csc_nets.theory.stability import LabelCertificate, label_certificate
from csc_nets.theory.theorems import (
    Guarantee,
    basis_pursuit,
    basis_pursuit_noiseless,
    global_stability,
    guarantees,
    hard_thresholding,
    soft_thresholding,
    uniqueness,
)

__all__ = [
    "AtomMatch",
    "CodeLayer",
    "Depth",
    "EnergyProfile",
    "EnergyRow",
    "Guarantee",
    "LabelCertificate",
    "LayerQuantities",
    "LayerRates",
    "PriorRates",
    "RandomLayer",
    "ReconstructionBound",
    "Report",
    "RestrictedIsometry",
    "Signals",
    "atom_match",
    "atom_norms",
    "basis_pursuit",
    "basis_pursuit_noiseless",
    "calibrate_constant",
    "conservation_bounds",
    "decay_base",
    "decay_radius",
    "deform",
    "deformation_bound",
    "depth_for_energy",
    "energy_decay_bound",
    "energy_profile",
    "evaluation_mode",
    "feature_distance",
    "find_code_layers",
    "global_stability",
    "growth_exponent",
    "guarantees",
    "hard_thresholding",
    "label_certificate",
    "low_coherence_atoms",
    "mean_frequency",
    "measure",
    "mutual_coherence",
    "patch_norm",
    "prior_rates",
    "random_filters",
    "reconstruction_bound",
    "report",
    "restricted_isometry",
    "sample_code",
    "sample_dictionaries",
    "sample_model_code",
    "sample_signals",
    "soft_thresholding",
    "sparse_atoms",
    "spectral_decay_bound",
    "stripe_norm",
    "support_base",
    "translation_bound",
    "uniqueness",
    "welch_bound",
]
