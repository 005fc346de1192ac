"""The proximal denoiser: limits, the properties of a proximal operator, and plug-and-play iterations that converge."""

import pytest
import torch

from csc_nets.functional import fista
from csc_nets.models import ProximalDenoiser, create_model


@pytest.fixture
def denoiser():
    torch.manual_seed(0)
    model = ProximalDenoiser(atoms=25, kernel_size=5, stride=2, tol=1e-10).double().eval()
    model.coder.lam = 0.5 + torch.rand(25, dtype=torch.float64)
    return model


def images(*shape):
    return torch.rand(*shape, dtype=torch.float64)


def test_number_of_parameters():
    assert sum(p.numel() for p in create_model("proximal_denoiser").parameters()) == 49 * 49 + 49


@torch.no_grad()
def test_the_code_is_that_of_an_independent_solver(denoiser):
    """The same problem as one matrix, by plain FISTA."""
    x = images(1, 1, 9, 11)
    y = x - x.mean()
    coder, (rows, columns) = denoiser.coder, (9, 11)
    size = coder.geometry.code_size((rows, columns))
    units = torch.eye(25 * size[0] * size[1], dtype=torch.float64).view(-1, 25, *size)
    matrix = coder.synthesize(units, (rows, columns)).flatten(1)
    weights = (0.2 * coder.lam).view(-1, 1, 1).expand(25, *size).flatten()
    code = fista(y.flatten(1), matrix, weights, steps=20_000)
    clean = (code @ matrix).view(1, 1, 9, 11)
    torch.testing.assert_close(denoiser(x, 0.2), clean - clean.mean() + x.mean(), rtol=0, atol=1e-5)


@torch.no_grad()
def test_limits(denoiser):
    """Little noise changes nothing, where the atoms explain every image; much noise leaves the mean."""
    x, denoiser.coder.tol = images(2, 1, 12, 14), 1e-5
    assert (denoiser(x, 1e-4) - x).abs().max() < 5e-3
    torch.testing.assert_close(denoiser(x, 100.0), x.mean((1, 2, 3), keepdim=True).expand_as(x))
    torch.testing.assert_close(denoiser(x, 0.0), denoiser(x, 1e-5), rtol=0, atol=5e-3)
    torch.testing.assert_close(denoiser(x + 3, 0.1), denoiser(x, 0.1) + 3, rtol=0, atol=5e-3)


def test_it_is_firmly_nonexpansive_and_has_a_symmetric_derivative(denoiser):
    """What proximal operators have, and no others (Moreau 1965)."""
    x, y = images(2, 1, 10, 10), images(2, 1, 10, 10)
    for spread in (1.0, 0.1, 0.01):
        with torch.no_grad():
            before = spread * (x - y)
            after = denoiser(y + before, 0.1) - denoiser(y, 0.1)
        inner, square = (after * before).sum((1, 2, 3)), after.square().sum((1, 2, 3))
        assert (square <= inner + 1e-8).all()
    u, v, point = torch.randn_like(x), torch.randn_like(x), x.clone().requires_grad_()

    def pulled_back(direction):
        (gradient,) = torch.autograd.grad((denoiser(point, 0.1) * direction).sum(), point)
        return gradient

    torch.testing.assert_close((pulled_back(u) * v).sum(), (pulled_back(v) * u).sum(), rtol=1e-5, atol=1e-7)
    step = 1e-5
    with torch.no_grad():
        ahead, behind = denoiser(x + step * v, 0.1), denoiser(x - step * v, 0.1)
    torch.testing.assert_close(
        ((ahead - behind) / (2 * step) * u).sum(), (pulled_back(u) * v).sum(), rtol=1e-3, atol=1e-5
    )


@torch.no_grad()
def test_steps_from_a_code_come_with_a_certificate(denoiser):
    x, z = images(2, 1, 12, 12), None
    exact, bounds = denoiser(x, 0.2), []
    for _ in range(6):
        clean, z = denoiser.refine(x, 0.2, z, steps=200)
        bound = denoiser.certificate(x, 0.2, z)
        assert ((clean - exact).flatten(1).norm(dim=1) <= bound + 1e-6).all()
        bounds.append(bound.max().item())
    assert bounds[-1] < 1e-3 * bounds[0]


@torch.no_grad()
@pytest.mark.parametrize("inner", [1, 20])
def test_plug_and_play_converges_with_few_inner_steps(denoiser, inner):
    """To the fixed point of exact iterations: inpainting, where the step size is 1."""
    truth, seen = images(1, 1, 12, 12), torch.rand(1, 1, 12, 12) > 0.3
    forward = lambda x: torch.where(seen, 0.5 * x + 0.5 * truth, x)  # noqa: E731
    exact = x = torch.zeros_like(truth)
    for _ in range(150):
        exact = denoiser(forward(exact), 0.5)
    z = None
    for _ in range(1500):
        x, z = denoiser.refine(forward(x), 0.5, z, steps=inner)
    torch.testing.assert_close(x, exact, rtol=0, atol=1e-3)


def test_training_makes_it_better(denoiser):
    torch.manual_seed(0)
    clean = torch.nn.functional.interpolate(images(8, 1, 4, 4), scale_factor=4, mode="bilinear")
    noisy = clean + 0.2 * torch.randn_like(clean)
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=1e-2)
    losses = []
    for _ in range(15):
        loss = (denoiser(noisy, 0.2) - clean).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_bad_values_are_refused(denoiser):
    with pytest.raises(ValueError, match="stride must be from 1 to kernel_size = 5, got 6"):
        ProximalDenoiser(kernel_size=5, stride=6)
    with pytest.raises(ValueError, match="kernel_size must be odd, got 8"):
        ProximalDenoiser(kernel_size=8)
    with pytest.raises(ValueError, match="depends on the whole image"):
        denoiser.tiled(images(1, 1, 8, 8))
