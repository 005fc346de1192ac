"""The synthesis by planes is the geometry's, gradients of both orders included, and knows when to stay away."""

import pytest
import torch

from csc_nets.functional import ConvGeometry, Convolution
from csc_nets.functional.operators import col2im
from csc_nets.layers import CSC2d

# kernel, stride, padding, dilation, signal size
GEOMETRIES = [
    (3, 1, 1, 1, (6, 7)),
    (4, 2, 1, 1, (9, 8)),
    ((2, 3), (3, 2), (0, 2), 1, (8, 7)),
    (3, 2, 2, 2, (9, 10)),
    (2, 3, 0, 1, (7, 9)),
]


def code(*shape, **options):
    return torch.randn(*shape, **options).contiguous(memory_format=torch.channels_last)


def case(kernel, stride, padding, dilation, size, channels=3, samples=2):
    geometry = ConvGeometry.create(2, kernel, stride, padding, dilation)
    torch.manual_seed(0)
    weight = torch.randn(4, channels, *geometry.kernel_size, dtype=torch.float64)
    return geometry, weight, code(samples, 4, *geometry.code_size(size), dtype=torch.float64)


@pytest.fixture(autouse=True)
def any_size(monkeypatch):
    monkeypatch.setattr(col2im, "FEWEST_COEFFICIENTS", 0)
    monkeypatch.setattr(col2im, "MOST_PLANES", 16)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("options", GEOMETRIES)
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_equals_the_transposed_convolution(options, channels, layout, monkeypatch):
    geometry, weight, z = case(*options, channels)
    z = z.contiguous(memory_format=layout)
    assert col2im.applies(z, weight, geometry, options[-1])
    ours = [col2im.synthesis(z, weight, geometry, options[-1]), geometry.synthesis(z, weight, options[-1])]
    monkeypatch.setattr(col2im, "applies", lambda *_: False)
    expected = geometry.synthesis(z, weight, options[-1])
    for mine in ours:
        torch.testing.assert_close(mine, expected)


@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect"])
@pytest.mark.parametrize("kernel", [3, 4])  # an even one has uneven borders
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_borders_are_folded_as_ever(mode, kernel, layout, monkeypatch):
    geometry, weight = (
        ConvGeometry.create(2, kernel, padding="same", padding_mode=mode),
        torch.randn(4, 3, kernel, kernel),
    )
    z, calls, original = torch.randn(2, 4, 9, 8).contiguous(memory_format=layout), [], col2im.synthesis
    monkeypatch.setattr(col2im, "synthesis", lambda *a: calls.append(1) or original(*a))
    ours = Convolution(weight, geometry).synthesis(z, (9, 8))
    torch.testing.assert_close(ours, geometry.synthesis(z, weight, (9, 8)))
    assert len(calls) == 1


@pytest.mark.parametrize("options", GEOMETRIES)
def test_gradients_of_both_orders(options):
    geometry, weight, z = case(*options, channels=2, samples=1)
    x, bias = torch.randn(1, 2, *options[-1], dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    synthesis = [t.requires_grad_() for t in (z, weight)]
    analysis = [t.requires_grad_() for t in (x, weight, bias)]
    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(lambda z, w: col2im.synthesis(z, w, geometry, options[-1]), synthesis)
        assert check(lambda x, w, b: col2im.analysis(x, w, b, geometry), analysis)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("pursuit", ["ista", "fista"])
def test_layers_use_it(monkeypatch, pursuit, half):
    layer = CSC2d(3, 8, 3, padding=1, lam=0.1, steps=4, pursuit=pursuit).eval()
    x = torch.randn(2, 3, 10, 10).contiguous(memory_format=torch.channels_last).requires_grad_()
    calls, results = [], []
    original = col2im.synthesis
    monkeypatch.setattr(col2im, "synthesis", lambda *a: calls.append(1) or original(*a))
    for most in (4, 0):
        monkeypatch.setattr(col2im, "MOST_CHANNELS", most)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            z = layer(x)
        gradients = torch.autograd.grad(z.square().sum(), (x, *layer.parameters()))
        results.append((z.detach(), *gradients))
    assert len(calls) == 6  # a synthesis and a gradient of an analysis for each of three steps
    for one, other in zip(*results, strict=True):
        assert one.dtype == other.dtype
        assert (one - other).norm() < (2e-2 if half else 1e-5) * other.norm()


def test_conditions():
    geometry = ConvGeometry.create(2, 3, padding=1)
    weight, z = torch.zeros(8, 3, 3, 3), code(2, 8, 8, 8)
    assert col2im.applies(z, weight, geometry, (8, 8))
    assert col2im.applies(z.contiguous(), weight, geometry, (8, 8))
    assert not col2im.applies(z.contiguous().requires_grad_(), weight, geometry, (8, 8))
    assert not col2im.applies(z[:, :, ::2], weight, geometry, (4, 8))
    assert not col2im.applies(z.double(), weight, geometry, (8, 8))
    assert not col2im.applies(z, torch.zeros(8, 16, 3, 3), geometry, (8, 8))
    large = ConvGeometry.create(2, 7, padding=3)  # 147 planes for 8 atoms
    assert not col2im.applies(z, torch.zeros(8, 3, 7, 7), large, (8, 8))
    circular = ConvGeometry.create(2, 3, padding=1, padding_mode="circular")
    assert not col2im.applies(z, weight, circular, (8, 8))
    assert not col2im.applies(torch.zeros(2, 8, 8), torch.zeros(8, 3, 3), ConvGeometry.create(1, 3), (8,))
    inside = []
    torch.func.vmap(lambda z: inside.append(col2im.applies(z, weight, geometry, (8, 8))) or z)(z[None])
    assert inside == [False]
