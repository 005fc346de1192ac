"""Greedy FISTA: certificates, samples that are solved at different steps, every kind of problem."""

import pytest
import torch

from csc_nets.functional import Cascade, Problem, as_adjoint_pair, fista, prox
from csc_nets.functional.problem import SAFETY
from csc_nets.functional.pursuits.greedy import converge
from csc_nets.layers import Dictionary1d, Dictionary2d


def solved(problem, **options):
    return converge(problem, SAFETY / problem.lipschitz(), **{"tol": 1e-8, "steps": 20_000, **options})


def matrix(rows=40, columns=20):
    weight = torch.randn(rows, columns, dtype=torch.float64)
    return as_adjoint_pair(weight / weight.norm(dim=1, keepdim=True))


CASES = {
    "matrix": (lambda: matrix(), (3, 20)),
    "stride": (lambda: Dictionary1d(2, 6, 5, stride=2, padding=2).double(), (3, 2, 17)),
    "reflect": (lambda: Dictionary2d(1, 4, 3, padding=1, padding_mode="reflect").double(), (3, 1, 8, 7)),
    "cascade": (lambda: Cascade((Dictionary2d(1, 4, 3).double(), Dictionary2d(4, 6, 3).double())), (3, 1, 9, 8)),
}


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("nonneg", [False, True])
@pytest.mark.parametrize("ridge", [0.0, 0.2])
def test_agrees_with_textbook_fista_for_masks_and_weights_of_their_own(kind, nonneg, ridge):
    make, shape = CASES[kind]
    x = torch.randn(shape, dtype=torch.float64) * torch.tensor([0.3, 1.0, 4.0]).view(-1, *(1,) * (len(shape) - 1))
    mask = torch.rand_like(x) > 0.2
    x[~mask] = float("nan")
    lam = torch.tensor([0.05, 0.1, 0.6], dtype=torch.float64).view(-1, *(1,) * (len(shape) - 1))
    with torch.no_grad():
        problem = Problem(x, make(), lam, ridge, nonneg, mask)
        z, gap, steps = solved(problem)
        expected = fista(x, problem.pair, lam, steps=2000, nonneg=nonneg, ridge=ridge, mask=mask, restart=True)
    energy = x[mask].new_tensor([s[m].square().sum() / 2 for s, m in zip(x, mask, strict=True)])
    assert (gap <= 1e-8).all() and steps < 20_000
    torch.testing.assert_close(gap, problem.duality_gap(z).clamp_min(0) / energy)
    assert (problem.objective(z) - problem.objective(expected) <= 1e-8 * energy).all()
    assert z.any() and (not nonneg or z.min() >= 0)


def test_a_batch_is_as_one_at_a_time_and_a_solved_sample_is_left_alone():
    pair, x = matrix(), torch.randn(4, 20, dtype=torch.float64)
    together, _, most = solved(Problem(x, pair, 0.1))
    taken = []
    for i in range(4):
        alone, _, steps = solved(Problem(x[i : i + 1], pair, 0.1))
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-12)
        taken.append(steps)
    assert most == max(taken) > min(taken)


def test_a_warm_start_at_the_solution_is_seen_at_the_first_look_and_broadcasts():
    pair, x = matrix(), torch.randn(1, 20, dtype=torch.float64).repeat(3, 1)
    z, _, _ = solved(Problem(x, pair, 0.1), tol=1e-12)
    start = z[:1].clone()
    again, gap, steps = solved(Problem(x, pair, 0.1), init=start, tol=1e-8)
    assert steps == 4 and gap.max() <= 1e-8 and torch.equal(start, z[:1]) and again.shape == z.shape


def test_first_step_is_a_proximal_gradient_step():
    problem = Problem(torch.randn(2, 20, dtype=torch.float64), matrix(), 0.1, ridge=0.3)
    for init in (None, torch.randn(2, 40, dtype=torch.float64)):
        z = converge(problem, 0.1, tol=1e-12, steps=1, init=init)[0]
        y = torch.zeros(2, 40, dtype=torch.float64) if init is None else init
        eta = 0.1 * 1.4
        v = y + eta * problem.pair.analysis(problem.residual(y))
        torch.testing.assert_close(z, prox.elastic_net_threshold(v, eta * 0.1, eta * 0.3))


def test_what_is_not_reached_is_told():
    x = torch.randn(3, 20, dtype=torch.float64)
    x[1] = 0
    _, gap, steps = solved(Problem(x, matrix(), 0.01), tol=1e-12, steps=7)
    assert steps == 7 and (gap > 1e-12).tolist() == [True, False, True]
    x[2, 3] = float("inf")
    _, gap, steps = solved(Problem(x, matrix(), 0.01), tol=1e-3)
    assert not gap[2].isfinite() and gap[1] == 0 and gap[0] <= 1e-3 and steps < 20_000
    empty = solved(Problem(x[:0], matrix(), 0.01))
    assert empty[0].shape == (0, 40) and empty[1].shape == (0,)


def test_takes_fewer_steps_than_restarted_fista():
    x, pair, ours, theirs = torch.randn(8, 20, dtype=torch.float64), matrix(), 0, []
    ours = solved(Problem(x, pair, 0.1), tol=1e-6)[2]
    fista(x, pair, 0.1, steps=20_000, tol=1e-6, restart=True, trace=theirs)
    assert ours < 0.8 * len(theirs)


class Identity:
    """A pair whose analysis is its argument."""

    def analysis(self, x):
        return x

    def synthesis(self, z, output_size=None):
        return z


def test_the_signal_is_left_alone():
    x = torch.randn(1, 20, dtype=torch.float64).expand(3, 20)
    kept = x.clone()
    z, _, _ = converge(Problem(x, Identity(), 0.3), 1.0, tol=1e-10, steps=100)
    torch.testing.assert_close(z, prox.soft_threshold(kept, 0.3), rtol=0, atol=1e-4)  # the root of the gap
    assert torch.equal(x, kept)


def test_a_signal_of_zeros_goes_on_from_any_code():
    pair = matrix()
    z, gap, _ = solved(Problem(torch.zeros(1, 20, dtype=torch.float64), pair, 0.1), init=torch.ones(1, 40).double())
    assert gap.item() == 0
    assert not z.any()


def test_converges_with_a_bound_that_training_has_left_behind():
    torch.manual_seed(0)
    problem = Problem(torch.randn(4, 20, dtype=torch.float64), matrix(), 0.1)
    _, gap, _ = converge(problem, 1.7 * SAFETY / problem.lipschitz(), tol=1e-8, steps=20_000)
    assert (gap <= 1e-8).all()
