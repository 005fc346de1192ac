"""A wavelet, a complex operator and one that learns."""

import copy

import pytest
import torch

from csc_nets.functional import FISTA, soft_threshold
from csc_nets.layers import CSC
from csc_nets.models import ImageClassifier
from csc_nets.tasks.pictures import save_pictures
from csc_nets.theory import energy_profile


@pytest.fixture(params=["Haar", "MaskedFFT", "Separable"])
def operator(own, request):
    """An operator, with a signal for it."""
    if request.param == "Haar":
        return own.Haar(), torch.randn(2, 3, 8, 6)
    if request.param == "Separable":
        dictionary = own.Separable(8, 6, 6, 5)
        with torch.no_grad():  # a well-conditioned one, whose codes converge soon
            for p in dictionary.parameters():
                torch.nn.init.orthogonal_(p).add_(0.1 * torch.randn_like(p))
        return dictionary, torch.randn(2, 3, 8, 6)
    seen = (torch.rand(8, 6) < 0.6).double()
    return own.MaskedFFT(seen), seen * torch.randn(2, 1, 8, 6, dtype=torch.complex128)


def test_analysis_and_synthesis_are_adjoint(operator):
    dictionary, x = operator
    z = torch.randn_like(dictionary.analysis(x))
    left = torch.vdot(dictionary.synthesis(z, x.shape[2:]).flatten(), x.flatten())
    torch.testing.assert_close(left, torch.vdot(z.flatten(), dictionary.analysis(x).flatten()))
    bare = type("Bare", (), {"analysis": dictionary.analysis, "synthesis": dictionary.synthesis})
    exact = CSC(bare, nonneg=False).problem(x).lipschitz()  # by the Lanczos method
    torch.testing.assert_close(exact, dictionary.bound(x.shape[2:]).detach())


def test_many_steps_fulfil_the_optimality_conditions(operator):
    dictionary, x = operator
    layer = CSC(dictionary, lam=0.2, nonneg=False, pursuit=FISTA(1500))
    z = layer(x).detach()
    correlation = dictionary.analysis(x - layer.synthesize(z, x.shape[2:]))
    assert bool((correlation.abs() <= 0.2 + 1e-6).all()) and bool((z == 0).any())
    torch.testing.assert_close(correlation[z != 0], 0.2 * torch.sgn(z[z != 0]), atol=1e-6, rtol=0)
    assert float(layer.problem(x).duality_gap(z).detach().max()) < 1e-6
    assert not layer(x, lam=layer.lam_max(x)).any() and layer(x, lam=0.99 * layer.lam_max(x)).any()


def test_wavelet_shrinkage(own):
    haar, x = own.Haar(), torch.randn(2, 3, 8, 6)
    expected = soft_threshold(haar.analysis(x), 0.3)
    assert torch.equal(CSC(haar, lam=0.3, nonneg=False, pursuit="threshold")(x), expected)
    torch.testing.assert_close(CSC(haar, lam=0.3, nonneg=False, steps=40)(x), expected)
    torch.testing.assert_close(haar.synthesis(haar.analysis(x)), x)
    flat = haar.analysis(torch.ones(1, 1, 4, 4))
    assert torch.equal(flat[:, 0], torch.full((1, 2, 2), 2.0)) and not flat[:, 1:].any()
    weights = torch.tensor([0.0, 0.3, 0.3, 0.3])  # averages are kept
    layer = CSC(haar, lam=weights, nonneg=False, pursuit="threshold")
    assert torch.equal(layer(x[:, :1])[:, 0], haar.analysis(x[:, :1])[:, 0])


@pytest.mark.parametrize("gradient", ["recompute", "checkpointed"])
def test_gradients_of_the_steps(operator, gradients_of, alike, gradient):
    dictionary, x = operator
    options = {"lam": 0.2, "nonneg": False, "steps": 5, "ridge": 0.1, "learn_lam": True}
    arguments = {"mask": torch.rand(x.shape) > 0.2, "init": torch.randn_like(dictionary.analysis(x))}
    layer, other = CSC(dictionary, **options), CSC(dictionary, **options, gradient=gradient)
    alike(gradients_of(other, x, **arguments), gradients_of(layer, x, **arguments))


def test_the_implicit_gradient(operator, gradients_of, alike):
    dictionary, x = operator
    layer = CSC(dictionary, lam=0.2, nonneg=False, ridge=0.1, learn_lam=True, pursuit=FISTA(600))
    other = CSC(dictionary, lam=0.2, nonneg=False, ridge=0.1, learn_lam=True, pursuit=FISTA(600), gradient="implicit")
    alike(gradients_of(other, x), gradients_of(layer, x), 1e-4)


def test_layers_are_shown_copied_and_compiled(operator):
    dictionary, x = operator
    layer = CSC(dictionary, nonneg=False, steps=4)
    assert f"CSC({type(dictionary).__name__}(" in repr(layer) and "pursuit=FISTA(4)" in repr(layer)
    twin = copy.deepcopy(layer)
    code = torch.compile(twin, fullgraph=True, backend="eager")(x)
    torch.testing.assert_close(code, layer(x))
    assert layer.coded(x, code) == [] and layer.thresholds() == {}  # no atoms to speak of


def test_a_network_over_a_wavelet(own, tmp_path):
    layer = CSC(own.Haar(), lam=0.1, nonneg=False)
    model = ImageClassifier([layer], [4], [2], in_chans=1, input_size=8, num_classes=3).eval()
    save_pictures(model, torch.rand(2, 1, 8, 8), lambda x: x, tmp_path)
    assert {file.stem for file in tmp_path.iterdir()} == {"codes", "reconstructions"}  # there are no atoms to show
    assert energy_profile(model, torch.rand(2, 1, 8, 8)) is not None


def test_complex_codes_have_no_sign(own):
    layer = CSC(own.MaskedFFT(torch.ones(4, 4)))
    with pytest.raises(ValueError, match="take nonneg=False"):
        layer(torch.zeros(1, 1, 4, 4, dtype=torch.complex128))


def test_a_separable_operator_trains(own):
    target = own.Separable(6, 6, 8, 8)
    x = target.synthesis(torch.randn(64, 1, 8, 8) * (torch.rand(64, 1, 8, 8) < 0.1)).detach()
    layer = CSC(own.Separable(6, 6, 8, 8), lam=0.02, nonneg=False, steps=10, gradient="recompute")
    assert set(dict(layer.named_parameters())) == {"dictionary.columns", "dictionary.rows"}
    optimizer, losses = torch.optim.Adam(layer.parameters(), 1e-2), []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (x - layer.synthesize(layer(x), x.shape[2:])).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
