"""A convolution, a rectifier and pooling with switches, as a pursuit of a block-sparse code."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from csc_nets.functional import ISTA, OnePerBlock, Problem, absolute_pool, run, top_k, unpool
from csc_nets.functional.checks import errors_of
from csc_nets.layers.coder import CodedStep
from csc_nets.layers.dictionary import Dictionary2d

__all__ = ["PooledCSC2d"]

SIGNS = ("signed", "nonneg", "mirrored")


_ALLOWED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "window": (lambda n: n is None or (isinstance(n, int) and n >= 1), "an int >= 1 or None"),
    "density": (lambda share: 0 < share <= 1, "in (0, 1]"),
    "steps": (lambda n: isinstance(n, int) and n >= 1, "an int >= 1"),
    "sign": (lambda sign: sign in SIGNS, f"one of {', '.join(SIGNS)}"),
    "step_size": (lambda eta: eta is None or 0 < eta < math.inf, "None or a finite number > 0"),
}


@dataclass(frozen=True)
class Mirrored:
    """The atoms of an operator, and behind them the same atoms with the other sign."""

    operator: Any

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
    r"""Block-sparse coding: at most one non-zero in each window of an atom's positions, handed on as its value.

    .. math:: z \leftarrow \mathcal M\bigl(z + \eta D^T (x - D z)\bigr), \qquad z_0 = 0

    Model-based iterative hard thresholding, Algorithm 1 of Gilbert et al., `Towards Understanding the Invertibility of
    Convolutional Neural Networks <https://arxiv.org/abs/1705.08664>`_, where :math:`\mathcal M` keeps the entry of
    largest magnitude in each window, and of the windows the largest ones. The layer returns those entries; where they
    stood are the switches. One step of size 1 is a convolution, a rectifier and max pooling, and :meth:`synthesize` the
    decoder of it by unpooling and the transposed convolution with the same filters.

    Args:
        in_channels: channels C of the signal.
        out_channels: number M of filters.
        kernel_size, stride, padding, dilation, padding_mode: as for :class:`CSC2d`.
        window: positions of a block per axis; 1 for no pooling, None for one block an atom, as the theory has it.
        density: share of the blocks that are kept, in (0, 1].
        steps: steps of the pursuit.
        sign: ``"signed"`` codes of any sign; ``"nonneg"``: the ReLU of a CNN; ``"mirrored"``: non-negative codes over
            the atoms and their negatives, twice the channels (Proposition 1: for orthonormal atoms and windows of 1,
            :math:`[W^T, -W^T] \max([W; -W] x, 0) = x`).
        step_size: :math:`\eta`; None for 0.9 divided by the squared norm of the dictionary, with which more steps
            explain more of x (with 1 they diverge over many more filters than channels).
        unit_norm: keep the atoms on the unit sphere; False trains plain weights.

    Shape:
        ``(N, C, H, W)`` to ``(N, M, ceil(H' / window), ceil(W' / window))``, 2 M channels if mirrored, H', W' as of
        ``nn.Conv2d``; any H and W.
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

    def __setattr__(self, name: str, value: Any) -> None:
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
        """The filters ``(M, C, *K)``, of unit norm where the layer keeps them so. Assign filters of your own."""
        return self.dictionary.weight

    def set_filters(self, weight: Tensor) -> None:
        """Puts filters of one's own in place of the layer's, scaled to unit norm where the layer keeps them so.

        Args:
            weight: ``(M, C, *K)`` as :attr:`atoms`.

        Raises:
            ValueError: another shape, or values that are not finite.
        """
        with errors_of("PooledCSC2d"):
            self.dictionary.set_atoms(weight)

    def objective(self, x: Tensor, z: Tensor) -> Tensor:
        r""":math:`\tfrac12 \|x - D z\|^2` of codes before pooling, as of :meth:`code`, per sample ``(N,)``."""
        return (x - self._pair(self.dictionary).synthesis(z, x.shape[2:])).square().flatten(1).sum(1) / 2

    def forward(self, x: Tensor) -> Tensor:
        """Pooled codes of signals ``(N, C, H, W)``."""
        return self.pooled(x)[0]

    def pooled(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled codes, and their switches: positions in the code's H' x W' grid, flattened, int64 of the same shape.

        Raises:
            ValueError: wrong number of axes or channels, a signal smaller than an atom.
        """
        channels = self.dictionary.in_channels
        if x.ndim != 4 or x.shape[1] != channels:
            raise ValueError(
                f"PooledCSC2d: expected {channels} input channels (N, {channels}, H, W), got {tuple(x.shape)}"
            )
        problem = self._problem(x, self.dictionary.track())
        if self.steps > 1:
            return absolute_pool(run(problem, ISTA(self.steps).steps(problem)), self.window)
        # Without unpooling what is pooled again.
        v = problem.operator.analysis(x)
        values, switches = absolute_pool(v if self.sign == "signed" else v.relu(), self.window)
        kept = self.penalty.kept(v)
        values = values if kept is None else top_k(values, kept)
        return values if self.step_size == 1 else values * problem.step_size, switches

    def code(self, x: Tensor) -> Tensor:
        """The code before pooling, ``(N, M, H', W')``, one non-zero in a block."""
        problem = self._problem(x)
        return run(problem, ISTA(self.steps).steps(problem))

    def _problem(self, x: Tensor, operator: Any = None) -> Problem:
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
        return self._pair(self.dictionary).synthesis(unpool(values, switches, size), output_size)

    def coded(self, x: Tensor, output: Tensor, **arguments: Any) -> list[CodedStep]:
        """See :class:`~csc_nets.layers.coder.Coder`: the code before pooling, which the next layer does not see."""
        weight, gain = self.atoms, self.step(x) if self.steps == 1 else None
        weight = torch.cat([weight, -weight]) if self.sign == "mirrored" else weight
        return [CodedStep(x, weight, self.dictionary.geometry, self.code(x), gain, returned=False)]

    def thresholds(self) -> dict[str, Tensor]:
        """None: blocks compete, and no weight is taken away."""
        return {}

    def _pair(self, dictionary: Any) -> Any:
        return Mirrored(dictionary) if self.sign == "mirrored" else dictionary

    def step(self, x: Tensor) -> float | Tensor:
        """The step size for signals of the size of ``x``."""
        return self._problem(x).step_size

    def extra_repr(self) -> str:
        text = f"window={self.window}, steps={self.steps}, sign={self.sign!r}"
        return text + (f", density={self.density}" if self.density < 1 else "")
