import pytest
import torch

from csc_nets.functional import solve
from csc_nets.layers import CSC2d
from csc_nets.models import create_model
from csc_nets.models.csc_dictionary import HighPass

SINGLE = {"widths": [5], "kernel_size": 3, "lam": 0.2}
DOUBLE = {"widths": [4, 6], "kernel_size": [5, 3], "stride": [2, 1], "nonzeros": 7, "lam": 0.1}
MODELS = [("csc_dictionary", SINGLE), ("ml_csc_dictionary", DOUBLE)]


@pytest.mark.parametrize(("name", "arguments"), MODELS)
@pytest.mark.parametrize("highpass", [None, 1.5])
def test_reconstruction_is_synthesis_and_what_the_high_pass_took(name, arguments, highpass, images):
    model, x = create_model(name, highpass=highpass, **arguments).eval(), images(size=(13, 18))
    z = model.encode(x)
    low = torch.zeros_like(x) if highpass is None else x - HighPass(highpass)(x)
    torch.testing.assert_close(model(x), model.decode(z, (13, 18)) + low)
    torch.testing.assert_close(model.reconstruct(x, torch.zeros_like(z)), low)


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (9, 2), (31, 14)])
@pytest.mark.parametrize("name", ["csc_dictionary", "ml_csc_dictionary"])
def test_any_size(name, size, narrow, images):
    model, x = narrow(name, highpass=3.0).eval(), images(size=size)
    assert model(x).shape == x.shape


def test_the_high_pass_takes_away_what_is_constant_and_keeps_what_is_fine():
    filtered = HighPass(2.0)
    assert filtered(torch.full((1, 2, 9, 12), 7.0)).abs().max() < 1e-5
    board = (torch.arange(20)[:, None] + torch.arange(20)) % 2 * 2.0 - 1
    torch.testing.assert_close(filtered(board[None, None])[..., 6:-6, 6:-6], board[None, None, 6:-6, 6:-6])
    # A wave of frequency w keeps 1 - exp(-(sigma w)^2 / 2) of its amplitude.
    wave = torch.cos(0.5 * torch.arange(80.0)).expand(1, 1, 40, 80)
    expected = (1 - torch.exp(torch.tensor(-0.5))) * wave
    torch.testing.assert_close(filtered(wave)[..., 10:-10, 10:-10], expected[..., 10:-10, 10:-10], atol=5e-3, rtol=0)


def test_one_dictionary_is_a_csc_layer_and_its_objective(images):
    model, x = create_model("csc_dictionary", steps=9, nonneg=True, **SINGLE).eval(), images()
    plain = CSC2d(3, 5, 3, padding=1, lam=0.2, steps=9).eval()
    plain.dictionary.weight = model.dictionaries[0].weight.detach()
    plain.dictionary.lipschitz.copy_(model.coder.dictionary.lipschitz)
    z = model.encode(x)
    torch.testing.assert_close(z, plain(x))
    torch.testing.assert_close(model.objective(x, z), plain.objective(x, z))
    assert isinstance(model.coder, CSC2d) and torch.equal(model.effective_atoms(), model.dictionaries[0].weight)


def test_the_deeper_codes_are_products_of_the_deepest(images):
    model, x = create_model("ml_csc_dictionary", **DOUBLE).eval(), images(size=(15, 20))
    z = model.encode(x)
    shallow, deep = model.codes(z, (15, 20))
    first, second = model.dictionaries
    norms = model.effective_atoms().flatten(1).norm(dim=1).view(-1, 1, 1)
    torch.testing.assert_close(deep, z / norms)
    torch.testing.assert_close(shallow, second.synthesis(deep))
    torch.testing.assert_close(model.decode(z, (15, 20)), first.synthesis(shallow, (15, 20)))


def test_effective_atoms_are_seen_in_the_image_of_one_nonzero():
    model = create_model("ml_csc_dictionary", in_chans=1, **DOUBLE, padding=0).eval()
    z = torch.zeros(1, 6, 1, 1)
    z[0, 3] = 1
    atom = model.effective_atoms()[3]
    torch.testing.assert_close(model.decode(z)[0], atom / atom.norm())
    assert model.effective_atoms(0).shape == (4, 1, 5, 5) and model.effective_atoms(-1).shape == (6, 1, 9, 9)


def test_projection_changes_no_atom_and_makes_the_trained_tensor_as_long():
    model = create_model("ml_csc_dictionary", **DOUBLE)
    raw = [d.get_parameter("parametrizations.weight.original") for d in model.dictionaries]
    for tensor in raw:
        tensor.data.mul_(torch.linspace(0.1, 5, len(tensor)).view(-1, 1, 1, 1))
    before = [d.weight.detach().clone() for d in model.dictionaries]
    assert ((before[1] != 0).flatten(1).sum(1) == 7).all() and (before[0] != 0).all()
    model.project()
    for tensor, atoms, dictionary in zip(raw, before, model.dictionaries, strict=True):
        torch.testing.assert_close(dictionary.weight.detach(), atoms)
        torch.testing.assert_close(tensor.detach() * (atoms != 0), atoms)


def test_a_broken_atom_survives_projection():
    model = create_model("csc_dictionary", **SINGLE)
    model.dictionaries[0].get_parameter("parametrizations.weight.original").data[2] = 0
    model.project()
    assert model.dictionaries[0].weight.isfinite().all()


@pytest.mark.parametrize(("name", "arguments"), MODELS)
def test_at_the_optimal_code_the_partial_gradient_is_that_of_the_minimum(name, arguments):
    # Danskin's theorem, against central differences of min_z F along a random direction.
    model = create_model(name, in_chans=1, **{**arguments, "nonzeros": None}).double().eval()
    x, parameters = torch.randn(1, 1, 9, 9, dtype=torch.float64), list(model.parameters())

    def minimum():
        dictionary = model.coder.dictionary
        z = solve(x, dictionary, model.coder.lam, tol=1e-12)
        return z, model.objective(x, z).sum()

    z, _ = minimum()
    assert 0 < (z != 0).double().mean() < 0.9
    gradient = torch.autograd.grad(model.objective(x, z).sum(), parameters)
    ways = [torch.randn_like(p) for p in parameters]
    slope = sum((g * way).sum() for g, way in zip(gradient, ways, strict=True)).item()
    values = []
    with torch.no_grad():
        for step in (1e-5, -2e-5):
            for parameter, way in zip(parameters, ways, strict=True):
                parameter.add_(way, alpha=step)
            values.append(minimum()[1].item())
    assert (values[0] - values[1]) / 2e-5 == pytest.approx(slope, rel=3e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"widths": []}, r"widths must be at least one positive int, got \[\]"),
        ({"widths": [4, 4], "nonzeros": 0}, "nonzeros must be an int >= 1, got 0"),
        ({"widths": [4, 4], "nonzeros": [3, 3]}, r"nonzeros must be one int or 1, one for each stage, got \[3, 3\]"),
        ({"widths": [4, 4], "kernel_size": [3]}, "kernel_size must be one int or 2"),
        ({"highpass": 0.0}, "highpass must be None or a number of pixels > 0, got 0.0"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        create_model("csc_dictionary", **arguments)
