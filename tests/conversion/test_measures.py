"""Certificates for problems with negative weights."""

import math

import pytest
import torch

from csc_nets.conversion.measures import bounded, duality_gap, energy_kept
from csc_nets.functional import Matrix, Problem, as_penalty
from csc_nets.functional.pursuits import FISTA


def problem_of(atoms: torch.Tensor, weights: torch.Tensor, x: torch.Tensor) -> Problem:
    return Problem(x, Matrix(atoms), weights, penalty=as_penalty("nonnegative_l1"), check=False)


def test_a_shifted_signal_has_the_same_objective_up_to_a_constant():
    atoms = torch.nn.functional.normalize(torch.rand(6, 4, dtype=torch.float64), dim=1)
    weights = torch.linspace(-0.5, 0.3, 6, dtype=torch.float64)
    problem = problem_of(atoms, weights, torch.randn(1, 4, dtype=torch.float64))
    lifted = bounded(problem)
    assert lifted is not None and (torch.as_tensor(lifted.lam) >= 0).all()
    z = torch.rand(5, 1, 6, dtype=torch.float64)
    differences = [(problem.objective(one) - lifted.objective(one)).item() for one in z]
    assert differences == pytest.approx([differences[0]] * 5)


def test_the_gap_bounds_the_excess_and_vanishes_at_the_solution():
    torch.manual_seed(0)
    atoms = torch.nn.functional.normalize(torch.rand(6, 4, dtype=torch.float64), dim=1)
    problem = problem_of(atoms, torch.linspace(-0.5, 0.3, 6, dtype=torch.float64), torch.randn(1, 4).double())
    best, rough = (FISTA(count).run(problem) for count in (5000, 3))
    gap, least = duality_gap(problem, rough), duality_gap(problem, best)
    excess = (problem.objective(rough) - problem.objective(best)) / problem.energy()
    assert gap >= excess.item() - 1e-9 and least == pytest.approx(0, abs=1e-4)


def test_an_objective_without_a_bound_has_no_certificate():
    """Two opposite atoms with negative weights: their sum costs less than nothing."""
    problem = problem_of(torch.tensor([[1.0, 0], [-1, 0]]), torch.tensor([-0.1, -0.1]), torch.ones(1, 2))
    assert duality_gap(problem, torch.zeros(1, 2)) == math.inf


def test_energy_kept_does_not_depend_on_the_size_of_the_code():
    problem = problem_of(torch.eye(3)[:2], torch.zeros(2), torch.tensor([[3.0, 0, 4]]))
    z = torch.tensor([[3.0, 0]])
    assert energy_kept(problem, z) == pytest.approx(9 / 25) == pytest.approx(energy_kept(problem, 7 * z))
