"""Codes tile by tile are the codes of the whole, for every geometry."""

import itertools
import random

import pytest
import torch
from torch import nn

from csc_nets.functional import OnePerBlock, TopK
from csc_nets.functional.tiling.sparse_code import SparseCode
from csc_nets.layers import (
    CSC1d,
    CSC2d,
    CSC3d,
    Dictionary2d,
    MultiLayerCSC,
    PooledCSC2d,
    Scattering2d,
    SparseCoding,
    SparsePriorConv2d,
)
from csc_nets.layers.effective import EffectiveCSC2d
from csc_nets.layers.tiles import encode, encode_tiles, synthesize_tiles, tile_bytes, tile_size

CLASSES = {1: CSC1d, 2: CSC2d, 3: CSC3d}
SIZES = {1: (61,), 2: (29, 24), 3: (11, 9, 12)}
EXACT = {"rtol": 0, "atol": 1e-12}


def build(dims=2, kernel=3, stride=1, padding=1, **options):
    torch.manual_seed(0)
    options = {"lam": 0.05, "steps": 3, "dtype": torch.float64} | options
    layer = CLASSES[dims](2, 4, kernel, stride, padding, **options).eval()
    return layer, torch.randn(2, 2, *SIZES[dims], dtype=torch.float64)


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_equals_the_whole_for_every_kernel_stride_padding_and_dilation(dims, mode):
    for kernel, stride, padding, dilation in itertools.product((1, 2, 3, 4), (1, 2, 3), (0, 1, 2, 3), (1, 2)):
        if dims == 3 and (kernel + stride + padding + dilation) % 4:
            continue  # a quarter is enough here
        layer, x = build(dims, kernel, stride, padding, dilation=dilation, padding_mode=mode)
        torch.testing.assert_close(encode(layer, x, tile=8 if dims < 3 else 5), layer(x), **EXACT)


@pytest.mark.parametrize(
    "pursuit, steps", [("threshold", 1), ("ista", 2), ("fista", 1), ("fista", 6), ("calibrated", 3)]
)
@pytest.mark.parametrize("nonneg", [True, False])
def test_every_pursuit(pursuit, steps, nonneg):
    layer, x = build(pursuit=pursuit, steps=steps, nonneg=nonneg, ridge=0.1)
    if hasattr(layer.pursuit, "coefficients"):
        layer.pursuit.coefficients.uniform_(0.1, 0.5)
    for tile in (1, (3, 50), 7):
        torch.testing.assert_close(encode(layer, x, tile=tile), layer(x), **EXACT)


@pytest.mark.parametrize("kernel, stride", [(3, 1), (4, 1), (4, 2), (8, 4), (3, 3)])
def test_circular_where_the_code_closes_on_itself(kernel, stride):
    size = 24
    layer, _ = build(2, kernel, stride, padding="same" if stride == 1 else (kernel - 1) // 2, padding_mode="circular")
    x = torch.randn(2, 2, size, size, dtype=torch.float64)
    for tile in (1, 2, 4):
        torch.testing.assert_close(encode(layer, x, tile=tile), layer(x), **EXACT)


def test_random_geometries():
    draw = random.Random(0)
    coded = 0
    for _ in range(150):
        dims = draw.choice([1, 1, 2])
        kernel, stride, dilation, padding = (
            [draw.randint(a, b) for _ in range(dims)] for a, b in ((1, 5), (1, 4), (1, 3), (0, 6))
        )
        mode, steps = draw.choice(["zeros", "reflect", "circular"]), draw.randint(1, 5)
        layer, _ = build(dims, kernel, stride, padding, dilation=dilation, padding_mode=mode, steps=steps)
        x = torch.randn(1, 2, *(draw.randint(1, 60 // dims) for _ in range(dims)), dtype=torch.float64)
        tile = [draw.randint(1, 9) for _ in range(dims)]
        try:
            whole = layer(x)
        except ValueError:
            continue  # too small a signal
        try:
            code = encode(layer, x, tile=tile)
        except ValueError as error:
            assert "circular" in str(error)
            continue
        torch.testing.assert_close(code, whole, **EXACT)
        coded += 1
    assert coded > 60


@pytest.mark.parametrize("kind", ["number", "atoms", "samples", "positions"])
def test_weights_and_masks(kind):
    layer, x = build(padding="same", kernel=4)
    shape = {"number": (), "atoms": (4,), "samples": (2, 1, 1, 1), "positions": (1, 1, 29, 24)}[kind]
    lam = torch.rand(shape, dtype=torch.float64) * 0.3
    mask = (torch.rand(2, 1, 29, 24) > 0.3).double()
    spoiled = torch.where(mask == 0, torch.nan, x)
    whole = layer(spoiled, lam=lam, mask=mask)
    torch.testing.assert_close(encode(layer, spoiled, tile=6, lam=lam, mask=mask), whole, **EXACT)
    # One signal at a time: each has its own weight.
    least = tile_bytes(layer, x, (6, 6))
    code = encode(layer, spoiled, tile=6, budget=least, lam=lam, mask=mask)
    torch.testing.assert_close(code, whole, **EXACT)


@pytest.mark.parametrize("channels", [1, 3])
def test_single_precision_on_the_fused_path(channels):
    layer = CSC2d(channels, 16, 3, padding=1, steps=4).eval()
    x = torch.randn(1, channels, 60, 50)
    torch.testing.assert_close(encode(layer, x, tile=16), layer(x), rtol=1e-4, atol=1e-6)


def test_a_chain_with_batch_norm():
    torch.manual_seed(0)
    chain = nn.Sequential(
        nn.Sequential(CSC2d(2, 6, 3, 1, 1, steps=3, lam=0.05), nn.BatchNorm2d(6)),
        nn.Sequential(CSC2d(6, 5, 4, 2, 1, steps=2, lam=0.05), nn.Sequential(nn.BatchNorm2d(5), nn.ReLU())),
        CSC2d(5, 4, 3, 2, 0, dilation=2, steps=2, lam=0.05),
    ).double()
    x = torch.randn(2, 2, 45, 38, dtype=torch.float64)
    chain(x)  # statistics of the batch norms
    chain.eval()
    for tile in (2, 3, 50):
        torch.testing.assert_close(encode(chain, x, tile=tile), chain(x), **EXACT)


def test_stages_of_a_network():
    from csc_nets import create_model

    model = create_model("csc_small", in_chans=1).eval()
    x = torch.randn(1, 1, 44, 60)
    with torch.no_grad():
        expected = model.forward_features(x)
    torch.testing.assert_close(encode(model.stages, x, tile=5), expected, rtol=1e-4, atol=1e-5)


def test_tiles_cover_the_code_once_and_in_order():
    layer, x = build()
    seen = torch.zeros(2, 4, 29, 24)
    for where, code in encode_tiles(layer, x, tile=(10, 7), budget=1):
        assert code.shape == seen[where].shape
        seen[where] += 1
    assert (seen == 1).all()


def test_budget_decides_the_tile():
    layer, x = build()
    whole = tile_bytes(layer, x, (29, 24))
    assert tile_size(layer, x, whole) == (29, 24)
    assert len(list(encode_tiles(layer, x, budget=2 * whole))) == 1  # both signals at once
    assert len(list(encode_tiles(layer, x, budget=whole))) == 2
    small = tile_size(layer, x, whole / 4)
    assert tile_bytes(layer, x, small) <= whole / 4 < tile_bytes(layer, x, [n + 3 for n in small])
    torch.testing.assert_close(encode(layer, x, budget=whole / 4), layer(x), **EXACT)


def test_out_may_be_a_file(tmp_path):
    layer, x = build()
    file = torch.from_file(str(tmp_path / "code"), shared=True, size=2 * 4 * 29 * 24, dtype=torch.float64)
    out = file.view(2, 4, 29, 24)
    assert encode(layer, x, tile=8, out=out) is out
    torch.testing.assert_close(out, layer(x), **EXACT)


@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect"])
@pytest.mark.parametrize("kernel, stride, padding", [(3, 1, 1), (4, 1, "same"), (4, 2, 1), (2, 3, 0)])
def test_synthesis_of_tiles(mode, kernel, stride, padding):
    layer, _ = build(2, kernel, stride, padding, padding_mode=mode)
    x = torch.randn(2, 2, 24, 24, dtype=torch.float64)
    z = layer(x)
    whole = layer.synthesize(z, (24, 24))
    parts = [
        ((slice(None), slice(None), slice(i, i + 3), slice(0, z.shape[3])), z[:, :, i : i + 3])
        for i in range(0, z.shape[2], 3)
    ]
    torch.testing.assert_close(synthesize_tiles(layer, SparseCode.of(parts), x.shape), whole, **EXACT)


def test_an_empty_batch():
    layer, x = build()
    assert encode(layer, x[:0], tile=8).shape == (0, 4, 29, 24)
    assert SparseCode.of(encode_tiles(layer, x[:0], tile=8)).dense().shape == (0, 4, 29, 24)


def test_codes_of_a_large_image_stay_sparse():
    layer, x = build(lam=1.0)
    sparse = SparseCode.of(encode_tiles(layer, x, tile=9))
    torch.testing.assert_close(sparse.dense(), layer(x), **EXACT)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda layer: layer.train(), "evaluation mode"),
        (lambda layer: CSC2d(2, 4, 3, tol=1e-3).eval(), "tol must be None"),
        (lambda layer: SparseCoding(4, 5).eval(), "must be one of CSC1d"),
        (lambda layer: nn.Sequential(nn.Conv2d(2, 4, 3)).eval(), "got Conv2d"),
        (
            lambda layer: nn.Sequential(layer, nn.BatchNorm2d(4, track_running_stats=False)).eval(),
            "BatchNorm2d must keep running statistics",
        ),
        (lambda layer: nn.Sequential(nn.ReLU()).eval(), "no CSC layer"),
        (lambda layer: nn.ReLU().eval(), "no CSC layer"),
        (lambda layer: CSC2d(3, 4, 3).eval(), "expected 3 input channels"),
        (lambda layer: CSC2d(2, 4, 3, 2, 1, padding_mode="circular").eval(), "cannot be cut along axis 0"),
    ],
)
def test_refusals(change, message):
    layer, x = build()
    with pytest.raises(ValueError, match=message):
        encode_tiles(change(layer), x, tile=4)


def test_bad_arguments():
    layer, x = build()
    for tile in (0, 2.5, (3, 3, 3)):
        with pytest.raises(ValueError, match="tile must be an int >= 1 or 2 of them"):
            encode_tiles(layer, x, tile=tile)
    with pytest.raises(ValueError, match="budget must be at least"):
        encode_tiles(layer, x, budget=10)
    with pytest.raises(ValueError, match=r"out must have the shape of the code \(2, 4, 29, 24\)"):
        encode(layer, x, out=torch.empty(2, 4, 29, 23))
    with pytest.raises(ValueError, match="lam must be finite and not negative"):
        encode_tiles(layer, x, lam=torch.tensor(-1.0))
    for shape in ((1, 1, 29, 10), (3, 1, 1, 1), (3,)):  # of which a part might fit a tile
        with pytest.raises(ValueError, match=r"lam must broadcast to \(2, 4, 29, 24\), got shape"):
            encode_tiles(layer, x, tile=4, lam=torch.ones(shape))
    for shape in ((3, 1, 29, 24), (2, 1, 29, 10)):
        with pytest.raises(ValueError, match=r"mask must broadcast to \(2, 2, 29, 24\), got shape"):
            encode_tiles(layer, x, tile=4, mask=torch.ones(shape))
    with pytest.raises(ValueError, match="lam is for a single layer, got 2"):
        encode_tiles(nn.Sequential(layer, CSC2d(4, 4, 3).eval()), x, lam=0.1)


@pytest.mark.parametrize("tile", [1, 8])
def test_tiles_have_the_step_size_of_the_whole(tile):
    """An effective dictionary has another bound for signals of one position."""
    layer = EffectiveCSC2d([Dictionary2d(1, 4, 3), Dictionary2d(4, 8, 3)], lam=0.05, steps=3).eval()
    for whole in (layer, nn.Sequential(CSC2d(1, 1, 3, lam=0.01).eval(), layer)):
        whole, x = whole.double(), torch.randn(1, 1, 20, 20).double()
        torch.testing.assert_close(encode(whole, x, tile=tile), whole(x), **EXACT)


@pytest.mark.parametrize("penalty", [TopK(20), OnePerBlock(2), {"name": "top_k", "k": 20}])
def test_a_penalty_that_looks_at_all_positions_is_refused(penalty):
    layer, x = build(penalty=penalty)
    with pytest.raises(ValueError, match="because the penalty looks at all positions together"):
        encode(layer, x, tile=8)


@pytest.mark.parametrize("penalty", ["l0", "hard", "elastic_net", {"name": "group_l1", "group_size": 2}])
def test_penalties_of_each_position(penalty):
    layer, x = build(penalty=penalty)
    torch.testing.assert_close(encode(layer, x, tile=8), layer(x), **EXACT)


@pytest.mark.parametrize("pursuit", ["whitened", "to_tolerance"])
def test_a_pursuit_that_looks_at_all_positions_is_refused(pursuit):
    layer, x = build(pursuit=pursuit, steps=3) if pursuit == "whitened" else build(steps=None, tol=1e-3)
    with pytest.raises(ValueError, match=r"encode_tiles: (a tile would have another code|tol must be None)"):
        encode(layer, x, tile=8)


@pytest.mark.parametrize("pursuit", ["fista", "calibrated"])
def test_tiles_take_the_step_size_of_the_whole(monkeypatch, pursuit):
    layer, x = build(pursuit=pursuit, steps=3)
    bound = type(layer.dictionary).bound
    # Smaller for smaller signals.
    monkeypatch.setattr(
        type(layer.dictionary), "bound", lambda self, size: bound(self, size) * (0.5 + min(size) / 60), raising=True
    )
    torch.testing.assert_close(encode(layer, x, tile=8), layer(x), **EXACT)
    lam, mask = torch.rand(4, dtype=torch.float64), (torch.rand_like(x) > 0.2).double()
    torch.testing.assert_close(encode(layer, x, tile=8, lam=lam, mask=mask), layer(x, lam=lam, mask=mask), **EXACT)


def test_a_prior_in_tiles():
    layer = SparsePriorConv2d(2, 4, 3, padding=1, steps=3, dtype=torch.float64).eval()
    x = torch.randn(1, 2, 30, 31, dtype=torch.float64)
    for name in ("ista", "lca"):
        layer.dynamics = name
        torch.testing.assert_close(encode(layer, x, tile=9), layer(x), **EXACT)


@pytest.mark.parametrize("layer", [PooledCSC2d(1, 2, 3), MultiLayerCSC([Dictionary2d(1, 2, 3)]), Scattering2d(1, 2)])
def test_other_layers_are_refused_by_name(layer):
    with pytest.raises(ValueError, match=f"layer must be one of CSC1d, .* got {type(layer).__name__}"):
        encode(layer.eval(), torch.randn(1, 1, 32, 32))
