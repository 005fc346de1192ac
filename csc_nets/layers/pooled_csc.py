"""A convolution, a rectifier and pooling with switches, as one pursuit of a block-sparse code."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from csc_nets.functional import ISTA, Convolution, OnePerBlock, Problem, absolute_pool, run, top_k, unpool
from csc_nets.functional.checks import errors_of
from csc_nets.functional.inputs import as_batch, check_code
from csc_nets.layers.coder import CodedStep
from csc_nets.layers.dictionary import Dictionary2d
from csc_nets.layers.leaf import leaf

__all__ = ["PooledCSC2d"]

SIGNS = ("signed", "nonneg", "mirrored")


_ALLOWED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "window": (lambda n: n is None or (isinstance(n, int) and n >= 1), "an int >= 1 or None"),
    "density": (lambda share: isinstance(share, int | float) and 0 < share <= 1, "in (0, 1]"),
    "steps": (lambda n: isinstance(n, int) and n >= 1, "an int >= 1"),
    "sign": (lambda sign: sign in SIGNS, f"one of {', '.join(SIGNS)}"),
    "step_size": (
        lambda eta: eta is None or (isinstance(eta, int | float) and 0 < eta < math.inf),
        "None or a finite number > 0",
    ),
}


@dataclass(frozen=True)
class Mirrored:
    """The atoms of an operator, followed by the same atoms with the other sign."""

    operator: Dictionary2d | Convolution

    def analysis(self, x: Tensor) -> Tensor:
        """Correlations with the atoms and with their negatives, ``(N, 2 M, *S')``."""
        v = self.operator.analysis(x)
        return torch.cat([v, -v], 1)

    def synthesis(self, z: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """The signal of a code ``(N, 2 M, *S')``."""
        plus, minus = z.chunk(2, 1)
        return self.operator.synthesis(plus - minus, output_size)

    def bound(self, signal_size: Sequence[int]) -> Tensor:
        """Twice that of the operator."""
        return 2 * self.operator.bound(signal_size)


class PooledCSC2d(nn.Module):
    r"""Block-sparse coding: at most one non-zero in each window of an atom's positions. The layer returns its value.

    .. math:: z \leftarrow \mathcal M\bigl(z + \eta D^T (x - D z)\bigr), \qquad z_0 = 0

    Model-based iterative hard thresholding, Algorithm 1 of Gilbert et al., `Towards Understanding the Invertibility of
    Convolutional Neural Networks <https://arxiv.org/abs/1705.08664>`_, where :math:`\mathcal M` keeps the entry of
    largest magnitude in each window, and only the windows with the largest entries. The layer returns these entries;
    their positions are the switches. One step of size 1 is a convolution, a rectifier and max pooling. The decoder
    :meth:`synthesize` unpools and applies the transposed convolution with the same filters.

    Args:
        in_channels: channels C of the signal.
        out_channels: number M of filters.
        kernel_size, stride, padding, dilation, padding_mode: as for :class:`CSC2d`.
        window: positions of a block per axis; 1 for no pooling, None for one block an atom, as in the theory.
        density: share of the blocks that are kept, in (0, 1].
        steps: steps of the pursuit.
        sign: ``"signed"`` codes of any sign; ``"nonneg"``: the ReLU of a CNN; ``"mirrored"``: non-negative codes over
            the atoms and their negatives, twice the channels (Proposition 1: for orthonormal atoms and windows of 1,
            :math:`[W^T, -W^T] \max([W; -W] x, 0) = x`).
        step_size: :math:`\eta`; None for 0.9 divided by the squared norm of the dictionary. Then more steps explain
            more of x. With a step size of 1 they diverge if there are many more filters than channels.
        unit_norm: keep the atoms on the unit sphere; False trains plain weights.

    Shape:
        ``(N, C, H, W)`` to ``(N, M, ceil(H' / window), ceil(W' / window))``, 2 M channels if mirrored, H', W' as of
        ``nn.Conv2d``; any H and W. One image may come without the batch axis, and its code goes without it.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | str = 0,
        dilation: int | Sequence[int] = 1,
        padding_mode: str = "zeros",
        *,
        window: int | None = 2,
        density: float = 1.0,
        steps: int = 1,
        sign: str = "nonneg",
        step_size: float | None = None,
        unit_norm: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.dictionary = Dictionary2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            padding_mode,
            device,
            dtype,
            unit_norm=unit_norm,
        )
        self.window, self.density, self.steps, self.sign, self.step_size = window, density, steps, sign, step_size

    def reset_parameters(self) -> None:
        """Draws fresh filters."""
        self.dictionary.reset_parameters()

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "unit_norm":
            raise ValueError(f"PooledCSC2d: unit_norm is chosen when the layer is built, and stays, got {value!r}")
        if name == "atoms":
            self.set_filters(value)
            return
        if name in _ALLOWED:
            check, allowed = _ALLOWED[name]
            if isinstance(value, bool) or not check(value):
                raise ValueError(f"PooledCSC2d: {name} must be {allowed}, got {value!r}")
        super().__setattr__(name, value)

    @property
    def penalty(self) -> OnePerBlock:
        """The blocks, and how many of them are kept."""
        return OnePerBlock(self.window, self.density, self.sign != "signed")

    @property
    def out_channels(self) -> int:
        """Channels of the output."""
        return self.dictionary.out_channels * (2 if self.sign == "mirrored" else 1)

    @property
    def atoms(self) -> Tensor:
        """The filters ``(M, C, *K)``, of unit norm if the layer has unit atoms. Assign filters of your own."""
        return self.dictionary.weight

    def set_filters(self, weight: Tensor) -> None:
        """Replaces the filters of the layer; they are scaled to unit norm if the layer has unit atoms.

        Args:
            weight: ``(M, C, *K)`` as :attr:`atoms`.

        Raises:
            ValueError: another shape, or values that are not finite.
        """
        with errors_of("PooledCSC2d"):
            self.dictionary.set_atoms(weight)

    def objective(self, x: Tensor, z: Tensor) -> Tensor:
        r""":math:`\tfrac12 \|x - D z\|^2` of codes before pooling, as of :meth:`code`, per sample ``(N,)``."""
        x, single = self._batch(x)
        shape = (x.shape[0], self.out_channels, *self.dictionary.geometry.code_size(x.shape[2:]))
        z = check_code("PooledCSC2d", "z", z, shape, x, single, many=x.shape[0] == 1)
        value = (x - self._pair(self.dictionary).synthesis(z, x.shape[2:])).square().flatten(1).sum(1) / 2
        return value[0] if single else value

    @leaf
    def forward(self, x: Tensor) -> Tensor:
        """Pooled codes of signals ``(N, C, H, W)``."""
        return self.pooled(x)[0]

    def pooled(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled codes, and their switches: positions in the code's H' x W' grid, flattened, int64 of the same shape.

        Raises:
            ValueError: wrong number of axes or channels, another type or device, a signal smaller than an atom.
        """
        x, single = self._batch(x)
        values, switches = self._pooled(x)
        return (values[0], switches[0]) if single else (values, switches)

    def _pooled(self, x: Tensor) -> tuple[Tensor, Tensor]:
        problem = self._problem(x, self.dictionary.track())
        if self.steps > 1:
            return absolute_pool(run(problem, ISTA(self.steps).steps(problem)), self.window)
        # One step needs no unpooling.
        v = problem.operator.analysis(x)
        values, switches = absolute_pool(v if self.sign == "signed" else v.relu(), self.window)
        kept = self.penalty.kept(v)
        values = values if kept is None else top_k(values, kept)
        return values if self.step_size == 1 else values * problem.step_size, switches

    def code(self, x: Tensor) -> Tensor:
        """The code before pooling, ``(N, M, H', W')``, one non-zero in a block."""
        x, single = self._batch(x)
        problem = self._problem(x)
        z = run(problem, ISTA(self.steps).steps(problem))
        return z[0] if single else z

    def _batch(self, x: Tensor) -> tuple[Tensor, bool]:
        """Checked signals with a batch axis, and whether they are one signal that came without."""
        x, single = as_batch("PooledCSC2d", x, self.dictionary.in_channels, 2, next(self.dictionary.parameters()))
        self.dictionary.geometry.code_size(x.shape[2:])  # refuses a signal smaller than an atom
        return x, single

    def _problem(self, x: Tensor, operator: Convolution | None = None) -> Problem:
        pair = self._pair(self.dictionary.read() if operator is None else operator)
        return Problem(x, pair, 0.0, penalty=self.penalty, step=self.step_size, check=False)

    def synthesize(self, values: Tensor, switches: Tensor, output_size: Sequence[int]) -> Tensor:
        """The signal of pooled codes: unpooled to their switches, then the transposed convolution.

        Args:
            values: ``(N, M, P, Q)``.
            switches: as of :meth:`pooled`.
            output_size: height and width of the signal.

        Returns:
            ``(N, C, *output_size)``.
        """
        size = self.dictionary.geometry.code_size(output_size)
        like = next(self.dictionary.parameters())
        values, single = as_batch("PooledCSC2d", values, self.out_channels, 2, like, "values", "code channels")
        pooled = tuple(1 if self.window is None else -(-n // self.window) for n in size)
        check_code("PooledCSC2d", "values", values, (*values.shape[:2], *pooled), like)
        switches = switches[None] if single else switches
        if switches.shape != values.shape or switches.dtype != torch.int64:
            raise ValueError(
                f"PooledCSC2d: switches must be int64 of the shape of the values {tuple(values.shape)}, "
                f"got {switches.dtype} {tuple(switches.shape)}"
            )
        signal = self._pair(self.dictionary).synthesis(unpool(values, switches, size), output_size)
        return signal[0] if single else signal

    def coded(self, x: Tensor, output: Tensor, **arguments: Any) -> list[CodedStep]:
        """See :class:`~csc_nets.layers.coder.Coder`: the code before pooling, which the next layer does not see."""
        x, _ = self._batch(x)
        weight, gain = self.atoms, self.step(x) if self.steps == 1 else None
        weight = torch.cat([weight, -weight]) if self.sign == "mirrored" else weight
        return [CodedStep(x, weight, self.dictionary.geometry, self.code(x), gain, returned=False)]

    def thresholds(self) -> dict[str, Tensor]:
        """No thresholds: blocks compete, and no weight is subtracted."""
        return {}

    def _pair(self, dictionary: Dictionary2d | Convolution) -> Dictionary2d | Convolution | Mirrored:
        return Mirrored(dictionary) if self.sign == "mirrored" else dictionary

    def step(self, x: Tensor) -> float | Tensor:
        """The step size for signals of the size of ``x``."""
        return self._problem(self._batch(x)[0]).step_size

    def extra_repr(self) -> str:
        text = f"window={self.window}, steps={self.steps}, sign={self.sign!r}"
        return text + (f", density={self.density}" if self.density < 1 else "")
