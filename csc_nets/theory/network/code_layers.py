"""Finds the layers of a network that compute codes, by running the network once.

For each such layer the dictionary, the code and the residual are recorded.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from csc_nets.functional import ConvGeometry, unit_norm
from csc_nets.functional.operators.geometry import PADDING_MODES
from csc_nets.layers import Coder
from csc_nets.theory.network.evaluation_mode import evaluation_mode
from csc_nets.theory.sparse.grouped_dictionary import GroupedDictionary

__all__ = ["CodeLayer", "find_code_layers"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_RELUS = (F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_)


@dataclass(frozen=True)
class CodeLayer:
    """A layer that computed a code.

    Attributes:
        name: name of the module. ``[i]`` is added for the i-th layer of a stack, ``(i)`` for the i-th call.
        kind: class of the layer, or ``"Conv2d + ReLU"``.
        dictionary: the unit atoms.
        code: coefficients of the unit atoms, ``(N, M, *S')`` or ``(N, M)``. They are 0 for a filter of zeros, which is
            not an atom.
        signal_size: spatial size of the signal.
        residual: :math:`\\|x - D \\Gamma\\| / \\|x\\|`, with norms over the whole batch.
        chained: whether the signal is the code of the layer before. The two are then layers of one multi-layer model.
        readers: geometries of the layers that took this code, unchanged, as their input; not the next layer of a stack.
    """

    name: str
    kind: str
    dictionary: GroupedDictionary
    code: Tensor
    signal_size: tuple[int, ...]
    residual: float
    chained: bool = False
    readers: list[ConvGeometry] = field(default_factory=list)


def find_code_layers(model: nn.Module, batch: Tensor) -> tuple[list[CodeLayer], dict[str, str]]:
    r"""Runs a model in evaluation mode and collects the layers that compute codes, in the order of execution.

    Two kinds of layers are collected:

    - the sparse coding layers of this package;
    - every ``nn.Conv{1,2,3}d`` with a ReLU on its output, directly or after a batch norm. The ReLU may be ``nn.ReLU``,
      ``F.relu``, ``torch.relu`` or the method of a tensor, in place or not. ``clamp(min=0)``, ``F.threshold`` and
      ``torch.maximum`` are not recognised.

    A convolution with a ReLU is one step of layered thresholding. Fold the batch norm into W and b, and write the
    filters as :math:`w_a = r_a d_a` with :math:`\|d_a\| = 1`. Then :math:`z = \max(W x + b, 0)` means

    .. math:: z_a / r_a = \max(\langle d_a, x \rangle + b_a / r_a, 0)

    The coefficients of the unit atoms :math:`d_a` are therefore:

    - :math:`z_a / r_a` for a convolution;
    - :math:`z_a / (\eta r_a)` where a stack thresholds :math:`\eta W x`;
    - :math:`z_a r_a` where a pursuit solves :math:`x \approx \sum_a z_a w_a` with atoms of other norms.

    A stack may have several sets of dictionaries. The set that computed the codes last is used: the last set of
    ``"all_free"``, ``feedforward`` for ``"ml_lista"`` without steps, and ``dictionaries`` otherwise.

    Args:
        model: any module that takes ``batch``.
        batch: its input.

    Returns:
        The layers. And a dictionary of the convolutions that ran and were left out: name and reason. The reason
        ``"not followed by a ReLU"`` means that a sum, another nonlinearity or nothing follows.

    Raises:
        ValueError: a layer ran under ``torch.inference_mode``.
    """
    found = _Found()
    with ExitStack() as stack:
        stack.enter_context(evaluation_mode(model))
        for name, module in model.named_modules():
            stack.enter_context(found.watch(name or type(module).__name__, module))
        # Tensors have no version counter in inference mode.
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        stack.enter_context(_ReLUs(found))
        model(batch.clone() if batch.is_inference() else batch)
    return found.layers, found.left_out


@dataclass
class _Analysis:
    """A convolution, perhaps with its batch norm, whose output may go into a ReLU; filters ``(M, C, *K)``."""

    name: str
    kind: str
    signal: Tensor
    version: int  # of the signal, to notice changes in place
    weight: Tensor
    geometry: ConvGeometry
    groups: int
    below: CodeLayer | None


@dataclass
class _Output:
    """The output of a coded layer. ``unit``: the output is the code of the unit atoms, without a scale."""

    layer: CodeLayer
    unit: bool


class _Found:
    """The record of one forward pass.

    Notes about a tensor are attributes of the tensor. A note holds the version of the tensor, because an operation in
    place changes the tensor and makes the note invalid.
    """

    def __init__(self) -> None:
        self.layers: list[CodeLayer] = []
        self.left_out: dict[str, str] = {}
        self._calls: dict[str, int] = {}

    @contextmanager
    def watch(self, name: str, module: nn.Module) -> Iterator[None]:
        """Adds a hook to one module; removes it at the end of the context."""
        hook: Callable[..., None] | None = None
        if isinstance(module, _CONVOLUTIONS):
            hook = self._convolution
        elif isinstance(module, _BatchNorm):
            hook = self._batch_norm
        elif isinstance(module, Coder):
            hook = self._coded
        if hook is None:
            yield
            return

        def listen(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            hook(name, module, args[0] if args else kwargs.get("x", kwargs.get("input")), kwargs, output)

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
        own = next(convolution for convolution in _CONVOLUTIONS if isinstance(module, convolution))
        if not _is_plain(module, own, "forward", "_conv_forward"):
            self.left_out[name] = "with a forward of its own"
        elif module.padding_mode not in PADDING_MODES:
            self.left_out[name] = f"with padding_mode {module.padding_mode!r}"
        elif x.ndim != dims + 2:
            self.left_out[name] = "without a batch axis"
        else:
            self.left_out[name] = "not followed by a ReLU"
            geometry = ConvGeometry.create(
                dims, module.kernel_size, module.stride, module.padding, module.dilation, module.padding_mode
            )
            below = self._below(x, geometry)
            below = below if module.groups == 1 else None  # the multi-layer model has no groups
            kind, weight = f"{type(module).__name__} + ReLU", module.weight.detach()
            _note(output, _Analysis(name, kind, x, _version(x), weight, geometry, module.groups, below))

    def _batch_norm(self, name: str, module: Any, x: Tensor, kwargs: dict[str, Any], output: Tensor) -> None:
        before = _noted(x, _Analysis)
        own = nn.SyncBatchNorm if isinstance(module, nn.SyncBatchNorm) else _BatchNorm
        if before is None or module.running_var is None or not _is_plain(module, own, "forward"):
            return
        scale = (module.running_var + module.eps).rsqrt()
        scale = scale if module.weight is None else scale * module.weight
        weight = before.weight * scale.view(-1, *(1,) * (before.weight.ndim - 1))
        _note(output, replace(before, kind=before.kind.replace(" + ReLU", " + norm + ReLU"), weight=weight))

    def relu(self, x: Tensor, before: _Analysis | None, output: Tensor) -> None:
        """Adds a layer if the input of this ReLU, noted as ``before``, is the output of a convolution."""
        if before is None or before.name not in self.left_out:
            return
        if before.signal._version != before.version:
            self.left_out[before.name] = "with an input that was changed in place"
            return
        del self.left_out[before.name]
        self._add(
            before.name,
            before.kind,
            before.weight,
            before.geometry,
            before.signal,
            output,
            eta=1.0,
            below=before.below,
            groups=before.groups,
        )
        _note(output, _Output(self.layers[-1], unit=False))

    def _coded(self, name: str, module: Any, x: Tensor, kwargs: dict[str, Any], output: Tensor) -> None:
        """Adds the steps of a layer of this package."""
        name, scale, last = self._call(name), None, None
        for step in module.coded(x, output, **{key: value for key, value in kwargs.items() if key != "x"}):
            weight, signal, below = step.weight, step.signal, None
            if scale is not None:  # the code below was divided by scale, so the channels here are multiplied by it
                weight, signal = weight * scale.view(-1, *(1,) * (weight.ndim - 2)), self.layers[-1].code
                below = self.layers[-1]
            elif step.returned or step.label:
                below = self._below(x, step.geometry)
            below = below if step.mask is None else None
            label, kind = f"{name}{step.label}", module._get_name()
            groups = step.geometry.groups
            scale = self._add(
                label,
                kind,
                weight,
                replace(step.geometry, groups=1),
                signal,
                step.code,
                eta=step.gain,
                mask=step.mask,
                below=below if groups == 1 else None,
                groups=groups,
            )
            last = step
        if last is not None and last.returned and scale is not None:
            self._pass_on(output, scale)

    def _below(self, x: Tensor, geometry: ConvGeometry) -> CodeLayer | None:
        """The layer whose unit-atom code is ``x``, or None. The geometry is added to the readers of that layer."""
        source = _noted(x, _Output)
        if source is None or source.layer.dictionary.geometry.dims != geometry.dims:
            return None
        source.layer.readers.append(geometry)
        return source.layer if source.unit else None

    def _pass_on(self, output: Tensor, scale: Tensor) -> None:
        """Notes on ``output`` that it is a code. The next layer is chained only if the scale is 1: unit atoms."""
        _note(output, _Output(self.layers[-1], unit=bool(((scale - 1).abs() < 1e-4).all())))

    def _add(
        self,
        name: str,
        kind: str,
        weight: Tensor,
        geometry: ConvGeometry,
        signal: Tensor,
        code: Tensor,
        *,
        eta: float | Tensor | None,
        mask: Tensor | None = None,
        below: CodeLayer | None = None,
        groups: int = 1,
    ) -> Tensor:
        """Adds a layer whose filters may have any norm, and returns the scale of its code, ``(M,)``.

        ``eta`` is the step size if a single thresholding computed the code; the code is then divided by the scale.
        It is None for other pursuits; the code is then multiplied by the scale.
        """
        norms = torch.linalg.vector_norm(weight.detach().flatten(1), dim=1)
        scale = torch.where(norms > 0, norms, 1.0) * (1.0 if eta is None else eta)
        along = (-1, *(1,) * geometry.dims)
        dictionary = GroupedDictionary(unit_norm(weight.detach()), geometry, groups)
        code = code * scale.view(along) if eta is None else code / scale.view(along)
        code = code.detach().masked_fill(norms.view(along) == 0, 0)
        observed = signal if mask is None else signal.masked_fill(mask == 0, 0)
        made = dictionary.synthesis(code, signal.shape[2:])
        gap = observed - (made if mask is None else made.masked_fill(mask == 0, 0))
        size = torch.linalg.vector_norm(observed.double())
        residual = (torch.linalg.vector_norm(gap.double()) / size).item() if size > 0 else 0.0
        chained = below is not None and below is self.layers[-1]
        self.layers.append(CodeLayer(name, kind, dictionary, code, tuple(signal.shape[2:]), residual, chained))
        return scale


class _ReLUs(TorchFunctionMode):
    """Catches every ReLU of a forward pass: module, function or method."""

    def __init__(self, found: _Found) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in _RELUS:
            return func(*args, **kwargs)
        x = args[0] if args else kwargs["input"]
        before = _noted(x, _Analysis)  # read it first: a ReLU in place makes the note invalid
        output = func(*args, **kwargs)
        self.found.relu(x, before, output)
        return output


def _is_plain(module: nn.Module, own: type, *methods: str) -> bool:
    """Whether these methods of a module are those of torch's class, not overridden by a subclass."""
    return all(getattr(type(module), m) is getattr(own, m) and m not in vars(module) for m in methods)


def _version(tensor: Tensor) -> int:
    if tensor.is_inference():
        raise ValueError(
            "find_code_layers: a layer of the model ran under torch.inference_mode, where changes of a tensor leave no "
            "trace; take it out of forward (torch.no_grad will do)"
        )
    return tensor._version


def _note(tensor: Tensor, what: Any) -> None:
    tensor._csc_nets_note = (what, _version(tensor))  # type: ignore[attr-defined]


def _noted(tensor: Any, kind: type) -> Any:
    """The note on a tensor, if it has that type and the tensor did not change since."""
    what, version = getattr(tensor, "_csc_nets_note", (None, None))
    return what if isinstance(what, kind) and version == tensor._version else None
