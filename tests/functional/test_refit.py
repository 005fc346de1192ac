from itertools import pairwise

import pytest
import torch

from csc_nets.functional import ConvGeometry, refit
from csc_nets.functional.operators.convolution import Convolution
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


def test_vectors_at_each_position_are_fitted_exactly():
    atoms, x = draw(30, 12), draw(2, 12, 3, 5)
    code = torch.zeros(2, 30, 3, 5, dtype=torch.float64)
    code[:, 3:11, :, ::2] = 1.0
    operator = Convolution(atoms[:, :, None, None], ConvGeometry.create(2, 1))
    rows = refit(Matrix(atoms), x.movedim(1, 3).reshape(-1, 12), code.movedim(1, 3).reshape(-1, 30))
    found = refit(operator, x, code, 0)  # no step of conjugate gradients
    torch.testing.assert_close(found.movedim(1, 3).reshape(-1, 30), rows)
    larger = Convolution(draw(30, 12, 3, 3), ConvGeometry.create(2, 3, padding=1))
    error = [(x - larger.synthesis(refit(larger, x, code, n), (3, 5))).square().sum() for n in (1, 40)]
    assert error[1] < error[0]


@pytest.mark.parametrize("atoms", [16, 200], ids=["products of all atoms", "products of each sample"])
@pytest.mark.parametrize("exact", [True, False])
def test_values_below_zero_leave_until_there_are_none(atoms, exact):
    """What stays is the least-squares solution of its own support, also where the second fit has negative values."""
    weight, x = draw(atoms, 12), draw(300, 12)
    code = torch.zeros(300, atoms, dtype=torch.float64)
    code[:, :16:2] = 1.0
    mask = None if exact else torch.ones(1, 12)  # masked signals are fitted by conjugate gradients
    free, found = (refit(Matrix(weight), x, code, 40, mask, nonneg=n) for n in (False, True))
    torch.testing.assert_close(free, least_squares(weight, x, code), rtol=1e-6, atol=1e-7)
    twice = least_squares(weight, x, free.relu())
    assert (free < 0).any() and (twice < 0).any() and (found >= 0).all() and (found[free < 0] == 0).all()
    torch.testing.assert_close(found, least_squares(weight, x, found), rtol=1e-6, atol=1e-7)
    fine = (twice >= 0).all(1)
    torch.testing.assert_close(found[fine], twice[fine], rtol=1e-6, atol=1e-7)


def test_supports_of_several_sizes_and_atoms_twice():
    atoms, x = draw(30, 12), draw(5, 12)
    code = torch.zeros(5, 30, dtype=torch.float64)
    for i in range(5):
        code[i, : 2 * i] = 0.5
    torch.testing.assert_close(refit(Matrix(atoms), x, code), least_squares(atoms, x, code), rtol=1e-6, atol=1e-8)
    atoms[1] = atoms[0]
    found = refit(Matrix(atoms.float()), x.float(), code.float())
    assert found.isfinite().all() and found.abs().max() < 100
    best = least_squares(atoms[[0, *range(2, 30)]], x, code[:, [0, *range(2, 30)]])
    errors = [(x - found.double() @ atoms).square().sum(1), (x - best @ atoms[[0, *range(2, 30)]]).square().sum(1)]
    torch.testing.assert_close(*errors, rtol=1e-3, atol=1e-4)
    assert refit(Matrix(atoms), x, torch.ones(5, 30).double(), 5).isfinite().all()  # more atoms than equations
