"""Networks of the zoo, and the registry that builds them by name."""

from csc_nets.models import shared_networks  # noqa: F401  # so that create_model knows them
from csc_nets.models.analysis_denoiser import AnalysisDenoiser
from csc_nets.models.cdlnet import CDLNet, GDLNet
from csc_nets.models.closed_loop import ClosedLoop, ConvClosedLoop, CSCClosedLoop
from csc_nets.models.coded_activations import CodedActivations
from csc_nets.models.converted import ConvertedClassifier
from csc_nets.models.crate import CRATE
from csc_nets.models.crate_import import import_crate
from csc_nets.models.csc_autoencoder import CSCAutoencoder
from csc_nets.models.csc_dictionary import CSCDictionary
from csc_nets.models.csc_small import CSCSmall
from csc_nets.models.cscnet import CSCNet
from csc_nets.models.denoiser import Denoiser
from csc_nets.models.dncnn import DnCNN
from csc_nets.models.fast_net import FastNet
from csc_nets.models.image_classifier import ImageClassifier
from csc_nets.models.invertible_cnn import InvertibleCNN
from csc_nets.models.ml_csc import MLCSC, DeepCNN
from csc_nets.models.normalised import Normalised
from csc_nets.models.proximal_denoiser import ProximalDenoiser
from csc_nets.models.registry import create_model, is_model, list_models, register_model
from csc_nets.models.resnet import ResNet
from csc_nets.models.scattering import ScatteringNet
from csc_nets.models.sdnet import SDNet
from csc_nets.models.sdnet_import import import_sdnet
from csc_nets.models.sparse_autoencoder import SparseAutoencoder
from csc_nets.models.sparse_prior_cnn import SparsePriorCNN
from csc_nets.models.staged_encoder import FeatureExtractor, StagedEncoder

__all__ = [
    "CRATE",
    "MLCSC",
    "AnalysisDenoiser",
    "CDLNet",
    "CSCAutoencoder",
    "CSCClosedLoop",
    "CSCDictionary",
    "CSCNet",
    "CSCSmall",
    "ClosedLoop",
    "CodedActivations",
    "ConvClosedLoop",
    "ConvertedClassifier",
    "DeepCNN",
    "Denoiser",
    "DnCNN",
    "FastNet",
    "FeatureExtractor",
    "GDLNet",
    "ImageClassifier",
    "InvertibleCNN",
    "Normalised",
    "ProximalDenoiser",
    "ResNet",
    "SDNet",
    "ScatteringNet",
    "SparseAutoencoder",
    "SparsePriorCNN",
    "StagedEncoder",
    "create_model",
    "import_crate",
    "import_sdnet",
    "is_model",
    "list_models",
    "register_model",
]
