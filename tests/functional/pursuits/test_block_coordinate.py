"""Limits: one basis is the hard threshold; a sweep is the least objective over each block; l1 ends at the solution."""

import pytest
import torch

from csc_nets.functional import BlockCoordinate, GroupL1, Problem, as_penalty, dct_atoms, solve
from csc_nets.functional.operators.matrix import Matrix
from csc_nets.layers import MultiScaleDictionary2d

L0 = as_penalty("l0")


class Bases:
    """Two orthonormal bases of vectors."""

    def __init__(self, *atoms):
        self.blocks = [Matrix(a) for a in atoms]
        self.widths = [len(a) for a in atoms]

    def split(self, z):
        return z.split(self.widths, 1)

    def join(self, codes):
        return torch.cat(list(codes), 1)

    def analysis(self, x):
        return self.join([block.analysis(x) for block in self.blocks])

    def synthesis(self, z, output_size=None):
        return sum(block.synthesis(part) for block, part in zip(self.blocks, self.split(z), strict=True))


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def spikes_and_waves():
    return torch.eye(64, dtype=torch.float64), dct_atoms(torch.eye(1), 8).flatten(1)


def test_an_orthonormal_dictionary_gives_the_hard_threshold():
    x, basis = draw(3, 16), torch.linalg.qr(draw(16, 16)).Q
    expected = x @ basis.T
    expected[expected.abs() <= 0.6**0.5] = 0
    found = BlockCoordinate(5).run(Problem(x, Matrix(basis), 0.3, penalty=L0))
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def test_a_sweep_takes_the_least_objective_over_each_block(spikes_and_waves):
    x, lam = draw(4, 64), 0.4
    first, second = spikes_and_waves
    z = [torch.zeros(4, 64, dtype=torch.float64) for _ in range(2)]
    problem = Problem(x, Bases(first, second), lam, penalty=L0)
    last = problem.objective(torch.cat(z, 1))
    for sweeps in (1, 2, 3):
        for i, basis in enumerate(spikes_and_waves):
            best = (x - z[1 - i] @ spikes_and_waves[1 - i]) @ basis.T  # x - D z apart from this block, exactly
            z[i] = best * (best.abs() > (2 * lam) ** 0.5)
        found = BlockCoordinate(sweeps, start=1.0).run(problem)
        torch.testing.assert_close(found, torch.cat(z, 1))
        value = problem.objective(found)
        assert (value <= last + 1e-9).all()
        last = value


def test_with_an_l1_norm_it_ends_at_the_solution(spikes_and_waves):
    x, seen, whole = draw(4, 64), draw(4, 64, seed=1) > -0.5, Matrix(torch.cat(spikes_and_waves))
    options = {"nonneg": False, "mask": seen, "ridge": 0.1}
    expected = solve(x, whole, 0.3, **options, tol=1e-10)
    for operator in (Bases(*spikes_and_waves), whole):
        found = BlockCoordinate(1000, start=1.0).run(Problem(x, operator, 0.3, **options))
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_a_falling_weight_finds_few_numbers(spikes_and_waves):
    """Codes of two spikes and two waves: proximal steps from zero take their echoes in, too."""
    code = torch.zeros(20, 128, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    for row in code:
        for low in (0, 64):
            row[low + torch.randperm(64, generator=generator)[:2]] = torch.tensor([3.0, -2.0], dtype=torch.float64)
    bases = Bases(*spikes_and_waves)
    problem = Problem(bases.synthesis(code), bases, 0.001, penalty=L0)
    counts = [(BlockCoordinate(30, start=s).run(problem) != 0).sum(1).double().mean() for s in (1.0, 5000.0)]
    assert counts[1] < 4.5 < counts[0], counts


def test_weights_of_atoms_and_of_signals(spikes_and_waves):
    x, bases = draw(3, 64), Bases(*spikes_and_waves)
    each = torch.tensor([0.1, 0.3, 0.9], dtype=torch.float64)[:, None]
    found = BlockCoordinate(4).run(Problem(x, bases, each, penalty=L0))
    for i in range(3):
        one = BlockCoordinate(4).run(Problem(x[i : i + 1], bases, each[i].item(), penalty=L0))
        torch.testing.assert_close(found[i : i + 1], one)
    atoms = torch.full((128,), 0.3, dtype=torch.float64)
    same, equal = (BlockCoordinate(4).run(Problem(x, bases, lam, penalty=L0)) for lam in (atoms, 0.3))
    torch.testing.assert_close(same, equal)
    atoms[64:] = 1e6
    alone = BlockCoordinate(4).run(Problem(x, bases, atoms, penalty=L0))
    torch.testing.assert_close(alone, torch.cat([x * (x.abs() > 0.6**0.5), torch.zeros_like(x)], 1))


def test_missing_pixels_and_a_warm_start_over_several_sizes():
    torch.manual_seed(0)
    dictionary = MultiScaleDictionary2d(1, [16, 20], [4, 8], [4, 8]).double().eval()
    x, seen = draw(2, 1, 13, 9), draw(2, 1, 13, 9, seed=1) > -0.5
    with torch.no_grad():
        problems = [
            Problem(signal, dictionary.read(), 0.05, penalty=L0, mask=seen) for signal in (x, x.where(seen, torch.nan))
        ]
        first, second = (BlockCoordinate(6).run(problem) for problem in problems)
        assert torch.equal(first, second)
        again = BlockCoordinate(6, start=1.0).run(problems[0], first)
        assert (problems[0].objective(again) <= problems[0].objective(first) + 1e-9).all()


def test_what_it_refuses():
    with pytest.raises(ValueError, match="no sum over entries"):
        BlockCoordinate(2).check(GroupL1(2))
    with pytest.raises(ValueError, match="start must be"):
        BlockCoordinate(2, start=0.5)
