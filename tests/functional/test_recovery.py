"""Sparse code recovery against closed forms, an independent Lasso, and the one-step estimate."""

from functools import partial

import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso

from csc_nets.functional import as_adjoint_pair, iterative_hard_thresholding, one_per_block, sparse_code_recovery, top_k
from csc_nets.functional.recovery import Restricted
from csc_nets.layers import Dictionary2d
from csc_nets.theory import random_filters, sample_model_code


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def test_orthonormal_dictionary_gives_thresholded_largest_entries(generator):
    basis = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64)).Q
    x = torch.randn(5, 6, generator=generator, dtype=torch.float64)
    v = x @ basis.T
    found = sparse_code_recovery(x, basis, 0.1, partial(top_k, k=2), tol=1e-12)
    expected = top_k(v.sign() * (v.abs() - 0.1).clamp_min(0), 2)
    assert torch.allclose(found, expected, atol=1e-6)


def test_values_are_those_of_a_lasso_on_the_support(generator):
    """scikit-learn solves it with the columns of the support only."""
    weight = random_filters(8, 3, 4, generator=generator)
    x = torch.randn(4, 3, 12, generator=generator, dtype=torch.float64)
    lam = 0.05
    found = sparse_code_recovery(x, weight, lam, partial(one_per_block, k=4), tol=1e-12)
    assert found.shape == (4, 8, 9)
    units = torch.eye(72, dtype=torch.float64).view(72, 8, 9)
    matrix = as_adjoint_pair(weight).synthesis(units, (12,)).flatten(1).T.numpy()
    whole = Lasso(lam / 36, fit_intercept=False, tol=1e-14, max_iter=100_000)
    for signal, code in zip(x.flatten(1).numpy(), found, strict=True):
        first = torch.from_numpy(whole.fit(matrix, signal).coef_.copy()).view(1, 8, 9)
        support = one_per_block(first, 4).flatten().numpy() != 0
        values = np.zeros(72)
        values[support] = whole.fit(matrix[:, support], signal).coef_
        assert np.abs(values - code.flatten().numpy()).max() < 1e-5
        assert (code.abs().amax(1) > 0).sum() <= 4 and (code != 0).sum(1).max() <= 1


def test_restricted_pair_is_an_adjoint_pair(generator):
    layer = Dictionary2d(2, 5, 3, stride=2, padding=1, dtype=torch.float64)
    x = torch.randn(3, 2, 9, 8, generator=generator, dtype=torch.float64)
    z = torch.randn(3, 5, 5, 4, generator=generator, dtype=torch.float64)
    support = (torch.rand(z.shape, generator=generator) < 0.3).double()
    part = Restricted(layer, support, layer.bound((9, 8)))
    forward = (part.synthesis(z, (9, 8)) * x).sum()
    assert torch.allclose(forward, (z * part.analysis(x)).sum(), rtol=1e-12)
    assert torch.equal(part.analysis(x)[support == 0], torch.zeros_like(z[support == 0]))


def test_layers_and_non_negative_codes(generator):
    layer = Dictionary2d(2, 6, 3, padding=1, dtype=torch.float64)
    x = torch.randn(2, 2, 7, 7, generator=generator, dtype=torch.float64)
    found = sparse_code_recovery(x, layer, 0.1, partial(one_per_block, window=2), nonneg=True)
    assert found.shape == (2, 6, 7, 7) and bool((found >= 0).all()) and bool((found > 0).any())


def test_it_bears_coherence_that_one_step_does_not(generator):
    """Filters with a common part, correlations about 0.5: medians of the relative error, 40 signals."""
    weight = random_filters(24, 16, 5, "unit", generator=generator)
    weight = (weight + random_filters(1, 16, 5, "unit", generator=generator)) / 2**0.5
    z = sample_model_code(40, 24, (16,), 4, generator=generator)
    x = as_adjoint_pair(weight).synthesis(z, (20,))
    project = partial(one_per_block, k=4)

    def error(code):
        return ((code - z).flatten(1).norm(dim=1) / z.flatten(1).norm(dim=1)).median().item()

    one = error(iterative_hard_thresholding(x, weight, project=project, steps=1))
    two = error(sparse_code_recovery(x, weight, 1e-3, project, tol=1e-7))
    assert one > 0.5 and two < 0.02


def test_bad_arguments():
    with pytest.raises(ValueError, match="lam"):
        sparse_code_recovery(torch.randn(1, 3), torch.eye(3), -1.0, lambda z: z)
    with pytest.raises(RuntimeError, match="did not reach"):
        sparse_code_recovery(torch.randn(4, 9), torch.randn(12, 9), 0.01, lambda z: z, steps=2)
