"""What saves a layer as a graph, and what rewrites its weights: torch.jit, torch.export, ONNX, torch.fx, pruning."""

import io

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from versions import exporting

from csc_nets.layers import CSC2d, SparsePriorConv2d

FIXED = ("scattering", "pooled, some blocks")  # made for one size


def other(name, shape):
    """An input of another batch size, height and width."""
    grown = 0 if name in FIXED else 5
    return torch.randn(shape[0] + 1, shape[1], *(n + grown for n in shape[2:]))


def skip(name):
    if name == "equilibrium":
        pytest.skip("it looks at its codes to know when to stop")


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_jit(any_layer):
    name, build, shape = any_layer
    skip(name)
    layer = build().eval()
    stream = io.BytesIO()
    torch.jit.save(torch.jit.trace(layer, torch.randn(shape), check_trace=False), stream)
    stream.seek(0)
    graph = torch.jit.load(stream)
    for x in (torch.randn(shape), other(name, shape)):
        torch.testing.assert_close(graph(x), layer(x), rtol=1e-4, atol=1e-5)


def free(name, shape):
    axes = [0] if name in FIXED else [0, *range(2, len(shape))]
    return (dict.fromkeys(axes, torch.export.Dim.DYNAMIC),)


def test_export_with_a_free_size(any_layer):
    name, build, shape = any_layer
    skip(name)
    layer = build().eval()
    with exporting():
        graph = torch.export.export(layer, (torch.randn(shape),), dynamic_shapes=free(name, shape)).module()
    for x in (torch.randn(shape), other(name, shape)):
        torch.testing.assert_close(graph(x), layer(x), rtol=1e-4, atol=1e-5)


def test_onnx_with_a_free_size(any_layer, tmp_path):
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package, reason=package)
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime")
    name, build, shape = any_layer
    skip(name)
    if name in ("implicit", "scattering"):
        pytest.skip("half a minute")
    if name == "whitened":
        pytest.skip("its filter comes from inverses of complex matrices, which ONNX has none of")
    layer = build().eval()
    program = torch.onnx.export(layer, (torch.randn(shape),), dynamo=True, dynamic_shapes=free(name, shape))
    program.save(tmp_path / "layer.onnx")
    session = runtime.InferenceSession(tmp_path / "layer.onnx")
    for x in (torch.randn(shape), other(name, shape)):
        (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), layer(x), rtol=1e-3, atol=1e-4)


def test_fx_keeps_a_layer_whole(any_layer):
    name, build, shape = any_layer
    layer, x = build().eval(), torch.randn(shape)
    network = nn.Sequential(layer, nn.Flatten())
    graph = torch.fx.symbolic_trace(network)
    assert graph.get_submodule("0") is layer
    if name != "equilibrium":
        assert torch.equal(graph(x), network(x))
    with pytest.raises(TypeError, match=r"keeps .* whole: trace nn.Sequential\(layer\) instead"):
        torch.fx.symbolic_trace(layer)


@pytest.mark.parametrize("unit_norm", [True, False])
def test_pruned_atoms_stay_zero_in_training(unit_norm):
    if unit_norm:
        layer = CSC2d(3, 8, 3, padding=1)
        where = (layer.dictionary.parametrizations.weight, "original")
    else:
        layer = SparsePriorConv2d(3, 8, 3, padding=1, unit_norm=False)
        where = (layer.dictionary, "weight")
    x = torch.randn(2, 3, 8, 8)
    prune.l1_unstructured(*where, amount=0.5)
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    before = layer.atoms.detach().clone()
    for _ in range(3):
        optimizer.zero_grad()
        layer(x).square().sum().backward()
        optimizer.step()
    z = layer.eval()(x)
    assert torch.equal(layer.atoms == 0, before == 0) and (before == 0).float().mean() == 0.5
    assert not torch.equal(layer.atoms, before)
    prune.remove(*where)
    assert torch.equal(layer(x), z) and not any("orig_" in key or "mask" in key for key in layer.state_dict())
