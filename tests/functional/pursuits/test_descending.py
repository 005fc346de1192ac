from itertools import pairwise

import pytest
import torch

from csc_nets.functional import Descending, Problem, as_penalty, dct_atoms
from csc_nets.functional.operators.matrix import Matrix
from csc_nets.layers import CSC2d


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_weights_fall_to_the_last():
    x = draw(2, 6)
    problem = Problem(x, Matrix(torch.eye(6, dtype=torch.float64)), 0.5, penalty=as_penalty("l0"), step=0.5)
    rows = Descending(11, start=100.0, share=0.5).steps(problem)
    weights = [float(row.gain * 0.5 + row.shift) / 0.25 for row in rows]
    assert weights[0] == pytest.approx(100) and weights[5:] == pytest.approx([1] * 6)
    ratios = [b / a for a, b in pairwise(weights[:6])]
    assert ratios == pytest.approx([100 ** (-1 / 5)] * 5)


def test_no_descent_is_plain_thresholding():
    x = draw(2, 3, 8, 8).float()
    one, other = (CSC2d(3, 8, 3, padding=1, lam=0.1, pursuit=p, steps=6, penalty="l0") for p in ("ista", "descending"))
    other.load_state_dict(one.state_dict())
    other.pursuit = Descending(6, start=1.0)
    torch.testing.assert_close(other(x), one(x))


def test_an_orthonormal_dictionary_gives_the_hard_threshold():
    x = draw(3, 16)
    basis = torch.linalg.qr(draw(16, 16)).Q
    problem = Problem(x, Matrix(basis), 0.3, penalty=as_penalty("l0"), step=1.0)
    expected = x @ basis.T
    expected[expected.abs() <= 0.6**0.5] = 0
    torch.testing.assert_close(Descending(20).run(problem), expected)


def test_two_bases_are_told_apart():
    """A few spikes plus a few waves: the descent finds both, plain thresholding takes far more numbers."""
    axes = torch.eye(1, dtype=torch.float64)
    waves = dct_atoms(axes, 8).flatten(1)
    atoms = torch.cat([torch.eye(64, dtype=torch.float64), waves])
    code = torch.zeros(20, 128, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    for row in code:
        for low in (0, 64):
            row[low + torch.randperm(64, generator=generator)[:2]] = torch.tensor([3.0, -2.0], dtype=torch.float64)
    problem = Problem(code @ atoms, Matrix(atoms), 0.001, penalty=as_penalty("l0"), step=0.5)
    found = Descending(200, start=400.0).run(problem)
    plain = Descending(200, start=1.0).run(problem)
    values = [problem.objective(z).mean().item() / 0.001 for z in (found, plain)]
    assert values[0] < 4.4 and values[1] > 1.2 * values[0], values


@pytest.mark.parametrize(("options", "message"), [({"start": 0.5}, "start must"), ({"share": 0.0}, "share must")])
def test_bad_numbers(options, message):
    with pytest.raises(ValueError, match=message):
        Descending(5, **options)
