"""The figures of Gilbert et al. that can be computed without their networks, and what comes out instead."""

from functools import partial

import pytest
import torch

from csc_nets.functional import as_adjoint_pair, iterative_hard_thresholding, one_per_block
from csc_nets.theory import mutual_coherence, published, random_filters, restricted_isometry, sample_model_code


def test_tables_are_about_the_same_layers():
    layers = [name for name in published.VGG16_NONZEROS if name.startswith("conv")]
    assert layers == list(published.VGG16_COHERENCE) == list(published.VGG16_SHAPES)
    assert {layer for layer, _ in published.VGG16_RECONSTRUCTION} == {"pool1", "pool2", "pool3", "pool4"}
    assert all(row.random < row.learned for row in published.VGG16_COHERENCE.values())


def test_shapes_are_those_of_vgg16():
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        network = torchvision.models.vgg16()
    shapes = [tuple(m.weight.shape[:2]) for m in network.features if isinstance(m, torch.nn.Conv2d)]
    assert shapes == list(published.VGG16_SHAPES.values())


# Means of 30 draws; the maximum of one draw has a standard deviation of 5 %.
@pytest.mark.parametrize(
    ("layer", "absolute", "signed", "draws"),
    [("conv1_1", 0.625, 0.598, 30), ("conv2_1", 0.161, 0.154, 8), ("conv4_1", 0.097, 0.094, 4)],
)
def test_coherence_of_random_filters(layer, absolute, signed, draws):
    generator = torch.Generator().manual_seed(0)
    sums = torch.zeros(2)
    for _ in range(draws):
        weight = random_filters(*published.VGG16_SHAPES[layer], (3, 3), generator=generator)
        sums += torch.tensor([mutual_coherence(weight, shifts=False, signed=s) for s in (False, True)])
    tolerance = 3 * 0.05 * (1 / draws + 1 / 30) ** 0.5
    assert sums[0].item() / draws == pytest.approx(absolute, rel=tolerance)
    assert sums[1].item() / draws == pytest.approx(signed, rel=tolerance)


@pytest.fixture(scope="module")
def signals():
    """Ten draws of 96 filters on 32 channels, of length 5, each with 40 signals of 32 samples and 10 non-zeros."""
    return [draw(32, 96, "variance", seed) for seed in range(10)]


def draw(channels, filters, scaling, seed):
    generator = torch.Generator().manual_seed(seed)
    weight = random_filters(filters, channels, 5, scaling, generator=generator)
    z = sample_model_code(40, filters, (28,), 10, generator=generator)
    return weight, z, as_adjoint_pair(weight).synthesis(z, (32,))


def errors(signals, estimate):
    """Relative errors of the signals that ``estimate(x, weight, z)`` codes."""
    found = []
    for weight, z, x in signals:
        made = as_adjoint_pair(weight).synthesis(estimate(x, weight, z), (32,))
        found.append((made - x).flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1))
    return torch.cat(found)


def threshold(x, weight, z, steps=1, **options):
    return iterative_hard_thresholding(x, weight, project=partial(one_per_block, k=10, **options), steps=steps)


# 400 signals: a median's sampling error is 1.25 s / sqrt(400) with s the spread of the errors, 0.1 at one step, and
# relative to the median larger later. Three of them are allowed.
@pytest.mark.parametrize(
    ("steps", "median", "tolerance"), [(1, 0.316, 0.02), (2, 0.127, 0.02), (3, 0.040, 0.012), (5, 0.0024, 0.0012)]
)
def test_median_error_of_hard_thresholding(signals, steps, median, tolerance):
    found = errors(signals, partial(threshold, steps=steps))
    assert found.median().item() == pytest.approx(median, abs=tolerance)


def test_hard_thresholding_converges_but_for_rare_failures(signals):
    found = errors(signals, partial(threshold, steps=10))
    assert found.median().item() < 5e-5 and (found > 1e-2).double().mean().item() < 0.03


@pytest.mark.parametrize(
    ("channels", "filters", "scaling", "known", "oracle", "fixed"),
    [
        (32, 96, "unit", 0.268, 0.090, 1.427),
        (96, 32, "variance", 0.132, 0.085, 1.423),
        (96, 32, "unit", 0.111, 0.051, 1.407),
    ],
)
def test_one_step(channels, filters, scaling, known, oracle, fixed):
    batches = [draw(channels, filters, scaling, seed) for seed in range(10)]
    assert errors(batches, threshold).median().item() == pytest.approx(known, abs=0.02)
    assert errors(batches, lambda x, w, z: as_adjoint_pair(w).analysis(x) * (z != 0)).median().item() == pytest.approx(
        oracle, abs=0.01
    )
    assert errors(batches, partial(threshold, switches="fixed")).median().item() == pytest.approx(fixed, abs=0.03)


def test_norms_after_synthesis_and_after_analysis(signals):
    r"""Synthesis keeps the norm; analysis only where the code is, else sqrt(1 + K / (M t)) of it comes out.

    Mean squares, by E <w, w'>^2 = overlap / (M l^2) of two filters and E |w|^4 = 1 + 2 / (M l): of n = 28 places p, q
    of two filters, sum (l - |p - q|)_+ = 660. So 1 + 1 / (M l) + K 660 / (n M l^2) over all entries, 3.835, where the
    borders take 40 / 700 of K / M; and 1 + 2 / (M l) + (k - 1) 660 / (n^2 M l^2) on the support. From one draw of
    filters to the next the roots vary by 0.029 and 0.017.
    """
    back = [as_adjoint_pair(weight).analysis(x) for weight, _, x in signals]
    norms = [z.flatten(1).norm(dim=1) for _, z, _ in signals]

    def ratios(parts):
        return torch.cat([part.flatten(1).norm(dim=1) / norm for part, norm in zip(parts, norms, strict=True)])

    whole = ratios(back).square().mean().sqrt().item()
    assert whole == pytest.approx((1 + 1 / 160 + 96 * 660 / (28 * 800)) ** 0.5, abs=3 * 0.029 / 10**0.5)
    inside = ratios([b * (z != 0) for b, (_, z, _) in zip(back, signals, strict=True)]).square().mean().sqrt().item()
    assert inside == pytest.approx((1 + 2 / 160 + 9 * 660 / (28**2 * 800)) ** 0.5, abs=3 * 0.017 / 10**0.5)
    # Given for one draw of filters.
    assert ratios([one_per_block(b, 10) for b in back]).median().item() == pytest.approx(1.045, abs=3 * 0.018)
    synthesised = torch.cat([restricted_isometry(weight, codes=z).ratios.sqrt() for weight, z, _ in signals])
    low, high = synthesised.quantile(torch.tensor([0.01, 0.99], dtype=torch.float64)).tolist()
    assert low == pytest.approx(0.939, abs=0.02) and high == pytest.approx(1.079, abs=0.02)


@pytest.mark.parametrize("stride", [2, 3])
def test_analysis_with_a_stride(stride):
    """The closed form sqrt(1 + K / (M t)) in the middle of a long signal, where no border cuts it."""
    generator = torch.Generator().manual_seed(0)
    layer = torch.nn.Conv1d(16, 96, 6, stride, bias=False)
    layer.weight.data = random_filters(96, 16, 6, generator=generator)
    z = torch.zeros(400, 96, 21, dtype=torch.float64)
    z[:, 0, 10] = 1.0
    with torch.no_grad():
        x = torch.nn.functional.conv_transpose1d(z, layer.weight, stride=stride)
        back = layer(x[:1])
    assert back.norm().item() == pytest.approx((1 + 96 / 16 / stride) ** 0.5, rel=0.1)
