"""The box: a set of codes of size lam, whatever the step size is."""

from dataclasses import replace

import pytest
import torch

from csc_nets.functional import FISTA, ISTA, Box, Matrix, Problem, ToTolerance
from csc_nets.functional.prox import clip, soft_threshold


@pytest.fixture
def problem():
    atoms = torch.nn.functional.normalize(torch.randn(9, 6, dtype=torch.float64), dim=1)
    return Problem(torch.randn(4, 6, dtype=torch.float64), Matrix(atoms), 0.3, penalty=Box())


def test_clip_is_what_the_soft_threshold_takes_away():
    v, t = torch.randn(5, 7, dtype=torch.float64), torch.rand(5, 1, dtype=torch.float64)
    torch.testing.assert_close(clip(v, t) + soft_threshold(v, t), v)
    wave = torch.polar(v.abs(), v)
    torch.testing.assert_close(clip(wave, t) + soft_threshold(wave, t), wave)
    assert (clip(wave, t).abs() <= t + 1e-12).all()


@pytest.mark.parametrize("step", [None, 0.05])
@pytest.mark.parametrize("pursuit", [ISTA(4000), FISTA(1500), ToTolerance(1e-10)], ids=lambda p: type(p).__name__)
def test_the_code_is_that_of_bounded_least_squares(problem, pursuit, step):
    lsq_linear = pytest.importorskip("scipy.optimize").lsq_linear
    problem = replace(problem, step=step)
    matrix, z = problem.operator.weight.T.numpy(), pursuit.run(problem)
    assert (z.abs() <= 0.3).all()
    for signal, residual in zip(problem.x, problem.residual(z), strict=True):
        found = lsq_linear(matrix, signal.numpy(), (-0.3, 0.3), tol=1e-14).x
        torch.testing.assert_close(residual, signal - torch.from_numpy(matrix @ found), rtol=0, atol=1e-5)


def test_ridge(problem):
    """With half the squared norm of the code beside it, against more rows of the matrix."""
    lsq_linear = pytest.importorskip("scipy.optimize").lsq_linear
    problem = replace(problem, ridge=0.2)
    z = ToTolerance(1e-12).run(problem)
    matrix = torch.cat([problem.operator.weight.T, 0.2**0.5 * torch.eye(9, dtype=torch.float64)]).numpy()
    for signal, code in zip(problem.x, z, strict=True):
        longer = torch.cat([signal, torch.zeros(9, dtype=torch.float64)])
        found = lsq_linear(matrix, longer.numpy(), (-0.3, 0.3), tol=1e-14).x
        torch.testing.assert_close(code, torch.from_numpy(found), rtol=0, atol=1e-5)


@pytest.mark.parametrize("ridge", [0.0, 0.2])
def test_the_gap_bounds_the_objective(problem, ridge):
    problem = replace(problem, ridge=ridge)
    best = problem.objective(ToTolerance(1e-13).run(problem))
    for steps in (1, 3, 10, 100, 1000):
        z = FISTA(steps).run(problem)
        excess, gap = problem.objective(z) - best, problem.duality_gap(z)
        assert (excess <= gap + 1e-12).all()
    assert (gap < 1e-6).all()


def test_the_residual_is_a_proximal_map(problem):
    r"""No signal has less of :math:`\tfrac12 \|x - u\|^2 + \lambda \|D^T u\|_1`; of one atom in closed form."""

    def value(u):
        return (problem.x - u).square().sum(1) / 2 + 0.3 * problem.operator.analysis(u).abs().sum(1)

    u = problem.residual(ToTolerance(1e-12).run(problem))
    for spread in (1.0, 0.1, 0.01):
        assert (value(u + spread * torch.randn_like(u)) >= value(u) - 1e-9).all()
    atom = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    one = Problem(torch.tensor([[2.0, 5.0], [0.1, 5.0]], dtype=torch.float64), Matrix(atom), 0.3, penalty=Box())
    expected = torch.tensor([[1.7, 5.0], [0.0, 5.0]], dtype=torch.float64)
    torch.testing.assert_close(one.residual(ToTolerance(1e-12).run(one)), expected, rtol=0, atol=1e-5)
