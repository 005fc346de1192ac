r"""How atoms are laid over a signal, in 1, 2 and 3 dimensions: sizes, borders, and torch's convolutions.

Analysis :math:`D^T x` maps a signal ``(N, C, *S)`` to a code ``(N, M, *S')`` by a convolution with the atoms
``weight (M, C, *K)``; synthesis :math:`D z` maps back by the transposed convolution. The two are exact adjoints,
:math:`\langle D z, x \rangle = \langle z, D^T x \rangle`, for every kernel size, stride, padding, dilation, padding
mode and signal size.
"""

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from csc_nets.functional.checks import as_count

__all__ = ["PADDING_MODES", "ConvGeometry", "atom_norm", "unit_norm"]

_CONV: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE: dict[int, Callable[..., Tensor]] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}
PADDING_MODES = ("zeros", "circular", "reflect")


def _per_axis(name: str, value: int | Sequence[int], dims: int, least: int) -> tuple[int, ...]:
    given = value if isinstance(value, Sequence) else [value] * dims
    try:
        values: tuple[int, ...] | None = tuple(operator.index(v) for v in given)  # integers of numpy, too
    except TypeError:
        values = None
    if values is None or len(values) != dims or any(v < least for v in values):
        raise ValueError(f"{name} must be an int >= {least} or {dims} of them, got {value!r}")
    return values


@dataclass(frozen=True)
class ConvGeometry:
    """How atoms are laid over a signal: kernel size, stride, padding (before, after), dilation, padding mode, groups.

    Build it with :meth:`create`, which checks its arguments as ``nn.Conv2d`` names them.
    """

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    padding_mode: str = "zeros"
    groups: int = 1

    @classmethod
    def create(
        cls,
        dims: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | str = 0,
        dilation: int | Sequence[int] = 1,
        padding_mode: str = "zeros",
        groups: int = 1,
    ) -> "ConvGeometry":
        """Geometry in ``dims`` spatial axes.

        Raises:
            ValueError: a size is not positive, ``padding="same"`` with a stride, an unknown padding mode.
        """
        kernel = _per_axis("kernel_size", kernel_size, dims, 1)
        strides = _per_axis("stride", stride, dims, 1)
        dilations = _per_axis("dilation", dilation, dims, 1)
        if padding_mode not in PADDING_MODES:
            raise ValueError(f"padding_mode must be one of {', '.join(PADDING_MODES)}, got {padding_mode!r}")
        if padding == "same":
            if any(s != 1 for s in strides):
                raise ValueError(f"padding='same' is defined for stride 1 only, got stride {stride}")
            # As torch: an odd total (even kernel) puts the extra one after the signal.
            totals = [d * (k - 1) for k, d in zip(kernel, dilations, strict=True)]
            pads = tuple((total // 2, total - total // 2) for total in totals)
        elif padding == "valid":
            pads = ((0, 0),) * dims
        elif isinstance(padding, str):
            raise ValueError(f"padding must be an int, {dims} ints, 'same' or 'valid', got {padding!r}")
        else:
            pads = tuple((p, p) for p in _per_axis("padding", padding, dims, 0))
        return cls(kernel, strides, pads, dilations, padding_mode, as_count(groups, "groups"))

    @property
    def dims(self) -> int:
        """Number of spatial axes."""
        return len(self.kernel_size)

    @property
    def _extents(self) -> list[int]:
        return [d * (k - 1) + 1 for k, d in zip(self.kernel_size, self.dilation, strict=True)]

    @property
    def _least_signal(self) -> list[int]:
        """The smallest signal per axis: it holds one atom, and its border can be copied from it."""
        reach = {"zeros": 0, "circular": 0, "reflect": 1}[self.padding_mode]
        return [
            max(1, extent - lo - hi, 0 if self.padding_mode == "zeros" else max(lo, hi) + reach)
            for extent, (lo, hi) in zip(self._extents, self.padding, strict=True)
        ]

    def code_size(self, signal_size: Sequence[int]) -> tuple[int, ...]:
        """Spatial size of the code of a signal of spatial size ``signal_size``.

        Raises:
            ValueError: the signal is smaller than an atom, or too small for its circular or reflected border.
        """
        for axis, (n, least) in enumerate(zip(signal_size, self._least_signal, strict=True)):
            if n < least:
                raise ValueError(
                    f"signal of size {tuple(signal_size)} is too small: axis {axis} must be at least {least} for "
                    f"kernel_size {self.kernel_size[axis]}, dilation {self.dilation[axis]}, padding "
                    f"{self.padding[axis]}, padding_mode {self.padding_mode!r}"
                )
        return tuple(
            (n + sum(pads) - extent) // s + 1
            for n, pads, extent, s in zip(signal_size, self.padding, self._extents, self.stride, strict=True)
        )

    def signal_size(self, code_size: Sequence[int]) -> tuple[int, ...]:
        """The signal size that a code of size ``code_size`` is taken to have when none is given.

        Up to ``stride`` sizes per axis lead to the same code size. The rule is ``code * stride`` where that is one of
        them (the usual halving layers), else the smallest.
        """
        sizes = []
        for n, s, extent, pads, least in zip(
            code_size, self.stride, self._extents, self.padding, self._least_signal, strict=True
        ):
            first = (n - 1) * s + extent - sum(pads)
            sizes.append(n * s if max(first, least) <= n * s < first + s else max(first, least))
        return tuple(sizes)

    def is_matrix(self, signal_size: Sequence[int]) -> bool:
        """Whether an atom covers the whole signal: then the dictionary is a matrix, and torch's products of matrices
        are several times faster than its convolutions."""
        plain = all(d == 1 for d in self.dilation) and all(pads == (0, 0) for pads in self.padding)
        return plain and self.groups == 1 and self.kernel_size == tuple(signal_size)

    def analysis(self, x: Tensor, weight: Tensor, bias: Tensor | None = None, *, exact: bool = True) -> Tensor:
        r""":math:`D^T x` (plus a bias per atom): ``(N, C, *S)`` to ``(N, M, *S')``.

        Args:
            x: signal ``(N, C, *S)``.
            weight: atoms ``(M, C, *K)``.
            bias: ``(M,)``.
            exact: bit for bit torch's convolution; else equal to it up to rounding, and faster where that is possible.
        """
        if not exact and self.is_matrix(x.shape[2:]):
            return F.linear(x.flatten(1), weight.flatten(1), bias).unflatten(1, (-1, *(1,) * self.dims))
        native = self.native_padding
        if native is None:
            x, native = self.pad(x), (0,) * self.dims
        return _CONV[self.dims](x, weight, bias, self.stride, native, self.dilation, self.groups)

    def synthesis(self, z: Tensor, weight: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        r""":math:`D z`, the adjoint of :meth:`analysis` on signals of size ``output_size``.

        Args:
            z: code ``(N, M, *S')``.
            weight: atoms ``(M, C, *K)``.
            output_size: spatial size of the signal; None as in :meth:`signal_size`.

        Returns:
            Signal ``(N, C, *output_size)``.

        Raises:
            ValueError: no signal of that size has a code of this size.
        """
        size = self.checked_size(z.shape[2:], output_size)
        if self.is_matrix(size):
            return (z.flatten(1) @ weight.flatten(1)).unflatten(1, weight.shape[1:])
        bare, whole = self.bare(size)
        pads, skipped = bare.native_padding, self._skipped(size, z.shape[2:])
        symbolic = any(type(n) is not int for n in skipped)
        # A saved graph keeps this argument as numbers. With sizes that are free it makes all samples, and the last ones
        # are cut off.
        added = [s - 1 for s in self.stride] if symbolic else skipped
        signal = _CONV_TRANSPOSE[self.dims](z, weight, None, self.stride, pads, added, self.groups, self.dilation)
        if symbolic:
            for axis, (n, s) in enumerate(zip(whole, self.stride, strict=True), start=2):
                # Not a view: a graph would ask of every size whether it is contiguous.
                kept = torch.arange(n, device=signal.device)
                signal = signal if s == 1 else signal.index_select(axis, kept)
        return signal if bare is self else self.fold(signal)

    def checked_size(self, code_size: Sequence[int], output_size: Sequence[int] | None) -> tuple[int, ...]:
        """``output_size``, or :meth:`signal_size` for None.

        Raises:
            ValueError: no signal of that size has a code of this size.
        """
        size = self.signal_size(code_size) if output_size is None else tuple(output_size)
        if len(size) != self.dims or self.code_size(size) != tuple(code_size):
            raise ValueError(
                f"output_size {tuple(size)} does not fit a code of size {tuple(code_size)}; "
                f"{self.signal_size(code_size)} would"
            )
        return size

    def bare(self, signal_size: Sequence[int]) -> tuple["ConvGeometry", tuple[int, ...]]:
        """The geometry without the padding that torch cannot do, and the signal's size with that padding.

        What a synthesis of the bare geometry makes is to be folded (:meth:`fold`) where it is another geometry.
        """
        if self.native_padding is not None:
            return self, tuple(signal_size)
        whole = tuple(n + sum(pads) for n, pads in zip(signal_size, self.padding, strict=True))
        return replace(self, padding=((0, 0),) * self.dims, padding_mode="zeros"), whole

    def analysis_gradients(
        self, code: Tensor, x: Tensor, weight: Tensor, *, signal: bool = True, atoms: bool = True
    ) -> tuple[Tensor | None, Tensor | None]:
        r"""Gradients of :math:`\langle c, D^T x \rangle` in one pass: of the signal, :math:`D c`, and of the atoms.

        The gradient of the atoms is the correlation of signal and code, bilinear in the two and the same for
        :meth:`synthesis_gradients`: both inner products are one function of the atoms, because the pair is adjoint.

        Args:
            code: c, ``(N, M, *S')``.
            x: signal ``(N, C, *S)``.
            weight: atoms ``(M, C, *K)``.
            signal: whether the first is wanted.
            atoms: whether the second is wanted; only the size of ``x`` counts else.

        Returns:
            ``(N, C, *S)`` and ``(M, C, *K)``; None for what is not wanted.
        """
        if self.is_matrix(x.shape[2:]):
            rows = code.flatten(1)
            of_atoms = (rows.T @ x.flatten(1)).view_as(weight) if atoms else None
            return (rows @ weight.flatten(1)).view_as(x) if signal else None, of_atoms
        native = self.native_padding
        padded = (x if native is not None else self.pad(x)).to(weight.dtype)  # autocast pads in full precision
        pads, none = (0,) * self.dims if native is None else native, [0] * self.dims
        of_signal, of_atoms, _ = torch.ops.aten.convolution_backward(
            code,
            padded,
            weight,
            None,
            self.stride,
            pads,
            self.dilation,
            False,
            none,
            self.groups,
            [signal, atoms, False],
        )
        return of_signal if native is not None or not signal else self.fold(of_signal), of_atoms

    def synthesis_gradients(
        self, signal: Tensor, z: Tensor, weight: Tensor, *, atoms: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        r"""Gradients of :math:`\langle s, D z \rangle` in one pass: of the code, :math:`D^T s`, and of the atoms.

        Args:
            signal: s, ``(N, C, *S)``.
            z: code ``(N, M, *S')``.
            weight: atoms ``(M, C, *K)``.
            atoms: whether the second is wanted; only the size of ``z`` counts else.

        Returns:
            ``(N, M, *S')`` and ``(M, C, *K)``; None for what is not wanted.
        """
        size = signal.shape[2:]
        if self.is_matrix(size):
            rows = signal.flatten(1)
            of_atoms = (z.flatten(1).T @ rows).view_as(weight) if atoms else None
            return F.linear(rows, weight.flatten(1)).view_as(z), of_atoms
        native = self.native_padding
        padded = (signal if native is not None else self.pad(signal)).to(weight.dtype)
        pads, skipped = (0,) * self.dims if native is None else native, self._skipped(size, z.shape[2:])
        return torch.ops.aten.convolution_backward(
            padded,
            z,
            weight,
            None,
            self.stride,
            pads,
            self.dilation,
            True,
            skipped,
            self.groups,
            [True, atoms, False],
        )[:2]

    def _skipped(self, size: Sequence[int], code_size: Sequence[int]) -> list[int]:
        """What the strides of the analysis skipped at the end of the signal, per axis: the published rule "1 if the
        stride is 2" is wrong for even kernels and odd sizes."""
        return [
            n + sum(pads) - (m - 1) * s - extent
            for n, m, s, extent, pads in zip(size, code_size, self.stride, self._extents, self.padding, strict=True)
        ]

    @property
    def native_padding(self) -> tuple[int, ...] | None:
        """The padding argument when torch's own zero padding does it, else None."""
        if any(lo != hi for lo, hi in self.padding):
            return None
        if self.padding_mode != "zeros" and any(lo for lo, _ in self.padding):
            return None
        return tuple(lo for lo, _ in self.padding)

    def pad(self, x: Tensor) -> Tensor:
        """The signal with its border."""
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        return F.pad(x, [p for pair in reversed(self.padding) for p in pair], mode=mode)

    def fold(self, x: Tensor) -> Tensor:
        """The adjoint of :meth:`pad`: adds what lies in the border to the samples it was copied from."""
        for axis, (lo, hi) in enumerate(self.padding, start=2):
            n = x.shape[axis] - lo - hi
            before, inner, after = x.narrow(axis, 0, lo), x.narrow(axis, lo, n), x.narrow(axis, lo + n, hi)
            if self.padding_mode != "zeros":
                inner = inner.clone()
            if self.padding_mode == "circular":
                inner.narrow(axis, n - lo, lo).add_(before)
                inner.narrow(axis, 0, hi).add_(after)
            elif self.padding_mode == "reflect":
                inner.narrow(axis, 1, lo).add_(before.flip(axis))
                inner.narrow(axis, n - 1 - hi, hi).add_(after.flip(axis))
            x = inner
        return x

    def overlap(self, signal_size: Sequence[int]) -> float:
        r"""Factor by which :math:`\|D\|^2` may exceed that of :meth:`probe` for signals of this size.

        1 for zero padding. Circular and reflected borders are copies of samples: with P the padding and C the
        convolution of the padded signal, :math:`D^T = C P` and :math:`\|D\|^2 \le \|P\|^2 \|C\|^2`, where
        :math:`\|P\|^2`, the largest number of times that a sample occurs in the padded signal, is 1, 2 or 3 per axis.
        Borders of a long signal are in the probe, too, so the factor counts what the probe does not see:

        - a signal so short that both borders copy the same sample, which then occurs three times, not twice;
        - atoms that meet the far border in another place than in the probe, because of their stride. One that meets
          its sample twice there, and once in the probe, has twice the norm;
        - a circular signal that is no multiple of the stride, whose ends two families of shifts cover.

        The product :math:`\|P\|^2 \|C\|^2` bounds them by 3, 2 and 2 per axis. Below 2 p + 1 samples 3 / 2, or 2
        with a stride, is what the worst atoms reach beside the probe; for somewhat longer signals, whose borders meet
        in one atom, a little is left. These figures are by gradient ascent on the atoms (tests).
        """
        if self.padding_mode == "zeros":
            return 1
        axes = zip(signal_size, self.stride, self.padding, self._extents, strict=True)
        return math.prod([self._overlap_of_axis(n, s, sum(pads), extent) for n, s, pads, extent in axes])

    def _overlap_of_axis(self, n: int, stride: int, pads: int, extent: int) -> float:
        # 0 where the size is a multiple of the stride, else 1. Not by a comparison: one of a free size holds for a
        # whole graph, and torch 2.6 forgets that it was made.
        uneven = 0 if stride == 1 else (n % stride + stride - 1) // stride
        if not isinstance(n, int):
            return 1 + uneven  # the factor of long signals
        if self.padding_mode == "circular":
            again = pads >= extent and n <= pads  # more positions than samples
            laps = 1 + uneven * (1 if n >= extent else 2)
            return laps * (1.5 if again else 1)
        if not pads:
            return 1
        short, meeting = n <= pads + 1, n <= pads + extent
        if stride > 1:
            # The probe is a multiple of the stride; so is the difference of a signal that ends alike.
            return 2 if short else 1 + uneven if not meeting else 1.125 + 0.875 * uneven
        return 1.5 if short else 1.0625 if meeting and extent <= 3 else 1

    def crowding(self) -> int:
        r"""A factor c with :math:`\|D\|^2 \le c \|W\|^2` on signals of every size, W the matrix ``(M, C K)`` of atoms.

        Derivation: samples of a signal fall into classes by their place modulo the stride. The taps of an atom that
        reach one class are at most :math:`o = \lceil k g / s \rceil` per axis, g the greatest common divisor of
        stride and dilation, so a sample is a sum of at most :math:`o` numbers per axis, and
        :math:`|\sum_{i=1}^o a_i|^2 \le o \sum |a_i|^2`. Borders that are copies repeat a sample up to three times.
        """
        taps = zip(self.kernel_size, self.stride, self.dilation, strict=True)
        most = math.prod([-(-k * math.gcd(s, d) // s) for k, s, d in taps])
        copied = sum([pads != (0, 0) for pads in self.padding]) if self.padding_mode != "zeros" else 0
        return most * 3**copied

    def probe(self) -> tuple["ConvGeometry", tuple[int, ...]]:
        r"""A geometry and a signal size on which :math:`\|D\|^2` stands for that of signals of every size.

        With zero padding the norm grows with the signal towards the supremum of the dictionary's spectrum. A periodic
        signal samples that spectrum, four atoms wide. On random and on smooth filters that is at most 1 % below the
        norm (and up to 5 % above that of a small signal); atoms that are all one wave, between two samples, are 5 %
        per axis below: sinc(1/8)^2. It is an estimate, not a bound for every dictionary: the worst atoms of extent e,
        on N samples, are a factor :math:`(1 + \sec(\pi (e - 1) / N)) / 2` per axis below, 1.08 for e = 3, 1.12 for 5,
        1.21 in the limit (derivation: a trigonometric polynomial of degree e - 1 is at most sec(...) times its largest
        sample in magnitude; for one of values in [0, m] take m / 2 away first). Circular and reflected borders are
        kept as they are, for signals of a multiple of the stride; see :meth:`overlap` for other sizes.
        """
        size = tuple(
            max(8, -(-4 * extent // s), -(-(max(pads) + 1) // s)) * s
            for s, extent, pads in zip(self.stride, self._extents, self.padding, strict=True)
        )
        return (self if self.padding_mode != "zeros" else self.periodic()), size

    def periodic(self) -> "ConvGeometry":
        """The same atoms at every place of a periodic signal, once."""
        pads = tuple(((e - 1) // 2, e - 1 - (e - 1) // 2) for e in self._extents)
        return replace(self, padding=pads, padding_mode="circular")


def unit_norm(weight: Tensor) -> Tensor:
    """Atoms ``weight``, ``(M, ...)``, scaled to unit l2 norm; a zero atom stays zero.

    Example:
        >>> unit_norm(torch.tensor([[3.0, 4.0]]))
        tensor([[0.6000, 0.8000]])
    """
    return weight / atom_norm(weight)


def atom_norm(weight: Tensor) -> Tensor:
    """Norms of atoms ``(M, ...)`` that one may divide by, ``(M, 1, ...)``: that of a zero atom is a tiny number."""
    # Over the axes as they are: flattening atoms in channels_last would copy them, and keep the copy.
    norm = torch.linalg.vector_norm(weight, dim=tuple(range(1, weight.ndim)), keepdim=True)
    return norm.clamp_min(math.sqrt(torch.finfo(weight.dtype).tiny))
