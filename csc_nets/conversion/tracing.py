"""Finds the convolutions and linear layers of a network, and what follows them, by tracing its graph."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from csc_nets.functional.operators.geometry import PADDING_MODES

__all__ = ["Place", "find_places"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
# Activations f with f(max(y, 0)) = f(y): they stay behind the layer.
_RELU_MODULES = (nn.ReLU, nn.ReLU6)
_RELU_FUNCTIONS = (F.relu, F.relu_, F.relu6, torch.relu, torch.relu_)
_RELU_METHODS = ("relu", "relu_")


@dataclass
class Place:
    """A layer of a network that may be converted.

    Attributes:
        name: of the module.
        layer: the module.
        norm: name of the batch norm that can go into the layer; None for none.
        rectified: whether a ReLU follows.
        reason: why the layer stays as it is; empty where it can be converted.
        ends: whether its output is that of the network.
    """

    name: str
    layer: nn.Module
    norm: str | None = None
    rectified: bool = False
    reason: str = ""
    ends: bool = False


@torch.no_grad()
def _is_as_its_base(m: Any) -> bool:
    """Whether a subclass of a layer of torch, which torch's rule looks into, computes what that layer does."""
    if m.weight.is_meta:
        return False
    base: Any = next(kind for kind in type(m).__mro__ if kind.__module__.startswith("torch.nn."))
    if isinstance(m, nn.Linear):
        shape: tuple[int, ...] = (2, m.in_features)
    else:
        sides = [d * (k - 1) + 2 + s for d, k, s in zip(m.dilation, m.kernel_size, m.stride, strict=True)]
        shape = (2, m.in_channels, *sides)
    x = torch.linspace(-1, 1, math.prod(shape)).view(shape).to(m.weight)
    try:
        own, plain = m.forward(x), base.forward(m, x)  # without hooks, which may keep what they see
    except Exception:  # whatever the Python of a subclass raises
        return False
    return isinstance(own, Tensor) and own.shape == plain.shape and bool(torch.equal(own, plain))


class _Tracer(fx.Tracer):
    """Traces a module; parts whose Python cannot be traced stay whole, and are listed."""

    def __init__(self) -> None:
        super().__init__()
        self.whole: list[str] = []

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        whole = isinstance(m, _BatchNorm) or super().is_leaf_module(m, module_qualified_name)
        return whole or (isinstance(m, (*_CONVOLUTIONS, nn.Linear)) and _is_as_its_base(m))

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        last = next(iter(reversed(self.graph.nodes)))
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:  # whatever the Python of a network raises when it sees no numbers
            name = self.path_of_module(m)
            for node in list(reversed(self.graph.nodes)):
                if node is last:
                    break
                self.graph.erase_node(node)
            self.whole.append(name)
            return self.create_proxy("call_module", name, args, kwargs)


def find_places(model: nn.Module) -> list[Place]:
    """The convolutions and linear layers of a network, in the order of its modules."""
    calls: dict[str, list[tuple[fx.Node, dict[str, nn.Module]]]] = {}
    read: set[str] = set()
    _trace(model, "", calls, read)
    outputs = {name for name, nodes in calls.items() if any(_ends(node, own) for node, own in nodes)}
    modules, places = dict(model.named_modules()), []
    for name, module in modules.items():
        if not isinstance(module, (*_CONVOLUTIONS, nn.Linear)):
            continue
        place = Place(name, module, reason=_obstacle(module))
        place.ends, called = name in outputs, calls.get(name, [])
        if not place.reason and any(r == name or r.startswith(f"{name}.") for r in read):
            place.reason = "other code reads its weights"
        elif not place.reason and not called:
            place.reason = "no call of it was seen in the graph"
        elif not place.reason and place.ends:
            place.reason = "its output is that of the network"
        elif not place.reason and len(called) == 1:
            node, own = called[0]
            prefix = name[: len(name) - len(str(node.target))]
            _look_behind(place, node, own, prefix, calls)
        places.append(place)
    return places


def _trace(model: nn.Module, prefix: str, calls: dict[str, Any], read: set[str]) -> None:
    """Adds the calls of modules, by name, and the names of tensors that code reads."""
    tracer = _Tracer()
    try:
        graph = tracer.trace(model)
    except Exception:
        inner = [name for name, _ in model.named_children()]
    else:
        own = dict(model.named_modules())
        for node in graph.nodes:
            if node.op == "call_module":
                node.meta["outermost"] = not prefix
                calls.setdefault(prefix + str(node.target), []).append((node, own))
            elif node.op == "get_attr":
                read.add(prefix + str(node.target))
        inner = [f"{name}.{child}" for name in dict.fromkeys(tracer.whole) for child, _ in own[name].named_children()]
    for name in inner:
        part = model.get_submodule(name)
        if isinstance(part, nn.ModuleList | nn.ModuleDict):
            for child, module in part.named_children():
                _trace(module, f"{prefix}{name}.{child}.", calls, read)
        elif next(part.children(), None) is not None:
            _trace(part, f"{prefix}{name}.", calls, read)


def _ends(node: fx.Node, own: dict[str, nn.Module]) -> bool:
    """Whether the output of a node is that of the whole network, perhaps with other axes or without some numbers."""
    if not node.meta.get("outermost", True):
        return False
    for user in node.users:
        passes = user.op == "call_module" and isinstance(own[str(user.target)], (nn.Identity, nn.Dropout, nn.Flatten))
        if user.op == "output" or (passes and _ends(user, own)):
            return True
    return False


def _obstacle(module: Any) -> str:
    """Why a module cannot be converted; empty where it can."""
    own = next(kind for kind in (*_CONVOLUTIONS, nn.Linear) if isinstance(module, kind))
    forward = [name for name in ("forward", "_conv_forward") if hasattr(own, name)]
    changed = any(getattr(type(module), f) is not getattr(own, f) or f in vars(module) for f in forward)
    if (changed and not _is_as_its_base(module)) or torch.nn.utils.parametrize.is_parametrized(module):
        return "with a forward or a parametrization of its own"
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks:
        return "with hooks"
    if not isinstance(module.weight, Tensor) or isinstance(module.weight, nn.UninitializedParameter):
        return "without weights yet"
    if module.weight.numel() == 0 or not module.weight.is_floating_point():
        return f"with weights {tuple(module.weight.shape)} of {module.weight.dtype}"
    if getattr(module, "padding_mode", "zeros") not in PADDING_MODES:
        return f"with padding_mode {module.padding_mode!r}"
    return ""


def _look_behind(place: Place, node: fx.Node, own: dict[str, nn.Module], prefix: str, calls: dict[str, Any]) -> None:
    """Notes the batch norm and the ReLU behind a layer, where nothing else reads what is between."""
    norm = None
    after = _only_reader(node, own)
    if after is not None and isinstance(place.layer, _CONVOLUTIONS) and after.op == "call_module":
        module: Any = own[str(after.target)]
        name = prefix + str(after.target)
        if type(module) in _NORMS and len(calls[name]) == 1 and not module._forward_hooks:
            norm, after = name, _only_reader(after, own)
    if after is not None and _rectifies(after, own):
        place.rectified, place.norm = True, norm


def _only_reader(node: fx.Node, own: dict[str, nn.Module]) -> fx.Node | None:
    """The one node that reads an output, identities left out; None where there are several."""
    while len(node.users) == 1:
        node = next(iter(node.users))
        if node.op != "call_module" or not isinstance(own[str(node.target)], nn.Identity):
            return node
    return None


def _rectifies(node: fx.Node, own: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return isinstance(own[str(node.target)], _RELU_MODULES)
    return (node.op == "call_function" and node.target in _RELU_FUNCTIONS) or (
        node.op == "call_method" and node.target in _RELU_METHODS
    )
