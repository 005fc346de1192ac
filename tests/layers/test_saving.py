"""Layers are pickled, built without memory, and sharded."""

import copy
import io
import pickle
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from versions import shards_on_cpus

from csc_nets.layers import CSC2d, Dictionary2d, MultiLayerCSC, SparsePriorConv2d
from csc_nets.layers.effective import EffectiveDictionary2d


def coded(layer, x):
    try:
        return layer(x)
    except RuntimeError as error:  # untrained, it may find no solution
        return torch.tensor([len(str(error)) > 0])


def test_pickle_copies_a_layer(any_layer):
    _, build, shape = any_layer
    layer, x = build(), torch.randn(shape)
    coded(layer, x)
    layer.eval()
    for again in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        assert type(again).__name__ == type(layer).__name__ and repr(again) == repr(layer)
        assert list(again.state_dict()) == list(layer.state_dict())
        assert torch.equal(coded(again, x), coded(layer, x))
        for parameter in again.parameters():
            parameter.data.add_(1)
        again.load_state_dict(layer.state_dict())
        assert torch.equal(coded(again, x), coded(layer, x))


def test_the_dictionary_of_a_pickled_layer_stays_normalised():
    layer = pickle.loads(pickle.dumps(CSC2d(3, 8, 3, learn_lam=True)))
    layer.dictionary.weight = 5 * torch.randn(8, 3, 3, 3)
    torch.testing.assert_close(layer.atoms.flatten(1).norm(dim=1), torch.ones(8))
    layer.lam = 0.7
    assert layer.lam.item() == pytest.approx(0.7)


def test_other_processes_read_a_pickled_layer():
    layer, x = CSC2d(3, 8, 3, learn_lam=True).eval(), torch.ones(1, 3, 5, 5)
    program = "import pickle, sys, torch; layer, x = pickle.load(sys.stdin.buffer); print(layer(x).sum().item())"
    ran = subprocess.run([sys.executable, "-c", program], input=pickle.dumps((layer, x)), capture_output=True)
    assert float(ran.stdout) == pytest.approx(layer(x).sum().item(), rel=1e-5), ran.stderr.decode()


def test_joblib_takes_a_layer():
    joblib = pytest.importorskip("joblib", reason="joblib")
    layer, stream = CSC2d(3, 8, 3, learn_lam=True).eval(), io.BytesIO()
    joblib.dump(layer, stream)
    stream.seek(0)
    x = torch.randn(1, 3, 5, 5)
    assert torch.equal(joblib.load(stream)(x), layer(x))


RESET = {
    "learned lam": lambda **options: CSC2d(3, 8, 3, learn_lam=True, lam=0.3, **options),
    "per atom": lambda **options: CSC2d(3, 8, 3, learn_lam=True, lam=torch.linspace(0.1, 0.8, 8), **options),
    "fixed": lambda **options: CSC2d(3, 8, 3, lam=0.3, **options),
    "lista": lambda **options: CSC2d(3, 8, 3, pursuit="lista", steps=3, **options),
    "calibrated": lambda **options: CSC2d(3, 8, 3, pursuit="calibrated", **options),
    "prior": lambda **options: SparsePriorConv2d(3, 8, 3, rate=0.3, sigma=0.5, learn_sigma=True, steps=2, **options),
    "multi-layer": lambda **options: MultiLayerCSC(
        [Dictionary2d(3, 8, 3, **options), Dictionary2d(8, 5, 3, **options)],
        lam=[0.1, torch.linspace(0.1, 0.5, 5)],
        bias=True,
        step_size=0.1,
        learn_step=True,
        pursuit="ml_lista",
    ),
}


def lams(layer):
    return layer.lam if isinstance(layer.lam, tuple) else [layer.lam]


@pytest.mark.parametrize("kind", RESET)
@pytest.mark.parametrize("way", ["layer", "modules"])
def test_a_layer_without_memory_starts_as_any_other(kind, way):
    usual, layer, x = RESET[kind](), RESET[kind](device="meta"), torch.randn(2, 3, 8, 8)
    assert layer(x.to("meta")).is_meta
    layer.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in [*layer.parameters(), *layer.buffers()]:
            tensor.fill_(torch.nan)
    for module in [layer] if way == "layer" else layer.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    assert all(tensor.isfinite().all() for tensor in layer.state_dict().values())
    assert {k: v.shape for k, v in layer.state_dict().items()} == {k: v.shape for k, v in usual.state_dict().items()}
    for ours, theirs in zip(lams(layer), lams(usual), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert layer(x).isfinite().all() and layer(x).any()


def test_a_learned_number_has_an_axis_and_old_state_dicts_load():
    layers = [CSC2d(3, 8, 3, learn_lam=True), RESET["multi-layer"](), RESET["prior"]()]
    for layer in layers:
        assert all(parameter.ndim for parameter in layer.parameters())
        state = layer.state_dict()
        old = {key: value.reshape(()) + 0.5 if value.shape == (1,) else value for key, value in state.items()}
        assert any(value.ndim == 0 and key not in dict(layer.named_buffers()) for key, value in old.items())
        network = nn.Sequential(layer)
        network.load_state_dict({f"0.{key}": value for key, value in old.items()})
        for key, value in network.state_dict().items():
            assert torch.equal(value.flatten(), old[key.removeprefix("0.")].flatten()), key
    assert layers[0].lam.shape == ()


@pytest.fixture
def mesh(tmp_path):
    """One process."""
    if dist.is_initialized():
        pytest.skip("another test has started torch.distributed")
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@shards_on_cpus
@pytest.mark.parametrize("kind", RESET)
def test_fully_shard_trains_as_one_process_does(kind, mesh):
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    plain, x = nn.Sequential(RESET[kind](), nn.Flatten()), torch.randn(4, 3, 8, 8)
    sharded = copy.deepcopy(plain)
    fsdp.fully_shard(sharded[0], mesh=mesh)
    fsdp.fully_shard(sharded, mesh=mesh)
    for network in (plain, sharded):
        optimizer = torch.optim.Adam(network.parameters(), 0.01)
        for _ in range(2):
            optimizer.zero_grad()
            network(x).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(sharded(x), plain(x))


@pytest.mark.parametrize("pursuit", ["layered_basis_pursuit", "ml_fista", "all_free"])
def test_a_product_of_dictionaries_is_one_of_several(pursuit):
    product = EffectiveDictionary2d([Dictionary2d(1, 4, 3), Dictionary2d(4, 6, 3)])
    layer = MultiLayerCSC([product, Dictionary2d(6, 5, 3)], pursuit=pursuit, steps=2, lam=0.01)
    x = torch.randn(2, 1, 12, 12)
    z = layer(x)
    assert z.shape == (2, 5, 6, 6) and z.any()
    z.sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())
    if pursuit != "all_free":  # whose dictionaries know nothing of each other before they are trained
        assert (layer.objective(x, z) < layer.objective(x, torch.zeros_like(z))).all()
