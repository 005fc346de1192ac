"""What a network keeps and how well it does what it is for, measured on images."""

from csc_nets.evaluation.atom_coding import AtomCoder
from csc_nets.evaluation.batch_statistics import batch_statistics
from csc_nets.evaluation.class_subspaces import ClassSubspaces
from csc_nets.evaluation.coding import coding_rows
from csc_nets.evaluation.corruptions import PublishedCorruptions, corrupt, list_corruptions, register_corruption
from csc_nets.evaluation.encoding import encode_folder, read_codes
from csc_nets.evaluation.features import (
    effective_rank,
    extract_features,
    linear_probe,
    nearest_neighbours,
    nearest_subspace,
)
from csc_nets.evaluation.generation import FeatureSpace, feature_space, frechet_distance, kernel_distance
from csc_nets.evaluation.inversion import activation, invert, relative_error
from csc_nets.evaluation.lam_rules import (
    SURE,
    AdaptiveLam,
    Discrepancy,
    LamRule,
    LineRule,
    NoiseLevel,
    PathRule,
    Residual,
    as_lam_rule,
    calibrate_rule,
    lam_path,
    lam_rule,
    list_lam_rules,
    register_lam_rule,
)
from csc_nets.evaluation.layer_inversion import LayerInversions, invert_layers
from csc_nets.evaluation.rate_distortion import (
    RatePoint,
    entropy_bits,
    measure,
    nonzeros_per_pixel,
    psnr_mean,
    psnr_of_all,
    quantise,
)
from csc_nets.evaluation.reconstruction import Reconstructions, reconstruct_images, scaled_lam, sweep_noise
from csc_nets.evaluation.report_input import ReportInput, Result
from csc_nets.evaluation.reports import (
    check_report,
    compare_runs,
    list_reports,
    register_report,
    report_label,
    save_report,
)
from csc_nets.evaluation.robustness import Method, robustness_methods
from csc_nets.evaluation.run_page import save_comparison
from csc_nets.evaluation.structure import ClassStructure, class_structure, decode_classes, sample_images
from csc_nets.evaluation.transform_coding import BlockTransform, jpeg, keep_largest

# Older name.
Subject = ReportInput

__all__ = [
    "SURE",
    "AdaptiveLam",
    "AtomCoder",
    "BlockTransform",
    "ClassStructure",
    "ClassSubspaces",
    "Discrepancy",
    "FeatureSpace",
    "LamRule",
    "LayerInversions",
    "LineRule",
    "Method",
    "NoiseLevel",
    "PathRule",
    "PublishedCorruptions",
    "RatePoint",
    "Reconstructions",
    "ReportInput",
    "Residual",
    "Result",
    "Subject",
    "activation",
    "as_lam_rule",
    "batch_statistics",
    "calibrate_rule",
    "check_report",
    "class_structure",
    "coding_rows",
    "compare_runs",
    "corrupt",
    "decode_classes",
    "effective_rank",
    "encode_folder",
    "entropy_bits",
    "extract_features",
    "feature_space",
    "frechet_distance",
    "invert",
    "invert_layers",
    "jpeg",
    "keep_largest",
    "kernel_distance",
    "lam_path",
    "lam_rule",
    "linear_probe",
    "list_corruptions",
    "list_lam_rules",
    "list_reports",
    "measure",
    "nearest_neighbours",
    "nearest_subspace",
    "nonzeros_per_pixel",
    "psnr_mean",
    "psnr_of_all",
    "quantise",
    "read_codes",
    "reconstruct_images",
    "register_corruption",
    "register_lam_rule",
    "register_report",
    "relative_error",
    "report_label",
    "robustness_methods",
    "sample_images",
    "save_comparison",
    "save_report",
    "scaled_lam",
    "sweep_noise",
]
