"""The gradient of a solution against the closed form on its support, and the linear solver against pseudo-inverses."""

import pytest
import torch
from torch import nn

from csc_nets.functional.gradients.implicit import least_solution
from csc_nets.layers import CSC1d, CSC2d, CSC3d, SparseCoding

LAYERS = {
    "1d stride": (CSC1d, (3, 8, 5), {"padding": 2, "stride": 2}, (2, 3, 11)),
    "2d even, stride": (CSC2d, (2, 6, 4), {"padding": 1, "stride": 2}, (2, 2, 7, 6)),
    "2d reflect": (CSC2d, (2, 4, 3), {"padding": "same", "padding_mode": "reflect"}, (2, 2, 4, 5)),
    "2d circular, dilation": (
        CSC2d,
        (2, 4, 3),
        {"padding": 2, "dilation": 2, "padding_mode": "circular"},
        (2, 2, 5, 6),
    ),
    "3d": (CSC3d, (2, 4, 2), {"padding": "same"}, (2, 2, 3, 4, 3)),
    "matrix": (SparseCoding, (7, 12), {}, (5, 7)),
}


@pytest.fixture(params=LAYERS)
def case(request):
    """A function that builds an equilibrium layer in double precision with given options, and an input."""
    cls, args, kwargs, shape = LAYERS[request.param]
    options = {"steps": None, "tol": 1e-11, "lam": 0.3} | kwargs
    return (lambda **more: cls(*args, **options | more).double().eval()), torch.randn(shape, dtype=torch.float64)


def closed_form(layer, x, lam, z, mask=None):
    """The solution as a smooth function of signal, atoms and weight on the support and with the signs of ``z``."""
    codes = []
    for n, sample in enumerate(x):
        unit = torch.eye(z[n].numel(), dtype=z.dtype).view(-1, *z.shape[1:])
        atoms = layer.synthesize(unit, x.shape[2:]).flatten(1)  # a row an atom and position
        observed = torch.ones_like(sample) if mask is None else mask[n].to(z)
        on = z[n].flatten() != 0
        rows = atoms[on] * observed.flatten()
        per_code = torch.as_tensor(lam).broadcast_to(z.shape)[n].flatten()[on]
        right = rows @ sample.flatten() - per_code * z[n].flatten()[on].sign()
        gram = rows @ rows.T + layer.ridge * torch.eye(len(rows), dtype=z.dtype)
        codes.append(torch.zeros_like(z[n].flatten()).index_put((on,), torch.linalg.solve(gram, right)).view_as(z[n]))
    return torch.stack(codes)


def pull(z, inputs):
    return torch.autograd.grad(z, inputs, torch.linspace(-1, 2, z.numel(), dtype=z.dtype).view_as(z))


@pytest.mark.parametrize("kind", ["number, ridge", "learned", "atoms, mask", "samples, warm start"])
@pytest.mark.parametrize("nonneg", [True, False])
def test_equals_the_closed_form(case, nonneg, kind):
    build, x = case
    layer = build(nonneg=nonneg, learn_lam=kind == "learned", ridge=0.2 if "ridge" in kind else 0.0)
    mask = torch.rand_like(x) > 0.2 if "mask" in kind else None
    init = torch.rand_like(layer(x).detach()) if "warm" in kind else None
    lam = {"l": None, "n": torch.tensor(0.3), "a": 0.2 + 0.2 * torch.rand(len(layer.atoms))}.get(
        kind[0], 0.2 + 0.2 * torch.rand(len(x), *(1,) * (x.ndim - 1))
    )
    lam = None if lam is None else lam.double().requires_grad_()
    x.requires_grad_()
    z = layer(x, lam=lam, mask=mask, init=init)
    used = layer.lam if lam is None else lam.view(-1, *(1,) * (x.ndim - 2)) if kind[0] == "a" else lam
    expected = closed_form(layer, x, used, z.detach(), mask)
    assert z.any() and not z.all()
    torch.testing.assert_close(z, expected, rtol=1e-4, atol=1e-4)
    inputs = [t for t in (x, lam, *layer.parameters()) if t is not None]
    for ours, exact in zip(pull(z, inputs), pull(expected, inputs), strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-3, atol=1e-4 * float(exact.abs().max()))


def test_gradcheck_at_a_converged_code(case):
    build, x = case
    # Strongly convex, so that 600 steps reach the precision that differences of codes need.
    layer = build(ridge=0.7, steps=600, tol=None, gradient="implicit", pursuit="ista", learn_lam=True, nonneg=False)
    assert torch.autograd.gradcheck(lambda x, *_: layer(x), (x.requires_grad_(), *layer.parameters()), fast_mode=True)


@pytest.mark.parametrize("tol", [1e-3, 1e-5, 1e-7])
def test_the_gap_bounds_the_error(tol):
    layer, x = SparseCoding(12, 30, lam=0.4, steps=None, tol=1e-12).double(), torch.randn(6, 12).double()
    best = layer(x)
    layer.tol = tol
    z = layer(x.requires_grad_())
    atoms = layer.atoms.detach().requires_grad_()
    checked = 0
    for n in range(len(x)):
        if not torch.equal(z[n].sign(), best[n].sign()):
            continue
        on, g = best[n] != 0, torch.linspace(-1, 2, 30).double()
        exact = closed_form_row(atoms, x[n], 0.4, on)
        ours, found = torch.autograd.grad(exact, [x, atoms], g[on], retain_graph=True), []
        u = torch.linalg.solve(atoms[on] @ atoms[on].T, g[on]).detach()
        residual, direction = x[n] - z[n] @ atoms, u @ atoms[on]
        found = torch.zeros_like(atoms)
        found[on] = torch.outer(u, residual) - torch.outer(z[n][on], direction)
        gap = layer.problem(x).duality_gap(z)[n]
        least = torch.linalg.svdvals(atoms[on])[-1]
        assert (found - ours[1]).norm() <= (2 * gap).sqrt() * (u.norm() + direction.norm() / least) + 1e-9
        torch.testing.assert_close(direction, ours[0][n])
        checked += 1
    assert checked >= 3


def closed_form_row(atoms, x, lam, on):
    rows = atoms[on]
    return torch.linalg.solve(rows @ rows.T, rows @ x - lam)


def test_without_penalty_it_is_the_pseudo_inverse():
    layer = SparseCoding(5, 12, lam=0.0, nonneg=False, steps=2000, gradient="implicit").double()
    x, g = torch.randn(3, 5).double().requires_grad_(), torch.randn(3, 12).double()
    inverse = torch.linalg.pinv(layer.atoms.detach())  # (F, M): the code is x @ inverse
    z = layer(x)
    torch.testing.assert_close(z, x @ inverse)
    torch.testing.assert_close(torch.autograd.grad(z, x, g)[0], g @ inverse.T)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_supports_of_any_size_in_one_batch(layout):
    layer = CSC2d(2, 6, 3, padding=1, lam=1.0, steps=None, tol=1e-10).double().eval()
    x = torch.randn(4, 2, 5, 5).double().mul_(torch.tensor([1.0, 0.0, 40.0, 4.0]).double().view(-1, 1, 1, 1))
    x = x.to(memory_format=layout).requires_grad_()
    inputs = (x, *layer.parameters())
    of_x, of_weight = torch.autograd.grad(layer(x).square().sum(), inputs)
    alone = [torch.autograd.grad(layer(x[n : n + 1]).square().sum(), inputs) for n in range(4)]
    torch.testing.assert_close(of_x, sum(g[0] for g in alone))
    torch.testing.assert_close(of_weight, sum(g[1] for g in alone))
    assert not any(g.any() for g in alone[1])  # a code without support


def test_one_signal_with_the_weights_of_several_samples():
    layer = CSC2d(2, 6, 3, padding=1, lam=1.0, steps=None, tol=1e-8).double().eval()
    x, lam = torch.randn(1, 2, 5, 5).double().requires_grad_(), torch.rand(3, 1, 1, 1).double().requires_grad_()
    inputs = (x, lam, *layer.parameters())
    z, each = layer(x, lam=lam), layer(x.expand(3, -1, -1, -1), lam=lam)
    torch.testing.assert_close(z, each)
    gradients = (torch.autograd.grad(code.square().sum(), inputs) for code in (z, each))
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("rank", [6, 4])
def test_least_solution(rank):
    factor = torch.randn(3, 6, rank).double()
    matrix, b = factor @ factor.mT, torch.randn(3, 6).double()
    b[1] = 0
    b[2] = (matrix[2] @ b[2]) * 1e-3  # in the range
    solve = lambda u: (matrix @ u[..., None])[..., 0]  # noqa: E731
    u, left = least_solution(solve, b, matrix.norm(), 1e-10, 100)
    torch.testing.assert_close(u, (torch.linalg.pinv(matrix) @ b[..., None])[..., 0], rtol=1e-6, atol=1e-8)
    assert left[1] == 0 and left[2] < 1e-9 and (left[0] < 1e-9) == (rank == 6)


def test_a_gradient_in_the_null_space_is_no_nan():
    layer = SparseCoding(4, 6, lam=0.1, steps=None, tol=1e-6)
    atoms = layer.atoms.detach().clone()
    atoms[1] = atoms[0]  # twins have one code, and their difference has no gradient
    layer.dictionary.weight = atoms
    layer.dictionary.refresh()
    x = (2 * atoms[:1]).requires_grad_()
    z = layer.eval()(x)
    assert (z[0, :2] > 0).all()
    (z[0, 0] - z[0, 1]).backward()
    assert not x.grad.any()


def test_an_empty_batch(case):
    build, x = case
    layer, x = build(), x[:0].requires_grad_()
    z = layer(x)
    z.sum().backward()
    assert len(z) == 0 and x.grad.shape == x.shape
    assert not any(p.grad.any() for p in layer.parameters())


def test_what_is_kept_does_not_depend_on_the_steps():
    x, held = torch.randn(2, 2, 8, 8, requires_grad=True), []
    for steps in (200, 800, None):
        layer = CSC2d(2, 6, 3, padding=1, lam=0.5, steps=steps, tol=1e-2, gradient="implicit")
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, sizes=sizes: sizes.append(t.nbytes), lambda t: t):
            layer(x)
        held.append(sum(sizes))
    assert held[0] == held[1] == held[2]


def test_equilibrium_layer(case):
    build, x = case
    layer, x = build(tol=1e-4).float(), x.float()
    z = layer(x)
    assert (layer.problem(x).duality_gap(z) <= 1.1e-4 * x.square().flatten(1).sum(1) / 2).all()
    with torch.no_grad():
        torch.testing.assert_close(layer(x), z)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(layer(x.bfloat16().float()), layer(x), rtol=0.1, atol=0.1)
        layer.train()(x).sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


def test_trains_a_dictionary():
    layer = SparseCoding(8, 12, lam=0.1, steps=None, tol=1e-5)
    x, optimizer = torch.randn(32, 8), torch.optim.Adam(layer.parameters(), 0.02)
    losses = []
    for _ in range(30):
        loss = nn.functional.mse_loss(layer.synthesize(layer(x)), x)
        optimizer.zero_grad(), loss.backward(), optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_refused():
    x = torch.randn(2, 2, 8, 8, requires_grad=True)
    layer = CSC2d(2, 12, 3, padding=1, lam=0.01, steps=4, gradient="implicit").eval()
    with pytest.raises(RuntimeError, match=r"2 of 2 codes are no solutions after 4 steps: .* allowed 1\.0e-03"):
        layer(x)
    with torch.no_grad():
        layer(x)  # nobody asks for a gradient
    assert torch.func.jvp(layer, (x,), (x,))[1].any()  # transforms see the steps
    layer = CSC2d(2, 12, 3, padding=1, lam=0.5, steps=None, tol=1e-2).eval()
    with pytest.raises(RuntimeError, match=r"no second derivatives: use gradient='unroll'"):
        torch.autograd.grad(layer(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"not under a compiler or torch\.func: take a number of steps"):
        torch.func.jvp(layer, (x,), (x,))
    torch.compiler.reset()
    with pytest.raises(RuntimeError, match=r"not under a compiler or torch\.func: take a number of steps"):
        torch.compile(layer, backend="eager")(x)
    for options, message in (
        ({"steps": None}, r"steps=None solves to a tolerance: give tol"),
        (
            {"steps": None, "tol": 1e-3, "gradient": "unroll"},
            r"gradient='unroll' differentiates a number of steps, and ToTolerance\(tol=0\.001\) has none",
        ),
        ({"pursuit": "threshold", "gradient": "implicit"}, r"steps of Threshold\(\) do not end at one"),
    ):
        with pytest.raises(ValueError, match=message):
            CSC2d(2, 12, 3, **options)


def test_of_a_box_entries_at_the_bounds_count():
    """Differences, where the code is unique: fewer atoms than samples."""
    layer = SparseCoding(7, 5, lam=torch.full((5,), 0.3), learn_lam=True, penalty="box", steps=None, tol=1e-14).double()
    x, direction = torch.randn(2, 4, 7, dtype=torch.float64)
    x.requires_grad_()

    def value():
        return ((x - layer.synthesize(layer(x))) * direction).sum()

    with torch.no_grad():
        at = (layer(x).abs() - layer.lam).abs() < 1e-9
    assert 0 < at.sum() < at.numel()
    tensors = [x, *layer.parameters()]
    for tensor, gradient in zip(tensors, torch.autograd.grad(value(), tensors), strict=True):
        move, step = torch.randn_like(tensor), 1e-5
        with torch.no_grad():
            tensor.add_(step * move)
            ahead = value()
            tensor.sub_(2 * step * move)
            behind = value()
            tensor.add_(step * move)
        torch.testing.assert_close((gradient * move).sum(), (ahead - behind) / (2 * step), rtol=1e-4, atol=1e-6)
