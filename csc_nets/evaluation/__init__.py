"""What a network keeps and how well it does what it is for, measured on images."""

from csc_nets.evaluation.features import (
    effective_rank,
    extract_features,
    linear_probe,
    nearest_neighbours,
    nearest_subspace,
)
from csc_nets.evaluation.inversion import activation, invert, relative_error
from csc_nets.evaluation.layer_inversion import LayerInversions, invert_layers
from csc_nets.evaluation.reports import list_reports, save_report

__all__ = [
    "LayerInversions",
    "activation",
    "effective_rank",
    "extract_features",
    "invert",
    "invert_layers",
    "linear_probe",
    "list_reports",
    "nearest_neighbours",
    "nearest_subspace",
    "relative_error",
    "save_report",
]
