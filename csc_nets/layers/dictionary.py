"""Dictionaries as modules: atoms, analysis, synthesis, and the spectral bound that sets the step size."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from csc_nets.functional import ConvGeometry, Convolution, Matrix, unit_norm
from csc_nets.functional.checks import autocast_dtype, is_transformed
from csc_nets.functional.operators.convolution import analyse, synthesize
from csc_nets.functional.operators.fingerprint import fingerprint, moved
from csc_nets.functional.operators.geometry import atom_norm
from csc_nets.layers.like_conv import LikeConv
from csc_nets.layers.read_only import read_only
from csc_nets.layers.spectral_bound import (
    FALL_LOOSE,
    FAR,
    SAME,
    SpectralBound,
    State,
    flat,
    follow,
    keep_up,
    keep_up_compiled,
    lanczos,
    noise,
    watch_loading,
)

__all__ = [
    "ConvDictionary",
    "DenseDictionary",
    "Dictionary",
    "Dictionary1d",
    "Dictionary2d",
    "Dictionary3d",
    "UnitNorm",
]


class _UnitNorm(torch.autograd.Function):
    """:func:`unit_norm` with its gradient in four passes over the atoms; torch's own takes a dozen.

    Derivation: the gradient of :math:`u = w / |w|` is :math:`(g - \\langle g, u \\rangle u) / |w|`.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        norm = atom_norm(weight)
        ctx.save_for_backward(weight, norm)
        return weight / norm

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        weight, norm = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again
            norm = atom_norm(weight)
        axes = tuple(range(1, weight.ndim))
        along = (gradient * weight).sum(axes, keepdim=True) / norm / norm  # not over the square, which may underflow
        return gradient.addcmul(weight, along, value=-1).div_(norm)


class UnitNorm(nn.Module):
    """Parametrization of atoms ``(M, ...)`` with unit l2 norm; the gradient is tangent to the sphere."""

    def forward(self, weight: Tensor) -> Tensor:
        # A trace that is saved holds no Python.
        return unit_norm(weight) if is_transformed() else _UnitNorm.apply(weight)

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight.clone()  # training must not write into the tensor that a user assigned


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)


class Dictionary(SpectralBound):
    """Atoms, their spectral bound and its upkeep. Subclasses give analysis and synthesis for given weights.

    Set atoms with ``dictionary.set_atoms(W)`` or ``dictionary.weight = W``. What reading ``weight`` gives is computed,
    unless the dictionary was built with ``unit_norm=False``: writing into it is refused, because it would be lost.

    With the step size 0.9 / bound of the next forward pass, step size times :math:`\\|D\\|^2` is at most 0.9 times what
    :meth:`~csc_nets.functional.ConvGeometry.probe` and :meth:`~csc_nets.functional.ConvGeometry.overlap` say an
    estimate may be short of the norm, and some per cent more while atoms move: 16 Lanczos steps are 1 % short at most
    on the spectra we know, and a bound that was stored stays where it is no more than 1 % below a fresh one.
    """

    groups = 1
    weight: Tensor
    direction: Tensor
    reference: Tensor
    scan: Tensor

    def __init__(self, weight: Tensor, probe_size: Sequence[int], unit_norm: bool) -> None:
        super().__init__()
        # Reading ``weight`` normalises the atoms, so sizes are kept beside it.
        self.out_channels, self.in_channels = weight.shape[0], weight.shape[1] * self.groups
        self.register_parameter("weight", nn.Parameter(weight))
        if unit_norm:
            self.parametrize_weight(UnitNorm())
        # A signal on which the power method runs, and the bound it has reached: in buffers, so that a checkpoint
        # holds all that inference needs.
        self.register_buffer("direction", weight.new_zeros(1, self.in_channels, *probe_size))
        self.register_buffer("lipschitz", weight.new_ones(()))
        # What the upkeep goes on from, so that a training that is resumed takes the same steps.
        wide = torch.promote_types(weight.dtype, torch.float32)
        for name in ("seen", "reference"):
            self.register_buffer(name, weight.new_full((len(weight),), torch.nan, dtype=wide))
        self.register_buffer("scan", torch.zeros_like(self.direction, dtype=wide))
        watch_loading(self)
        self.reset_parameters()

    def parametrize_weight(self, parametrization: nn.Module) -> None:
        """Has the atoms computed from a trained tensor, and refuses writes into what is computed."""
        parametrize.register_parametrization(self, "weight", parametrization)
        made = type(self)  # a class of this module alone
        if "_atoms" not in vars(made):
            computed = vars(made)["weight"]
            made._atoms = computed  # type: ignore[method-assign]
            get = computed.fget  # read here: the compiler of torch 2.6 does not know the attributes of a property
            made.weight = property(lambda self: read_only(get(self)), computed.fset)  # type: ignore[assignment]

    @property
    def _atoms(self) -> Tensor:
        return self.weight

    def __setattr__(self, name: str, value: Any) -> None:
        # Pruning takes the parameter away, and puts a plain tensor in its place.
        if name != "weight" or not isinstance(value, Tensor) or not self._owns_atoms():
            super().__setattr__(name, value)
        elif isinstance(value, nn.Parameter) and not parametrize.is_parametrized(self, "weight"):
            # fully_shard takes atoms away in parts, and puts them back for each forward pass, which looks at them.
            self.__dict__["_sharded"] = sharded = self.__dict__.get("_sharded", False) or hasattr(value, "placements")
            if not sharded:
                self._check_atoms(value)
            super().__setattr__(name, value)
            if not sharded:
                self.refresh()
        else:
            self.set_atoms(value)

    def _owns_atoms(self) -> bool:
        return "weight" in self._parameters or parametrize.is_parametrized(self, "weight")

    @classmethod
    @torch.no_grad()
    def holding(cls, atoms: Tensor, *sizes: Any, **options: Any) -> Self:
        """A dictionary with atoms of one's own, for many of them: the first forward pass computes the bound.

        Args:
            atoms: ``(M, C, *K)`` of unit norm.
            *sizes, **options: arguments of the class, without ``device`` and ``dtype``, which are those of the atoms.
        """
        build: Any = cls
        made: Self = build(*sizes, device="meta", dtype=atoms.dtype, **options).to_empty(device=atoms.device)
        made._check_atoms(atoms)
        made.get_parameter("parametrizations.weight.original" if parametrize.is_parametrized(made) else "weight").copy_(
            atoms
        )
        for name, value in (("seen", torch.nan), ("reference", torch.nan), ("direction", 0.0), ("lipschitz", 1.0)):
            made.get_buffer(name).fill_(value)
        made.scan.copy_(noise(made.scan.shape, made.scan.dtype, made.scan.device))
        return made

    @torch.no_grad()
    def set_atoms(self, atoms: Tensor) -> None:
        """Puts atoms of one's own in place of the dictionary's, scaled to unit norm where it keeps them so.

        The next forward pass codes with them, in training and in evaluation.

        Args:
            atoms: ``(M, C, *K)`` as :attr:`weight`. They are copied into the trained tensor.

        Raises:
            ValueError: another shape, or values that are not finite.
        """
        self._check_atoms(atoms)
        value, trained = atoms.detach(), self.weight
        if parametrize.is_parametrized(self, "weight"):
            chain: Any = self.parametrizations.weight  # type: ignore[union-attr]
            for parametrization in reversed(chain):
                value = parametrization.right_inverse(value)
            trained = chain.original
        trained.copy_(value)
        self.refresh()

    def _check_atoms(self, atoms: Tensor) -> None:
        shape = tuple(self.weight.shape)
        if tuple(atoms.shape) != shape or not (atoms.is_meta or bool(atoms.isfinite().all())):
            raise ValueError(f"atoms must be finite and of shape {shape}, got {tuple(atoms.shape)}")

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws atoms uniformly on the sphere, and computes the spectral bound afresh.

        Trained tensors start at norm 1. A step turns an atom by its length over the norm of the tensor, the gradient
        itself goes with one over the norm: Gaussian tensors, of norm :math:`\\sqrt{C K}`, would hardly turn.
        """
        free = not parametrize.is_parametrized(self)
        weight = self.get_parameter("weight" if free else "parametrizations.weight.original")
        nn.init.normal_(weight)
        weight.copy_(unit_norm(weight))
        if not weight.is_meta:
            self.scan.copy_(noise(self.scan.shape, self.scan.dtype, self.scan.device))
        self.refresh()

    def analysis(
        self, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, *, exact: bool = True
    ) -> Tensor:
        raise NotImplementedError

    def synthesis(self, z: Tensor, output_size: Sequence[int] | None = None, weight: Tensor | None = None) -> Tensor:
        raise NotImplementedError

    def track(self) -> Any:
        """As :class:`SpectralBound` has it. Where nothing changed since the last time, norms are not computed again."""
        trained = self._normalised()
        if trained is None:
            return super().track()
        now, known = fingerprint(trained, cached=True), self.__dict__.get("_known")
        if known is not None and all(_equal(a, b) for a, b in zip(known[:2], (now, self.seen), strict=True)):
            return self._operator(trained / known[2], partial(self._step_bound, self._values()))
        operator = super().track()
        self.__dict__["_known"] = now, self.seen.clone(), atom_norm(trained)
        return operator

    def _renew(self) -> None:
        """Lets ``torch.nn.utils.prune`` make the weight anew, which it does before a call: a dictionary is read."""
        for hook in self._forward_pre_hooks.values():
            if isinstance(hook, prune.BasePruningMethod):
                hook(self, ())

    def _normalised(self) -> Tensor | None:
        """The trained tensor in evaluation without gradient on a CPU, if the atoms are that over its norms; else None.

        There the fingerprint of the trained tensor says that the norms are those of the last time, for less than they
        cost to compute: a forward pass in evaluation looks at the atoms and pays nothing for it.
        """
        if self.training or torch.is_grad_enabled() or is_transformed() or torch.jit.is_tracing():
            return None
        chain: Any = self.parametrizations.weight if parametrize.is_parametrized(self, "weight") else ()  # type: ignore[union-attr]
        if len(chain) != 1 or type(chain[0]) is not UnitNorm:
            return None
        trained: Tensor = chain.original.detach()
        return trained if trained.device.type == "cpu" and self._has_values(trained) else None

    @property
    def _spectral_geometry(self) -> ConvGeometry | None:
        """The geometry on whose signals the bound is measured; None for a matrix."""
        return None

    def _values(self) -> tuple[Tensor, ...]:
        return (self.lipschitz,)

    def _sized(self, values: tuple[Tensor, ...], signal_size: Sequence[int]) -> Tensor:
        return values[0].clamp_min(torch.finfo(values[0].dtype).tiny)

    def _loose(self, weight: Tensor) -> Tensor:
        return weight.square().sum()

    def _measure(self, weight: Tensor) -> None:
        direction, value = lanczos(weight, self.direction, self._spectral_geometry)
        self.direction.copy_(direction)
        self.lipschitz.copy_(value)

    def _remember(self, now: Tensor) -> None:
        super()._remember(now)
        if "reference" in self._buffers:
            self.reference.copy_(self.seen)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if "reference" in self._buffers:  # older files have none of these
            for name, value in (
                ("seen", self.seen * torch.nan),
                ("reference", self.seen * torch.nan),
                ("scan", self.scan),
            ):
                state_dict.setdefault(prefix + name, value)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _state(self, weight: Tensor) -> State:
        device = weight.device
        with torch.inference_mode(False):  # of a module from the meta device only what a file holds has values
            if self.seen.device != device:
                self.seen = torch.full_like(self.seen, torch.nan, device=device)
            if self.scan.device != device:
                self.reference = torch.full_like(self.reference, torch.nan, device=device)
                self.scan = noise(self.scan.shape, self.scan.dtype, device)
        return State(self.seen, self.reference, self.direction, self.scan, self.lipschitz)

    def _keep_up(self, weight: Tensor, training: bool, known: bool = False) -> None:
        keep_up(weight, self._state(weight), self._spectral_geometry, training, known)

    def _keep_up_compiled(self, weight: Tensor, training: bool) -> tuple[Tensor, ...]:
        geometry = flat(self._spectral_geometry)
        state = self.seen, self.reference, self.direction, self.scan, self.lipschitz
        keep_up_compiled(weight, *state, *geometry, training)
        return (self.lipschitz,)

    def _keep_up_blindly(self, weight: Tensor, training: bool) -> tuple[Tensor, ...]:
        now, loose = fingerprint(weight), self._loose(weight).to(self.lipschitz)
        change, last = moved(now, self.seen.to(now)), self.lipschitz.clone()
        if not training:
            known = change <= SAME + 4 * torch.finfo(self.seen.dtype).eps
            return (torch.where(known, last, loose),)
        state = State(self.seen, self.reference, self.direction, self.scan, self.lipschitz)
        follow(weight, state, self._spectral_geometry)
        value = torch.maximum(self.lipschitz, FALL_LOOSE * last)
        self.lipschitz.copy_(torch.where(change <= FAR, value, loose.where(loose > 0, last)))
        self.seen.copy_(torch.where(now.isfinite(), now, self.seen))
        return (self.lipschitz,)

    def __repr__(self) -> str:
        return f"{self._get_name()}({self.extra_repr()})"

    def _get_name(self) -> str:
        return type(self).__name__.removeprefix("Parametrized")


class DenseDictionary(Dictionary):
    r"""A matrix of unit atoms for vectors and tokens.

    Args:
        in_features: length F of a signal.
        atoms: number M of atoms.
        unit_norm: keep the atoms on the unit sphere; False trains plain weights.

    Shape:
        - analysis: ``(..., F)`` to ``(..., M)``, :math:`D^T x = W x`.
        - synthesis: ``(..., M)`` to ``(..., F)``.
    """

    def __init__(
        self,
        in_features: int,
        atoms: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        unit_norm: bool = True,
    ) -> None:
        if in_features < 1 or atoms < 1:
            raise ValueError(f"DenseDictionary: in_features and atoms must be positive, got {in_features}, {atoms}")
        super().__init__(torch.empty(atoms, in_features, device=device, dtype=dtype), (), unit_norm)

    def _operator(self, weight: Tensor, bound: Callable[[Sequence[int]], Tensor]) -> Matrix:
        return Matrix(weight, bound)

    def analysis(
        self, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, *, exact: bool = True
    ) -> Tensor:
        """Correlations of signals ``(..., F)`` with the atoms (or with ``weight``), plus a bias per atom."""
        return F.linear(x, self._atoms if weight is None else weight, bias)

    def synthesis(self, z: Tensor, output_size: Sequence[int] | None = None, weight: Tensor | None = None) -> Tensor:
        """Combination of atoms (or of ``weight``) with the coefficients ``(..., M)``. ``output_size`` is ignored."""
        return z @ (self._atoms if weight is None else weight)

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}"


class ConvDictionary(LikeConv, Dictionary):
    r"""Convolutional dictionary: ``out_channels`` unit atoms laid over a signal.

    .. math:: D^T x = \mathrm{conv}(x, W), \qquad D z = \mathrm{conv\_transpose}(z, W)

    exact adjoints of each other for every kernel size, stride, padding, dilation, padding mode and signal size.

    Args:
        in_channels: channels C of the signal.
        out_channels: number M of atoms.
        kernel_size: extent of an atom.
        stride: positions between neighbouring shifts of an atom.
        padding: int, one per axis, ``"same"`` (stride 1) or ``"valid"``.
        dilation: spacing of an atom's samples.
        padding_mode: ``"zeros"``, ``"circular"`` or ``"reflect"``.
        groups: groups of channels, as for ``nn.Conv``; an atom lies in the channels of its group.
        unit_norm: keep the atoms on the unit sphere; False trains plain weights.

    Shape:
        - analysis: ``(N, C, *S)`` to ``(N, M, *S')``, sizes as ``nn.Conv``.
        - synthesis: ``(N, M, *S')`` to ``(N, C, *output_size)``.

    Attributes:
        weight: atoms ``(M, C / groups, *K)``, with ``unit_norm`` a parametrization of the trained tensor.
        lipschitz: estimate of :math:`\|D\|^2`, 0-d buffer. A forward pass of the layer that owns the dictionary brings
            it up to date with the atoms it reads, in training and in evaluation, whatever way they changed.

    Example:
        >>> dictionary = Dictionary2d(3, 16, kernel_size=3, padding=1)
        >>> z = dictionary.analysis(torch.randn(2, 3, 8, 8))
        >>> z.shape, dictionary.synthesis(z, (8, 8)).shape
        (torch.Size([2, 16, 8, 8]), torch.Size([2, 3, 8, 8]))
    """

    dims: int
    geometry: ConvGeometry
    _probe_geometry: ConvGeometry

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | str = 0,
        dilation: int | Sequence[int] = 1,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        groups: int = 1,
        unit_norm: bool = True,
    ) -> None:
        if in_channels < 1 or out_channels < 1:
            raise ValueError(
                f"{self._get_name()}: in_channels and out_channels must be positive, got {in_channels}, {out_channels}"
            )
        geometry = ConvGeometry.create(self.dims, kernel_size, stride, padding, dilation, padding_mode, groups)
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"{self._get_name()}: groups must divide in_channels and out_channels, got {groups} for "
                f"{in_channels} and {out_channels}"
            )
        self.groups = groups
        probe_geometry, probe_size = geometry.probe()
        weight = torch.empty(out_channels, in_channels // groups, *geometry.kernel_size, device=device, dtype=dtype)
        self.geometry, self._probe_geometry = geometry, probe_geometry
        super().__init__(weight, probe_size, unit_norm)

    @property
    def _spectral_geometry(self) -> ConvGeometry:
        return self._probe_geometry

    def _sized(self, values: tuple[Tensor, ...], signal_size: Sequence[int]) -> Tensor:
        whole = super()._sized(values, signal_size)
        # Not by a comparison of the factor with 1, which a saved graph of free sizes computes.
        return whole if self.geometry.padding_mode == "zeros" else whole * self.geometry.overlap(signal_size)

    def _loose(self, weight: Tensor) -> Tensor:
        return super()._loose(weight) * self.geometry.crowding()

    def _operator(self, weight: Tensor, bound: Callable[[Sequence[int]], Tensor]) -> Convolution:
        return Convolution(weight, self.geometry, bound)

    def analysis(
        self, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, *, exact: bool = True
    ) -> Tensor:
        """Correlations of a signal ``(N, C, *S)`` with the atoms (or with ``weight``), plus a bias per atom.

        ``exact`` is explained at :meth:`ConvGeometry.analysis <csc_nets.functional.ConvGeometry.analysis>`.
        """
        return analyse(x, self._atoms if weight is None else weight, self.geometry, bias, exact=exact)

    def synthesis(self, z: Tensor, output_size: Sequence[int] | None = None, weight: Tensor | None = None) -> Tensor:
        """Signal ``(N, C, *output_size)`` of a code ``(N, M, *S')``; see :meth:`ConvGeometry.signal_size` for None."""
        signal = synthesize(z, self._atoms if weight is None else weight, self.geometry, output_size)
        return signal if autocast_dtype(z) else signal.to(z.dtype)  # some ways sum, and give, single precision

    def extra_repr(self) -> str:
        g = self.geometry
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={g.kernel_size}, stride={g.stride}"
        if any(p != (0, 0) for p in g.padding):
            text += f", padding={tuple(lo if lo == hi else (lo, hi) for lo, hi in g.padding)}"
        if any(d != 1 for d in g.dilation):
            text += f", dilation={g.dilation}"
        if g.padding_mode != "zeros":
            text += f", padding_mode={g.padding_mode!r}"
        if g.groups != 1:
            text += f", groups={g.groups}"
        return text


class Dictionary1d(ConvDictionary):
    __doc__ = ConvDictionary.__doc__
    dims = 1


class Dictionary2d(ConvDictionary):
    __doc__ = ConvDictionary.__doc__
    dims = 2


class Dictionary3d(ConvDictionary):
    __doc__ = ConvDictionary.__doc__
    dims = 3
