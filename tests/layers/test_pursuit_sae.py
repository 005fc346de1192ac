import copy
import io

import pytest
import torch

from csc_nets.functional import refit
from csc_nets.functional.operators.matrix import Matrix
from csc_nets.layers import PursuitSAE, PursuitSAE2d


def signals(count=400, features=16, seed=0):
    """Sparse combinations of 40 directions, with a mean."""
    g = torch.Generator().manual_seed(seed)
    atoms = torch.nn.functional.normalize(torch.randn(40, features, generator=torch.Generator().manual_seed(9)), dim=1)
    z = torch.rand(count, 40, generator=g) * (torch.rand(count, 40, generator=g) < 0.1)
    return 3 * z @ atoms + 0.7


def trained(steps=200, **options):
    torch.manual_seed(0)
    sae = PursuitSAE(16, 48, k=4, **options)
    x = signals()
    sae.start_from(x)
    optimizer = torch.optim.Adam(sae.parameters(), 3e-3)
    for _ in range(steps):
        loss, _ = sae.loss(x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return sae.eval()


def unexplained(sae, x):
    return ((x - sae.reconstruct(x)).square().sum() / (x - x.mean(0)).square().sum()).item()


def test_without_pursuit_and_fit_it_is_the_encoder():
    torch.manual_seed(0)
    sae = PursuitSAE(16, 48, k=4, pursuit=None, fit=False)
    x = signals()
    sae.start_from(x)
    y = (x - sae.bias) / sae.scale
    scores = (y @ sae.encoder.weight.T + sae.encoder.bias).relu()
    expected = torch.zeros_like(scores).scatter(1, *_top(scores, 4))
    torch.testing.assert_close(sae(x), expected)
    torch.testing.assert_close(sae.reconstruct(x), (expected @ sae.coder.atoms) * sae.scale + sae.bias)
    torch.testing.assert_close(y.norm(dim=1).mean(), torch.tensor(1.0))


def _top(scores, k):
    best = scores.topk(k)
    return best.indices, best.values


def test_codes_behind_the_pursuit_explain_more_than_the_encoder():
    x = signals(seed=1)
    sae = trained(pursuit=None, fit=False)
    values = [unexplained(sae, x)]
    for options in (
        {"pursuit": None},
        {"pursuit": "fista", "steps": 8},
        {"pursuit": "omp", "steps": 4, "encoder": None},
    ):
        other = PursuitSAE(16, 48, k=4, **options).eval()
        other.load_state_dict(sae.state_dict(), strict=options.get("encoder", "") is not None)
        z = other(x)
        assert (z >= 0).all() and ((z != 0).sum(1) <= 4).all()
        values.append(unexplained(other, x))
    assert values[0] > values[1] > values[2] > values[3]


def test_the_atoms_get_the_gradient_of_the_squared_error_at_the_fitted_code():
    torch.manual_seed(0)
    sae = PursuitSAE(16, 48, k=4, pursuit="fista", steps=3, encoder=None)
    x = signals()
    sae.start_from(x)
    loss, z = sae.loss(x)
    loss.backward()
    (ours,) = (p.grad for name, p in sae.named_parameters() if "dictionary" in name)
    y = (x - sae.bias.detach()) / sae.scale
    other = copy.deepcopy(sae)
    other.zero_grad()
    error = (y - z.detach() @ other.coder.atoms).square().sum() / (y - y.mean(0)).square().sum()
    error.backward()
    (theirs,) = (p.grad for name, p in other.named_parameters() if "dictionary" in name)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_training_through_the_steps_with_less_memory_is_the_same():
    x, grads = signals(), []
    for gradient in ("unroll", "recompute"):
        torch.manual_seed(0)
        sae = PursuitSAE(16, 48, k=4, pursuit="fista", steps=5, fit=False, gradient=gradient)
        sae.start_from(x)
        sae.loss(x)[0].backward()
        grads.append(torch.cat([p.grad.flatten() for p in sae.parameters()]))
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-6)


def test_a_convex_penalty_has_a_certificate_for_each_token():
    torch.manual_seed(0)
    x = signals()
    gaps = []
    for steps in (2, 2000):
        sae = PursuitSAE(16, 48, lam=0.05, nonneg=True, pursuit="fista", steps=steps, fit=False, encoder="linear")
        sae.start_from(x)
        gaps.append(sae.certificate(x))
    assert gaps[0].shape == (400,) and (gaps[1] < 1e-4).all() and (gaps[0] > gaps[1]).all()
    implicit = PursuitSAE(16, 48, lam=0.05, nonneg=True, steps=None, tol=1e-4, fit=False, gradient="implicit")
    implicit.start_from(x)
    implicit.loss(x)[0].backward()
    assert all(p.grad is not None for n, p in implicit.named_parameters() if "encoder" not in n)
    with pytest.raises(NotImplementedError, match="TopK has no dual"):
        PursuitSAE(16, 48, k=4).certificate(x)


def test_dead_atoms_go_to_what_is_explained_worst():
    sae, x = trained(steps=50), signals()
    idle = torch.zeros(48, dtype=torch.bool)
    idle[[3, 5]] = True
    y = (x - sae.bias) / sae.scale
    residual = y - sae(x) @ sae.coder.atoms
    worst = residual.square().sum(1).topk(2).indices
    kept = sae.coder.atoms[~idle].clone()
    assert sae.revive(x, idle) == 2
    expected = torch.nn.functional.normalize(residual[worst], dim=1)
    torch.testing.assert_close(sae.coder.atoms[idle], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(sae.coder.atoms[~idle], kept)
    cosine = torch.nn.functional.cosine_similarity(sae.encoder.weight[idle], expected)
    torch.testing.assert_close(cosine, torch.ones(2))
    assert sae.encoder.bias[idle].abs().max() == 0


def test_tokens_keep_their_axes_and_maps_theirs():
    torch.manual_seed(0)
    options = {"k": 4, "pursuit": None, "fit": False}
    sae, maps, x = PursuitSAE(16, 48, **options), PursuitSAE2d(16, 48, **options), signals(60)
    sae.start_from(x)
    tokens = x.view(3, 4, 5, 16)
    torch.testing.assert_close(sae(tokens), sae(x).view(3, 4, 5, 48))
    torch.testing.assert_close(sae.reconstruct(tokens), sae.reconstruct(x).view(3, 4, 5, 16))
    maps.coder.atoms = sae.coder.atoms[:, :, None, None]
    with torch.no_grad():
        for name in ("encoder.weight", "encoder.bias", "bias"):
            mine = maps.get_parameter(name)
            mine.copy_(sae.get_parameter(name).view_as(mine))
    maps.scale.copy_(sae.scale)
    grid = tokens.movedim(3, 1)
    torch.testing.assert_close(maps(grid).movedim(1, 3), sae(tokens))
    torch.testing.assert_close(maps.reconstruct(grid).movedim(1, 3), sae.reconstruct(tokens))
    assert maps.samples(grid).shape == (60, 16, 1, 1)
    torch.testing.assert_close(maps(maps.samples(grid)).flatten(1), sae(x))


def test_atoms_of_several_positions():
    torch.manual_seed(0)
    sae = PursuitSAE2d(3, 20, 3, padding="same", k=2, pursuit="fista", steps=3)
    x = torch.randn(2, 3, 9, 8)
    sae.start_from(x)
    z = sae(x)
    assert z.shape == (2, 20, 9, 8) and ((z != 0).sum(1) <= 2).all() and sae.reconstruct(x).shape == x.shape
    sae.loss(x)[0].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in sae.parameters())
    assert sae.samples(x) is x and sae.revive(x, torch.arange(20) < 3) == 3


def test_a_state_dict_and_a_file_bring_it_back():
    sae, x = trained(steps=5, encoder="batch_top_k"), signals()
    again = PursuitSAE(16, 48, k=4, encoder="batch_top_k").eval()
    again.load_state_dict(sae.state_dict())
    assert torch.equal(again(x), sae(x)) and torch.equal(copy.deepcopy(sae)(x), sae(x))
    stream = io.BytesIO()
    torch.save(sae, stream)
    stream.seek(0)
    assert torch.equal(torch.load(stream, weights_only=False)(x), sae(x))


def test_values_are_fitted_on_their_support():
    x = signals()
    sae = trained(steps=20, pursuit=None)
    y, z = (x - sae.bias) / sae.scale, sae(x)
    again = refit(Matrix(sae.coder.atoms.detach()), y, z)
    torch.testing.assert_close(again, z, rtol=1e-3, atol=1e-4)


def test_nothing_to_code_with_is_refused():
    with pytest.raises(ValueError, match="give an encoder or a pursuit, got None for both"):
        PursuitSAE(16, 48, encoder=None, pursuit=None)


@pytest.mark.parametrize("shape", [(5, 1), (5, 25), (2, 3, 1), ()])
def test_vectors_of_another_length_are_refused(shape):
    for use in (PursuitSAE(24, 30), PursuitSAE(24, 30).loss, PursuitSAE(24, 30).start_from):
        with pytest.raises(ValueError, match=r"expected vectors \(\.\.\., 24\), got"):
            use(torch.randn(shape))
    with pytest.raises(ValueError, match=r"expected maps \(N, 6, H, W\), got \(5, 1, 4, 4\)"):
        PursuitSAE2d(6, 20)(torch.randn(5, 1, 4, 4))
    with pytest.raises(ValueError, match=r"x must be of type torch\.float32 as the dictionary is, got torch\.int64"):
        PursuitSAE(24, 30)(torch.ones(2, 24, dtype=torch.long))
    with pytest.raises(ValueError, match=r"idle must be \(30,\), got \(29,\)"):
        PursuitSAE(24, 30).revive(torch.randn(5, 24), torch.ones(29, dtype=torch.bool))


def test_tokens_are_vectors_everywhere():
    torch.manual_seed(0)
    sae, x = PursuitSAE(24, 30, k=4), torch.randn(4, 5, 24)
    sae.start_from(x)
    flat, tokens = sae.loss(x.flatten(0, 1)), sae.loss(x)
    torch.testing.assert_close(tokens, flat)
    torch.testing.assert_close(sae(x).flatten(0, 1), sae(x.flatten(0, 1)))


@pytest.mark.parametrize("pursuit", ["fista", "omp", "matching"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(pursuit, dtype):
    torch.manual_seed(0)
    sae, x = PursuitSAE(24, 30, k=4, pursuit=pursuit), torch.randn(50, 24)
    exact = sae.reconstruct(x)
    half = sae.to(dtype).reconstruct(x.to(dtype))
    assert half.dtype == dtype  # rounding may choose other atoms, which are as good
    assert (half.float() - x).norm() < 1.02 * (exact - x).norm()


@pytest.mark.parametrize("encoder", ["top_k", "linear", None])
@pytest.mark.parametrize("steps", [2, 8])
def test_matching_keeps_to_k(encoder, steps):
    codes = PursuitSAE(24, 60, k=5, pursuit="matching", steps=steps, encoder=encoder)(torch.randn(50, 24))
    assert (codes != 0).sum(1).max() <= 5


@pytest.mark.parametrize("run", [PursuitSAE.forward, PursuitSAE.loss, PursuitSAE.reconstruct, PursuitSAE.start_from])
@pytest.mark.parametrize(
    ("x", "said"),
    [
        ([1.0], "x must be a tensor, got list"),
        (torch.ones(3, 24).long(), "x must be of type torch.float32"),
        (torch.ones(3, 24).double(), "x must be of type torch.float32"),
        (torch.ones(3, 24).bfloat16(), "x must be of type torch.float32"),
    ],
)
def test_signals_of_another_type_are_refused(run, x, said):
    with pytest.raises(ValueError, match=f"PursuitSAE: {said}"):
        run(PursuitSAE(24, 60, k=5), x)


@pytest.mark.parametrize("idle", [[True] * 60, torch.ones(60), torch.ones(59, dtype=torch.bool)])
def test_atoms_to_move_are_booleans_one_for_each(idle):
    sae = PursuitSAE(24, 60, k=5)
    before = sae.coder.atoms.clone()
    with pytest.raises(ValueError, match=r"PursuitSAE: idle must be (a tensor of booleans|\(60,\)), got"):
        sae.revive(torch.randn(70, 24), idle)
    assert torch.equal(sae.coder.atoms, before)


def test_a_flag_that_is_a_text_and_a_start_without_signals_are_refused():
    with pytest.raises(ValueError, match="PursuitSAE: fit must be True or False, got 'no'"):
        PursuitSAE(24, 60, k=5, fit="no")
    with pytest.raises(ValueError, match=r"start_from needs signals, got \(0, 24\)"):
        PursuitSAE(24, 60, k=5).start_from(torch.zeros(0, 24))
