"""An accelerator without an accelerator: tensors that claim to lie there, and have no values.

An operation on tensors of two devices fails, and so does reading a value back, for which a program would wait.
"""

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.fx.experimental.proxy_tensor import make_fx
from versions import fake_devices

pytestmark = fake_devices

# Where a sample is done is read after every step, by design.
LOOKS = ("tolerance", "implicit", "equilibrium")


def on_cuda(mode, layer):
    """Parameters and buffers of a layer as tensors without values."""
    tensors = [*layer.named_parameters(), *layer.named_buffers()]
    return {name: mode.from_tensor(tensor).to("cuda") for name, tensor in tensors}


def is_on_cuda(outputs):
    outputs = outputs if isinstance(outputs, tuple | list) else [outputs]
    return all(output.device.type == "cuda" for output in outputs)


@pytest.mark.parametrize("training", [True, False])
def test_forward(any_layer, training):
    name, build, shape = any_layer
    layer = build().train(training)
    with FakeTensorMode() as mode, torch.no_grad():
        state, x = on_cuda(mode, layer), torch.empty(shape, device="cuda")
        if name in ("tolerance", "equilibrium"):
            with pytest.raises(DataDependentOutputException):
                torch.func.functional_call(layer, state, (x,))
        else:
            assert is_on_cuda(torch.func.functional_call(layer, state, (x,)))


def test_arguments_of_a_forward(any_layer):
    name, build, shape = any_layer
    layer = build()
    if not hasattr(layer, "gradient") or name in LOOKS:
        return
    with FakeTensorMode() as mode, torch.no_grad():
        state, x = on_cuda(mode, layer), torch.empty(shape, device="cuda")
        code = torch.func.functional_call(layer, state, (x,))
        lam = torch.empty(shape[0], *(1,) * (code.ndim - 1), device="cuda")
        given = {"lam": lam, "init": code, "mask": torch.ones(shape, device="cuda")}
        for some in ({"lam": 0.2}, given):
            assert is_on_cuda(torch.func.functional_call(layer, state, (x,), some))


def test_forward_and_backward_as_one_graph(any_layer):
    """Traced where the engine of gradients runs without an accelerator, then read as a graph for one."""
    name, build, shape = any_layer
    if name in LOOKS:
        return
    layer = build().train().to("meta")
    trained = [key for key, parameter in layer.named_parameters() if parameter.requires_grad]

    def step(state, x):
        value = torch.func.functional_call(layer, state, (x,)).square().sum()
        wanted = [state[key] for key in trained] or [x]
        return torch.autograd.grad(value, wanted, materialize_grads=True)  # the atoms behind LISTA's filters rest

    state = {key: tensor.detach() for key, tensor in [*layer.named_parameters(), *layer.named_buffers()]}
    x = torch.empty(shape, device="meta", requires_grad=not trained)
    graph = make_fx(step)({key: tensor.requires_grad_(key in trained) for key, tensor in state.items()}, x)
    for node in graph.graph.nodes:
        if node.kwargs.get("device") == torch.device("meta"):
            node.kwargs = {**node.kwargs, "device": torch.device("cuda")}
    graph.recompile()
    with FakeTensorMode(), torch.no_grad():
        inputs = {key: torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda") for key, tensor in state.items()}
        assert is_on_cuda(graph(inputs, torch.empty(shape, device="cuda")))
