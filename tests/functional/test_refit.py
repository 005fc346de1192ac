from itertools import pairwise

import torch

from csc_nets.functional import refit
from csc_nets.functional.operators.matrix import Matrix


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def least_squares(atoms, x, code):
    expected = torch.zeros_like(code)
    for i, row in enumerate(code):
        index = row.nonzero().flatten()
        expected[i, index] = torch.linalg.lstsq(atoms[index].T, x[i, :, None]).solution[:, 0]
    return expected


def test_values_are_those_of_least_squares():
    atoms, x = draw(30, 12), draw(3, 12)
    code = torch.zeros(3, 30, dtype=torch.float64)
    code[:, ::6] = 1.0
    torch.testing.assert_close(refit(Matrix(atoms), x, code, 60), least_squares(atoms, x, code))


def test_the_error_falls_and_a_code_of_zeros_stays():
    atoms, x = draw(30, 12), draw(3, 12)
    code = torch.zeros(3, 30, dtype=torch.float64)
    assert torch.equal(refit(Matrix(atoms), x, code), code)
    code[1, :8] = 0.5
    errors = [(x - refit(Matrix(atoms), x, code, steps) @ atoms).square().sum() for steps in range(6)]
    assert all(b <= a + 1e-9 for a, b in pairwise(errors))


def test_missing_samples_do_not_count():
    atoms, x = draw(30, 12), draw(2, 12)
    mask = (draw(1, 12) > -0.5).double()
    code = torch.zeros(2, 30, dtype=torch.float64)
    code[:, ::10] = 1.0
    found = refit(Matrix(atoms), x.masked_fill(mask == 0, 100.0), code, 40, mask)
    torch.testing.assert_close(found, least_squares(atoms * mask, x * mask, code))


def test_atoms_that_depend_on_each_other():
    """An atom twice, and the sum of two others: the error is the least one, and nothing is huge."""
    atoms = draw(6, 12).float()
    atoms[1], atoms[2] = atoms[0], atoms[3] + atoms[4]
    x, code = draw(9, 12)[6:].float(), torch.ones(3, 6)
    found = refit(Matrix(atoms), x, code, 50)
    best = torch.linalg.lstsq(atoms.T.double(), x.T.double(), rcond=1e-5, driver="gelsd").solution
    errors = [(x - z.double() @ atoms.double()).square().sum() for z in (found, best.T)]
    assert errors[0] < 1.001 * errors[1] and found.abs().max() < 100
