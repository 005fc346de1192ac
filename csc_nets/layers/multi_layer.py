"""A stack of dictionaries as one layer: the pursuits of the multi-layer convolutional sparse coding model."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from csc_nets.functional import (
    L1,
    Cascade,
    ConvGeometry,
    HardThreshold,
    NonnegativeL1,
    Penalty,
    Problem,
    Step,
    as_weight,
)
from csc_nets.functional.checks import check_tol, errors_of
from csc_nets.functional.inputs import as_batch, check_code, check_lam
from csc_nets.functional.problem import SAFETY
from csc_nets.functional.pursuits.coupled import CoupledProblem
from csc_nets.layers.coder import CodedStep
from csc_nets.layers.dictionary import Dictionary
from csc_nets.layers.leaf import leaf
from csc_nets.layers.multi_layer_pursuits import MultiLayerPursuit, as_multi_layer_pursuit
from csc_nets.layers.options import step_sizes
from csc_nets.layers.saving import Savable

__all__ = ["MultiLayerCSC"]

_PENALTIES: dict[str, Penalty] = {"nonneg": NonnegativeL1(), "soft": L1(), "hard": HardThreshold()}
Lam = float | Tensor | Sequence[float | Tensor]


class MultiLayerCSC(Savable):
    r"""Codes of the multi-layer convolutional sparse coding model

    .. math:: x = D_1 \Gamma_1, \quad \Gamma_1 = D_2 \Gamma_2, \quad \ldots, \quad \Gamma_{K-1} = D_K \Gamma_K,
              \qquad \text{every } \Gamma_i \text{ sparse}

    (Papyan, Romano, Elad, `Convolutional Neural Networks Analyzed via Convolutional Sparse Coding
    <https://arxiv.org/abs/1607.08194>`_), by one of these pursuits. With :math:`\Gamma_0 = x`, step sizes
    :math:`\eta_i` and thresholds :math:`t_i`:

    - ``"layered_thresholding"``: :math:`\Gamma_i = P_{t_i}(\eta_i D_i^T \Gamma_{i-1})`, the forward pass of a CNN.
    - ``"layered_iterative_thresholding"``: ``steps`` steps in each layer, from zero, of

      .. math:: \Gamma_i \leftarrow P_{t_i}\bigl(\Gamma_i + \eta_i D_i^T (\Gamma_{i-1} - D_i \Gamma_i)\bigr).
    - ``"layered_basis_pursuit"``: the thresholding, then ``steps`` of these steps in each layer. With ``tol``, FISTA
      solves each layer's problem :math:`\min \tfrac12 \|\Gamma_{i-1} - D_i \Gamma\|^2 + \lambda_i \|\Gamma\|_1`.
    - ``"ml_ista"``: all layers together. After the thresholding, ``steps`` times: top-down
      :math:`\hat\Gamma_K = \Gamma_K,\ \hat\Gamma_{i-1} = D_i \hat\Gamma_i`, then bottom-up

      .. math:: \Gamma_i \leftarrow P_{t_i}\bigl(\hat\Gamma_i + \eta_i D_i^T (\Gamma_{i-1} - D_i \hat\Gamma_i)\bigr)

      with the new :math:`\Gamma_{i-1}` (Sulam, Aberdam, Beck, Elad, `On Multi-Layer Basis Pursuit, Efficient Algorithms
      and Convolutional Neural Networks <https://arxiv.org/abs/1806.00701>`_). The smaller the step sizes of all
      layers but the deepest, the closer its fixed point is to the minimum of :meth:`objective`.
    - ``"ml_fista"``: the same with FISTA's extrapolation of the deepest code.
    - ``"ml_lista"``: second dictionaries :math:`B_i` (``feedforward``) take the input and synthesise top-down,
      :math:`\Gamma_i \leftarrow P(\hat\Gamma_i - \eta_i D_i^T D_i \hat\Gamma_i + \eta_i B_i^T \Gamma_{i-1})`.
    - ``"all_free"``: each of the ``steps + 1`` steps has its own set of dictionaries and biases (``sets``), and there
      is no top-down pass. Step s synthesises with set s and analyses with set s + 1.

    With ``steps=0`` all of them but the second are the thresholding. If layers are coded one after the other,
    :math:`t_i = \eta_i \lambda_i - b_i`. If they are coded together (``"ml_..."``), the gradient for layer i passes the
    steps of the layers below, which scale it by their step sizes:
    :math:`t_i = \eta_1 \cdots \eta_i \lambda_i - b_i`.

    Args:
        dictionaries: from the signal to the deepest code; the atoms of one are the channels of the next.
        pursuit: one of these names, or a :class:`~csc_nets.layers.MultiLayerPursuit` of your own.
        steps: unfoldings after the first thresholding, at least 0.
        lam: sparsity weight :math:`\lambda`: a number, or one for each layer (a number or a weight per atom).
        bias: learn :math:`b_i`, one per atom, of any sign, starting at 0; not for ``prox="hard"``. With ``"soft"`` a
            threshold below 0 counts as 0, and its :math:`b_i` then has no gradient.
        prox: ``"nonneg"``, ``"soft"``, or ``"hard"`` (layered thresholding only).
        step_size: :math:`\eta`, a number for all layers or one for each; None takes
            :math:`0.9 / \|D_i\|^2` (1 for layered thresholding).
        learn_step: train the step sizes, starting at ``step_size``.
        tol: tolerance of ``"layered_basis_pursuit"``: a sample of a layer stops when its duality gap is at most ``tol``
            times half its squared norm, and after ``steps`` further steps in any case.

    Shape:
        ``(N, C, *S)`` to the deepest code ``(N, M_K, *S_K)``; or one signal ``(C, *S)`` to ``(M_K, *S_K)``.

    Raises:
        ValueError: dictionaries that do not fit, an unknown pursuit, numbers out of range.

    Example:
        >>> from csc_nets.layers import Dictionary2d
        >>> layer = MultiLayerCSC([Dictionary2d(1, 8, 6, stride=2), Dictionary2d(8, 16, 6, stride=2)], steps=3)
        >>> [tuple(code.shape) for code in layer.codes(torch.randn(2, 1, 28, 28))]
        [(2, 8, 12, 12), (2, 16, 4, 4)]
    """

    # nn.ModuleList; Any, because its type does not know the type of its modules
    dictionaries: Any
    feedforward: Any
    sets: Any

    def __init__(
        self,
        dictionaries: Sequence[Dictionary],
        *,
        pursuit: str | MultiLayerPursuit = "ml_fista",
        steps: int = 6,
        lam: Lam = 0.1,
        bias: bool = False,
        prox: str = "nonneg",
        step_size: float | Sequence[float] | None = None,
        learn_step: bool = False,
        tol: float | None = None,
    ) -> None:
        super().__init__()
        with errors_of("MultiLayerCSC"):
            self._pursuit = as_multi_layer_pursuit(pursuit)
        axes = {_axes(d) if isinstance(d, Dictionary) else None for d in dictionaries}
        if len(axes) != 1 or None in axes:
            names = ", ".join(type(d).__name__.removeprefix("Parametrized") for d in dictionaries)
            raise ValueError(f"MultiLayerCSC: dictionaries must be layers of one number of axes, got {names or 'none'}")
        if learn_step and step_size is None:
            raise ValueError("MultiLayerCSC: learn_step=True needs a step_size to start from")
        Cascade(dictionaries)  # refuses layers that do not fit
        self.steps = steps
        self.dictionaries = nn.ModuleList(dictionaries)
        self.feedforward = nn.ModuleList(_fresh(dictionaries) if self._pursuit.feedforward else [])
        self.sets = nn.ModuleList(
            nn.ModuleList(_fresh(dictionaries)) for _ in range(steps if self._pursuit.untied else 0)
        )
        # One bias a layer, and one more for each further set of dictionaries.
        widths = [d.out_channels for d in dictionaries] * (1 + len(self.sets))
        self.biases = nn.ParameterList(dictionaries[0].lipschitz.new_zeros(width) for width in widths if bias)
        self._prox = "nonneg"
        self._tol: float | None = None
        weights, sizes = self._per_layer(lam), self._sizes(step_size)
        self._first_lam = [w.detach().cpu().clone() if isinstance(w, Tensor) else w for w in weights]
        self._first_step_sizes = sizes
        for i, (value, size) in enumerate(zip(weights, sizes, strict=True)):
            like = dictionaries[i].lipschitz
            self.register_buffer(f"lam_{i}", _like(value, like))
            start = None if size is None else _like(size, like)
            if learn_step and start is not None:
                self.register_parameter(f"step_size_{i}", nn.Parameter(start.view(1)))
            else:
                self.register_buffer(f"step_size_{i}", start)
        self.prox, self.tol = prox, tol

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("bias", "learn_step"):
            raise ValueError(f"MultiLayerCSC: {name} is chosen when the layer is built, and stays, got {value!r}")
        if name in self.__dict__.get("_buffers", ()) and isinstance(value, Tensor) and not value.is_meta:
            kind, _, i = name.rpartition("_")
            if kind == "lam":
                self._per_layer([value if j == int(i) else 0.0 for j in range(len(self.dictionaries))])
            else:
                self._sizes(float(value))
        super().__setattr__(name, value)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws fresh atoms, and puts weights, step sizes and biases back to their start, as after ``to_empty``."""
        for dictionary in (
            *self.dictionaries,
            *self.feedforward,
            *(d for i in range(len(self.sets)) for d in self._set(i + 1)),
        ):
            dictionary.reset_parameters()
        for bias in self.biases:
            bias.zero_()
        self.lam = self._first_lam
        for i, size in enumerate(self._first_step_sizes):
            if size is not None:
                getattr(self, f"step_size_{i}").fill_(size)

    @property
    def pursuit(self) -> str:
        """The name of the pursuit. It cannot be changed, because the layer was built for it."""
        return self._pursuit.registered_name or repr(self._pursuit)

    @property
    def steps(self) -> int:
        """Unfoldings after the first thresholding. May be assigned, except for ``"all_free"`` with its set for each."""
        return self._steps

    @steps.setter
    def steps(self, steps: int) -> None:
        least = self._pursuit.least_steps
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < least:
            raise ValueError(f"MultiLayerCSC: steps must be an int >= {least} for {self.pursuit}, got {steps!r}")
        if hasattr(self, "sets") and self._pursuit.untied and steps != len(self.sets):
            count = len(self.sets)
            raise ValueError(f"MultiLayerCSC: {self.pursuit} has dictionaries for {count} steps, got steps={steps}")
        self._steps = steps

    @property
    def prox(self) -> str:
        """The proximal map, by its name; can be assigned, as far as the pursuit and the biases allow."""
        return self._prox

    @prox.setter
    def prox(self, prox: str) -> None:
        if prox not in _PENALTIES:
            raise ValueError(f"MultiLayerCSC: prox must be 'nonneg', 'soft' or 'hard', got {prox!r}")
        if prox == "hard" and not self._pursuit.hard:
            raise ValueError(f"MultiLayerCSC: prox='hard' is for layered_thresholding, got pursuit={self.pursuit!r}")
        if len(self.biases) and prox == "hard":
            raise ValueError(f"MultiLayerCSC: bias=True needs prox='nonneg' or 'soft', got {prox!r}")
        self._prox = prox

    @property
    def tol(self) -> float | None:
        """Tolerance of ``"layered_basis_pursuit"``; None takes all steps. Can be assigned."""
        return self._tol

    @tol.setter
    def tol(self, tol: float | None) -> None:
        with errors_of("MultiLayerCSC"):
            check_tol(tol)
        sized = any(size is not None for size in self.step_size)
        if tol is not None and (not self._pursuit.tolerant or len(self.biases) or sized):
            raise ValueError(
                "MultiLayerCSC: tol is a number > 0 for pursuit='layered_basis_pursuit' without bias or step_size, "
                f"got {tol!r}"
            )
        self._tol = tol

    @property
    def step_size(self) -> tuple[Tensor | None, ...]:
        r"""Step sizes :math:`\eta` of the layers, 0-d, or None for the usual ones; assign one for all or for each."""
        return tuple(getattr(self, f"step_size_{i}") for i in range(len(self.dictionaries)))

    @step_size.setter
    def step_size(self, step_size: float | Sequence[float | None] | None) -> None:
        sizes = self._sizes(step_size)
        if self.tol is not None and any(size is not None for size in sizes):
            raise ValueError(f"MultiLayerCSC: with a tol the step_size must be None, got {step_size!r}")
        for i, size in enumerate(sizes):
            now, new = getattr(self, f"step_size_{i}"), None if size is None else _like(size, self.lam[i])
            if not isinstance(now, nn.Parameter):
                setattr(self, f"step_size_{i}", new)
            elif new is None:
                raise ValueError("MultiLayerCSC: step_size is learned, so it must be a number, got None")
            else:
                now.data.copy_(new)

    def _sizes(self, step_size: Any) -> list[float | None]:
        return step_sizes("MultiLayerCSC", step_size, len(self.dictionaries))

    @property
    def dictionary(self) -> Cascade:
        """The effective dictionary :math:`D_1 \\cdots D_K`."""
        return Cascade(list(self.dictionaries))

    @property
    def lam(self) -> tuple[Tensor, ...]:
        """Sparsity weights of the layers, 0-d or ``(M_i,)``; assign a number for all, or one for each."""
        return tuple(getattr(self, f"lam_{i}") for i in range(len(self.dictionaries)))

    @lam.setter
    def lam(self, lam: Lam) -> None:
        for i, value in enumerate(self._per_layer(lam)):
            now, new = getattr(self, f"lam_{i}"), _like(value, getattr(self, f"lam_{i}"))
            # For a layer with a weight per atom, one number is the weight of every atom.
            setattr(self, f"lam_{i}", new.expand_as(now).clone() if new.ndim < now.ndim else new)

    def _for_each(self, lam: Lam) -> list[float | Tensor]:
        depth = len(self.dictionaries)
        values = list(lam) if isinstance(lam, Sequence) else [lam] * depth
        if len(values) != depth:
            raise ValueError(f"MultiLayerCSC: lam must be one weight or {depth}, one for each layer, got {len(values)}")
        return values

    def _per_layer(self, lam: Lam) -> list[float | Tensor]:
        """One checked weight of the layer's own for each dictionary."""
        values = self._for_each(lam)
        for value, dictionary in zip(values, self.dictionaries, strict=True):
            atoms = dictionary.out_channels
            if isinstance(value, Tensor) and value.shape not in ((), (atoms,)):
                raise ValueError(
                    f"MultiLayerCSC: lam of a layer must be a number or one per atom ({atoms},), got shape "
                    f"{tuple(value.shape)}; weights per sample go to forward(x, lam=...)"
                )
            as_weight(value, 2, "MultiLayerCSC: lam")
        return values

    def _weights(self, lam: Lam, x: Tensor, single: bool = False) -> list[float | Tensor]:
        """One checked weight for each code; weights per sample are welcome."""
        pairs = zip(self._for_each(lam), self._shapes(x), strict=True)
        return [check_lam("MultiLayerCSC", value, x, shape, single) for value, shape in pairs]

    def _shapes(self, x: Tensor) -> list[tuple[int, ...]]:
        """Shapes of the codes ``(N, M_i, *S_i)``; refuses a signal that is too small."""
        sizes = self.dictionary.sizes(x.shape[2:])
        return [(x.shape[0], d.out_channels, *size) for d, size in zip(self.dictionaries, sizes, strict=True)]

    def _batch(self, x: Tensor) -> tuple[Tensor, bool]:
        channels, axes = self.dictionaries[0].in_channels, _axes(self.dictionaries[0])
        if isinstance(x, Tensor) and (x.ndim not in (axes - 1, axes) or x.shape[1 - axes] != channels):
            raise ValueError(
                f"MultiLayerCSC: expected signals (N, {channels}{', ...' * (axes > 2)}) with {axes} axes, "
                f"got {tuple(x.shape)}"
            )
        return as_batch("MultiLayerCSC", x, channels, axes - 2, self.lam[0])

    @leaf
    def forward(self, x: Tensor, *, lam: Lam | None = None) -> Tensor:
        """Deepest code ``(N, M_K, *S_K)`` of signals ``x (N, C, *S)``; ``lam`` in place of the layer's own."""
        return self.codes(x, lam=lam)[-1]

    def codes(self, x: Tensor, *, lam: Lam | None = None) -> list[Tensor]:
        """Codes of all layers, from the first to the deepest.

        Args:
            x: signals ``(N, C, *S)``.
            lam: in place of the layer's own, in any form that the constructor takes.

        Returns:
            ``K`` codes ``(N, M_i, *S_i)``; without the batch axis for a signal without it.

        Raises:
            ValueError: an argument of another shape, type or device, a signal that is too small, a bad number.
        """
        x, single = self._batch(x)
        codes = self._codes(x, lam, single)
        return [code[0] for code in codes] if single else codes

    def _codes(self, x: Tensor, lam: Lam | None, single: bool = False) -> list[Tensor]:
        """Codes of signals with a batch axis."""
        self._shapes(x)  # refuses a signal that is too small
        weights: Sequence[float | Tensor] = self.lam
        if lam is not None:
            weights = self._weights(lam, x, single)
            counts = [w.shape[0] for w in weights if isinstance(w, Tensor) and w.ndim == x.ndim]
            if x.shape[0] == 1 and any(n != 1 for n in counts):  # one signal with the weights of several samples
                x = x.expand(max(counts), *x.shape[1:])
        return self._pursuit.codes(self, x, weights)

    def _set(self, entry: int) -> Any:
        return self.dictionaries if entry == 0 else self.sets[entry - 1]

    def operators(self, entry: int = 0) -> list[Any]:
        """The operators of a set of dictionaries (0 is the first one), read once."""
        return [dictionary.track() for dictionary in self._set(entry)]

    def step_size_of(self, i: int, operator: Any, signal_size: Sequence[int]) -> Tensor:
        """Step size of layer ``i`` for signals of this size."""
        given: Tensor | None = getattr(self, f"step_size_{i}")
        if given is not None:
            return given.view(())
        if self._pursuit.unit_step:
            return torch.ones_like(self.dictionaries[i].lipschitz)
        bound: Tensor = operator.bound(signal_size)
        return SAFETY / bound

    def row(self, i: int, eta: Tensor, operator: Any = None, entry: int = 0) -> Step:
        """A step of layer ``i`` with the biases of a set of dictionaries."""
        eta = eta.expand(self.dictionaries[i].out_channels)  # one for each atom is folded into the filters
        if not len(self.biases):
            return Step(eta, operator=operator)
        return Step(eta, shift=-self.biases[entry * len(self.dictionaries) + i], operator=operator)

    def problem(self, x: Tensor, operator: Any, lam: float | Tensor, **more: Any) -> Problem:
        """The problem of one layer; of a layer above another one with the ``lower`` problem and its ``row``."""
        kind = CoupledProblem if more else Problem
        return kind(x, operator, lam, penalty=_PENALTIES[self.prox], check=False, **more)

    def coded(self, x: Tensor, output: Tensor, **arguments: Any) -> list[CodedStep]:
        """See :class:`~csc_nets.layers.coder.Coder`.

        The dictionaries are those that computed the codes last: the last set of ``"all_free"``, and ``feedforward`` for
        ``"ml_lista"`` without steps.
        """
        dictionaries = self._pursuit.last(self)
        found: list[CodedStep] = []
        signal, single = self._batch(x)
        codes = self._codes(signal, arguments.get("lam"), single)
        for i, (dictionary, code) in enumerate(zip(dictionaries, codes, strict=True)):
            gain = None
            if self._pursuit.rows(self.steps) == 1:
                gain = self.step_size_of(i, self.dictionaries[i], signal.shape[2:])
            geometry = getattr(dictionary, "geometry", None) or ConvGeometry.create(0, ())
            last = i == len(self.dictionaries) - 1
            found.append(CodedStep(signal, dictionary.weight, geometry, code, gain, f"[{i}]", returned=last))
            signal = code
        return found

    def thresholds(self) -> dict[str, Tensor]:
        """See :class:`~csc_nets.layers.coder.Coder`: thresholds divided by step sizes, so that a step from the zero
        code is ``eta relu(D^T x - threshold)``; in float64 on the CPU."""
        found, depth = {}, len(self.dictionaries)
        for entry, dictionaries in enumerate([self.dictionaries, *self.sets]):
            scale = torch.ones((), dtype=torch.float64)
            for i, dictionary in enumerate(dictionaries):
                threshold = scale * self.lam[i].double().cpu().expand(dictionary.out_channels)
                eta: Any = getattr(self, f"step_size_{i}")
                if eta is None:
                    eta = 1.0 if self._pursuit.unit_step else SAFETY / dictionary.lipschitz
                eta = torch.as_tensor(eta).double().cpu().view(())
                if len(self.biases):
                    threshold = threshold - self.biases[entry * depth + i].double().cpu() / eta
                    threshold = threshold.clamp_min(0) if self.prox == "soft" else threshold
                if self._pursuit.coupled:  # the gradient passes the steps of the layers below
                    scale = scale * eta
                found[str(i) if entry == 0 else f"sets.{entry - 1}.{i}"] = threshold
        return found

    def synthesize(self, z: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """The signal :math:`D_1 \\cdots D_K z` of a deepest code, of spatial size ``output_size``."""
        atoms, dims = self.dictionaries[-1].out_channels, _axes(self.dictionaries[-1]) - 2
        z, single = as_batch("MultiLayerCSC", z, atoms, dims, self.lam[-1], "z", "code channels")
        signal = self.dictionary.synthesis(z, output_size)
        return signal[0] if single else signal

    def objective(self, x: Tensor, z: Tensor, *, lam: Lam | None = None) -> Tensor:
        r"""The multi-layer basis pursuit objective of a deepest code, per sample ``(N,)``.

        .. math:: \tfrac12 \|x - D_1 \cdots D_K z\|^2 + \sum_{i=1}^K \lambda_i \|D_{i+1} \cdots D_K z\|_1
        """
        x, single = self._batch(x)
        z = check_code("MultiLayerCSC", "z", z, self._shapes(x)[-1], x, single, many=x.shape[0] == 1)
        weights = self.lam if lam is None else self._weights(lam, x, single)
        signal, *codes = self.dictionary.codes(z, x.shape[2:])
        value = (x - signal).square().flatten(1).sum(1) / 2
        for code, weight in zip(codes, weights, strict=True):
            value = value + (as_weight(weight, code.ndim) * code.abs()).flatten(1).sum(1)
        return value[0] if single else value

    def extra_repr(self) -> str:
        counts = self._pursuit.rows(1) != self._pursuit.rows(2)
        text = f"pursuit={self.pursuit!r}" + (f", steps={self.steps}" if counts else "")
        if self.prox != "nonneg":
            text += f", prox={self.prox!r}"
        return text + (f", tol={self.tol}" if self.tol is not None else "")

    def __repr__(self) -> str:
        lam = ", ".join(
            f"{v.item():.4g}" if v.numel() == 1 and not v.is_meta else str(tuple(v.shape)) for v in self.lam
        )
        layers = "".join(f"\n  ({i}): {d!r}" for i, d in enumerate(self.dictionaries))
        return f"MultiLayerCSC(lam=({lam}), {self.extra_repr()}{layers}\n)"


def _axes(dictionary: Dictionary) -> int:
    """Axes of its signals."""
    return 2 + getattr(getattr(dictionary, "geometry", None), "dims", 0)


def _like(value: float | Tensor, other: Tensor) -> Tensor:
    """A copy of ``value`` with the dtype and device of ``other``."""
    return torch.as_tensor(value, dtype=other.dtype, device=other.device).detach().clone()


def _fresh(dictionaries: Sequence[Dictionary]) -> list[Dictionary]:
    """Dictionaries of the same shapes with atoms of their own."""
    copies = copy.deepcopy(list(dictionaries))
    for dictionary in copies:
        dictionary.reset_parameters()
    return copies
