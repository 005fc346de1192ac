"""The package as a whole: the names that users call."""

import csc_nets
import csc_nets.functional
import csc_nets.layers
import csc_nets.theory


def test_names_that_users_call():
    for module, names in {
        csc_nets: "create_model list_models register_model load solve",
        csc_nets.functional: "soft_threshold ista fista iterative_hard_thresholding Cascade",
        csc_nets.layers: "Dictionary1d Dictionary2d Dictionary3d CSC1d CSC2d CSC3d SparseCoding DeconvDecoder "
        "MultiLayerCSC SparsePriorConv2d",
        csc_nets.theory: "mutual_coherence stripe_norm patch_norm guarantees report label_certificate prior_rates",
    }.items():
        assert all(callable(getattr(module, name)) and name in module.__all__ for name in names.split())
