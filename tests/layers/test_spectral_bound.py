"""The step size is never stale: whatever way the atoms changed, the next forward pass has their bound."""

import copy
import io
import warnings

import pytest
import torch
from torch import nn

from csc_nets.functional import largest_eigenpair, unit_norm
from csc_nets.functional.operators.fingerprint import fingerprint, moved
from csc_nets.functional.problem import SAFETY
from csc_nets.layers import CSC1d, CSC2d, Dictionary2d, MultiLayerCSC, PooledCSC2d, SparseCoding
from csc_nets.layers.effective import EffectiveCSC2d

ORIGINAL = "parametrizations.weight.original"


def smooth(*shape):
    """Atoms that resemble each other: their norm is many times that of random ones."""
    return 1 + 0.3 * torch.randn(shape)


def build(**options):
    torch.manual_seed(0)
    return CSC2d(1, 16, 7, padding=3, **{"lam": 0.1, "steps": 20, **options})


def exact(dictionary, weight=None):
    """The squared norm of the atoms on the signals of the probe."""
    weight = (dictionary.weight if weight is None else weight).detach().double().clone()
    geometry, size = dictionary.geometry.probe()
    apply = lambda u: geometry.synthesis(geometry.analysis(u, weight), weight, size)  # noqa: E731
    return largest_eigenpair(apply, torch.randn(1, weight.shape[1], *size, dtype=torch.float64), 80)[1].item()


def trained(layer):
    return layer.dictionary.get_parameter(ORIGINAL)


@torch.no_grad()
def through_data(layer, atoms):
    trained(layer).data.copy_(atoms)


@torch.no_grad()
def in_place(layer, atoms):
    trained(layer).copy_(atoms)


def by_atoms(layer, atoms):
    layer.atoms = atoms


def by_set_atoms(layer, atoms):
    layer.dictionary.set_atoms(atoms)


def by_weight(layer, atoms):
    layer.dictionary.weight = atoms


def by_parameter(layer, atoms):
    layer.dictionary.weight = nn.Parameter(atoms)


def by_part_of_a_state_dict(layer, atoms):
    layer.load_state_dict({f"dictionary.{ORIGINAL}": atoms}, strict=False)


def by_whole_state_dict(layer, atoms):
    layer.load_state_dict({**layer.state_dict(), f"dictionary.{ORIGINAL}": atoms})


def by_assigned_state_dict(layer, atoms):
    layer.load_state_dict({f"dictionary.{ORIGINAL}": nn.Parameter(atoms)}, strict=False, assign=True)


def by_multiplication(layer, atoms):
    trained(layer).data.mul_(0).add_(atoms)


def by_average(layer, atoms):
    twin = copy.deepcopy(layer)
    twin.atoms = atoms
    state, other = layer.state_dict(), twin.state_dict()
    layer.load_state_dict({k: state[k] + (other[k] - state[k]) for k in state})


def by_large_step(layer, atoms):
    optimizer = torch.optim.SGD([trained(layer)], lr=1.0)
    trained(layer).grad = trained(layer).detach() - atoms
    optimizer.step()


def by_averaged_model(layer, atoms):
    twin = copy.deepcopy(layer)
    twin.atoms = atoms
    averaged = torch.optim.swa_utils.AveragedModel(layer, avg_fn=lambda old, new, count: new)
    averaged.update_parameters(layer), averaged.update_parameters(twin)
    layer._modules["dictionary"] = averaged.module.dictionary


WAYS = [
    through_data,
    in_place,
    by_atoms,
    by_set_atoms,
    by_weight,
    by_parameter,
    by_part_of_a_state_dict,
    by_whole_state_dict,
    by_assigned_state_dict,
    by_multiplication,
    by_average,
    by_large_step,
    by_averaged_model,
]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_the_next_forward_pass_has_the_bound_of_new_atoms(way, training):
    x = torch.rand(2, 1, 24, 24)
    atoms = smooth(16, 1, 7, 7)
    fresh = build()
    fresh.atoms = atoms
    layer = build().train(training)
    layer(x)  # with the old atoms
    with torch.no_grad():
        way(layer, atoms)
        code = layer(x)
    torch.testing.assert_close(layer.atoms.detach(), fresh.atoms.detach())
    assert SAFETY * exact(layer.dictionary) <= layer.dictionary.lipschitz.item() <= 1.05 * exact(layer.dictionary)
    torch.testing.assert_close(code, fresh.eval()(x).detach(), rtol=0.02, atol=1e-2)
    assert (code != 0).any() and code.isfinite().all()


def test_a_single_atom_that_changes_is_seen():
    layer = build(lam=0.01).eval()
    x = torch.rand(1, 1, 24, 24)
    layer(x)
    trained(layer).data[3].fill_(1)
    layer(x)
    assert SAFETY * exact(layer.dictionary) <= layer.dictionary.lipschitz.item()
    assert layer.dictionary.lipschitz > 40  # a box filter alone has 49


def test_copies_are_their_own():
    layer = build().eval()
    bound = layer.dictionary.lipschitz.item()
    for twin in (copy.deepcopy(layer), copy.deepcopy(layer).double()):
        in_place(twin, smooth(16, 1, 7, 7))
        twin(torch.rand(1, 1, 24, 24).to(twin.atoms.dtype))
        assert SAFETY * exact(twin.dictionary) <= twin.dictionary.lipschitz.item()
    assert layer.dictionary.lipschitz.item() == bound


@pytest.mark.parametrize("training", [True, False])
def test_functional_call_with_other_weights(training):
    layer, x, atoms = build().train(training), torch.rand(2, 1, 24, 24), smooth(16, 1, 7, 7)
    fresh = build().train(training)
    before = fresh(x).detach()
    with torch.no_grad():
        code = torch.func.functional_call(layer, {f"dictionary.{ORIGINAL}": atoms}, (x,))
        back = layer(x)  # with its own again
        fresh.atoms = atoms
        torch.testing.assert_close(code, fresh(x), rtol=0.02, atol=1e-2)
    torch.testing.assert_close(back, before, rtol=0.02, atol=1e-2)


@pytest.mark.parametrize("training", [True, False])
def test_under_a_compiler(training):
    torch.compiler.reset()
    layer, x, atoms = build().train(training), torch.rand(2, 1, 24, 24), smooth(16, 1, 7, 7)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    compiled(x)
    for way in (through_data, in_place):
        way(layer, atoms)
        expected = copy.deepcopy(layer)(x)
        torch.testing.assert_close(compiled(x), expected, rtol=1e-3, atol=1e-4)
        assert SAFETY * exact(layer.dictionary) <= layer.dictionary.lipschitz.item()
        atoms = torch.randn(16, 1, 7, 7)


def test_exported_and_traced_programs_have_the_bound():
    """With the right bound where anything of ours ran in between; else with a loose one, which is safe."""
    layer, x = build(steps=3).eval(), torch.rand(2, 1, 24, 24)
    by_part_of_a_state_dict(layer, smooth(16, 1, 7, 7))
    expected = copy.deepcopy(layer)(x)
    torch.testing.assert_close(torch.export.export(layer, (x,)).module()(x), expected)
    program = torch.export.export(layer, (x,))
    through_data(layer, smooth(16, 1, 7, 7).sub(0.5))
    late = torch.export.export(layer, (x,)).module()(x)
    values = [layer.objective(x, z) for z in (torch.zeros_like(late), late)]
    assert (values[1] < values[0]).all()
    assert "csc_nets" not in str(program.graph)  # runs where this package is not
    layer, x = CSC2d(3, 8, 3, padding=1, steps=3).eval(), torch.rand(2, 3, 8, 8)
    layer.atoms = smooth(8, 3, 3, 3)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.testing.assert_close(torch.jit.trace(layer, (x,))(x), layer(x))


def test_torch_func_sees_a_safe_bound():
    layer, x = build(steps=50).eval(), torch.rand(2, 1, 12, 12)
    weights = torch.stack([trained(layer).detach(), smooth(16, 1, 7, 7)])
    call = lambda w: torch.func.functional_call(layer, {f"dictionary.{ORIGINAL}": w}, (x,))  # noqa: E731
    codes = torch.func.vmap(call)(weights)
    torch.testing.assert_close(codes[0], layer(x), rtol=1e-4, atol=1e-4)
    twin = copy.deepcopy(layer)
    twin.atoms = weights[1]
    assert (twin.objective(x, codes[1]) < twin.objective(x, torch.zeros_like(codes[1]))).all()
    gradient = torch.func.grad(lambda w: call(w).square().sum())(weights[1])
    assert gradient.isfinite().all()


@pytest.mark.parametrize("rate, kind", [(0.1, "SGD"), (1.0, "SGD"), (10.0, "SGD"), (1e-3, "Adam"), (1e-1, "Adam")])
def test_the_bound_keeps_up_in_training(rate, kind):
    """Images with a mean make the atoms grow alike: an eigenvector far from the one that was tracked takes over."""
    torch.manual_seed(0)
    layer = CSC2d(3, 32, 5, padding=2, lam=0.1, steps=4)
    optimizer = getattr(torch.optim, kind)(layer.parameters(), lr=rate)
    worst = 0.0
    for _ in range(40):
        x = 3 * nn.functional.avg_pool2d(torch.randn(4, 3, 20, 20), 5, 1) + torch.randn(4, 3, 1, 1)
        z = layer(x)
        worst = max(worst, SAFETY * exact(layer.dictionary) / layer.dictionary.lipschitz.item())
        loss = 10 * (x - layer.synthesize(z, (16, 16))).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert worst < 1.03


@pytest.mark.parametrize("calm", [0, 50])
@pytest.mark.parametrize("length", [0.002, 0.01, 0.04])
@pytest.mark.parametrize("channels, atoms, kernel", [(3, 32, 5), (16, 256, 3), (3, 128, 7)])
def test_atoms_that_climb_the_norm(channels, atoms, kernel, length, calm):
    """The worst that training can do: every atom turns to where the norm grows fastest, at once or after calm steps."""
    torch.manual_seed(0)
    layer, x = CSC2d(channels, atoms, kernel, padding=kernel // 2, lam=0.1), torch.randn(1, channels, 12, 12)
    for _ in range(calm):
        in_place(layer, trained(layer) + 1e-3 * unit_norm(torch.randn(atoms, channels, kernel, kernel)))
        layer(x)
    for _ in range(10):
        weight = layer.dictionary.weight.detach().requires_grad_()
        spectrum = torch.fft.fft2(weight, s=(16, 16)).permute(2, 3, 0, 1)
        (uphill,) = torch.autograd.grad(torch.linalg.matrix_norm(spectrum, 2).amax(), weight)
        in_place(layer, weight.detach() + length * unit_norm(uphill))
        layer(x)
        assert SAFETY * exact(layer.dictionary) <= layer.dictionary.lipschitz.item()


def test_evaluation_after_a_training_step():
    layer, x = build(), torch.rand(2, 1, 24, 24)
    layer(x)
    by_large_step(layer, smooth(16, 1, 7, 7))
    layer.eval()
    assert SAFETY * exact(layer.dictionary) <= layer.dictionary.lipschitz.item()  # before any forward pass: for exports
    state = copy.deepcopy(layer.state_dict())
    layer(x)
    assert all(torch.equal(state[k], v) for k, v in layer.state_dict().items())


@pytest.mark.parametrize("training", [True, False])
def test_going_back_to_weights_of_before(training):
    """The bound has followed the atoms since: it was computed for these once, and is not theirs any more."""
    layer, x = CSC2d(1, 16, 5, padding=2, lam=0.1, steps=10), torch.rand(2, 1, 24, 24)
    layer.atoms = smooth(16, 1, 5, 5)
    start, first = copy.deepcopy(layer.atoms.detach()), layer.dictionary.lipschitz.item()
    for _ in range(60):
        in_place(layer, trained(layer) - 0.01 * trained(layer).mean((2, 3), keepdim=True))
        layer(x)
    assert layer.dictionary.lipschitz < 0.85 * first
    through_data(layer.train(training), start)
    layer(x)
    assert SAFETY * exact(layer.dictionary) <= layer.dictionary.lipschitz.item()


def test_weights_that_stay_cost_no_computation(monkeypatch):
    calls = []
    monkeypatch.setattr("csc_nets.layers.spectral_bound.lanczos", lambda *args: calls.append(1))
    monkeypatch.setattr("csc_nets.layers.spectral_bound.follow", lambda *args: calls.append(2))
    layer, x = build().eval(), torch.rand(2, 1, 24, 24)
    calls.clear()
    for _ in range(3):
        layer(x), layer.objective(x, layer(x)), layer.problem(x).step_size
    layer.train()(x)  # frozen atoms
    layer.eval()
    with torch.inference_mode():
        layer(x)
    assert not calls


def test_a_bound_of_a_checkpoint_stays_where_it_is_as_good_as_a_fresh_one():
    layer, x = build(), torch.rand(2, 1, 24, 24)
    state = layer.state_dict()
    state["dictionary.lipschitz"] = state["dictionary.lipschitz"] * 1.01
    other = CSC2d(1, 16, 7, padding=3, lam=0.1, steps=20).eval()
    other.load_state_dict(state)
    other(x)
    assert torch.equal(other.dictionary.lipschitz, state["dictionary.lipschitz"])
    state["dictionary.lipschitz"] = state["dictionary.lipschitz"] / 2
    other.load_state_dict(state)
    in_place(other, layer.atoms.detach().roll(1, 0))
    other(x)
    assert SAFETY * exact(other.dictionary) <= other.dictionary.lipschitz.item()


def test_a_state_dict_of_an_older_version_is_loaded():
    """It has the bound and its direction only, not what training goes on from."""
    state, x = build().state_dict(), torch.rand(2, 1, 24, 24)
    old = {k: v for k, v in state.items() if not k.endswith(("seen", "reference", "scan"))}
    assert sorted(old) == sorted([f"dictionary.{ORIGINAL}", "dictionary.direction", "dictionary.lipschitz", "lam"])
    ours, theirs = build(), build()
    ours.load_state_dict(state)
    theirs.load_state_dict(old)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_from_the_meta_device():
    state, x = build().state_dict(), torch.rand(2, 1, 24, 24)
    expected = build().eval()(x)
    with torch.device("meta"):
        assigned, emptied = (CSC2d(1, 16, 7, padding=3, lam=0.1, steps=20).eval() for _ in range(2))
    assigned.load_state_dict(state, assign=True)
    assigned.lam = 0.1  # what a layer knows of its device when lam is loaded is the meta device
    torch.testing.assert_close(assigned(x), expected)
    torch.testing.assert_close(assigned.train()(x), expected, rtol=0.02, atol=1e-2)
    emptied.to_empty(device="cpu").load_state_dict(state)
    torch.testing.assert_close(emptied(x), expected)


@pytest.mark.parametrize(
    "layer",
    [
        SparseCoding(12, 30),
        CSC1d(2, 8, 5, stride=2, padding=2),
        PooledCSC2d(1, 8, 5, steps=3, step_size=None),
        CSC2d(1, 8, 3, padding=1, padding_mode="reflect"),
        CSC2d(1, 8, 3, stride=2, padding=1, padding_mode="circular"),
    ],
    ids=lambda layer: type(layer).__name__,
)
@pytest.mark.parametrize("training", [True, False])
def test_every_layer(layer, training):
    layer = copy.deepcopy(layer).train(training)
    shape = layer.atoms.shape
    size = (12,) * (len(shape) - 2)
    x = torch.randn(2, shape[1], *size)
    layer(x)
    for _ in range(2):
        trained(layer).data.copy_(smooth(*shape))
        layer(x)
        fresh = copy.deepcopy(layer.dictionary)
        fresh.refresh()
        assert layer.dictionary.lipschitz >= 0.98 * fresh.lipschitz > 3


def test_a_multi_layer_model_keeps_all_bounds():
    model = MultiLayerCSC([Dictionary2d(1, 8, 5), Dictionary2d(8, 12, 3)], pursuit="layered_basis_pursuit").eval()
    for dictionary in model.dictionaries:
        dictionary.get_parameter(ORIGINAL).data.copy_(smooth(*dictionary.weight.shape))
    model(torch.rand(1, 1, 20, 20))
    for dictionary in model.dictionaries:
        assert SAFETY * exact(dictionary) <= dictionary.lipschitz.item()


@pytest.mark.parametrize(
    "write",
    [
        lambda w: w.data.copy_(torch.ones_like(w)),
        lambda w: w.detach().zero_(),
        lambda w: w.data[1].fill_(2),
        lambda w: w.data.__setitem__(0, 1.0),
        lambda w: w.flatten(1).mul_(2),
        lambda w: nn.init.normal_(w),
        lambda w: torch.mul(w, 2, out=w.data),
        lambda w: setattr(w, "data", torch.ones_like(w)),
        lambda w: w.__imul__(2),
        lambda w: nn.functional.relu(w.detach(), inplace=True),
        lambda w: torch._foreach_mul_([w.detach()], 2.0),
    ],
)
def test_writes_that_would_be_lost_are_refused(write):
    layer = build()
    effective = EffectiveCSC2d([Dictionary2d(1, 4, 3), Dictionary2d(4, 6, 3)])
    for atoms in (layer.atoms, layer.dictionary.weight, effective.atoms):
        with torch.no_grad(), pytest.raises(RuntimeError, match=r"layer\.atoms = W or dictionary\.set_atoms\(W\)"):
            write(atoms)
    plain = Dictionary2d(1, 4, 3, unit_norm=False)
    with torch.no_grad():
        write(plain.weight)  # the trained tensor itself


def test_what_is_read_may_be_used_like_any_tensor():
    layer = build()
    atoms = layer.atoms
    for made in (atoms + 1, atoms.norm(), atoms.clone(), torch.cat([atoms, atoms]), copy.deepcopy(atoms)):
        assert type(made) is torch.Tensor
    torch.autograd.grad(atoms[0].square().sum(), trained(layer))
    with pytest.raises(ValueError, match="read-only"):
        atoms.detach().numpy()[0] = 1
    file = io.BytesIO()
    torch.save(atoms.detach(), file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=True), atoms)
    conv = nn.Conv2d(1, 16, 7)
    conv.weight = nn.Parameter(atoms.detach())
    with torch.no_grad():
        conv.weight.mul_(2)
    assert type(conv.weight) is nn.Parameter and torch.equal(conv.weight, 2 * layer.atoms)
    into = torch.zeros_like(atoms)
    assert type(into) is torch.Tensor
    into.copy_(atoms.detach())


def test_atoms_that_do_not_fit_are_refused():
    layer, before = build(), build().atoms.detach().clone()
    for bad in (torch.ones(16, 1, 5, 5), torch.full((16, 1, 7, 7), torch.nan)):
        for way in (by_atoms, by_set_atoms, by_weight, by_parameter):
            with pytest.raises(ValueError, match=r"atoms must be finite and of shape \(16, 1, 7, 7\)"):
                way(layer, bad)
    assert torch.equal(layer.atoms, before)


def test_plain_weights_may_be_replaced():
    dictionary = Dictionary2d(1, 16, 7, padding=3, unit_norm=False).eval()
    new = nn.Parameter(smooth(16, 1, 7, 7))
    dictionary.weight = new
    assert dictionary.weight is new
    assert SAFETY * exact(dictionary) <= dictionary.lipschitz.item()
    dictionary.weight = 3 * new.detach()
    assert dictionary.weight is new
    assert SAFETY * exact(dictionary) <= dictionary.lipschitz.item()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_fingerprint(memory_format, dtype):
    weight = torch.randn(64, 16, 3, 3, dtype=dtype)
    weight = (weight / weight.flatten(1).norm(dim=1).view(-1, 1, 1, 1)).to(memory_format=memory_format)
    marks = fingerprint(weight)
    torch.testing.assert_close(marks, fingerprint(weight.contiguous(), cached=True))
    assert 0.7 < marks.square().mean() < 1.3
    assert moved(marks, marks) == 0
    turned = fingerprint(weight + 0.1 * torch.randn_like(weight) / 12)
    assert 0.1 < moved(turned, marks) < 0.5  # the largest of 64 numbers of deviation 0.1
    assert moved(marks, torch.full_like(marks, torch.nan)).isnan()
