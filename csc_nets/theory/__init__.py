"""Theory of sparse coding networks, as numbers that can be computed for given weights and codes.

The rooms, each of which imports only from the ones before it:

- ``sparse``: coherence, local sparsity, and the theorems that say when a pursuit finds the true code;
- ``isometry``: model restricted isometry, by measurement and by theorem;
- ``energy``: bounds for the energy in cascades of filters and moduli;
- ``network``: reports of any network.

All public names are here; the rooms export nothing of their own.
"""

from csc_nets.theory.energy.decay_bounds import (
    conservation_bounds,
    decay_base,
    decay_radius,
    energy_decay_bound,
    growth_exponent,
    mean_frequency,
    spectral_decay_bound,
    support_base,
)
from csc_nets.theory.energy.depth import Depth, depth_for_energy
from csc_nets.theory.energy.invariance import deform, deformation_bound, feature_distance, translation_bound

# The tables are named by their module: ``theory.published.VGG16_COHERENCE``.
from csc_nets.theory.isometry import published as published
from csc_nets.theory.isometry.model_rip import RestrictedIsometry, restricted_isometry
from csc_nets.theory.isometry.random_model import random_filters, sample_model_code
from csc_nets.theory.isometry.theorems import (
    RandomLayer,
    ReconstructionBound,
    calibrate_constant,
    reconstruction_bound,
)
from csc_nets.theory.network.code_layers import CodeLayer, find_code_layers
from csc_nets.theory.network.energy_profile import EnergyProfile, energy_profile
from csc_nets.theory.network.energy_rows import EnergyRow
from csc_nets.theory.network.evaluation_mode import evaluation_mode
from csc_nets.theory.network.prior_rates import LayerRates, PriorRates, prior_rates
from csc_nets.theory.network.report import Report, report
from csc_nets.theory.sparse.coherence import mutual_coherence, welch_bound
from csc_nets.theory.sparse.dictionary_design import low_coherence_atoms, sparse_atoms
from csc_nets.theory.sparse.label_certificates import LabelCertificate, label_certificate
from csc_nets.theory.sparse.layer_quantities import LayerQuantities, atom_norms, measure
from csc_nets.theory.sparse.local_sparsity import patch_norm, stripe_norm
from csc_nets.theory.sparse.matching import AtomMatch, atom_match
from csc_nets.theory.sparse.signals import Signals, sample_code, sample_dictionaries, sample_signals
from csc_nets.theory.sparse.theorems import (
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
