"""Dictionaries as modules: atoms, analysis, synthesis, and the spectral bound that sets the step size."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from csc_nets.functional import ConvGeometry, Convolution, Matrix, largest_eigenpair, power_step, unit_norm
from csc_nets.functional.checks import full_precision, is_transformed
from csc_nets.functional.operators.convolution import synthesize
from csc_nets.functional.operators.geometry import atom_norm
from csc_nets.layers.saving import Savable

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


class Dictionary(Savable):
    """Atoms, their spectral bound and its upkeep. Subclasses give analysis and synthesis for given weights."""

    weight: Tensor
    direction: Tensor
    lipschitz: Tensor
    # Whether a part of a signal may have another bound, and so another code, than the whole.
    bound_depends_on_size = False

    def __init__(self, weight: Tensor, probe_size: Sequence[int], unit_norm: bool) -> None:
        super().__init__()
        # Reading ``weight`` normalises the atoms, so sizes are kept beside it.
        self.out_channels, self.in_channels = weight.shape[:2]
        self.weight = nn.Parameter(weight)
        if unit_norm:
            parametrize.register_parametrization(self, "weight", UnitNorm())
        # A signal on which the power method runs, and the bound it has reached: in buffers, so that a checkpoint
        # holds all that inference needs.
        self.register_buffer("direction", weight.new_zeros(1, weight.shape[1], *probe_size))
        self.register_buffer("lipschitz", weight.new_ones(()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws atoms uniformly on the sphere, and computes the spectral bound afresh.

        Trained tensors start at norm 1. A step turns an atom by its length over the norm of the tensor, the gradient
        itself goes with one over the norm: Gaussian tensors, of norm :math:`\\sqrt{C K}`, would hardly turn.
        """
        free = not parametrize.is_parametrized(self)
        weight = self.get_parameter("weight" if free else "parametrizations.weight.original")
        nn.init.normal_(weight)
        weight.data.copy_(unit_norm(weight.data))
        self.refresh()

    def analysis(
        self, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, *, exact: bool = True
    ) -> Tensor:
        raise NotImplementedError

    def synthesis(self, z: Tensor, output_size: Sequence[int] | None = None, weight: Tensor | None = None) -> Tensor:
        raise NotImplementedError

    def read(self) -> Any:
        """The dictionary with its atoms read once, as an operator."""
        self._renew()
        return self._operator(self.weight)

    def track(self) -> Any:
        """:meth:`read` for a forward pass: in training the bound follows the atoms by one step."""
        self._renew()
        weight = self.weight
        self.update_lipschitz(weight)
        return self._operator(weight)

    def _renew(self) -> None:
        """Lets ``torch.nn.utils.prune`` make the weight anew, which it does before a call: a dictionary is read."""
        for hook in self._forward_pre_hooks.values():
            if isinstance(hook, prune.BasePruningMethod):
                hook(self, ())

    def _operator(self, weight: Tensor) -> Any:
        raise NotImplementedError

    def _probe(self, signal: Tensor, weight: Tensor) -> Tensor:
        """``D D^T signal`` for given atoms."""
        raise NotImplementedError

    @torch.no_grad()
    def refresh(self) -> None:
        """Computes the spectral bound from scratch. Needed only after atoms were set by hand in evaluation mode."""
        if self.direction.is_meta:
            return
        # Half precision has no eigenvalue solver and too few digits for Lanczos.
        weight = self.weight.float() if self.weight.dtype in (torch.float16, torch.bfloat16) else self.weight
        start = torch.randn(self.direction.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        direction, value = largest_eigenpair(lambda u: self._probe(u, weight), start.to(weight), 16)
        self.direction.copy_(direction)
        self.lipschitz.copy_(value)

    @torch.no_grad()
    def update_lipschitz(self, weight: Tensor) -> None:
        """One warm-started power step on ``weight`` in training mode; nothing in evaluation.

        Tensors only: no value is read back from an accelerator.
        """
        if not self.training:
            return
        with full_precision(weight):
            direction, value = power_step(lambda u: self._probe(u, weight.detach()), self.direction)
        # All-zero or broken atoms leave no direction to go on from: keep the last one.
        self.direction.copy_(torch.where(value > 0, direction, self.direction))
        self.lipschitz.copy_(torch.where(value > 0, value, self.lipschitz))

    def bound(self, signal_size: Sequence[int]) -> Tensor:
        r"""Bound of :math:`\|D\|^2` on signals of this spatial size, 0-d; what step sizes are made from."""
        return self.lipschitz.clamp_min(torch.finfo(self.lipschitz.dtype).tiny)

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

    def _operator(self, weight: Tensor) -> Matrix:
        return Matrix(weight, self.bound)

    def _probe(self, signal: Tensor, weight: Tensor) -> Tensor:
        return F.linear(signal, weight) @ weight

    def analysis(
        self, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, *, exact: bool = True
    ) -> Tensor:
        """Correlations of signals ``(..., F)`` with the atoms (or with ``weight``), plus a bias per atom."""
        return F.linear(x, self.weight if weight is None else weight, bias)

    def synthesis(self, z: Tensor, output_size: Sequence[int] | None = None, weight: Tensor | None = None) -> Tensor:
        """Combination of atoms (or of ``weight``) with the coefficients ``(..., M)``. ``output_size`` is ignored."""
        return z @ (self.weight if weight is None else weight)

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}"


class ConvDictionary(Dictionary):
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
        unit_norm: keep the atoms on the unit sphere; False trains plain weights.

    Shape:
        - analysis: ``(N, C, *S)`` to ``(N, M, *S')``, sizes as ``nn.Conv``.
        - synthesis: ``(N, M, *S')`` to ``(N, C, *output_size)``.

    Attributes:
        weight: atoms ``(M, C, *K)``, with ``unit_norm`` a parametrization of the trained tensor.
        lipschitz: estimate of :math:`\|D\|^2`, 0-d buffer; one power step renews it in each training forward of the
            layer that owns the dictionary.
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
        unit_norm: bool = True,
    ) -> None:
        if in_channels < 1 or out_channels < 1:
            raise ValueError(
                f"{self._get_name()}: in_channels and out_channels must be positive, got {in_channels}, {out_channels}"
            )
        geometry = ConvGeometry.create(self.dims, kernel_size, stride, padding, dilation, padding_mode)
        probe_geometry, probe_size = geometry.probe()
        weight = torch.empty(out_channels, in_channels, *geometry.kernel_size, device=device, dtype=dtype)
        self.geometry, self._probe_geometry = geometry, probe_geometry
        super().__init__(weight, probe_size, unit_norm)

    def bound(self, signal_size: Sequence[int]) -> Tensor:
        overlap = self.geometry.overlap(signal_size)
        fits = isinstance(overlap, int) and overlap == 1
        return super().bound(signal_size) if fits else super().bound(signal_size) * overlap

    def _operator(self, weight: Tensor) -> Convolution:
        return Convolution(weight, self.geometry, self.bound)

    def _probe(self, signal: Tensor, weight: Tensor) -> Tensor:
        code = self._probe_geometry.analysis(signal, weight)
        return self._probe_geometry.synthesis(code, weight, signal.shape[2:])

    def analysis(
        self, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, *, exact: bool = True
    ) -> Tensor:
        """Correlations of a signal ``(N, C, *S)`` with the atoms (or with ``weight``), plus a bias per atom.

        ``exact`` is explained at :meth:`ConvGeometry.analysis <csc_nets.functional.ConvGeometry.analysis>`.
        """
        return self.geometry.analysis(x, self.weight if weight is None else weight, bias, exact=exact)

    def synthesis(self, z: Tensor, output_size: Sequence[int] | None = None, weight: Tensor | None = None) -> Tensor:
        """Signal ``(N, C, *output_size)`` of a code ``(N, M, *S')``; see :meth:`ConvGeometry.signal_size` for None."""
        return synthesize(z, self.weight if weight is None else weight, self.geometry, output_size)

    def extra_repr(self) -> str:
        g = self.geometry
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={g.kernel_size}, stride={g.stride}"
        if any(p != (0, 0) for p in g.padding):
            text += f", padding={tuple(lo if lo == hi else (lo, hi) for lo, hi in g.padding)}"
        if any(d != 1 for d in g.dilation):
            text += f", dilation={g.dilation}"
        if g.padding_mode != "zeros":
            text += f", padding_mode={g.padding_mode!r}"
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
