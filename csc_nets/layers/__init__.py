"""Modules: dictionaries, layers that compute sparse codes, decoders that synthesise from them."""

from csc_nets.layers.coder import CodedStep, Coder
from csc_nets.layers.coding import CSC
from csc_nets.layers.coding_rate_loss import CodingRateLoss
from csc_nets.layers.csc import CSC1d, CSC2d, CSC3d
from csc_nets.layers.decoder import DeconvDecoder
from csc_nets.layers.dictionary import DenseDictionary, Dictionary1d, Dictionary2d, Dictionary3d
from csc_nets.layers.encoders import Encoder, register_encoder
from csc_nets.layers.lam_from_outside import given_lam
from csc_nets.layers.multi_layer import MultiLayerCSC
from csc_nets.layers.multi_layer_pursuits import MultiLayerPursuit, register_multi_layer_pursuit
from csc_nets.layers.multi_scale import MultiScaleDictionary2d
from csc_nets.layers.options import CodingOptions
from csc_nets.layers.pooled_csc import PooledCSC2d
from csc_nets.layers.pursuit_sae import ActivationCoder, PursuitSAE, PursuitSAE2d
from csc_nets.layers.scattering import Scattering2d
from csc_nets.layers.sparse_coding import SparseCoding
from csc_nets.layers.sparse_prior import SparsePriorConv2d
from csc_nets.layers.stream import CodeStream
from csc_nets.layers.tiles import encode, encode_tiles, synthesize_tiles
from csc_nets.layers.two_stage import TwoStageDictionary2d

__all__ = [
    "CSC",
    "ActivationCoder",
    "CSC1d",
    "CSC2d",
    "CSC3d",
    "CodeStream",
    "CodedStep",
    "Coder",
    "CodingOptions",
    "CodingRateLoss",
    "DeconvDecoder",
    "DenseDictionary",
    "Dictionary1d",
    "Dictionary2d",
    "Dictionary3d",
    "Encoder",
    "MultiLayerCSC",
    "MultiLayerPursuit",
    "MultiScaleDictionary2d",
    "PooledCSC2d",
    "PursuitSAE",
    "PursuitSAE2d",
    "Scattering2d",
    "SparseCoding",
    "SparsePriorConv2d",
    "TwoStageDictionary2d",
    "encode",
    "encode_tiles",
    "given_lam",
    "register_encoder",
    "register_multi_layer_pursuit",
    "synthesize_tiles",
]
