from dataclasses import replace

import pytest
import torch
from sklearn.linear_model import orthogonal_mp

from csc_nets.functional import OMP, MatchingPursuit, Problem, TopK
from csc_nets.functional.operators.matrix import Matrix
from csc_nets.layers import CSC2d, SparseCoding


@pytest.fixture
def problem():
    g = torch.Generator().manual_seed(0)
    atoms = torch.nn.functional.normalize(torch.randn(60, 24, generator=g, dtype=torch.float64), dim=1)
    return Problem(torch.randn(9, 24, generator=g, dtype=torch.float64), Matrix(atoms), 0.0, penalty=TopK(6))


def test_as_many_rounds_as_atoms_is_the_omp_of_scikit_learn(problem):
    expected = orthogonal_mp(problem.operator.weight.T.numpy(), problem.x.T.numpy(), n_nonzero_coefs=6).T
    for rounds in (6, 50):
        torch.testing.assert_close(OMP(rounds).run(problem), torch.as_tensor(expected), rtol=1e-6, atol=1e-8)


def test_fewer_rounds_add_several_atoms_each(problem):
    z = OMP(2).run(problem)
    assert ((z != 0).sum(1) == 6).all()
    correlation = problem.operator.analysis(problem.residual(z))
    assert correlation[z != 0].abs().max() < 1e-6  # fitted by least squares
    first = problem.operator.analysis(problem.x).abs().topk(3, 1).indices
    assert (z.gather(1, first) != 0).all()
    errors = [problem.residual(OMP(rounds).run(problem)).square().sum() for rounds in (1, 2, 6)]
    assert errors[0] > errors[1] > errors[2]


def test_a_warm_start_gives_the_first_atoms(problem):
    init = torch.zeros(9, 60, dtype=torch.float64)
    init[:, 7] = 2.0
    z = OMP(6).run(problem, init)
    assert (z[:, 7] != 0).all() and ((z != 0).sum(1) == 6).all()
    assert problem.operator.analysis(problem.residual(z))[z != 0].abs().max() < 1e-6


def test_codes_without_negative_values(problem):
    given = Problem(problem.x, problem.operator, 0.0, penalty=TopK(6, nonneg=True))
    for pursuit in (OMP(3), MatchingPursuit(6)):
        z = pursuit.run(given)
        assert (z >= 0).all() and ((z != 0).sum(1) <= 6).all() and (z != 0).any(1).all()


def test_matching_pursuit_step_by_step(problem):
    x, atoms = problem.x[0], problem.operator.weight
    residual, z = x.clone(), torch.zeros(60, dtype=torch.float64)
    for _ in range(8):
        correlation = atoms @ residual
        best = correlation.abs().argmax()
        z[best] += correlation[best]
        residual = residual - correlation[best] * atoms[best]
    found = MatchingPursuit(8).run(replace(problem, penalty=TopK(8)))[0]
    torch.testing.assert_close(found, z)
    fewer = MatchingPursuit(8).run(replace(problem, penalty=TopK(3)))[0]
    torch.testing.assert_close(fewer, TopK(3).prox(z[None], 0.0)[0])
    assert (x - found @ atoms).square().sum() < x.square().sum()


def test_orthonormal_atoms_give_the_largest_correlations():
    atoms = torch.linalg.qr(torch.randn(16, 16, dtype=torch.float64))[0]
    x = torch.randn(5, 16, dtype=torch.float64)
    given = Problem(x, Matrix(atoms), 0.0, penalty=TopK(4))
    expected = TopK(4).prox(x @ atoms.T, 0.0)
    for pursuit in (OMP(1), OMP(4), MatchingPursuit(4)):
        torch.testing.assert_close(pursuit.run(given), expected)


def test_missing_samples_do_not_count(problem):
    mask = torch.ones(9, 24, dtype=torch.float64)
    mask[:, ::3] = 0
    changed = Problem(problem.x.masked_fill(mask == 0, 77.0), problem.operator, 0.0, mask=mask, penalty=TopK(6))
    given = Problem(problem.x, problem.operator, 0.0, mask=mask, penalty=TopK(6))
    torch.testing.assert_close(OMP(3, fit_steps=40).run(changed), OMP(3, fit_steps=40).run(given))


def test_a_number_of_atoms_at_each_position_of_a_map():
    torch.manual_seed(0)
    layer = CSC2d(2, 12, 3, padding=1, pursuit="omp", steps=2, penalty=TopK(3, per_position=True))
    z = layer(torch.randn(2, 2, 7, 7))
    assert ((z != 0).sum(1) <= 3).all() and ((z != 0).sum(1) > 0).all()
    whole = CSC2d(2, 12, 3, padding=1, pursuit="omp", steps=2, penalty=TopK(5))
    assert ((whole(torch.randn(2, 2, 7, 7)) != 0).flatten(1).sum(1) == 5).all()


def test_other_penalties_are_refused():
    with pytest.raises(ValueError, match=r"OMP\(8\) needs a number of atoms: penalty=TopK\(k\), got NonnegativeL1"):
        SparseCoding(4, 8, pursuit="omp", steps=8)
    with pytest.raises(ValueError, match="steps must be"):
        OMP(0)
