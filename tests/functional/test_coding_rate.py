"""Rates against the direct formulas, one determinant at a time."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from csc_nets.functional import (
    class_coding_rate,
    coding_rate,
    ctrl_binary,
    ctrl_multi,
    ctrl_terms,
    rate_distance,
    rate_reduction,
    sample_distance,
)


def sphere(n, d, seed=0):
    return F.normalize(torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)), dim=1)


def rate(z, eps=0.5):
    """The published formula with numpy."""
    n, d = z.shape
    return np.linalg.slogdet(np.eye(d) + d / (n * eps) * z.numpy().T @ z.numpy())[1] / 2 if n else 0.0


def class_rate(z, labels, eps=0.5):
    return sum((labels == j).sum().item() / len(z) * rate(z[labels == j], eps) for j in labels.unique())


@pytest.mark.parametrize("n, d", [(1, 1), (7, 20), (20, 7), (300, 128), (64, 64)])
@pytest.mark.parametrize("eps", [0.5, 1.0, 0.01])
def test_equals_the_direct_formula_on_either_side(n, d, eps):
    z = sphere(n, d)
    assert coding_rate(z, eps).item() == pytest.approx(rate(z, eps), rel=1e-10)


def test_closed_forms():
    z = sphere(1, 9).expand(5, 9)  # one direction, whatever the number
    assert coding_rate(z).item() == pytest.approx(np.log(1 + 9 / 0.5) / 2, rel=1e-12)
    basis = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0]
    assert coding_rate(basis).item() == pytest.approx(6 * np.log(1 + 1 / 0.5) / 2, rel=1e-12)
    assert coding_rate(torch.zeros(4, 6)).item() == 0 and coding_rate(torch.zeros(0, 6)).item() == 0


def test_batches_of_sets():
    z = torch.stack([sphere(9, 5, seed) for seed in range(6)]).view(2, 3, 9, 5)
    expected = [[rate(z[i, j]) for j in range(3)] for i in range(2)]
    torch.testing.assert_close(coding_rate(z), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("classes, n", [(1, 30), (3, 30), (10, 200), (40, 60)])
def test_class_rate_is_the_sum_over_classes_of_any_sizes(classes, n):
    z = sphere(n, 16)
    labels = (torch.rand(n, generator=torch.Generator().manual_seed(1)).square() * classes).long()  # uneven, gaps
    assert class_coding_rate(z, labels).item() == pytest.approx(class_rate(z, labels), rel=1e-10)
    assert rate_reduction(z, labels).item() == pytest.approx(rate(z) - class_rate(z, labels), abs=1e-10)
    assert rate_reduction(z, labels) >= -1e-12
    shuffled = torch.randperm(n)
    torch.testing.assert_close(class_coding_rate(z[shuffled], labels[shuffled]), class_coding_rate(z, labels))


def test_labels_are_names():
    z, labels = sphere(20, 8), torch.arange(20) % 4
    torch.testing.assert_close(
        class_coding_rate(z, labels), class_coding_rate(z, torch.tensor([7, -3, 900, 0])[labels])
    )


def test_orthogonal_classes_gain_most():
    """Yu et al. 2020, Theorem A.6: classes in orthogonal subspaces."""
    basis = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64))[0]
    labels = torch.arange(60) % 3
    mixing = torch.randn(60, 4, dtype=torch.float64)
    apart = F.normalize(torch.einsum("nk,nkd->nd", mixing, basis.view(3, 4, 12)[labels]), dim=1)
    together = F.normalize(mixing @ basis[:4], dim=1)
    assert rate_reduction(apart, labels) > 3 * rate_reduction(together, labels)


def test_distance():
    z, other = sphere(40, 12), sphere(40, 12, seed=5)
    expected = rate(torch.cat([z, other])) - rate(z) / 2 - rate(other) / 2
    assert rate_distance(z, other).item() == pytest.approx(expected, rel=1e-10)
    assert ctrl_binary(z, other) == rate_distance(z, other)
    assert rate_distance(other, z).item() == pytest.approx(expected, rel=1e-10)
    assert abs(rate_distance(z, z).item()) < 1e-13
    assert abs(rate_distance(z, z[torch.randperm(40)] * -1).item()) < 1e-12  # the same covariance
    labels = torch.cat([torch.zeros(40), torch.ones(25)]).long()
    uneven = rate_distance(z, other[:25])
    torch.testing.assert_close(uneven, rate_reduction(torch.cat([z, other[:25]]), labels))


@pytest.mark.parametrize("eps", [0.5, 0.1])
def test_distance_of_each_sample_is_that_of_two_sets_of_one(eps):
    first, second = torch.randn(2, 6, 9, dtype=torch.float64)
    found = sample_distance(first, second, eps)
    for i, value in enumerate(found):
        torch.testing.assert_close(value, rate_distance(first[i : i + 1], second[i : i + 1], eps))
    assert (found > 0).all()
    torch.testing.assert_close(sample_distance(first, -first, eps), torch.zeros(6, dtype=torch.float64))
    z = F.normalize(torch.randn(3, 128), dim=1)
    assert sample_distance(z, z, eps).abs().max() < 1e-5
    with pytest.raises(ValueError, match=r"expected features \(n, d\) twice, got \(6, 9\) and \(5, 9\)"):
        sample_distance(first, second[:5])


@pytest.mark.parametrize("n, expected", [(10, 9.1), (50, 10.9), (300, 2.8), (2048, 0.41)])
def test_scale_of_the_binary_game(n, expected):
    """Figures measured on the published objective: random unit features and noisy copies of them."""
    torch.manual_seed(0)
    z = F.normalize(torch.randn(n, 128), dim=1)
    z_hat = F.normalize(z + 0.3 * torch.randn(n, 128), dim=1)
    assert ctrl_binary(z, z_hat).item() == pytest.approx(expected, rel=0.1)


def slow_multi(z, z_hat, labels, weights=(1, 1, 1)):
    """The published objective term by term."""
    distances = 0.0
    for j in labels.unique():
        own, other = z[labels == j], z_hat[labels == j]
        distances += rate(torch.cat([own, other])) - rate(own) / 2 - rate(other) / 2
    reductions = [rate(y) - class_rate(y, labels) for y in (z, z_hat)]
    return weights[0] * reductions[0] + weights[1] * reductions[1] + weights[2] * distances


@pytest.mark.parametrize("classes, n, d", [(10, 160, 16), (10, 40, 32), (100, 150, 8)])
def test_multi_class_game_equals_the_published_terms(classes, n, d):
    z, z_hat = sphere(n, d), sphere(n, d, seed=3)
    labels = torch.randint(classes, (n,), generator=torch.Generator().manual_seed(2))
    assert ctrl_multi(z, z_hat, labels).item() == pytest.approx(slow_multi(z, z_hat, labels), rel=1e-10)
    weights = (0.5, 2.0, 3.0)
    expected = slow_multi(z, z_hat, labels, weights)
    assert ctrl_multi(z, z_hat, labels, weights=weights).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("n, d", [(30, 8), (8, 30)])
def test_the_terms_are_those_of_the_games(n, d):
    z, z_hat, labels = sphere(n, d), sphere(n, d, seed=3), torch.arange(n) % 3
    plain, multi = ctrl_terms(z, z_hat), ctrl_terms(z, z_hat, labels)
    assert set(plain) == {"rate", "rate_hat", "distance"}
    assert set(multi) - set(plain) == {"reduction", "reduction_hat"}
    assert plain["distance"].item() == pytest.approx(ctrl_binary(z, z_hat).item(), rel=1e-10)
    for terms in (plain, multi):
        assert terms["rate"].item() == pytest.approx(rate(z), rel=1e-10)
        assert terms["rate_hat"].item() == pytest.approx(rate(z_hat), rel=1e-10)
    assert multi["reduction"].item() == pytest.approx(rate(z) - class_rate(z, labels), rel=1e-9)
    assert multi["reduction_hat"].item() == pytest.approx(rate(z_hat) - class_rate(z_hat, labels), rel=1e-9)
    assert multi["distance"].item() == pytest.approx(slow_multi(z, z_hat, labels, (0, 0, 1)), rel=1e-10)


def test_gradients():
    z, z_hat = sphere(7, 4).requires_grad_(), sphere(7, 4, seed=1).requires_grad_()
    labels = torch.tensor([0, 0, 0, 1, 1, 5, 5])
    for function in (coding_rate, lambda z: class_coding_rate(z, labels), lambda z: rate_reduction(z, labels)):
        assert torch.autograd.gradcheck(function, (z,))
    assert torch.autograd.gradcheck(ctrl_binary, (z, z_hat))
    assert torch.autograd.gradcheck(lambda a, b: ctrl_multi(a, b, labels), (z, z_hat))
    assert torch.autograd.gradgradcheck(coding_rate, (z,))


def test_repeated_features_have_finite_gradients():
    z = sphere(1, 32).float().expand(64, 32).contiguous().requires_grad_()
    ctrl_multi(z, z.detach(), torch.zeros(64, dtype=torch.long)).backward()
    assert z.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    z, labels = sphere(40, 16).to(dtype), torch.arange(40) % 3
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = rate_reduction(z, labels)
        plain = coding_rate(z.float())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, rate_reduction(z.float(), labels))
    torch.testing.assert_close(plain, coding_rate(z.float()), rtol=0, atol=0)


@pytest.mark.parametrize("scale, eps", [(1.0, 0.5), (20.0, 0.5), (1.0, 1e-5)])
def test_float32_is_near_float64(scale, eps):
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(500, 10, generator=generator) @ torch.randn(10, 128, generator=generator) * scale
    labels = torch.arange(500) % 10
    for function in (coding_rate, lambda z, eps: class_coding_rate(z, labels, eps)):
        torch.testing.assert_close(function(z, eps).double(), function(z.double(), eps), rtol=1e-6, atol=0)


def test_bad_input_is_refused():
    z = sphere(6, 3)
    for call, message in [
        (lambda: coding_rate(z, eps=0), "eps must be a finite number > 0, got 0"),
        (lambda: coding_rate(z[0]), r"rows of floats \(n, d\), got \(3,\)"),
        (
            lambda: class_coding_rate(z, torch.zeros(5).long()),
            r"labels must be integers \(6,\), got torch.int64 \(5,\)",
        ),
        (lambda: class_coding_rate(z, torch.zeros(6)), "labels must be integers"),
        (lambda: coding_rate(z * torch.nan), "features must be finite"),
        (lambda: rate_distance(z[None], z[None]), r"expected features \(n, d\) and \(m, d\), got \(1, 6, 3\)"),
        (lambda: ctrl_binary(z, z[:, :2]), r"got \(6, 3\) and \(6, 2\)"),
        (lambda: ctrl_multi(z, z[:, :2], torch.zeros(6).long()), "one shape"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.gpu
def test_a_gpu_gives_what_a_cpu_gives():
    z, z_hat, labels = sphere(60, 16).float(), sphere(60, 16, seed=1).float(), torch.arange(60) % 7
    for function in (ctrl_binary, lambda a, b: ctrl_multi(a, b, labels.to(a.device))):
        torch.testing.assert_close(function(z.cuda(), z_hat.cuda()).cpu(), function(z, z_hat), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("labels", [[0, -1, 1, -1], [-100, 0, 0, 1]])
def test_a_label_that_is_no_class_is_refused(labels):
    z, labels = torch.nn.functional.normalize(torch.randn(4, 3), dim=1), torch.tensor(labels)
    for call in (lambda: ctrl_multi(z, z, labels), lambda: ctrl_terms(z, z, labels)):
        with pytest.raises(ValueError, match=f"labels must be classes from 0 on, got {int(labels.min())}"):
            call()
    with pytest.raises(ValueError, match=r"labels must be integers \(4,\), got torch\.complex64"):
        ctrl_multi(z, z, labels.to(torch.complex64))
    assert ctrl_multi(z, z, labels.clamp_min(0)).isfinite()
