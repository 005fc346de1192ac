"""Calibrated steps: closed forms where atoms do not overlap, stationarity, and what they are for."""

import math

import pytest
import torch
from torch import Tensor

import csc_nets.functional as functional
from csc_nets.functional import ConvGeometry, Problem
from csc_nets.functional.pursuits.calibration import calibrate, calibrated, calibration_update, whitening
from csc_nets.layers import Dictionary1d, Dictionary2d


def smooth(*shape: int) -> Tensor:
    """Signals with most of their energy in low frequencies, as images have."""
    return torch.randn(shape).cumsum(-1).sub(torch.randn(shape).cumsum(-1)) / 3


def ista_coefficients(steps: int, atoms: int, step_size: float | Tensor) -> Tensor:
    coefficients = torch.zeros(steps, 3, atoms)
    coefficients[:, 0] = step_size
    return coefficients


@pytest.mark.parametrize("nonneg", [True, False])
def test_the_coefficients_of_ista_give_ista(nonneg):
    weight = functional.unit_norm(torch.randn(8, 2, 3))
    x = torch.randn(3, 2, 15)
    expected = functional.ista(x, weight, 0.2, steps=4, nonneg=nonneg, step_size=0.1)
    z = calibrated(x, weight, 0.2, ista_coefficients(4, 8, 0.1), nonneg=nonneg)
    torch.testing.assert_close(z, expected)


@pytest.mark.parametrize("nonneg", [True, False])
def test_orthogonal_atoms_get_the_gain_one_over_their_squared_norm(nonneg):
    """Then one step is the solution: S_lam(d x) / d^2."""
    norms = torch.tensor([0.7, 1.0, 1.2, 1.5], dtype=torch.float64)
    x = torch.randn(200, 4, dtype=torch.float64)
    coefficients = calibrate(x, torch.diag(norms), 0.2, 1, updates=400, nonneg=nonneg)
    expected = torch.zeros(1, 3, 4, dtype=torch.float64)
    expected[0, 0] = norms**-2
    torch.testing.assert_close(coefficients, expected, atol=1e-5, rtol=1e-5)
    v = norms * x
    shrunk = (v - 0.2).relu() if nonneg else v.sign() * (v.abs() - 0.2).relu()
    z = calibrated(x, torch.diag(norms), 0.2, coefficients, nonneg=nonneg)
    torch.testing.assert_close(z, shrunk / norms**2, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("nonneg", [True, False])
@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_an_update_goes_downhill_by_the_best_length(nonneg, ridge):
    """Along a whole update F is a parabola with its bottom at the end: F'' = -F' < 0 at its start, by autograd."""
    weight = functional.unit_norm(torch.randn(6, 1, 5, dtype=torch.float64))
    x = torch.randn(20, 1, 60, dtype=torch.float64)
    problem = Problem(x, functional.as_operator(weight), 0.3, ridge, nonneg)
    step_size = 0.9 / (problem.lipschitz() + ridge)
    start = ista_coefficients(1, 6, step_size).double()
    change = (calibration_update(problem, start, step_size, 1e-3) - start) / 1e-3
    t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    z = calibrated(x, weight, 0.3, start + t * change, nonneg=nonneg, ridge=ridge)
    (slope,) = torch.autograd.grad(problem.objective(z).sum(), t, create_graph=True)
    (curvature,) = torch.autograd.grad(slope, t)
    assert slope < 0
    torch.testing.assert_close(curvature, -slope.detach(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("nonneg", [True, False])
@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_updates_end_where_the_objective_is_stationary(nonneg, ridge):
    """The derivative by autograd of the objective with respect to the coefficients of one step."""
    torch.manual_seed(1)
    weight = functional.unit_norm(torch.randn(6, 1, 5, dtype=torch.float64))
    x = torch.randn(20, 1, 60, dtype=torch.float64)  # white, so that no atom falls silent
    problem = Problem(x, functional.as_operator(weight), 0.3, ridge, nonneg)

    def derivative(coefficients: Tensor) -> float:
        leaf = coefficients.clone().requires_grad_()
        z = calibrated(problem.x, weight, 0.3, leaf, nonneg=nonneg, ridge=ridge)
        problem.objective(z).sum().backward()
        return float(leaf.grad[:, :2].norm())

    step_size = 0.9 / problem.lipschitz()
    coefficients = start = ista_coefficients(1, 6, step_size).double()
    for k in range(400):
        coefficients = calibration_update(problem, coefficients, step_size, 0.5 if k < 200 else 0.1)
    assert derivative(coefficients) < 1e-2 * derivative(start)  # an atom at the brink of silence keeps moving


def test_one_step_beats_four_of_fista_on_other_signals():
    torch.manual_seed(0)
    dictionary = Dictionary2d(1, 24, 5, padding=2)
    known, new = smooth(24, 1, 24, 24).split(12)
    optimum = functional.objective(new, dictionary, functional.solve(new, dictionary, 0.3, nonneg=True), 0.3).sum()

    def excess(z: Tensor) -> float:
        return float(functional.objective(new, dictionary, z, 0.3).sum() / optimum) - 1

    with torch.no_grad():
        fista = {t: excess(functional.fista(new, dictionary, 0.3, steps=t, nonneg=True)) for t in (4, 8)}
        ours = {}
        for t in (1, 2, 3):
            coefficients = calibrate(known, dictionary, 0.3, t, nonneg=True)
            ours[t] = excess(calibrated(new, dictionary, 0.3, coefficients, nonneg=True))
    assert ours[1] < fista[4] and ours[2] < fista[8] and ours[3] < ours[2] < ours[1]


def test_calibration_never_ends_above_ista():
    weight, x = functional.unit_norm(torch.randn(8, 2, 3)), torch.randn(4, 2, 12)
    ista = functional.objective(x, weight, functional.ista(x, weight, 0.2, steps=3), 0.2).sum()
    for updates in (1, 2, 30):
        z = calibrated(x, weight, 0.2, calibrate(x, weight, 0.2, 3, updates=updates))
        assert functional.objective(x, weight, z, 0.2).sum() <= ista * (1 + 1e-6)


def test_atoms_that_no_signal_uses_go_back_to_ista():
    weight, x = functional.unit_norm(torch.randn(8, 2, 3)), torch.randn(4, 2, 12)
    problem = Problem(x, functional.as_operator(weight), 0.1, nonneg=True)
    ista = ista_coefficients(2, 8, 0.1)
    start = ista.clone()
    start[:, 1, 3] = 1e3  # nothing gets above this shift
    new = calibration_update(problem, start, torch.tensor(0.1), 0.25)
    torch.testing.assert_close(new[:, :, 3], start[:, :, 3].lerp(ista[:, :, 3], 0.25))
    assert (new[0] != start[0]).any(0).all()
    problem = Problem(x, problem.pair, 1e3, nonneg=True)  # the zero code
    torch.testing.assert_close(calibration_update(problem, ista, torch.tensor(0.1), 0.5), ista)


def test_what_a_mask_hides_does_not_count():
    weight, x = functional.unit_norm(torch.randn(8, 2, 3)), smooth(4, 2, 30)
    mask = torch.rand(4, 1, 30) > 0.3
    first = calibrate(x.masked_fill(~mask, math.nan), weight, 0.2, 2, mask=mask, nonneg=True)
    second = calibrate(x.masked_fill(~mask, 7.0), weight, 0.2, 2, mask=mask, nonneg=True)
    assert torch.equal(first, second) and bool(first.isfinite().all())


def test_all_patches_of_a_basis_need_no_whitening():
    """An orthonormal basis of patches, at all shifts, is a tight frame: D D^T is a multiple of the identity."""
    atoms = torch.linalg.qr(torch.randn(18, 18, dtype=torch.float64))[0].view(18, 2, 3, 3)
    filters = whitening(atoms, 9.0)
    expected = torch.zeros(2, 2, 5, 5, dtype=torch.float64)
    expected[0, 0, 2, 2] = expected[1, 1, 2, 2] = 1
    torch.testing.assert_close(filters, expected)


def test_whitening_against_an_explicit_inverse():
    """In the middle of a long signal, where the inverse has decayed within the crop."""
    torch.manual_seed(2)
    dictionary = Dictionary1d(2, 6, 4, padding=3).double()
    n, bound = 61, float(dictionary.lipschitz)
    unit = torch.eye(2 * n, dtype=torch.float64).view(2 * n, 2, n)
    matrix = dictionary.synthesis(dictionary.analysis(unit), (n,)).detach().reshape(2 * n, 2 * n)
    inverse = torch.linalg.inv(matrix + 4 * bound * torch.eye(2 * n))
    expected = inverse.view(2, n, 2, n)[:, n // 2, :, n // 2 - 3 : n // 2 + 4]  # row: what one sample is made of
    filters = whitening(dictionary.weight.detach(), bound, 4.0)
    expected *= filters.norm() / expected.norm()  # their factor is of no matter here
    torch.testing.assert_close(filters, expected, atol=2e-3, rtol=0)
    assert float(expected.abs().max()) > 0.5


@pytest.mark.parametrize("share", [0.03, 0.3])
def test_whitened_steps_of_size_one_over_l_are_safe(share):
    """||D^T H D|| = ||D D^T H|| is L at most, and near it."""
    torch.manual_seed(3)
    dictionary = Dictionary2d(3, 16, 3, padding=1, padding_mode="circular").double()
    weight, bound = dictionary.weight.detach(), float(dictionary.lipschitz)
    filters = whitening(weight, bound, share)
    geometry = ConvGeometry.create(2, 5, padding="same", padding_mode="circular")

    def gram(u: Tensor) -> Tensor:
        return dictionary.synthesis(dictionary.analysis(geometry.analysis(u, filters)), (12, 12))

    u = torch.eye(3 * 144, dtype=torch.float64).view(-1, 3, 12, 12)
    with torch.no_grad():
        norm = torch.linalg.matrix_norm(gram(u).reshape(432, 432), ord=2)
    assert 0.6 * bound < float(norm) <= bound * 1.001


def test_whitening_has_a_gradient():
    weight = torch.randn(4, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w: whitening(w, 5.0), (weight,))


def test_bad_arguments_are_refused():
    weight, x = torch.randn(8, 2, 3), torch.randn(4, 2, 12)
    with pytest.raises(ValueError, match=r"coefficients must be \(T, 3, M\) with T >= 1, got shape \(2, 8\)"):
        calibrated(x, weight, 0.1, torch.ones(2, 8))
    with pytest.raises(ValueError, match="steps must be an int >= 1, got 0"):
        calibrate(x, weight, 0.1, 0)
    with pytest.raises(ValueError, match=r"updates must be an int >= 1, got 1\.5"):
        calibrate(x, weight, 0.1, 1, updates=1.5)


@pytest.mark.parametrize("nonneg", [True, False])
def test_an_update_from_known_codes_is_that_from_signals(nonneg):
    weight, x = functional.unit_norm(torch.randn(8, 2, 3)), smooth(4, 2, 30)
    problem = Problem(x, functional.as_operator(weight), 0.2, nonneg=nonneg)
    coefficients = calibrate(x, weight, 0.2, 2, updates=3, nonneg=nonneg)
    codes = [calibrated(x, weight, 0.2, coefficients[:k], nonneg=nonneg) for k in (1, 2)]
    step_size = torch.tensor(0.1)
    expected = calibration_update(problem, coefficients, step_size, 0.5)
    assert torch.equal(calibration_update(problem, coefficients, step_size, 0.5, codes=codes), expected)


@pytest.mark.parametrize("loud", [1e3, 1e18])
def test_a_limit_bounds_what_one_loud_signal_changes(loud):
    weight, x = functional.unit_norm(torch.randn(8, 2, 3)), smooth(4, 2, 30)
    coefficients = calibrate(x, weight, 0.2, 2, nonneg=True)
    problem = Problem(x * loud, functional.as_operator(weight), 0.2, nonneg=True)
    free, bounded = (
        calibration_update(problem, coefficients, coefficients[0, 0, 0], 0.5, limit=limit) for limit in (math.inf, 0.2)
    )
    gain, shift, _ = coefficients.unbind(1)
    most = 0.2 * torch.stack([gain, 0.2 * gain + shift.abs(), torch.ones_like(gain)], 1) * 1.001 + 1e-6
    # In float32 the loudest is too loud for any update: then the layer keeps its coefficients.
    finite = bounded.isfinite()
    assert ((bounded - coefficients).abs() <= most)[finite].all()
    assert loud > 1e3 or (bool(finite.all()) and bool(((free - coefficients).abs() > most).any()))


@pytest.mark.parametrize("lam", [0.0, torch.tensor([0.0, *[0.2] * 7])])
@pytest.mark.parametrize("nonneg", [True, False])
def test_a_weight_of_zero_is_calibrated_too(lam, nonneg):
    weight, x = functional.unit_norm(torch.randn(8, 2, 3)), smooth(20, 2, 30)
    problem = Problem(x, functional.as_operator(weight), lam, nonneg=nonneg)
    coefficients = calibrate(x, weight, lam, 1, nonneg=nonneg)
    assert bool(coefficients.isfinite().all())
    z = calibrated(x, weight, lam, coefficients, nonneg=nonneg)
    two = functional.ista(x, weight, lam, steps=2, nonneg=nonneg)
    assert problem.objective(z).sum() < problem.objective(two).sum()


def test_a_limit_is_that_of_each_atom_however_its_weight_is_laid_out():
    weight, x = functional.unit_norm(torch.randn(8, 2, 3)), 1e3 * smooth(4, 2, 30)
    lam, start = torch.linspace(0.1, 2, 8), ista_coefficients(1, 8, 0.1)
    first, second = (
        calibration_update(
            Problem(x, functional.as_operator(weight), lam.view(shape), nonneg=True),
            start,
            torch.tensor(0.1),
            0.5,
            limit=0.2,
        )
        for shape in ((8,), (1, 8, 1))
    )
    assert torch.equal(first, second) and bool((first[0, 1] != 0).any())
