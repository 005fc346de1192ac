"""The layers of a network that compute codes, found by running it: what they were given, what they made of it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from csc_nets.functional import ConvGeometry, unit_norm
from csc_nets.functional.dictionary import PADDING_MODES
from csc_nets.layers import MultiLayerCSC, SparsePriorConv2d
from csc_nets.layers.csc import _SparseCode

__all__ = ["CodeLayer", "UnitDictionary", "find_code_layers"]

_RELUS = (F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_)


@dataclass(frozen=True)
class UnitDictionary:
    """Unit atoms ``(M, C, *K)`` or ``(M, F)`` and how they lie over a signal."""

    weight: Tensor
    geometry: ConvGeometry

    def synthesis(self, z: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """The signal of a code; ``(N, F)`` of ``(N, M)`` for a matrix."""
        return self.geometry.synthesis(z, self.weight, output_size) if self.geometry.dims else z @ self.weight


@dataclass(frozen=True)
class CodeLayer:
    """A layer that computed a code.

    Attributes:
        name: of the module; with ``[i]`` for the i-th layer of a stack, with ``(i)`` for the i-th time it was called.
        kind: class of the layer, or ``"Conv2d + ReLU"``.
        dictionary: the unit atoms.
        code: coefficients of the unit atoms, ``(N, M, *S')`` or ``(N, M)``.
        signal_size: spatial size of the signal.
        residual: :math:`\\|x - D \\Gamma\\| / \\|x\\|`, norms of the whole batch.
        chained: the signal is the code of the layer before, so that the two are one multi-layer model.
    """

    name: str
    kind: str
    dictionary: UnitDictionary
    code: Tensor
    signal_size: tuple[int, ...]
    residual: float
    chained: bool = False


def find_code_layers(model: nn.Module, batch: Tensor) -> tuple[list[CodeLayer], list[str]]:
    r"""Runs a model in evaluation mode and collects the layers that compute codes, in the order of execution.

    They are the package's own layers and every ``nn.Conv{1,2,3}d`` whose output goes straight, or through a batch norm,
    into a ReLU of whatever form (module, function, method, in place). Such a pair is layered thresholding. In the
    form :math:`z = \max(W x + b, 0)`, batch norm folded into W and b, with :math:`w_a = r_a d_a`, :math:`\|d_a\| = 1`,

    .. math:: z_a / r_a = \max(\langle d_a, x \rangle + b_a / r_a, 0)

    so the coefficients of the unit atoms :math:`d_a` are :math:`z_a / r_a`. Where a pursuit looks for
    :math:`x \approx \sum_a z_a w_a` with atoms of other norms they are :math:`z_a r_a` instead.

    Args:
        model: any module that takes ``batch``.
        batch: its input.

    Returns:
        The layers, and the names of the convolutions that ran and are none: a sum, another nonlinearity or nothing
        follows them, or their border is one that a dictionary does not have.
    """
    found = _Found()
    modes = [(module, module.training) for module in model.modules()]
    with ExitStack() as stack:
        stack.callback(_restore, modes)
        model.eval()
        for name, module in model.named_modules():
            stack.enter_context(found.watch(name or type(module).__name__, module))
        # Within inference mode tensors have no version.
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        stack.enter_context(_ReLUs(found))
        model(batch)
    return found.layers, found.left_out


def _restore(modes: Sequence[tuple[nn.Module, bool]]) -> None:
    for module, training in modes:
        module.training = training


@dataclass
class _Analysis:
    """A convolution, perhaps with its batch norm, that waits for a ReLU: what it was given, filters ``(M, C, *K)``."""

    name: str
    kind: str
    signal: Tensor
    weight: Tensor
    geometry: ConvGeometry


class _Found:
    """The record of one forward pass.

    What is known of a tensor is kept on it, with its version: a sum in place makes something else of it.
    """

    def __init__(self) -> None:
        self.layers: list[CodeLayer] = []
        self._convolutions: dict[str, bool] = {}  # by name: read as a layer
        self._calls: dict[str, int] = {}

    @property
    def left_out(self) -> list[str]:
        return [name for name, read in self._convolutions.items() if not read]

    @contextmanager
    def watch(self, name: str, module: nn.Module) -> Iterator[None]:
        """Listens to one module until the end of the context."""
        hook: Callable[..., None] | None = None
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            hook = self._convolution
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            hook = self._batch_norm
        elif isinstance(module, _SparseCode):
            hook = self._sparse_code
        elif isinstance(module, MultiLayerCSC):
            with self._codes_of(name, module):
                yield
            return
        if hook is None:
            yield
            return

        def listen(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            hook(name, module, args[0] if args else next(iter(kwargs.values())), kwargs, output)

        handle = module.register_forward_hook(listen, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def _call(self, name: str) -> str:
        self._calls[name] = self._calls.get(name, 0) + 1
        return name if self._calls[name] == 1 else f"{name} ({self._calls[name]})"

    def _convolution(self, name: str, module: Any, x: Tensor, kwargs: dict[str, Any], output: Tensor) -> None:
        dims = len(module.kernel_size)
        name = self._call(name)
        self._convolutions[name] = False
        if module.padding_mode not in PADDING_MODES or x.ndim != dims + 2:
            return
        geometry = ConvGeometry.create(
            dims, module.kernel_size, module.stride, module.padding, module.dilation, module.padding_mode
        )
        weight = _without_groups(module.weight.detach(), module.groups)
        _note(output, _Analysis(name, f"{type(module).__name__} + ReLU", x, weight, geometry))

    def _batch_norm(self, name: str, module: Any, x: Tensor, kwargs: dict[str, Any], output: Tensor) -> None:
        before = _noted(x, _Analysis)
        if before is None or module.running_var is None:
            return
        scale = (module.running_var + module.eps).rsqrt()
        scale = scale if module.weight is None else scale * module.weight
        weight = before.weight * scale.view(-1, *(1,) * (before.weight.ndim - 1))
        kind = before.kind.replace(" + ReLU", " + norm + ReLU")
        _note(output, _Analysis(before.name, kind, before.signal, weight, before.geometry))

    def relu(self, x: Tensor, before: _Analysis | None, output: Tensor) -> None:
        """Called after every ReLU, with what was noted of its input."""
        if before is None or self._convolutions[before.name]:
            return
        self._convolutions[before.name] = True
        self._add(before.name, before.kind, before.weight, before.geometry, before.signal, output, thresholded=True)

    def _sparse_code(self, name: str, module: Any, x: Tensor, kwargs: dict[str, Any], output: Tensor) -> None:
        weight = module.dictionary.weight
        geometry = getattr(module.dictionary, "geometry", None)
        mask, code = kwargs.get("mask"), output
        if geometry is None:  # vectors, whatever their batch axes
            geometry, mask = ConvGeometry.create(0, ()), None if mask is None else mask.expand(x.shape).flatten(0, -2)
            x, code = x.reshape(-1, x.shape[-1]), code.reshape(-1, code.shape[-1])
        once = module.pursuit == "threshold" or (
            isinstance(module, SparsePriorConv2d) and module.steps == 1 and module.step_size in (None, 1)
        )
        norms = self._add(self._call(name), module._get_name(), weight, geometry, x, code, once, mask)
        self._pass_on(output, norms)

    @contextmanager
    def _codes_of(self, name: str, module: MultiLayerCSC) -> Iterator[None]:
        """Forward returns the deepest code only, so the method that computes all of them is the one to listen to."""
        original = module.codes

        def codes(x: Tensor, **kwargs: Any) -> list[Tensor]:
            result = original(x, **kwargs)
            self._stack(self._call(name), module, x, result)
            return result

        module.codes = codes  # type: ignore[method-assign]
        try:
            yield
        finally:
            del module.codes

    def _stack(self, name: str, module: MultiLayerCSC, x: Tensor, codes: Sequence[Tensor]) -> None:
        signal, norms = x, None
        once = module.pursuit == "layered_thresholding"
        for i, (dictionary, code) in enumerate(zip(module.dictionaries, codes, strict=True)):
            weight = dictionary.weight
            if norms is not None:  # the norms of one layer's atoms are scales of the next one's channels
                weight = weight * norms.view(-1, *(1,) * (weight.ndim - 2))
            geometry = getattr(dictionary, "geometry", None) or ConvGeometry.create(0, ())
            norms = self._add(f"{name}[{i}]", module._get_name(), weight, geometry, signal, code, once, chained=i > 0)
            signal = self.layers[-1].code
        if norms is not None:
            self._pass_on(codes[-1], norms)

    def _pass_on(self, output: Tensor, norms: Tensor) -> None:
        """A layer that takes ``output`` continues the model, if these are the coefficients of the unit atoms."""
        if bool(((norms - 1).abs() < 1e-4).all()):
            _note(output, self.layers[-1])

    def _add(
        self,
        name: str,
        kind: str,
        weight: Tensor,
        geometry: ConvGeometry,
        signal: Tensor,
        code: Tensor,
        thresholded: bool,
        mask: Tensor | None = None,
        chained: bool = False,
    ) -> Tensor:
        """Adds a layer with filters of any norm; returns their norms ``(M,)``, 1 for a filter of zeros."""
        norms = torch.linalg.vector_norm(weight.detach().flatten(1), dim=1)
        norms = torch.where(norms > 0, norms, 1.0)
        scale = norms.view(-1, *(1,) * geometry.dims)
        dictionary = UnitDictionary(unit_norm(weight.detach()), geometry)
        code = (code / scale if thresholded else code * scale).detach()
        observed = signal if mask is None else signal.masked_fill(mask == 0, 0)
        made = dictionary.synthesis(code, signal.shape[2:])
        gap = observed - (made if mask is None else made.masked_fill(mask == 0, 0))
        size = torch.linalg.vector_norm(observed.double())
        residual = (torch.linalg.vector_norm(gap.double()) / size).item() if size > 0 else 0.0
        source = _noted(signal, CodeLayer)
        chained = chained or (source is not None and source is self.layers[-1] and mask is None)
        self.layers.append(CodeLayer(name, kind, dictionary, code, tuple(signal.shape[2:]), residual, chained))
        return norms


class _ReLUs(TorchFunctionMode):
    """Sees every ReLU of a forward pass, in any form."""

    def __init__(self, found: _Found) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in _RELUS:
            return func(*args, **kwargs)
        x = args[0] if args else kwargs["input"]
        before = _noted(x, _Analysis)  # a ReLU in place makes it outdated
        output = func(*args, **kwargs)
        self.found.relu(x, before, output)
        return output


def _note(tensor: Tensor, what: Any) -> None:
    tensor._csc_nets_note = (what, tensor._version)  # type: ignore[attr-defined]


def _noted(tensor: Any, kind: type) -> Any:
    """What is known of a tensor, if it is of that kind and the tensor is still the same."""
    what, version = getattr(tensor, "_csc_nets_note", (None, None))
    return what if isinstance(what, kind) and version == tensor._version else None


def _without_groups(weight: Tensor, groups: int) -> Tensor:
    """Atoms ``(M, C, *K)`` of a convolution of groups, zero in the channels that they do not see."""
    if groups == 1:
        return weight
    rows, channels = len(weight) // groups, weight.shape[1]
    full = weight.new_zeros(len(weight), channels * groups, *weight.shape[2:])
    for g in range(groups):
        full[g * rows : (g + 1) * rows, g * channels : (g + 1) * channels] = weight[g * rows : (g + 1) * rows]
    return full
