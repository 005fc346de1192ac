"""Records what each operation of a forward pass does to the energy of the signal, one row per operation."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from csc_nets.layers import Coder, Scattering2d
from csc_nets.theory.energy.operation_gains import (
    averages_positions,
    centred_share,
    overlap_of_adaptive,
    overlap_of_windows,
    per_axis,
    slope,
    squared_norm,
)

__all__ = ["EnergyRow", "Listener", "Recorder"]

# Functions of torch. Some have the names of their arguments, some the number of their axes or their name in the table.
_CONVOLUTION_ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED_ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
_WEIGHTED: dict[Any, tuple[str, ...]] = {
    **dict.fromkeys((torch.conv1d, torch.conv2d, torch.conv3d), _CONVOLUTION_ARGUMENTS),
    **dict.fromkeys((torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d), _TRANSPOSED_ARGUMENTS),
    F.linear: ("input", "weight", "bias"),
}
_AVERAGES = (
    *(F.avg_pool1d, F.avg_pool2d, F.avg_pool3d),
    *(F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d),
)
_MEANS = (Tensor.mean, torch.mean)
# With the number of axes that they pool. The function that F.max_pool2d calls depends on the version of torch.
_MAXIMA = {
    getattr(home, f"max_pool{dims}d{ending}"): dims
    for dims in (1, 2, 3)
    for home, ending in ((F, ""), (F, "_with_indices"), (torch, ""))
}
_ADAPTIVE_MAXIMA = {
    getattr(F, f"adaptive_max_pool{dims}d{ending}"): dims for dims in (1, 2, 3) for ending in ("", "_with_indices")
}
# Functions of single numbers with f(0) = 0.
_RECTIFIERS: dict[Any, str | None] = {
    **dict.fromkeys((F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_), "relu"),
    **dict.fromkeys((F.leaky_relu, F.leaky_relu_), "leaky_relu"),
    **dict.fromkeys((torch.tanh, Tensor.tanh, Tensor.tanh_, F.tanh), "tanh"),
    **dict.fromkeys((torch.clamp, Tensor.clamp, Tensor.clamp_), "clamp"),
    **dict.fromkeys((F.relu6, F.elu, F.gelu, F.silu, F.hardswish, F.hardtanh, F.mish), None),
}
_SHRINKAGES = {F.softshrink: "softshrink", F.hardshrink: "hardshrink"}
_NORMALISATIONS = (F.batch_norm, F.group_norm, F.instance_norm, F.layer_norm, F.rms_norm)
# The body of attention, without the check that passes the whole call to a TorchFunctionMode: it would never return.
_ATTENTION = FunctionType(
    F.multi_head_attention_forward.__code__,
    F.multi_head_attention_forward.__globals__ | {"has_torch_function": lambda tensors: False},
    argdefs=F.multi_head_attention_forward.__defaults__,
)


@dataclass(frozen=True)
class EnergyRow:
    """One operation.

    Attributes:
        name: name of the module that ran the operation; ``(i)`` is added for the i-th run.
        kind: ``"conv2d"``, ``"relu"``, ``"CSC2d"``, ...
        cause: cause of the loss: ``"filters"``, ``"stride"``, ``"rectification"``, ``"shrinkage"``, ``"pooling"``,
            ``"residual"``, ``"paths"``, ``"centring"``, ``"branches"``; ``"scale"`` for a normalisation without loss.
        depth: number of layers with weights from the input up to this operation, which is included.
        energy_in, energy_out: squared l2 norm, mean over the samples. Where branches meet: the sum over the branches.
        bound: largest possible ``energy_out / energy_in``; nan for normalisations, residuals and branches.
        kept: ``energy_out`` as a share of the largest possible one, in [0, 1]; 0 if no energy arrives.
        share: product of ``kept`` from the input up to this operation.
        on_path: whether every path from the input to the output goes through this operation; false inside of branches.
    """

    name: str
    kind: str
    cause: str
    depth: int
    energy_in: float
    energy_out: float
    bound: float
    kept: float
    share: float
    on_path: bool = True

    @property
    def removed(self) -> float:
        """``1 - kept``."""
        return 1 - self.kept


@dataclass(frozen=True)
class _Note:
    """A note about a tensor that depends on the input. It is an attribute of the tensor."""

    share: float
    depth: int
    path: tuple[int, ...] = ()  # rows on every path from the input to here

    def on(self, tensor: Tensor) -> None:
        tensor._csc_nets_energy = self  # type: ignore[attr-defined]

    @staticmethod
    def of(value: Any) -> "_Note | None":
        return getattr(value, "_csc_nets_energy", None) if isinstance(value, Tensor) else None


class Recorder:
    """The rows of one forward pass over ``samples`` samples."""

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self.rows: list[EnergyRow] = []
        self.inside = 0  # number of running layers of this package; all that they run is one operation
        self._running: list[str] = []  # names of the running modules
        self._calls: dict[tuple[str, str], int] = {}

    def begin(self, images: Tensor) -> Tensor:
        """The input for the model: a copy of ``images``, with the note that all of its energy is left."""
        x = images.detach().clone()
        _Note(1.0, 0).on(x)
        return x

    @contextmanager
    def watch(self, name: str, module: nn.Module) -> Iterator[None]:
        """Adds hooks to one module; removes them at the end of the context."""
        coded = isinstance(module, Scattering2d) or (isinstance(module, Coder) and hasattr(module, "lam"))

        def begin(module: nn.Module, args: Any) -> None:
            self._running.append(name)
            self.inside += coded

        def end(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
            if coded and self.inside == 1:
                self._coded_layer(module, args[0] if args else kwargs["x"], output)
            self.inside -= coded
            self._running.pop()

        handles = [module.register_forward_pre_hook(begin), module.register_forward_hook(end, with_kwargs=True)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def energy(self, tensor: Tensor) -> float:
        """Mean over the samples of the squared norm."""
        return tensor.detach().abs().double().square().sum().item() / self.samples

    def name(self, kind: str) -> str:
        """Name of the running module, with a number from its second operation of this kind on."""
        module = self._running[-1] if self._running else kind
        count = self._calls[module, kind] = self._calls.get((module, kind), 0) + 1
        return module if count == 1 else f"{module} ({count})"

    def add(
        self,
        name: str,
        kind: str,
        cause: str,
        before: _Note,
        energy: float,
        output: Tensor,
        *,
        bound: float = 1.0,
        kept: float | None = None,
        layer: bool = False,
    ) -> _Note:
        """Adds the row of an operation on a signal with this energy, and puts a note on the output.

        ``kept`` is computed from ``bound`` unless it is given. ``layer``: whether the operation counts for the depth.
        """
        energy_out = self.energy(output)
        if energy == 0 or energy_out == 0 or bound == 0:
            kept = 0.0
        elif kept is None:
            kept = min(1.0, energy_out / (bound * energy))
        note = _Note(before.share * kept, before.depth + layer, (*before.path, len(self.rows)))
        self.rows.append(EnergyRow(name, kind, cause, note.depth, energy, energy_out, bound, kept, note.share))
        note.on(output)
        return note

    def meet(self, kind: str, notes: list[_Note], energies: list[float], outputs: list[Tensor]) -> None:
        """Notes on the result of several tensors the mean share and the largest depth; adds a row if branches meet."""
        total = sum(energies) or 1.0
        share = sum(energy / total * note.share for energy, note in zip(energies, notes, strict=True))
        path = _common([note.path for note in notes])
        note = _Note(share, max(note.depth for note in notes), path)
        if any(other.path != path for other in notes):
            before = self.rows[path[-1]].share if path else 1.0
            kept = min(1.0, share / before) if before else 0.0
            note = replace(note, path=(*path, len(self.rows)))
            energy_out = sum(map(self.energy, outputs))
            row = (self.name(kind), kind, "branches", note.depth, sum(energies), energy_out, math.nan, kept, share)
            self.rows.append(EnergyRow(*row))
        for output in outputs:
            note.on(output)

    def finish(self, output: Any) -> list[EnergyRow]:
        """The rows, with ``on_path`` set: false for a row that some path from the input to the output does not visit.

        Derivation: the rows on every path to a tensor are its dominators in a directed acyclic graph. The dominators of
        a sum are the common beginning of the dominators of its terms.
        """
        notes = [note for tensor in _tensors(output) if (note := _Note.of(tensor))]
        path = set(_common([note.path for note in notes]) if notes else range(len(self.rows)))
        return [replace(row, on_path=i in path) for i, row in enumerate(self.rows)]

    def weighted(
        self, name: str, kind: str, before: _Note, x: Tensor, linear: Callable[[Tensor], Tensor], signal: Tensor
    ) -> tuple[Tensor, _Note]:
        """Adds the filters of a layer, and returns their output for ``x`` and its note.

        Their norm is computed for tensors of the shape of ``signal``.
        """
        output = linear(x)
        bound = squared_norm(linear, signal)
        return output, self.add(name, kind, "filters", before, self.energy(x), output, bound=bound, layer=True)

    def _coded_layer(self, module: Any, x: Tensor, output: Tensor) -> None:
        """Adds the rows of a layer of this package."""
        before = _Note.of(x)
        if before is None:
            return
        kind = module._get_name()
        name = self.name(kind)
        if isinstance(module, Scattering2d):
            bound = 4.0**-module.scales  # the bound of an average that is sampled
            self.add(name, kind, "paths", before, self.energy(x), output, bound=bound, layer=True)
        else:
            steps = module.coded(x, output)
            for step in steps:
                if step.gain is not None and len(steps) == 1:
                    before = self._thresholding(name, kind, before, x, output, step)
                else:
                    before = self._residual(f"{name}{step.label}", kind, before, step)
            before.on(output)

    def _thresholding(self, name: str, kind: str, before: _Note, x: Tensor, output: Tensor, step: Any) -> _Note:
        def analyse(u: Tensor) -> Tensor:
            u = u.to(step.weight.dtype)
            rows = F.linear(u, step.weight) if not step.geometry.dims else step.geometry.analysis(u, step.weight)
            return step.gain * rows

        analysis, after = self.weighted(name, kind, before, x, analyse, x[:1])
        return self.add(name, kind, "shrinkage", after, self.energy(analysis), output)

    def _residual(self, name: str, kind: str, before: _Note, step: Any) -> _Note:
        energy = self.energy(step.signal)
        lost = self.energy(step.signal - step.synthesis(step.code)) / energy if energy else 0.0
        kept = max(0.0, 1 - lost)
        return self.add(name, kind, "residual", before, energy, step.code, bound=math.nan, kept=kept, layer=True)


class Listener(TorchFunctionMode):
    """Catches every function of torch that is called with tensors, and passes it to a recorder."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        x = args[0] if args else kwargs.get("input")
        before = _Note.of(x)
        if self.recorder.inside:
            return func(*args, **kwargs)
        if func is F.multi_head_attention_forward:
            with self:
                return _ATTENTION(*args, **kwargs)
        if func is Tensor.__iter__:
            return iter(self._carry(Tensor.unbind, args, kwargs))
        if before is None:
            return self._carry(func, args, kwargs)
        if func in _WEIGHTED:
            return self._weighted(func, args, kwargs, before)

        def run(u: Tensor) -> Any:
            return func(u, *args[1:], **kwargs) if args else func(**(kwargs | {"input": u}))

        label, cause, bound, kept = getattr(func, "__name__", ""), "", 1.0, None
        rest = args[1:]
        if func in _RECTIFIERS and (steepest := slope(func, *rest, **kwargs)) < math.inf:
            label, cause, bound = _RECTIFIERS[func] or label, "rectification", steepest**2
        elif func in _SHRINKAGES:
            label, cause = _SHRINKAGES[func], "shrinkage"
        elif func in _NORMALISATIONS:
            kept = centred_share(func, x, *rest, **kwargs)
            cause, bound, kept = ("scale", math.nan, 1.0) if kept is None else ("centring", math.nan, kept)
        elif func in _AVERAGES or (func in _MEANS and averages_positions(x, *rest, **kwargs)):
            cause, bound = "pooling", squared_norm(run, x[:1])
        elif func in _MAXIMA:
            label, cause, bound = "max_pool", "pooling", overlap_of_windows(_MAXIMA[func], *rest, **kwargs)
        elif func in _ADAPTIVE_MAXIMA:
            label, cause = "max_pool", "pooling"
            bound = overlap_of_adaptive(x.shape[-_ADAPTIVE_MAXIMA[func] :], *rest, **kwargs)
        else:
            return self._carry(func, args, kwargs)
        energy = self.recorder.energy(x)  # measured before, because the operation may be in place
        output = run(x)
        values = output[0] if isinstance(output, tuple) else output
        self.recorder.add(self.recorder.name(label), label, cause, before, energy, values, bound=bound, kept=kept)
        return output

    def _weighted(self, func: Any, args: Any, kwargs: dict[str, Any], before: _Note) -> Tensor:
        """A layer with weights: a row for its filters at stride 1, and one for its stride. The bias is left out."""
        given = dict(zip(_WEIGHTED[func], args, strict=False)) | kwargs | {"bias": None}
        x, weight = given["input"], given["weight"]
        dims = weight.ndim - 2
        stride, dilation = (per_axis(given.get(key, 1), dims) for key in ("stride", "dilation"))
        # With stride = kernel size the layer is a matrix on patches: there is no row for the stride.
        strided = max(stride, default=1) > 1 and not (stride == list(weight.shape[2:]) and max(dilation) == 1)
        strided = strided and _WEIGHTED[func] is _CONVOLUTION_ARGUMENTS
        dense = {"stride": 1} if strided else {}
        kind = func.__name__
        name = self.recorder.name(kind)

        def filters(u: Tensor) -> Tensor:
            return func(**(given | dense | {"input": u, "weight": weight.to(u.dtype)}))  # type: ignore[no-any-return]

        sample = x.new_empty(x.shape[1 - weight.ndim :])  # the norm of a matrix is that on one vector
        signal, note = self.recorder.weighted(name, kind, before, x, filters, sample)
        if strided:
            energy = self.recorder.energy(signal)
            note = self.recorder.add(name, kind, "stride", note, energy, func(**given))
        output: Tensor = func(*args, **kwargs)
        note.on(output)
        return output

    def _carry(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Any other function: its share is the mean over its inputs, weighted with their energies."""
        inputs = [(tensor, note) for tensor in _tensors([args, kwargs]) if (note := _Note.of(tensor))]
        # Measured before, because the function may be in place. A single input needs no weight.
        energies = [self.recorder.energy(tensor) for tensor, _ in inputs] if len(inputs) > 1 else [1.0] * len(inputs)
        output = func(*args, **kwargs)
        # Without masks and indices.
        results = [tensor for tensor in _tensors(output) if tensor.is_floating_point() or tensor.is_complex()]
        if inputs and results:
            kind = getattr(func, "__name__", "").strip("_")
            self.recorder.meet(kind, [note for _, note in inputs], energies, results)
        return output


def _common(paths: list[tuple[int, ...]]) -> tuple[int, ...]:
    """The common beginning of all paths."""
    same = 0
    for rows in zip(*paths, strict=False):
        if len(set(rows)) > 1:
            break
        same += 1
    return paths[0][:same]


def _tensors(value: Any) -> Iterable[Tensor]:
    """The tensors in nested lists, tuples and dictionaries."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)
