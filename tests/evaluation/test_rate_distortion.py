"""Measures and baselines against independent values: numpy, scipy, scikit-learn and the embedded photographs."""

import math

import numpy as np
import pytest
import torch

from csc_nets.data import create_datamodule
from csc_nets.evaluation.rate_distortion import (
    entropy_bits,
    measure,
    nonzeros_per_pixel,
    psnr_mean,
    psnr_of_all,
    quantise,
)
from csc_nets.evaluation.transform_coding import BlockTransform, jpeg, keep_largest
from csc_nets.functional.dct import colour_axes, dct_matrix


@pytest.fixture(scope="module")
def photographs():
    """Training and test patches of the embedded photographs, as pixels."""
    data = create_datamodule("sample_images", image_size=32)
    data.setup()
    return tuple(data.split(name).images.double() / 255 for name in ("train", "test"))


def draw(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_two_psnrs():
    x = torch.zeros(2, 1, 4, 4)
    back = x.clone()
    back[0], back[1] = 0.1, 0.01  # 20 dB and 40 dB
    assert psnr_mean(back, x) == pytest.approx(30, abs=1e-4)
    assert psnr_of_all(back, x) == pytest.approx(-10 * math.log10((0.01 + 0.0001) / 2), abs=1e-4)
    assert psnr_mean(x, x) == psnr_of_all(x, x) == 100


def test_entropy_is_that_of_numpy():
    values = torch.randint(-3, 4, (1000,), generator=torch.Generator().manual_seed(0))
    share = np.unique(values.numpy(), return_counts=True)[1] / 1000
    assert entropy_bits(values) == pytest.approx(-1000 * (share * np.log2(share)).sum())
    assert entropy_bits(torch.zeros(50, dtype=torch.long)) == 0
    assert entropy_bits(torch.arange(64)) == 64 * 6


def test_quantiser():
    code = torch.tensor([0.0, 0.24, 0.26, -1.1])
    indices, values = quantise(code, 0.5)
    assert indices.tolist() == [0, 0, 1, -2] and values.tolist() == [0, 0, 0.5, -1]
    with pytest.raises(ValueError, match="step must be"):
        quantise(code, 0.0)


def test_a_point():
    x = draw(2, 3, 16, 16)
    code = torch.zeros(2, 7, 4, 4)
    code[:, 0] = 1
    point = measure("some", x + 2, x, codes=[code], bits=512.0)
    assert point.nonzeros == nonzeros_per_pixel(code, x) == 32 / x.numel()
    assert point.bits == 1 and point.row()["name"] == "some"
    assert point.psnr_of_all == pytest.approx(-10 * (1 - x).square().mean().log10().item())  # clipped to white


@pytest.mark.parametrize("block", [8, 32])
def test_dct_is_that_of_scipy(block):
    fft = pytest.importorskip("scipy.fft")
    x = draw(2, 3, 32, 32)
    transform = BlockTransform.dct(x, block)
    code = transform.analysis(x)
    mean, axes = colour_axes(x)
    turned = torch.einsum("dc,nchw->ndhw", axes, x - mean.view(-1, 1, 1))
    first = fft.dctn(turned[:, :, :block, :block].numpy(), axes=(2, 3), norm="ortho")
    # A frequency has its colours together; frequencies come by the larger of their two numbers.
    order = torch.maximum(torch.arange(block)[:, None], torch.arange(block)).flatten().argsort(stable=True)
    expected = torch.from_numpy(first).flatten(2)[..., order]
    torch.testing.assert_close(code[:, 0].view(2, block * block, 3).transpose(1, 2), expected)
    torch.testing.assert_close(transform.synthesis(code, (32, 32)), x)
    torch.testing.assert_close(dct_matrix(block) @ dct_matrix(block).T, torch.eye(block, dtype=torch.float64))


def test_principal_components_are_those_of_scikit_learn():
    decomposition = pytest.importorskip("sklearn.decomposition")
    x = draw(40, 3, 16, 16)
    transform = BlockTransform.principal_components(x, 4)
    blocks = x.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).reshape(-1, 48)
    found = decomposition.PCA(48).fit(blocks.numpy())
    along = (transform.basis * torch.from_numpy(found.components_)).sum(1).abs()
    torch.testing.assert_close(along, torch.ones(48, dtype=torch.float64))
    torch.testing.assert_close(transform.synthesis(transform.analysis(x), (16, 16)), x)


def test_an_image_that_is_no_multiple_of_the_block():
    x = draw(1, 1, 10, 13)
    transform = BlockTransform.dct(x, 8)
    torch.testing.assert_close(transform.synthesis(transform.analysis(x), (10, 13)), x)


def test_largest_entries():
    code = torch.tensor([[5.0, -4, 1], [3, 2, 0.5]])
    assert keep_largest(code, 1, each=True).tolist() == [[5, 0, 0], [3, 0, 0]]
    assert keep_largest(code, 1, each=False).tolist() == [[5, -4, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("block", "count", "each", "mean", "of_all"),
    [(32, 100, True, 40.76, 26.47), (32, 205, True, 42.87, 28.84), (8, 342, False, 44.25, 42.88)],
)
def test_dct_of_the_embedded_photographs(photographs, block, count, each, mean, of_all):
    """The figures were computed with scipy's DCT and numpy."""
    train, test = photographs
    transform = BlockTransform.dct(train, block)
    kept = keep_largest(transform.analysis(test), count, each=each)
    point = measure("dct", transform.synthesis(kept, (32, 32)), test, codes=[kept])
    assert point.nonzeros == pytest.approx(count / 3072, rel=1e-3)
    assert (point.psnr_mean, point.psnr_of_all) == pytest.approx((mean, of_all), abs=0.02)


def test_jpeg_needs_more_bits_for_more(photographs):
    test = photographs[1][:4]
    points = [measure("jpeg", *[jpeg(test, q)[0], test], bits=jpeg(test, q)[1]) for q in (10, 50, 90)]
    assert points[0].bits < points[1].bits < points[2].bits
    assert points[0].psnr_of_all < points[1].psnr_of_all < points[2].psnr_of_all
    assert jpeg(draw(1, 1, 16, 16), 90)[0].shape == (1, 1, 16, 16)
