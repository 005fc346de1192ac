"""The sparse-prior layer: a convolution with ReLU at one step, the optimum of an independent solver at many."""

import copy
import io
import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d
from torch.nn.utils import parametrize

from csc_nets.functional import fista
from csc_nets.layers import SparsePriorConv2d

sklearn_linear_model = pytest.importorskip("sklearn.linear_model")
scipy_optimize = pytest.importorskip("scipy.optimize")

GEOMETRIES = {
    "valid": {"kernel_size": 3},
    "stride": {"kernel_size": 4, "stride": 2, "padding": 1},
    "same": {"kernel_size": 4, "padding": "same"},
    "dilation": {"kernel_size": (3, 2), "padding": (2, 1), "dilation": 2},
    "circular": {"kernel_size": 3, "padding": 1, "padding_mode": "circular"},
    "reflect": {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
}
RAW = "parametrizations.lam.original"


@pytest.fixture(params=["ista", "lca"])
def dynamics(request):
    return request.param


@pytest.fixture
def layer(dynamics):
    return SparsePriorConv2d(3, 10, 3, padding=1, rate=torch.rand(10) + 0.1, sigma=0.7, steps=4, dynamics=dynamics)


def set_bank(layer: SparsePriorConv2d, bank: torch.Tensor) -> None:
    with torch.no_grad():
        if parametrize.is_parametrized(layer.dictionary):
            layer.dictionary.weight = bank
        else:
            layer.dictionary.weight.copy_(bank)
    layer.dictionary.refresh()


def orthonormal(atoms: int, *shape: int) -> torch.Tensor:
    """Orthonormal rows ``(atoms, *shape)`` in double precision."""
    return torch.linalg.qr(torch.randn(math.prod(shape), atoms, dtype=torch.float64))[0].T.reshape(atoms, *shape)


def matrix_of(layer: SparsePriorConv2d, signal: tuple[int, ...]) -> torch.Tensor:
    """The dictionary as a matrix (signal length, code length): the synthesis of the identity."""
    shape = (len(layer.atoms), *layer.dictionary.geometry.code_size(signal[1:]))
    units = torch.eye(math.prod(shape), dtype=layer.atoms.dtype).view(-1, *shape)
    return layer.synthesize(units, signal[1:]).flatten(1).T.detach()


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("unit_norm", [True, False])
def test_one_step_is_a_convolution_with_relu_bit_for_bit(geometry, unit_norm, dynamics):
    options = GEOMETRIES[geometry]
    layer = SparsePriorConv2d(3, 8, **options, rate=torch.rand(8) + 0.1, dynamics=dynamics, unit_norm=unit_norm)
    x = torch.randn(2, 3, 9, 8)
    conv = nn.Conv2d(3, 8, **options)
    conv.weight.data, conv.bias.data = layer.atoms.detach(), layer.bias.detach()
    for training, grad in itertools.product([True, False], [True, False]):
        with torch.set_grad_enabled(grad):
            assert torch.equal(layer.train(training)(x), conv(x).relu())


def test_bias_is_minus_the_rate_times_the_variance_and_below_zero():
    rate = torch.tensor([0.01, 0.5, 30.0])
    layer = SparsePriorConv2d(1, 3, 3, rate=rate, sigma=0.2)
    torch.testing.assert_close(layer.rates, rate)
    torch.testing.assert_close(layer.bias, -rate * 0.04)
    torch.testing.assert_close(layer.lam, rate * 0.04)
    layer.rates = 2 * rate
    torch.testing.assert_close(layer.bias, -rate * 0.08)
    layer.lam = 0.4
    torch.testing.assert_close(layer.rates, torch.full((3,), 10.0))
    with torch.no_grad():  # wherever an optimiser puts the raw numbers
        layer.get_parameter(RAW).copy_(torch.tensor([-30.0, 0.0, 30.0]))
    assert (layer.rates > 0).all() and (layer.bias < 0).all()


def test_for_an_orthonormal_bank_one_step_is_the_most_probable_code():
    """An independent minimiser of the negative log posterior, from the formula alone."""
    bank, rate, sigma = orthonormal(5, 2, 2, 2), torch.rand(5).double() + 0.1, 0.6
    layer = SparsePriorConv2d(2, 5, 2, stride=2, rate=rate, sigma=sigma, dtype=torch.float64)
    set_bank(layer, bank)
    x = torch.randn(1, 2, 2, 2, dtype=torch.float64)
    phi, signal, rates = bank.flatten(1).T.numpy(), x.flatten().numpy(), rate.numpy()

    def posterior(a):
        residual = signal - phi @ a
        return residual @ residual / (2 * sigma**2) + rates @ a, rates - phi.T @ residual / sigma**2

    best = scipy_optimize.minimize(
        posterior, [1.0] * 5, jac=True, method="L-BFGS-B", bounds=[(0, None)] * 5, options={"gtol": 1e-12, "ftol": 0}
    )
    assert (best.x == 0).any() and (best.x > 0).any()
    torch.testing.assert_close(layer(x).flatten(), torch.tensor(best.x), rtol=0, atol=1e-7)
    torch.testing.assert_close((layer.objective(x, layer(x)) / sigma**2).item(), best.fun, rtol=1e-9, atol=0)


def test_atoms_of_another_norm_divide_the_code_by_its_square(dynamics):
    norms = torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=torch.float64)
    conv = nn.Conv2d(1, 4, 3, stride=3, dtype=torch.float64)
    conv.weight.data, conv.bias.data = orthonormal(4, 1, 3, 3) * norms.view(-1, 1, 1, 1), -torch.rand(4).double()
    x = torch.randn(3, 1, 9, 6, dtype=torch.float64)
    layer = SparsePriorConv2d.from_conv(conv, sigma=0.5)
    assert torch.equal(layer(x), conv2d(x, conv.weight, layer.bias, stride=3).relu())
    layer.dynamics, layer.steps = dynamics, 1500  # the weakest atom converges with 1 - 0.9 (0.5 / 3)^2 a step
    torch.testing.assert_close(layer.eval()(x), conv(x).relu() / norms.square().view(-1, 1, 1), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_both_dynamics_reach_the_solution_of_a_non_negative_lasso(geometry, dynamics):
    rate = torch.rand(6).double() + 0.2
    layer = SparsePriorConv2d(
        2, 6, **GEOMETRIES[geometry], rate=rate, sigma=1.3, steps=4000, dynamics=dynamics, dtype=torch.float64
    ).eval()
    x = 2 * torch.randn(1, 2, 6, 5, dtype=torch.float64)
    with torch.no_grad():
        a = layer(x)
    # With columns divided by their weights every coefficient has the weight 1.
    weights = (rate * 1.3**2).view(-1, 1, 1).expand(a.shape[1:]).flatten()
    columns = (matrix_of(layer, (2, 6, 5)) / weights).numpy()
    lasso = sklearn_linear_model.Lasso(1 / len(columns), positive=True, fit_intercept=False, tol=1e-12, max_iter=10**6)
    expected = torch.tensor(lasso.fit(columns, x.flatten().numpy()).coef_) / weights
    assert 0 < (expected > 0).sum() < len(expected)
    reached, best = layer.objective(x, a), layer.objective(x, expected.view_as(a))
    torch.testing.assert_close(reached, best, rtol=1e-7, atol=0)
    assert (layer.problem(x).duality_gap(a) < 1e-6 * best).all()


def test_steps_are_textbook_iterations():
    layer = SparsePriorConv2d(3, 8, 3, padding=1, rate=0.3, sigma=0.8, steps=6).eval()
    x, t = torch.randn(2, 3, 7, 6), 0.3 * 0.64
    convolution = conv2d(x, layer.atoms, layer.bias, padding=1).relu()
    expected = fista(x, layer.dictionary, t, steps=5, nonneg=True, momentum=False, init=convolution)
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)
    layer.step_size = 0.08  # from zero
    expected = fista(x, layer.dictionary, t, steps=6, nonneg=True, momentum=False, step_size=0.08)
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)

    layer.dynamics, matrix = "lca", matrix_of(layer, (3, 7, 6))
    for layer.step_size in (0.08, None):
        u = a = torch.zeros(2, matrix.shape[1])
        for step in range(6):
            eta = 0.08 if layer.step_size else 0.9 / layer.dictionary.lipschitz if step else 1
            u = u + eta * (x.flatten(1) @ matrix - u - (a @ matrix.T @ matrix - a))
            a = (u - t).relu()
        torch.testing.assert_close(layer(x).flatten(1), a, rtol=1e-4, atol=1e-5)
        assert (a > 0).any()


def test_an_orthonormal_dictionary_needs_no_further_step(dynamics):
    layer = SparsePriorConv2d(2, 6, 2, stride=2, rate=0.3, dynamics=dynamics, dtype=torch.float64)
    set_bank(layer, orthonormal(6, 2, 2, 2))
    x = torch.randn(2, 2, 8, 6, dtype=torch.float64)
    once = layer(x)
    for layer.steps in (2, 7):
        torch.testing.assert_close(layer(x), once)


def test_with_a_step_size_of_one_the_dynamics_agree():
    layer = SparsePriorConv2d(3, 8, 2, stride=2, rate=0.3, steps=5, step_size=1.0)
    x = torch.randn(2, 3, 8, 8)
    ista = layer(x)
    layer.dynamics = "lca"
    torch.testing.assert_close(layer(x), ista)


def test_the_objective_falls_at_every_further_step(dynamics):
    for scale in (0.1, 1.0, 3.0):  # of the filters: norms of the dictionary below and above 1
        layer = SparsePriorConv2d(2, 12, 3, padding=1, rate=0.2, dynamics=dynamics, unit_norm=False).eval()
        set_bank(layer, torch.randn(12, 2, 3, 3) * scale / 18**0.5)
        layer.double()
        x, start = torch.randn(2, 2, 8, 8).double(), torch.rand(2, 12, 8, 8).double()
        for init in (None, start):
            values = [] if init is None else [layer.objective(x, start)]
            for layer.steps in range(1, 30):
                values.append(layer.objective(x, layer(x, init=init)))
            assert all((b <= a).all() for a, b in itertools.pairwise(values))


@pytest.mark.parametrize(("step_size", "converges"), [(0.95, True), (1.05, False)])
def test_steps_converge_up_to_two_over_the_squared_norm(step_size, converges, dynamics):
    """Two equal atoms: the norm squared is 2, and the sum of their codes moves by 1 - 2 eta per step."""
    layer = SparsePriorConv2d(1, 2, 1, rate=0.1, steps=400, dynamics=dynamics, step_size=step_size).eval()
    set_bank(layer, torch.ones(2, 1, 1, 1))
    assert layer.dictionary.lipschitz.item() == pytest.approx(2)
    total = layer(torch.ones(1, 1, 1, 1)).sum().item()
    assert (abs(total - 0.9) < 1e-4) == converges


@pytest.mark.parametrize(("step_size", "converges"), [(1.9, True), (2.1, False)])
def test_membranes_of_weak_atoms_converge_up_to_a_step_of_two(step_size, converges):
    """An atom that stays below its threshold decays by 1 - eta per step, however small the dictionary's norm."""
    layer = SparsePriorConv2d(1, 1, 1, rate=1.0, dynamics="lca", step_size=step_size, unit_norm=False).eval()
    set_bank(layer, torch.full((1, 1, 1, 1), 0.1))
    codes = []
    for layer.steps in range(200, 206):
        codes.append(layer(torch.ones(1, 1, 1, 1)).item())
    assert (max(codes) == 0) == converges


def test_limits_of_the_rates(dynamics):
    x = torch.randn(2, 3, 6, 6)
    layer = SparsePriorConv2d(3, 8, 3, rate=1e6, steps=3, dynamics=dynamics)
    assert not layer(x).any()
    # Without a prior that counts, the code of an invertible orthonormal bank is the non-negative projection.
    layer = SparsePriorConv2d(3, 12, 2, stride=2, rate=1e-9)
    set_bank(layer, orthonormal(12, 3, 2, 2).float())
    torch.testing.assert_close(layer(x), conv2d(x, layer.atoms, stride=2).relu(), rtol=0, atol=1e-6)


def test_negative_log_prior_is_the_formula():
    layer = SparsePriorConv2d(1, 3, 1, rate=torch.tensor([0.5, 1.0, 2.0]))
    a = torch.rand(2, 3, 4, 5)
    density = torch.distributions.Exponential(layer.rates.detach())
    expected = -density.log_prob(a.permute(0, 2, 3, 1)).sum(-1).mean((1, 2))
    torch.testing.assert_close(layer.negative_log_prior(a), expected)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(layer.negative_log_prior(a), expected)
    # Its minimum over the rates is at one over the mean of the code.
    layer.rates = 1 / a.mean((0, 2, 3))
    layer.negative_log_prior(a).mean().backward()
    torch.testing.assert_close(layer.get_parameter(RAW).grad, torch.zeros(3), rtol=0, atol=1e-6)


def test_orthogonality_and_its_floors():
    layer = SparsePriorConv2d(2, 4, 2, unit_norm=False, dtype=torch.float64)
    bank = torch.randn(4, 2, 2, 2, dtype=torch.float64)
    set_bank(layer, bank)
    gram = bank.flatten(1) @ bank.flatten(1).T
    torch.testing.assert_close(layer.orthogonality(), torch.linalg.matrix_norm(gram - torch.eye(4)).square())
    set_bank(layer, orthonormal(4, 2, 2, 2))
    assert layer.orthogonality().item() == pytest.approx(0, abs=1e-12)
    # More atoms (M = 10) than entries (d = 4): descent ends at M - d, on the unit sphere at M (M - d) / d.
    for unit_norm, floor in ((False, 6.0), (True, 15.0)):
        layer = SparsePriorConv2d(1, 10, 2, unit_norm=unit_norm, dtype=torch.float64)
        optimizer = torch.optim.LBFGS(layer.dictionary.parameters(), max_iter=200, line_search_fn="strong_wolfe")

        def loss(layer=layer, optimizer=optimizer):
            optimizer.zero_grad()
            value = layer.orthogonality()
            value.backward()
            return value

        optimizer.step(loss)
        assert layer.orthogonality().item() == pytest.approx(floor, rel=1e-4)
        assert layer.orthogonality().item() >= floor - 1e-9
    layer.float()
    with torch.autocast("cpu", torch.bfloat16):
        assert layer.orthogonality().item() == pytest.approx(floor, rel=1e-4)


def test_from_conv_reads_a_convolution_with_proper_biases():
    conv = nn.Conv2d(3, 6, 3, 2, padding=1, dilation=2, padding_mode="circular")
    conv.bias.data = -torch.rand(6) - 0.1
    layer = SparsePriorConv2d.from_conv(conv.eval(), sigma=2.0)
    x = torch.randn(2, 3, 11, 10)
    torch.testing.assert_close(layer(x), conv(x).relu(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(layer.rates, -conv.bias.detach() / 4)
    assert torch.equal(layer.atoms, conv.weight) and not layer.training
    assert layer.atoms.data_ptr() != conv.weight.data_ptr()
    state = copy.deepcopy(layer.state_dict())
    layer.dictionary.refresh()
    torch.testing.assert_close(layer.dictionary.lipschitz, state["dictionary.lipschitz"])


def test_from_conv_names_improper_biases_or_clamps_them():
    conv = nn.Conv2d(1, 5, 3)
    conv.bias.data = torch.tensor([-0.5, 0.0, 0.2, -0.001, 0.3])
    with pytest.raises(ValueError, match=r"3 of 5 biases are no rate of a prior \(1 are 0, 2 above 0\); clamp"):
        SparsePriorConv2d.from_conv(conv)
    layer = SparsePriorConv2d.from_conv(conv, clamp=0.01)
    torch.testing.assert_close(layer.bias, torch.tensor([-0.5, -0.01, -0.01, -0.01, -0.01]))
    with pytest.raises(ValueError, match=r"5 of 5 biases are no rate"):
        SparsePriorConv2d.from_conv(nn.Conv2d(1, 5, 3, bias=False))
    with pytest.raises(ValueError, match="groups must be 1, got 2"):
        SparsePriorConv2d.from_conv(nn.Conv2d(2, 4, 3, groups=2))
    with pytest.raises(ValueError, match="clamp must be a finite number > 0, got 0"):
        SparsePriorConv2d.from_conv(conv, clamp=0)


def test_keywords_of_a_sparse_coding_layer(layer):
    x = torch.randn(2, 3, 4, 3)
    layer.eval()
    mask, init = (torch.rand_like(x) > 0.3).float(), torch.rand(2, 10, 4, 3)
    kept = init.clone()
    spoiled = torch.where(mask == 0, torch.nan, x)
    torch.testing.assert_close(layer(spoiled, mask=mask), layer(x, mask=mask))
    torch.testing.assert_close(layer(x, lam=layer.lam.detach()), layer(x))
    weights = torch.tensor([0.2, 0.6]).view(2, 1, 1, 1)
    torch.testing.assert_close(layer(x, lam=weights)[1:], layer(x[1:], lam=0.6))
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            layer.steps = 2000
            solution = layer(x, mask=mask).detach()
            expected = fista(x, layer.dictionary, layer.lam.detach(), steps=500, nonneg=True, mask=mask)
            best = layer.objective(x, expected, mask=mask)  # codes may differ, their objectives may not
            torch.testing.assert_close(layer.objective(x, solution, mask=mask), best, rtol=1e-3, atol=0)
            layer.steps = 3
            torch.testing.assert_close(layer(x, mask=mask, init=solution), solution, rtol=1e-3, atol=1e-4)
            layer(x, init=init)
    assert torch.equal(init, kept)


def test_gradients_in_double_precision(dynamics):
    layer = SparsePriorConv2d(2, 5, 3, padding=1, rate=0.1, steps=3, dynamics=dynamics, learn_sigma=True).double()
    x = torch.randn(2, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    parameters = list(layer.parameters())
    assert len(parameters) == 3
    assert torch.autograd.gradcheck(lambda x, *_: layer.eval()(x), (x, *parameters), fast_mode=True)


def test_sigma_is_fixed_or_learned():
    x = torch.randn(2, 3, 6, 6)
    fixed, learned = (SparsePriorConv2d(3, 4, 3, sigma=0.5, learn_sigma=learn) for learn in (False, True))
    assert [p for p, _ in fixed.named_parameters()] == [p for p, _ in learned.named_parameters() if "sigma" not in p]
    torch.testing.assert_close(learned.sigma, torch.tensor(0.5))
    learned(x).sum().backward()
    (gradient,) = (p.grad for name, p in learned.named_parameters() if "sigma" in name)
    assert gradient < 0  # more noise, larger thresholds, a smaller code


def test_state_dict_and_deepcopy_hold_everything(layer):
    x = torch.randn(2, 3, 8, 8)
    for _ in range(2):
        layer(x)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = SparsePriorConv2d(3, 10, 3, padding=1, steps=4, dynamics=layer.dynamics)
    other.load_state_dict(torch.load(file, weights_only=True))
    for twin in (other, copy.deepcopy(layer)):
        assert torch.equal(twin.eval()(x), layer.eval()(x))
        assert torch.equal(twin.rates, layer.rates) and twin.sigma == layer.sigma


def test_compile_without_graph_breaks(layer):
    torch.compiler.reset()
    x, reference = torch.randn(2, 3, 8, 8), copy.deepcopy(layer)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    for mode in (True, False):
        layer.train(mode), reference.train(mode)
        torch.testing.assert_close(compiled(x), reference(x), rtol=1e-4, atol=1e-5)


def test_export(layer):
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(torch.export.export(layer.eval(), (x,)).module()(x), layer(x))


def test_autocast_and_half_precision(layer):
    x = torch.randn(2, 3, 8, 8)
    full = layer.eval()(x)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = layer(x)
        layer.train()(x).sum().backward()
    assert mixed.dtype == torch.bfloat16
    assert (mixed.float() - full).norm() < 0.03 * full.norm()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in layer.parameters())
    half = copy.deepcopy(layer).eval().bfloat16()
    assert (half(x.bfloat16()).float() - full).norm() < 0.05 * full.norm()


def test_channels_last_is_kept(layer):
    layer.eval()
    last = copy.deepcopy(layer).to(memory_format=torch.channels_last)
    for size, grad in itertools.product(((9, 8), (16, 5)), (True, False)):
        x = torch.randn(2, 3, *size)
        with torch.set_grad_enabled(grad):
            z = last(x.to(memory_format=torch.channels_last))
            assert z.is_contiguous(memory_format=torch.channels_last)
            torch.testing.assert_close(z, layer(x), rtol=1e-4, atol=1e-5)


def test_repr_shows_the_defining_numbers():
    assert repr(SparsePriorConv2d(3, 8, 3, 2, 1, sigma=0.5)) == (
        "SparsePriorConv2d(3, 8, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), sigma=0.5, steps=1)"
    )
    assert repr(SparsePriorConv2d(3, 8, 3, steps=4, dynamics="lca", step_size=0.1)).endswith(
        "sigma=1, steps=4, dynamics='lca', step_size=0.1)"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 0.0}, r"rate must be above 0 .*got 0.0"),
        ({"rate": -0.1}, r"SparsePriorConv2d: rate must be a finite number >= 0 or a tensor, got -0.1"),
        ({"rate": float("nan")}, "rate"),
        ({"rate": torch.tensor([0.1, 0.0] * 4)}, "rate must be above 0"),
        ({"rate": torch.ones(7)}, r"one per atom \(8,\), got shape \(7,\)"),
        ({"sigma": 0.0}, "sigma must be a finite number > 0, got 0.0"),
        ({"sigma": float("inf")}, "sigma"),
        ({"steps": 0}, "steps must be an int >= 1, got 0"),
        ({"dynamics": "omp"}, "dynamics must be one of ista, lca, got 'omp'"),
        ({"step_size": 0.0}, "step_size must be a finite number > 0 or None, got 0.0"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SparsePriorConv2d(3, 8, 3, **options)


def test_bad_input_is_refused():
    layer = SparsePriorConv2d(3, 8, 3)
    with pytest.raises(ValueError, match=r"SparsePriorConv2d: expected 3 input channels \(N, 3, H, W\)"):
        layer(torch.zeros(8, 1, 28, 28))
    with pytest.raises(ValueError, match="lam"):
        layer.rates = -1.0
