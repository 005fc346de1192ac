"""The analysis denoiser: an independent solver, total variation, the properties of a proximal operator."""

import pytest
import torch

from csc_nets.models import AnalysisDenoiser, create_model


@pytest.fixture
def denoiser():
    torch.manual_seed(0)
    model = AnalysisDenoiser(atoms=6, kernel_size=3, tol=1e-10).double().eval()
    model.coder.lam = 0.2 + torch.rand(6, dtype=torch.float64)
    return model


def images(*shape):
    return torch.rand(*shape, dtype=torch.float64)


def penalty(denoiser, x, sigma):
    """The convex function whose proximal operator it is."""
    coder = denoiser.coder
    filtered = coder.dictionary.analysis(x)
    return sigma * (coder.lam.view(-1, 1, 1) * filtered.abs()).sum((1, 2, 3))


def test_number_of_parameters():
    assert sum(p.numel() for p in create_model("analysis_denoiser").parameters()) == 24 * 25 + 24


@torch.no_grad()
def test_the_image_is_that_of_an_independent_solver(denoiser):
    """The dual as a bounded least-squares problem with one matrix, by scipy."""
    lsq_linear = pytest.importorskip("scipy.optimize").lsq_linear
    x = images(1, 1, 6, 7)
    coder = denoiser.coder
    units = torch.eye(6 * 42, dtype=torch.float64).view(-1, 6, 6, 7)
    matrix = coder.synthesize(units, (6, 7)).flatten(1).T.numpy()
    bounds = (0.1 * coder.lam).view(-1, 1).expand(6, 42).flatten().numpy()
    y = (x - x.mean()).flatten().numpy()
    code = torch.from_numpy(lsq_linear(matrix, y, (-bounds, bounds), tol=1e-14).x)
    expected = x - (torch.from_numpy(matrix) @ code).view_as(x)
    torch.testing.assert_close(denoiser(x, 0.1), expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_it_is_a_proximal_operator(denoiser):
    """No image has a lower objective; the operator is firmly nonexpansive (Moreau 1965)."""
    x, y = images(2, 1, 10, 10), images(2, 1, 10, 10)
    clean = denoiser(x, 0.1)
    least = (x - clean).square().sum((1, 2, 3)) / 2 + penalty(denoiser, clean, 0.1)
    for spread in (0.1, 0.01, 0.001):
        other = clean + spread * torch.randn_like(clean)
        assert ((x - other).square().sum((1, 2, 3)) / 2 + penalty(denoiser, other, 0.1) >= least - 1e-7).all()
        before = spread * (x - y)
        after = denoiser(y + before, 0.1) - denoiser(y, 0.1)
        assert (after.square().sum((1, 2, 3)) <= (after * before).sum((1, 2, 3)) + 1e-8).all()


@torch.no_grad()
def test_differences_of_neighbours_give_total_variation():
    """A single edge between halves of n pixels moves by lam / n on each side: the closed form."""
    denoiser = AnalysisDenoiser(atoms=1, kernel_size=3, tol=1e-12).double().eval()
    difference = torch.zeros(1, 1, 3, 3, dtype=torch.float64)
    difference[0, 0, 1, 1:] = torch.tensor([-1.0, 1.0])
    denoiser.coder.atoms, denoiser.coder.lam = difference, 0.5
    x = torch.cat([torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)], 3).double()
    weight = 0.4 * 0.5 / 2**0.5  # of a unit atom, at noise of 0.4
    expected = weight / 4 + (1 - weight / 2) * x
    torch.testing.assert_close(denoiser(x, 0.4), expected, rtol=0, atol=1e-4)


@torch.no_grad()
def test_limits(denoiser):
    x = images(2, 1, 12, 14)
    denoiser.coder.tol = 1e-8
    # Noise of 0 counts as 1e-4; the sum of |d| of a filter is at most 3.
    assert (denoiser(x, 0.0) - x).abs().max() < 1e-4 * 3 * denoiser.coder.lam.sum()
    torch.testing.assert_close(denoiser(x, 100.0), x.mean((1, 2, 3), keepdim=True).expand_as(x), rtol=0, atol=1e-3)
    flat = torch.full((1, 1, 9, 9), 0.7, dtype=torch.float64)
    torch.testing.assert_close(denoiser(flat, 0.3), flat)
    torch.testing.assert_close(denoiser(x + 3, 0.1), denoiser(x, 0.1) + 3, rtol=0, atol=1e-4)


@torch.no_grad()
def test_steps_from_a_code_come_with_a_certificate(denoiser):
    x, z = images(2, 1, 12, 12), None
    exact, bounds = denoiser(x, 0.2), []
    for _ in range(6):
        clean, z = denoiser.refine(x, 0.2, z, steps=100)
        bound = denoiser.certificate(x, 0.2, z)
        assert ((clean - exact).flatten(1).norm(dim=1) <= bound + 1e-4).all()
        bounds.append(bound.max().item())
    assert bounds[-1] < 1e-2 * bounds[0]


@torch.no_grad()
def test_missing_pixels_are_those_of_the_least_objective(denoiser):
    x, mask = images(1, 1, 8, 8), torch.rand(1, 1, 8, 8) > 0.3
    clean = denoiser(x.masked_fill(~mask, torch.nan), 0.1, mask)

    def objective(u):
        return (x - u).masked_fill(~mask, 0).square().sum() / 2 + penalty(denoiser, u, 0.1).sum()

    for spread in (0.1, 0.01):
        assert objective(clean + spread * torch.randn_like(clean)) > objective(clean)
        assert objective(clean + spread * torch.randn_like(clean).masked_fill(mask, 0)) > objective(clean)


def test_filters_keep_their_mean_of_0_in_training(denoiser):
    torch.manual_seed(0)
    clean = torch.nn.functional.interpolate(images(8, 1, 4, 4), scale_factor=4)
    noisy, losses = clean + 0.2 * torch.randn_like(clean), []
    denoiser.coder.tol, denoiser.coder.lam = 1e-3, 0.02
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=3e-2)
    for _ in range(40):
        loss = (denoiser(noisy, 0.2) - clean).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        denoiser.project()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert denoiser.coder.atoms.mean((2, 3)).abs().max() < 1e-12


def test_bad_values_are_refused(denoiser):
    with pytest.raises(ValueError, match="images must have 2 x 2 pixels or more, got"):
        denoiser(images(1, 1, 1, 8), 0.1)
    with pytest.raises(ValueError, match="derived for codes in a box"):
        AnalysisDenoiser(penalty="l1")
    with pytest.raises(ValueError, match="depends on the whole image"):
        denoiser.tiled(images(1, 1, 8, 8))
