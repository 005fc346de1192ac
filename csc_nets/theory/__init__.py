"""Numbers about weights and codes: coherence, local sparsity, and what they guarantee."""

from csc_nets.theory.coherence import mutual_coherence, welch_bound
from csc_nets.theory.matching import AtomMatch, atom_match
from csc_nets.theory.sparsity import patch_norm, stripe_norm

__all__ = [
    "AtomMatch",
    "atom_match",
    "mutual_coherence",
    "patch_norm",
    "stripe_norm",
    "welch_bound",
]
