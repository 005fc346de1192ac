"""Every layer of the package, small, in evaluation and training: what torch's tools are asked to take."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from csc_nets.layers import (
    CSC1d,
    CSC2d,
    CSC3d,
    DeconvDecoder,
    Dictionary2d,
    MultiLayerCSC,
    PooledCSC2d,
    Scattering2d,
    SparseCoding,
    SparsePriorConv2d,
)
from csc_nets.layers.effective import EffectiveCSC2d
from csc_nets.layers.multi_layer_pursuits import multi_layer_pursuits


def image_layer(**options) -> CSC2d:
    return CSC2d(3, 8, 3, padding=1, **{"steps": 3, **options})


def strided(**options) -> CSC2d:
    return CSC2d(3, 8, 3, 2, padding=1, **{"steps": 3, **options})


def pair() -> list[Dictionary2d]:
    return [Dictionary2d(3, 8, 6, stride=2), Dictionary2d(8, 16, 6, stride=2)]


IMAGES = (2, 3, 20, 21)
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "plain": (image_layer, IMAGES),
    "learned lam": (lambda: image_layer(learn_lam=True), IMAGES),
    "learned lam per atom": (lambda: image_layer(learn_lam=True, lam=torch.full((8,), 0.1)), IMAGES),
    "strided": (strided, IMAGES),
    "strided even": (lambda: CSC2d(3, 8, 4, 2, padding=1, steps=3), IMAGES),
    "strided circular": (lambda: CSC2d(3, 8, 3, 2, padding=1, steps=3, padding_mode="circular"), (2, 3, 20, 20)),
    "strided reflected": (lambda: CSC2d(3, 8, 3, 2, padding=1, steps=3, padding_mode="reflect"), IMAGES),
    "same": (lambda: CSC2d(3, 8, 4, padding="same", steps=3), IMAGES),
    "signed": (lambda: strided(nonneg=False, ridge=0.1), IMAGES),
    "threshold": (lambda: strided(pursuit="threshold"), IMAGES),
    "calibrated": (lambda: image_layer(pursuit="calibrated"), IMAGES),
    "whitened": (lambda: image_layer(pursuit="whitened"), IMAGES),
    "lista": (lambda: strided(pursuit="lista"), IMAGES),
    "tolerance": (lambda: image_layer(tol=1e-2), IMAGES),
    "recompute": (lambda: image_layer(gradient="recompute"), IMAGES),
    "implicit": (lambda: image_layer(gradient="implicit", steps=60, lam=2.0), IMAGES),
    "equilibrium": (lambda: image_layer(steps=None, tol=1e-2), IMAGES),
    "top k": (lambda: image_layer(pursuit="ista", penalty={"name": "top_k", "k": 9}), IMAGES),
    "1-D": (lambda: CSC1d(3, 8, 5, stride=2, padding=2, steps=3), (2, 3, 17)),
    "3-D": (lambda: CSC3d(2, 6, 3, padding=1, stride=2, steps=3), (2, 2, 7, 6, 9)),
    "vectors": (lambda: SparseCoding(7, 12), (6, 7)),
    "effective": (lambda: EffectiveCSC2d(pair()), IMAGES),
    "pooled": (lambda: PooledCSC2d(3, 8, 3, padding=1), IMAGES),
    "pooled, some blocks": (lambda: PooledCSC2d(3, 8, 3, padding=1, steps=2, density=0.5), IMAGES),
    "prior": (lambda: SparsePriorConv2d(3, 8, 3, stride=2, steps=3, dynamics="lca", learn_sigma=True), IMAGES),
    "decoder": (lambda: DeconvDecoder([8, 4, 3], 3, 2, 1), (2, 8, 8, 8)),
    "scattering": (lambda: Scattering2d(2, 2, input_size=16), (2, 1, 16, 16)),
    **{
        pursuit: (lambda pursuit=pursuit: MultiLayerCSC(pair(), pursuit=pursuit, steps=2, bias=True), IMAGES)
        for pursuit in multi_layer_pursuits()
    },
}


@pytest.fixture(params=LAYERS)
def any_layer(request) -> tuple[str, Callable[[], nn.Module], tuple[int, ...]]:
    """Name, what builds the layer, and the shape of its input."""
    return request.param, *LAYERS[request.param]
