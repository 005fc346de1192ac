import numpy as np
import pytest
import scipy.linalg
import torch

from csc_nets.evaluation import feature_space, frechet_distance, kernel_distance


@pytest.fixture
def sets():
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(4, 4, generator=generator)
    return torch.randn(200, 4, generator=generator), 0.5 + torch.randn(150, 4, generator=generator) @ mix


def test_frechet_distance_is_the_formula(sets):
    x, y = (s.double().numpy() for s in sets)
    cx, cy = np.cov(x.T), np.cov(y.T)
    root = scipy.linalg.sqrtm(cx @ cy).real
    expected = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(cx + cy - 2 * root)
    assert frechet_distance(*sets) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_limits():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 3, generator=generator)
    assert frechet_distance(x, x) < 1e-9
    assert frechet_distance(x, x + 2) == pytest.approx(12, rel=1e-5)  # the same shape, 2 away in three coordinates
    # The covariance times 9 has thrice the root: tr(C + 9 C - 2 * 3 C) = 4 tr C.
    expected = 4 * x.T.cov().trace().item() + 4 * x.mean(0).square().sum().item()
    assert frechet_distance(x, 3 * x) == pytest.approx(expected, rel=1e-5)


def test_kernel_distance_is_the_unbiased_estimate(sets):
    x, y = (s.double().numpy()[:150] for s in sets)

    def kernel(a, b):
        return (a @ b.T / 4 + 1) ** 3

    n = len(x)
    own = sum((kernel(a, a).sum() - np.trace(kernel(a, a))) / (n * (n - 1)) for a in (x, y))
    expected = own - 2 * kernel(x, y).mean()
    assert kernel_distance(sets[0][:150], sets[1]) == pytest.approx(expected, rel=1e-5)


def test_kernel_distance_of_one_distribution_is_zero_on_average_and_repeatable():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 3000, 4, generator=generator)
    torch.manual_seed(5)
    value = kernel_distance(x, y)
    state = torch.random.get_rng_state()
    assert abs(value) < 0.01 and kernel_distance(x, y) == value != kernel_distance(x, y, seed=1)
    assert torch.equal(state, torch.random.get_rng_state())
    assert kernel_distance(x, y + 1) > 1


def test_sets_that_cannot_be_compared_are_refused(sets):
    for distance in (frechet_distance, kernel_distance):
        with pytest.raises(ValueError, match=r"got \(200, 4\) and \(150, 3\)"):
            distance(sets[0], sets[1][:, :3])
        with pytest.raises(ValueError, match="n and m >= 2"):
            distance(sets[0], sets[1][:1])
    with pytest.raises(ValueError, match="size must be at least 2, got 1"):
        kernel_distance(*sets, size=1)


def test_a_network_must_be_a_run_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no run folder"):
        feature_space(tmp_path)
