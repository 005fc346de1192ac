r"""The bound of a dictionary's squared norm, kept true to the atoms whatever way they changed.

A dictionary keeps, beside the bound, the fingerprint of the atoms that it was computed for
(:mod:`csc_nets.functional.operators.fingerprint`). Every forward pass compares it with that of the atoms it reads.

On a CPU the layer reads the comparison. If the atoms have changed, the Lanczos method computes their bound before it is
used. In training the atoms move a little in every step. There one warm-started power step, at all frequencies at once,
follows them. The Lanczos method runs again when an atom has moved far since its last run, or when the value jumps. A
compiler sees all this as one operator.

On an accelerator a forward pass must not read a value. There the bound is computed when the host knows of a change: an
assignment, ``load_state_dict``, ``eval()`` after training, and in evaluation a tensor that was replaced or has a new
version. Other changes are found on the device: atoms that the bound does not belong to get a loose bound in closed
form. The step is then too short, never too long. The same holds wherever tensors have no values for Python: exported
programs, traces, ``torch.func``.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from csc_nets.functional.checks import full_precision, is_exporting, is_transformed
from csc_nets.functional.operators.fingerprint import fingerprint, moved
from csc_nets.functional.operators.geometry import ConvGeometry
from csc_nets.functional.operators.spectral import largest_eigenpair, power_step, scan_step
from csc_nets.layers.saving import Savable

__all__ = ["SpectralBound", "State", "follow", "keep_up", "keep_up_compiled", "lanczos", "watch_loading"]

# Shares of an atom's norm. Less than the first is rounding, of another device or after a change of dtype.
SAME, FAR = 1e-4, 0.5
# A power step whose value grows by more lags behind the norm.
JUMP = 1.05
# A stored bound that is as good as a fresh one stays: both are estimates, and codes should not depend on which.
LOW, HIGH = 0.99, 1.03
# So does one that training followed or a file holds beside its atoms, where the step size stays safe.
LOW_KNOWN, HIGH_KNOWN = 0.9, 1.3
# A bound falls no faster from one forward pass in training to the next, while power steps find the norm.
FALL = 0.98
# Power steps at the first change after the bound was computed from scratch, which looks at one direction only.
WARM_UP = 8
# The loose bound falls so fast.
FALL_LOOSE = 0.8


class SpectralBound(Savable):
    """What has atoms and a bound: when to compute it, and by which way. Subclasses say how."""

    lipschitz: Tensor
    seen: Tensor

    @property
    def _atoms(self) -> Tensor:
        """The atoms as a plain tensor."""
        raise NotImplementedError

    def _values(self) -> tuple[Tensor, ...]:
        """The buffers that hold bounds."""
        raise NotImplementedError

    def _loose(self, weight: Tensor) -> Tensor:
        """A bound in closed form that holds for signals of every size, 0-d."""
        raise NotImplementedError

    def _measure(self, weight: Tensor) -> None:
        """Computes the bounds of these atoms from scratch."""
        raise NotImplementedError

    def _keep_up(self, weight: Tensor, training: bool, known: bool = False) -> None:
        """Brings the bounds up to date; may read values. See :func:`keep_up`."""
        raise NotImplementedError

    def _keep_up_blindly(self, weight: Tensor, training: bool) -> tuple[Tensor, ...]:
        """Bounds of these atoms without reading a value."""
        raise NotImplementedError

    def _keep_up_compiled(self, weight: Tensor, training: bool) -> tuple[Tensor, ...]:
        return self._keep_up_blindly(weight, training)

    def _operator(self, weight: Tensor, bound: Callable[[Sequence[int]], Tensor]) -> Any:
        raise NotImplementedError

    def _sized(self, values: tuple[Tensor, ...], signal_size: Sequence[int]) -> Tensor:
        """The bound on signals of this size, from :meth:`_values`."""
        raise NotImplementedError

    def _step_bound(self, values: tuple[Tensor, ...], signal_size: Sequence[int]) -> Tensor:
        return self._sized(values, self.__dict__.get("_size_of_whole") or signal_size)

    @contextmanager
    def bound_as_of(self, signal_size: Sequence[int]) -> Iterator[None]:
        """In it, signals have the bound of this size: parts of a signal are coded with the step size of the whole."""
        self.__dict__["_size_of_whole"] = tuple(signal_size)
        try:
            yield
        finally:
            del self.__dict__["_size_of_whole"]

    def _renew(self) -> None:
        """Brings atoms up to date that are computed before a call of the module."""

    def read(self) -> Any:
        """The dictionary with its atoms read once, as an operator."""
        self._renew()
        weight = self._atoms
        return self._operator(weight, partial(self._bound_of, weight))

    def track(self) -> Any:
        """:meth:`read` for a forward pass: in training the bound follows the atoms."""
        self._renew()
        weight = self._atoms
        return self._operator(weight, partial(self._step_bound, self.update_lipschitz(weight)))

    def bound(self, signal_size: Sequence[int]) -> Tensor:
        r"""Bound of :math:`\|D\|^2` on signals of this spatial size, 0-d; what step sizes are made from."""
        return self._bound_of(self._atoms, signal_size)

    def _bound_of(self, weight: Tensor, signal_size: Sequence[int]) -> Tensor:
        return self._step_bound(self.update_lipschitz(weight, training=False), signal_size)

    @torch.no_grad()
    def refresh(self) -> None:
        """Computes the bound from scratch. Forward passes do so by themselves where it is needed."""
        if self.lipschitz.is_meta:
            return
        self._measure(self._atoms.detach())
        self._remember(fingerprint(self._atoms.detach()))

    @torch.no_grad()
    def update_lipschitz(self, weight: Tensor, training: bool | None = None) -> tuple[Tensor, ...]:
        """Bounds that hold for the atoms ``weight``; see the top of this file.

        Args:
            weight: atoms.
            training: whether the atoms move a little with every call; None for the mode of the module.
        """
        weight, training = weight.detach(), self.training if training is None else training
        with full_precision(weight):
            if is_exporting() or torch.jit.is_tracing():
                return self._keep_up_blindly(weight, training)
            if torch.compiler.is_compiling():
                follow = self._keep_up_compiled if weight.device.type == "cpu" else self._keep_up_blindly
                return follow(weight, training)
            if is_transformed() or not self._has_values(weight):
                return self._keep_up_blindly(weight, training)
            if weight.device.type == "cpu":
                if training:  # which follows the bound from where it is
                    self.__dict__.pop("_look", None)
                self._keep_up(weight, training, known=self.__dict__.pop("_settles", False))
                return self._values()
            if not training and (stamp := self._stamp()) != self.__dict__.get("_stamped"):
                self._keep_up(weight, False, known=self.__dict__.pop("_settles", False))
                self.__dict__["_stamped"] = stamp
            return self._keep_up_blindly(weight, training)

    @torch.no_grad()
    def settle(self) -> None:
        """Brings the bound up to date with the atoms now, for what comes next: an export, or an accelerator."""
        if self.lipschitz.is_meta or is_transformed():
            return
        if self.__dict__.pop("_look", False):
            self.seen.fill_(torch.nan)
        weight = self._atoms.detach()
        if self._has_values(weight):
            with full_precision(weight):
                self._keep_up(weight, False, known=True)
        else:  # a shard: the next forward pass has the whole
            self.__dict__["_settles"] = True

    def train(self, mode: bool = True) -> Any:
        leaves = self.training and not mode
        super().train(mode)
        if leaves:
            self.settle()
        return self

    def _has_values(self, weight: Tensor) -> bool:
        return type(weight) is Tensor and not weight.is_meta and not self.lipschitz.is_meta

    def _stamp(self) -> Any:
        """What tells the host of a change, at no cost on the device."""
        tensors = [*self.parameters(), *self.buffers()]
        own = {id(t) for t in (*self._values(), self.seen, getattr(self, "direction", None))}
        return tuple((t.data_ptr(), None if t.is_inference() else t._version) for t in tensors if id(t) not in own)

    def _remember(self, now: Tensor) -> None:
        if self.seen.device != now.device:  # a module from the meta device: only a state dict's buffers were assigned
            with torch.inference_mode(False):
                self.seen = torch.full_like(now, torch.nan)
        self.seen.copy_(now)


@torch.no_grad()
def _settle_after_loading(module: nn.Module, incompatible: Any) -> None:
    bound = cast(SpectralBound, module)
    if not bound.training:
        bound.seen.fill_(torch.nan)  # whether a bound in a file is that of its atoms is looked at
        bound.settle()
    else:  # at the end of training; one that is resumed goes on as if it had not stopped
        bound.__dict__["_look"] = True


def watch_loading(module: SpectralBound) -> None:
    """Has the bound brought up to date after every ``load_state_dict``."""
    module.register_load_state_dict_post_hook(_settle_after_loading)  # type: ignore[no-untyped-call]


def probe(signal: Tensor, weight: Tensor, geometry: ConvGeometry | None) -> Tensor:
    """``D D^T signal`` for given atoms; a matrix where there is no geometry."""
    if geometry is None:
        return torch.nn.functional.linear(signal, weight) @ weight
    return geometry.synthesis(geometry.analysis(signal, weight), weight, signal.shape[2:])


def lanczos(weight: Tensor, direction: Tensor, geometry: ConvGeometry | None) -> tuple[Tensor, Tensor]:
    """Direction, shaped as the given one, and bound of these atoms from a cold start."""
    # Half precision has no eigenvalue solver and too few digits for Lanczos.
    weight = weight.to(torch.promote_types(weight.dtype, torch.float32))
    start = noise(direction.shape, weight.dtype, weight.device)
    return largest_eigenpair(lambda u: probe(u, weight, geometry), start, 16)


def noise(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """The same random numbers every time, without touching torch's generator."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(device, dtype)


@dataclass
class State:
    """The buffers of a dictionary's bound.

    Args:
        seen: fingerprint of the atoms that the bound is for.
        reference: fingerprint of the atoms whose bound was last computed from scratch.
        direction: signal near the top eigenvector.
        scan: signal whose parts at all frequencies follow the top eigenvectors there.
        lipschitz: the bound.
    """

    seen: Tensor
    reference: Tensor
    direction: Tensor
    scan: Tensor
    lipschitz: Tensor

    def keep(self, good: Tensor, **new: Tensor) -> None:
        """Stores what is good. All-zero or broken atoms leave nothing to go on from: then the last stays."""
        for name, value in new.items():
            buffer = getattr(self, name)
            buffer.copy_(torch.where(good, value.to(buffer), buffer))


def keep_up(weight: Tensor, state: State, geometry: ConvGeometry | None, training: bool, known: bool = False) -> None:
    """Brings the bound up to date with the atoms; reads values.

    Args:
        weight: atoms.
        state: the buffers.
        geometry: of the signals on which the bound is measured.
        training: the atoms move a little with every call.
        known: the bound belongs to atoms near these: training followed it, or a file holds both.
    """
    now = fingerprint(weight, cached=True)
    rounding = SAME + 4 * torch.finfo(state.seen.dtype).eps
    if torch.equal(now, state.seen) or moved(now, state.seen.to(now)) <= rounding:
        return
    grows = False
    if training:
        last = state.lipschitz.item()
        first = torch.equal(state.seen, state.reference)
        for _ in range(WARM_UP if first else 1):
            follow(weight, state, geometry, ahead=not first)
        grows = state.lipschitz.item() > JUMP * last
    if not bool(now.isfinite().all()):
        return
    state.seen.copy_(now)
    if training and not grows and moved(now, state.reference.to(now)) <= FAR:
        return
    direction, fresh = lanczos(weight, state.direction, geometry)
    if not fresh > 0:
        state.seen.fill_(torch.nan)
        return
    low, high = (LOW_KNOWN, HIGH_KNOWN) if known else (LOW, HIGH)
    as_good = bool(low * fresh <= state.lipschitz) and bool(state.lipschitz <= high * fresh)
    as_good = as_good and bool(state.direction.norm() > 0)
    if not as_good:
        state.direction.copy_(direction)
        state.lipschitz.copy_(fresh)
    if as_good and bool(moved(now, state.reference.to(now)) <= SAME):
        return
    state.scan.add_(direction, alpha=10)  # it goes on from there, at the frequencies of the direction
    state.reference.copy_(now)


def follow(weight: Tensor, state: State, geometry: ConvGeometry | None, ahead: bool = True) -> None:
    """One warm-started power step at all frequencies at once, and of the direction where borders count.

    Args:
        weight, state, geometry: as of :func:`keep_up`.
        ahead: what grows gets a bound for the next step too. It has grown on by then, and a power step sees only a
            part of it.
    """
    periodic = None if geometry is None else geometry.periodic()
    last = state.lipschitz.clone()
    value: Tensor | None = None
    if geometry is None or geometry != periodic:
        # An average of checkpoints has an average of directions, which is shorter than 1.
        norm = torch.linalg.vector_norm(state.direction)
        unit = torch.where((norm - 1).abs() < 1e-2, state.direction, state.direction / norm.clamp_min(_tiny(norm)))
        direction, value = power_step(lambda u: probe(u, weight, geometry), unit)
        state.keep(value > 0, direction=direction, lipschitz=value)
    dtype = torch.promote_types(weight.dtype, torch.float32)  # half precision has no Fourier transform
    wide = weight.to(dtype)
    stride = () if periodic is None else periodic.stride
    scan, top, most = scan_step(lambda u: probe(u, wide, periodic), state.scan.to(dtype), stride)
    if value is None:
        state.keep(most > 0, direction=top)
    else:
        most = torch.maximum(most, value.to(most))
    if periodic is None:  # vectors have no frequencies: what the direction has not
        along = state.direction.to(scan)
        scan = scan - (scan * along).sum() * along
    bound = most * (most / last.to(most)).clamp(1, JUMP) if ahead else most
    state.keep(most > 0, scan=scan, lipschitz=torch.maximum(bound, FALL * last.to(most)))


def _tiny(t: Tensor) -> float:
    return torch.finfo(t.dtype).tiny


def flat(geometry: ConvGeometry | None) -> tuple[list[int], str]:
    """A geometry as an operator of torch takes it."""
    if geometry is None:
        return [], ""
    pads = [p for pair in geometry.padding for p in pair]
    return [*geometry.kernel_size, *geometry.stride, *pads, *geometry.dilation, geometry.groups], geometry.padding_mode


def _unflat(numbers: Sequence[int], mode: str) -> ConvGeometry | None:
    if not numbers:
        return None
    n = len(numbers) // 5
    pads = numbers[2 * n : 4 * n]
    return ConvGeometry(
        tuple(numbers[:n]),
        tuple(numbers[n : 2 * n]),
        tuple(zip(pads[::2], pads[1::2], strict=True)),
        tuple(numbers[4 * n : 5 * n]),
        mode,
        numbers[-1],
    )


_KEEP_UP = (  # spelled out: torch 2.6 cannot infer it from a ``Sequence[int]``
    "(Tensor weight, Tensor(a1!) seen, Tensor(a2!) reference, Tensor(a3!) direction, Tensor(a4!) scan, "
    "Tensor(a5!) lipschitz, SymInt[] geometry, str padding_mode, bool training) -> ()"
)


@torch.library.custom_op(
    "csc_nets::keep_up", mutates_args=("seen", "reference", "direction", "scan", "lipschitz"), schema=_KEEP_UP
)
def keep_up_compiled(
    weight: Tensor,
    seen: Tensor,
    reference: Tensor,
    direction: Tensor,
    scan: Tensor,
    lipschitz: Tensor,
    geometry: Sequence[int],
    padding_mode: str,
    training: bool,
) -> None:
    """:func:`keep_up` as an operator that a compiler does not look into."""
    keep_up(weight, State(seen, reference, direction, scan, lipschitz), _unflat(geometry, padding_mode), training)


@keep_up_compiled.register_fake
def _(*arguments: Any) -> None:
    return None
