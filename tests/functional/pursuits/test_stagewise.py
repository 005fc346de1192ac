import pytest
import torch

from csc_nets.functional import Descending, Problem, Stagewise, TopK, as_penalty, dct_atoms
from csc_nets.functional.operators.matrix import Matrix


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture
def two_bases():
    """Codes of two spikes and two waves."""
    waves = dct_atoms(torch.eye(1, dtype=torch.float64), 8).flatten(1)
    atoms = torch.cat([torch.eye(64, dtype=torch.float64), waves])
    code = torch.zeros(20, 128, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    for row in code:
        for low in (0, 64):
            row[low + torch.randperm(64, generator=generator)[:2]] = torch.tensor([3.0, -2.0], dtype=torch.float64)
    return atoms, code


def test_an_orthonormal_dictionary_gives_the_hard_threshold():
    x, basis = draw(3, 16), torch.linalg.qr(draw(16, 16)).Q
    expected = x @ basis.T
    expected[expected.abs() <= 0.6**0.5] = 0
    torch.testing.assert_close(Stagewise(5).run(Problem(x, Matrix(basis), 0.3, penalty=as_penalty("l0"))), expected)


def test_fewer_numbers_than_a_descent_of_as_many_products(two_bases):
    atoms, code = two_bases
    problem = Problem(code @ atoms, Matrix(atoms), 0.001, penalty=as_penalty("l0"), step=0.45)
    values = [p.run(problem) for p in (Stagewise(20), Descending(50))]
    objectives = [problem.objective(z).mean().item() / 0.001 for z in values]
    assert objectives[0] < 4.3 and objectives[0] < objectives[1], objectives


def test_values_are_least_squares_on_the_support(two_bases):
    atoms, code = two_bases
    x = code @ atoms + 0.1 * draw(20, 64)
    z = Stagewise(10, fits=30).run(Problem(x, Matrix(atoms), 0.1, penalty=as_penalty("l0")))
    correlation = (x - z @ atoms) @ atoms.T
    torch.testing.assert_close(correlation[z != 0], torch.zeros_like(correlation[z != 0]), atol=1e-6, rtol=0)


def test_a_number_of_entries(two_bases):
    atoms, code = two_bases
    z = Stagewise(10).run(Problem(code @ atoms, Matrix(atoms), 0.0, penalty=TopK(3)))
    assert (z != 0).sum(1).eq(3).all()


def test_missing_samples_are_not_read(two_bases):
    atoms, code = two_bases
    mask = draw(20, 64) > -1
    x = code @ atoms
    problems = [
        Problem(signal, Matrix(atoms), 0.01, penalty=as_penalty("l0"), mask=mask)
        for signal in (x, x.where(mask, torch.nan))
    ]
    first, second = (Stagewise(10).run(problem) for problem in problems)
    torch.testing.assert_close(first, second)


def test_one_at_once_is_orthogonal_matching_pursuit():
    """Coherent atoms, against scikit-learn."""
    from sklearn.linear_model import orthogonal_mp

    atoms = torch.nn.functional.normalize(draw(40, 12) + 1, dim=1)
    x = draw(5, 12)
    z = Stagewise(4, start=1.0, at_once=1, fits=20).run(Problem(x, Matrix(atoms), 1e-9, penalty=as_penalty("l0")))
    expected = orthogonal_mp(atoms.T.numpy(), x.T.numpy(), n_nonzero_coefs=4)
    torch.testing.assert_close(z, torch.from_numpy(expected).T, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("options", [{"at_once": 0}, {"start": 0.5}, {"share": 0.0}, {"fits": 0}, {"fits": True}])
def test_bad_numbers(options):
    with pytest.raises(ValueError, match="must be"):
        Stagewise(5, **options)
