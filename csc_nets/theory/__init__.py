"""Numbers about weights and codes: coherence, local sparsity, and what they guarantee."""

from csc_nets.theory.coherence import mutual_coherence, welch_bound
from csc_nets.theory.guarantees import (
    Guarantee,
    basis_pursuit,
    basis_pursuit_noiseless,
    global_stability,
    guarantees,
    hard_thresholding,
    soft_thresholding,
    uniqueness,
)
from csc_nets.theory.matching import AtomMatch, atom_match
from csc_nets.theory.quantities import LayerQuantities, atom_norms, measure
from csc_nets.theory.sparsity import patch_norm, stripe_norm

__all__ = [
    "AtomMatch",
    "Guarantee",
    "LayerQuantities",
    "atom_match",
    "atom_norms",
    "basis_pursuit",
    "basis_pursuit_noiseless",
    "global_stability",
    "guarantees",
    "hard_thresholding",
    "measure",
    "mutual_coherence",
    "patch_norm",
    "soft_thresholding",
    "stripe_norm",
    "uniqueness",
    "welch_bound",
]
