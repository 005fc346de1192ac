"""Layers whose forward pass solves a sparse coding problem by a fixed number of steps of a pursuit."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from csc_nets.functional import ConvGeometry, Problem, as_weight, stop_rule
from csc_nets.functional.implicit import CONVERGED, Optimum, implicit, solution
from csc_nets.functional.problem import align, is_transformed
from csc_nets.functional.pursuit import SAFETY
from csc_nets.functional.recompute import Pursuit, recompute
from csc_nets.layers.calibrated_steps import CalibratedSteps
from csc_nets.layers.dictionary import (
    Dictionary1d,
    Dictionary2d,
    Dictionary3d,
    _Atoms,
    _ConvDictionary,
    _Dictionary,
)
from csc_nets.layers.proximal_step import ProximalStep

__all__ = ["CSC1d", "CSC2d", "CSC3d"]

PURSUITS = ("fista", "ista", "threshold", "calibrated", "whitened")
CALIBRATED = ("calibrated", "whitened")
BACKWARDS = ("unroll", "recompute", "implicit")
SETTINGS = ("steps", "pursuit", "tol", "backward")


class Positive(nn.Module):
    """Parametrization by a softplus, for a learned sparsity weight."""

    def forward(self, raw: Tensor) -> Tensor:
        return nn.functional.softplus(raw)

    def right_inverse(self, value: Tensor) -> Tensor:
        return value + torch.log(-torch.expm1(-value))


class _SparseCode(nn.Module):
    """The pursuit of one sparse coding problem; the dictionary says whether it is a matrix or a convolution."""

    dictionary: _Dictionary
    lam: Tensor
    steps: Any  # an int, or None for the equilibrium layer
    pursuit: str
    tol: float | None
    _backward: str | None
    calibrated: CalibratedSteps | None

    def __init__(
        self,
        dictionary: _Dictionary,
        lam: float | Tensor,
        steps: int | None,
        pursuit: str,
        nonneg: bool,
        ridge: float,
        learn_lam: bool,
        tol: float | None,
        backward: str | None = None,
    ) -> None:
        super().__init__()
        name = self._get_name()
        if not 0 <= ridge < float("inf"):
            raise ValueError(f"{name}: ridge must be a finite number >= 0, got {ridge!r}")
        self.dictionary, self.nonneg, self.ridge, self.calibrated = dictionary, nonneg, ridge, None
        self._set(steps=steps, pursuit=pursuit, tol=tol, backward=backward)
        value = self._as_lam(lam)
        if learn_lam:
            if not bool((value > 0).all()):
                raise ValueError(f"{name}: a learned lam must start above 0, got {lam!r}")
            self.lam = nn.Parameter(value)
            parametrize.register_parametrization(self, "lam", Positive())
        else:
            self.register_buffer("lam", value)

    def _set(self, **changes: Any) -> None:
        """Takes settings that fit each other, and the others that the layer has; refuses all if they do not."""
        settings: dict[str, Any] = {"backward": self.__dict__.get("_backward")}
        settings |= {key: self.__dict__.get(key) for key in SETTINGS if key != "backward"} | changes
        steps, pursuit, tol, backward = (settings[key] for key in SETTINGS)
        name = self._get_name()
        if backward not in (None, *BACKWARDS):
            raise ValueError(f"{name}: backward must be one of {', '.join(BACKWARDS)}, got {backward!r}")
        if pursuit not in PURSUITS:
            raise ValueError(f"{name}: pursuit must be one of {', '.join(PURSUITS)}, got {pursuit!r}")
        if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 1):
            raise ValueError(f"{name}: steps must be an int >= 1, got {steps!r}")
        if tol is not None and (isinstance(tol, bool) or not isinstance(tol, int | float) or not tol > 0):
            raise ValueError(f"{name}: tol must be greater than 0, got {tol!r}")
        if backward == "recompute" and tol is not None:
            raise ValueError(f"{name}: backward='recompute' takes a fixed number of steps, got tol={tol!r}")
        if pursuit == "threshold" and (steps is None or backward == "implicit"):
            raise ValueError(
                f"{name}: pursuit='threshold' is one step, not a solution: give steps and another backward"
            )
        if steps is None and (tol is None or backward not in (None, "implicit")):
            raise ValueError(
                f"{name}: steps=None solves to a tolerance: give tol, and backward='implicit' or none, "
                f"got tol={tol!r}, backward={backward!r}"
            )
        if pursuit in CALIBRATED and (steps is None or tol is not None or backward not in (None, "unroll")):
            raise ValueError(
                f"{name}: pursuit={pursuit!r} is a fixed number of steps with backward='unroll', "
                f"got steps={steps}, tol={tol!r}, backward={backward!r}"
            )
        whiten = pursuit == "whitened"
        if pursuit not in CALIBRATED:
            self.calibrated = None
        elif steps is not None and (self.calibrated is None or self.calibrated.whiten != whiten):
            self.calibrated = CalibratedSteps(self.dictionary, steps, whiten).train(self.training)
        self.__dict__.update(steps=steps, pursuit=pursuit, tol=tol, _backward=backward)

    @property
    def backward(self) -> str:
        """How the gradient is found. Where none was chosen it is that of the steps, or of a solution without a number
        of steps."""
        return self._backward or ("implicit" if self.steps is None else "unroll")

    def _as_lam(self, lam: float | Tensor) -> Tensor:
        """A weight for all atoms ``()`` or one per atom ``(M,)``, in the dictionary's dtype."""
        atoms = self.dictionary.out_channels
        learned = parametrize.is_parametrized(self, "lam")
        if isinstance(lam, Tensor) and lam.shape not in ((), (atoms,)):
            raise ValueError(
                f"{self._get_name()}: lam of the layer must be a number or one per atom ({atoms},), "
                f"got shape {tuple(lam.shape)}; weights per sample go to forward(x, lam=...)"
            )
        as_weight(lam, 2, f"{self._get_name()}: lam")
        like = self.dictionary.lipschitz
        value = torch.as_tensor(lam, dtype=like.dtype, device=like.device).detach().clone()
        if learned and not bool((value > 0).all()):
            raise ValueError(f"{self._get_name()}: a learned lam must be above 0, got {lam!r}")
        # One number for a layer with a weight per atom is that number for every atom.
        now = getattr(self, "lam", None)
        return value if now is None or value.ndim == now.ndim else value.expand(atoms).clone()

    def __setattr__(self, name: str, value: Any) -> None:
        if name in SETTINGS:
            return self._set(**{name: value})
        if name == "lam" and ("lam" in self.__dict__.get("_buffers", ()) or parametrize.is_parametrized(self, name)):
            value = self._as_lam(value)
        super().__setattr__(name, value)

    @property
    def atoms(self) -> Tensor:
        """The unit atoms ``(M, C, *K)``."""
        return self.dictionary.weight

    def problem(self, x: Tensor, lam: float | Tensor | None = None, mask: Tensor | None = None) -> Problem:
        """The problem that the layer solves for ``x``, with its objective, duality gap and ``lam_max``."""
        return Problem(x, self.dictionary, self.lam if lam is None else lam, self.ridge, self.nonneg, mask)

    def _problem(self, x: Tensor, weight: Tensor, lam: float | Tensor, mask: Tensor | None) -> Problem:
        """The problem with atoms that were read already; they count as constants."""
        return Problem(x, _Atoms(self.dictionary, weight.detach()), lam, self.ridge, self.nonneg, mask)

    def synthesize(self, z: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """The signal ``D z`` of a code, of spatial size ``output_size``."""
        return self.dictionary.synthesis(z, output_size)

    def objective(
        self, x: Tensor, z: Tensor, *, lam: float | Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Objective of a code per sample, ``(N,)``."""
        return self.problem(x, lam, mask).objective(z)

    def lam_max(self, x: Tensor) -> Tensor:
        """The smallest sparsity weight per sample at which the code is zero, ``(N, 1, ...)``."""
        return self.problem(x).lam_max()

    def calibrate(self, x: Tensor, *, mask: Tensor | None = None, updates: int = 20) -> None:
        """Computes the coefficients of a calibrated pursuit afresh, for signals like ``x``.

        Training does without; this is for dictionaries that were not trained with the layer.

        Args:
            x: signals, as for the layer.
            mask: 0 where ``x`` is missing.
            updates: how often to improve all steps.

        Raises:
            ValueError: the layer's pursuit is neither ``"calibrated"`` nor ``"whitened"``.
        """
        if self.calibrated is None:
            raise ValueError(f"{self._get_name()}: pursuit={self.pursuit!r} has nothing to calibrate")
        self.calibrated.calibrate(self.problem(x, mask=mask), self.dictionary, updates)

    def _code(self, x: Tensor, lam: float | Tensor | None, init: Tensor | None, mask: Tensor | None) -> Tensor:
        """Runs the pursuit on signals ``(N, C, *S)`` or ``(N, F)``."""
        if self.steps is None and is_transformed():
            raise RuntimeError(
                f"{self._get_name()}: steps=None looks at its codes, not under a compiler or torch.func: give steps"
            )
        dictionary, weight = self.dictionary, self.dictionary.weight
        dictionary.update_lipschitz(weight)
        if self.calibrated is not None:
            learn = self.training and not torch._C._are_functorch_transforms_active()
            return self.calibrated.code(self.problem(x, lam, mask), dictionary, weight, self.steps, init, learn)
        once = self.pursuit == "threshold"
        eta = 1.0 if once else SAFETY / dictionary.bound(x.shape[2:])
        keep = 1 / (1 + self.ridge * eta)
        lam = align(self.lam, x.ndim) if lam is None else as_weight(lam, x.ndim, f"{self._get_name()}: lam")
        step_size = torch.as_tensor(eta * keep, dtype=weight.dtype, device=weight.device)
        shrinkage = torch.as_tensor(keep) if self.ridge else None
        missing = None if mask is None else mask == 0

        def step(weight: Tensor, threshold: Tensor) -> ProximalStep:
            prox, gain = "nonneg" if self.nonneg else "soft", weight if once and not self.ridge else step_size
            return ProximalStep(dictionary, gain, threshold, prox=prox, keep=shrinkage, atoms=weight, missing=missing)

        pursuit = Pursuit(
            step,
            self._geometry,
            steps=1 if once else self.steps or 0,
            momentum=self.pursuit == "fista",
            step_size=step_size,
            nonneg=self.nonneg,
            keep=shrinkage,
            missing=missing,
            stop=None
            if self.tol is None or self.steps is None
            else stop_rule(self._problem(x.detach(), weight, lam, mask), self.tol),
        )
        threshold = torch.as_tensor(step_size * lam, dtype=weight.dtype, device=weight.device)
        inputs = (x if missing is None else x.masked_fill(missing, 0), weight, threshold, init)
        differentiated = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)
        if self.steps is None or (self.backward == "implicit" and differentiated and not is_transformed()):
            return self._solution(pursuit, inputs, lam, differentiated)
        if self.backward == "recompute" and differentiated and not is_transformed():
            return recompute(pursuit, *inputs)
        return pursuit(*inputs)

    def _solution(
        self,
        pursuit: Pursuit,
        inputs: tuple[Tensor, Tensor, Tensor, Tensor | None],
        lam: float | Tensor,
        differentiated: bool,
    ) -> Tensor:
        """A code that solves its problem, with the gradient of a solution; in full precision under autocast."""
        missing, weight = pursuit.missing, inputs[1]
        x, threshold = inputs[0].to(weight.dtype), inputs[2].to(weight.dtype)
        init = None if inputs[3] is None else inputs[3].to(weight.dtype)
        mask = None if missing is None else ~missing
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            problem = self._problem(x, weight, lam, mask)
            z = solution(pursuit, problem, weight, threshold, init, steps=self.steps, tol=self.tol or CONVERGED)
        if not differentiated:
            return z
        optimum = Optimum(pursuit.geometry, self.ridge, missing, self.dictionary.bound(x.shape[2:]))
        return implicit(optimum, z, x, weight, torch.as_tensor(lam, dtype=weight.dtype, device=weight.device))

    @property
    def _geometry(self) -> ConvGeometry:
        """How the atoms are laid over a signal."""
        return self.dictionary.geometry  # type: ignore[return-value]

    def __repr__(self) -> str:
        return f"{self._get_name()}({self.dictionary.extra_repr()}, {self.extra_repr()})"

    def _get_name(self) -> str:
        return type(self).__name__.removeprefix("Parametrized")

    def extra_repr(self) -> str:
        lam = f"{self.lam.item():.4g}" if self.lam.numel() == 1 and not self.lam.is_meta else tuple(self.lam.shape)
        text = f"lam={lam}, pursuit={self.pursuit!r}" + ("" if self.pursuit == "threshold" else f", steps={self.steps}")
        text += ("" if self.nonneg else ", nonneg=False") + (f", ridge={self.ridge}" if self.ridge else "")
        text += "" if self.tol is None else f", tol={self.tol}"
        usual = "implicit" if self.steps is None else "unroll"
        return text + ("" if self.backward == usual else f", backward={self.backward!r}")


class _ConvSparseCode(_SparseCode):
    r"""Convolutional sparse coding, a drop-in for a convolution followed by a ReLU.

    .. math:: z(x) = \arg\min_z \tfrac12 \|x - D z\|^2 + \lambda \|z\|_1 + \tfrac{\mu}{2} \|z\|^2, \quad z \ge 0

    by ``steps`` steps of FISTA or ISTA from zero, with :math:`D z` the transposed convolution with unit atoms and
    :math:`\eta = 0.9 / \|D\|^2`:

    .. math:: z \leftarrow \max\bigl(y + \eta D^T (x - D y) - \eta \lambda, 0\bigr)

    One step is a convolution with bias and a ReLU. The gradient is that of the unrolled steps (see ``backward``); the
    step size counts as a constant. Xili Dai et al., `"Revisiting Sparse Convolutional Model for Visual Recognition"
    <https://arxiv.org/abs/2210.12945>`_, use two steps (where FISTA and ISTA agree).

    Args:
        in_channels: channels C of the signal.
        out_channels: number M of atoms.
        kernel_size, stride, padding, dilation, padding_mode: as for ``nn.Conv``; ``padding_mode`` is ``"zeros"``,
            ``"circular"`` or ``"reflect"``.
        lam: sparsity weight, a number or one per atom ``(M,)``, in units of the signal (atoms have unit norm).
            A buffer: assign ``layer.lam = 0.2`` at any time.
        steps: steps of the pursuit. None, with a ``tol``, is the equilibrium layer: as many as it takes, with
            ``backward="implicit"``.
        pursuit: ``"fista"``, ``"ista"``, or ``"threshold"``: :math:`\max(D^T x - \lambda, 0)`, one convolution.
            ``"calibrated"``: steps with a gain, a shift and an inertia for each atom, which follow the objective in
            training (buffers, not trained by the loss): one or two of them code as well as four to twelve of FISTA.
            ``"whitened"``: the same, with residuals whitened, for stride 1 and up to 8 channels. See
            :mod:`csc_nets.functional.calibration`.
        nonneg: codes are non-negative; False uses the signed soft threshold.
        ridge: weight :math:`\mu` of half the squared norm of the code.
        learn_lam: train ``lam``, kept positive by a softplus.
        tol: stop each sample when its duality gap falls below ``tol`` times half its squared norm, after ``steps``
            steps at the latest.
        backward: ``"unroll"`` (default) differentiates the steps automatically. ``"recompute"`` finds the same gradient
            from less than half of the memory, see :mod:`csc_nets.functional.recompute`. ``"implicit"`` takes the
            gradient of a solution, from one code whatever the steps; the code must be one, to ``tol`` or else 1e-3, or
            a forward pass with gradient is a RuntimeError: see :mod:`csc_nets.functional.implicit`. With a number of
            steps, transforms of ``torch.func`` and compilers see the steps.

    ``steps``, ``pursuit``, ``tol`` and ``backward`` may be assigned later, each one where it fits the others. A layer
    that becomes ``"calibrated"`` starts with ISTA's steps: :meth:`calibrate` it, or train.

    Shape:
        ``(N, C, *S)`` to ``(N, M, *S')``, sizes as ``nn.Conv``; any ``S``.

    Example:
        >>> layer = CSC2d(3, 16, kernel_size=3, padding=1, lam=0.1, steps=4)
        >>> z = layer(torch.randn(8, 3, 32, 32))
        >>> z.shape, bool((z >= 0).all()), layer.synthesize(z, (32, 32)).shape
        (torch.Size([8, 16, 32, 32]), True, torch.Size([8, 3, 32, 32]))
    """

    dictionary: _ConvDictionary
    dictionary_class: type[_ConvDictionary]

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
        lam: float | Tensor = 0.1,
        steps: int | None = 2,
        pursuit: str = "fista",
        nonneg: bool = True,
        ridge: float = 0.0,
        learn_lam: bool = False,
        tol: float | None = None,
        backward: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        dictionary = self.dictionary_class(
            in_channels, out_channels, kernel_size, stride, padding, dilation, padding_mode, device, dtype
        )
        super().__init__(dictionary, lam, steps, pursuit, nonneg, ridge, learn_lam, tol, backward)

    def forward(
        self,
        x: Tensor,
        *,
        lam: float | Tensor | None = None,
        init: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Sparse codes of a batch.

        Args:
            x: signals ``(N, C, *S)``.
            lam: in place of the layer's own: a number, one per atom ``(M,)``, or one per sample ``(N, 1, ...)``.
            init: warm start ``(N, M, *S')``.
            mask: 0 where ``x`` is missing (NaN is welcome there); broadcasts against ``x``.

        Returns:
            Codes ``(N, M, *S')``.

        Raises:
            ValueError: wrong number of axes or channels, a signal smaller than an atom, a bad ``lam``.
        """
        dims, channels = self.dictionary.geometry.dims, self.dictionary.in_channels
        if x.ndim != dims + 2 or x.shape[1] != channels:
            axes = ", ".join(["D", "H", "W"][3 - dims :])
            raise ValueError(
                f"{self._get_name()}: expected {channels} input channels (N, {channels}, {axes}), got {tuple(x.shape)}"
            )
        self.dictionary.geometry.code_size(x.shape[2:])  # refuses a signal smaller than an atom
        return self._code(x, lam, init, mask)


class CSC1d(_ConvSparseCode):
    __doc__ = _ConvSparseCode.__doc__
    dictionary_class = Dictionary1d


class CSC2d(_ConvSparseCode):
    __doc__ = _ConvSparseCode.__doc__
    dictionary_class = Dictionary2d


class CSC3d(_ConvSparseCode):
    __doc__ = _ConvSparseCode.__doc__
    dictionary_class = Dictionary3d
