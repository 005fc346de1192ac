r"""Layers whose forward pass solves a sparse coding problem."""

from collections.abc import Sequence
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from csc_nets.functional import (
    ConvGeometry,
    Gradient,
    Operator,
    Penalty,
    Problem,
    Pursuit,
    as_gradient,
    as_penalty,
    as_pursuit,
    as_weight,
)
from csc_nets.functional.checks import as_count, check_step_size, errors_of
from csc_nets.functional.inputs import Inputs, as_batch, check_code, check_inputs, known_shape
from csc_nets.functional.operators.protocol import read, track
from csc_nets.functional.penalties import check_ridge
from csc_nets.functional.problem import observed
from csc_nets.layers.coder import CodedStep
from csc_nets.layers.leaf import leaf
from csc_nets.layers.options import CodingOptions, Parts, default_gradient, renamed_gradient
from csc_nets.layers.saving import Savable

__all__ = ["CSC", "Positive"]


class Positive(Savable):
    """Parametrization by a softplus, for a learned sparsity weight.

    Args:
        scalar: the weight has no axes. The trained tensor then has one, ``(1,)``.
    """

    def __init__(self, scalar: bool = False) -> None:
        super().__init__()
        self.scalar = scalar

    def forward(self, raw: Tensor) -> Tensor:
        value = nn.functional.softplus(raw)
        return value.view(()) if self.scalar else value

    def right_inverse(self, value: Tensor) -> Tensor:
        raw = value + torch.log(-torch.expm1(-value))
        return raw.view(1) if self.scalar else raw


class CSC(Savable):
    r"""Sparse coding over any dictionary: an operator, a penalty, a pursuit and the way it is differentiated.

    .. math:: z(x) = \arg\min_z \tfrac12 \|x - D z\|^2 + \lambda R(z) + \tfrac{\mu}{2} \|z\|^2

    :class:`CSC1d`, :class:`CSC2d`, :class:`CSC3d` and :class:`SparseCoding` are this layer with dictionaries of their
    own.

    Args:
        dictionary: an :class:`~csc_nets.functional.Operator`; a module with parameters trains with the layer.
        **options: see :class:`~csc_nets.layers.CodingOptions`.

    Attributes:
        dictionary, penalty, pursuit, gradient: the four parts. They may be assigned, as objects or by name.
        step_size: the given one, 0-d, or None.
        lam: sparsity weight; assign ``layer.lam = 0.2`` at any time.
        ridge: :math:`\mu`.

    Shape:
        signals ``(N, C, *S)`` to codes ``(N, M, *S')``, as the dictionary has it; or one signal ``(C, *S)`` to its code
        ``(M, *S')``.

    Raises:
        ValueError: bad numbers, or parts that do not go together.

    Example:
        >>> class Double:
        ...     def analysis(self, x):
        ...         return 2 * x
        ...     def synthesis(self, z, output_size=None):
        ...         return 2 * z
        >>> layer = CSC(Double(), lam=0.5, steps=50, nonneg=False)
        >>> layer(torch.tensor([[1.0, 0.1]])).round(decimals=3)
        tensor([[0.3750, 0.0000]])
    """

    dictionary: Any
    lam: Tensor
    # Arguments that cannot be assigned later.
    settled: tuple[str, ...] = ("learn_lam",)
    given_step_size: Tensor | None

    def __init__(self, dictionary: Any, **options: Unpack[CodingOptions]) -> None:
        super().__init__()
        name = self._get_name()
        with errors_of(name):
            parts = Parts.of(name, options)
            self.dictionary = dictionary
            self._first_step_size = parts.step_size
            self.register_buffer("given_step_size", self._as_step_size(parts.step_size))
            self._penalty, self._gradient, self._ridge = parts.penalty, parts.gradient, parts.ridge
            self._take(parts.pursuit, parts.penalty, parts.gradient)
        value = self._as_lam(parts.lam)
        self._first_lam = parts.lam.detach().cpu().clone() if isinstance(parts.lam, Tensor) else parts.lam
        if parts.learn_lam:
            if not _is_positive(parts.lam):
                raise ValueError(f"{name}: a learned lam must start above 0, got {parts.lam!r}")
            self.lam = nn.Parameter(value)
            parametrize.register_parametrization(self, "lam", Positive(scalar=value.ndim == 0))
        else:
            self.register_buffer("lam", value)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws fresh atoms, and puts ``lam`` and what the pursuit learns back to their start.

        A layer that was built on the meta device needs it after ``to_empty``.
        """
        reset = getattr(self.dictionary, "reset_parameters", None)
        if reset is not None:
            reset()
        self.lam = self._first_lam  # type: ignore[assignment]
        self.given_step_size = self._as_step_size(self._first_step_size)
        self.pursuit.restart(self.dictionary)

    def _take(self, pursuit: Pursuit, penalty: Penalty, gradient: Gradient | None) -> None:
        """Takes parts that go together; refuses all if they do not."""
        pursuit.check(penalty)
        if self.given_step_size is not None and not pursuit.takes_step_size:
            raise ValueError(f"{pursuit!r} has steps of its own and takes no step_size")
        (gradient or default_gradient(pursuit)).check(pursuit, penalty)
        stays = pursuit is self.__dict__.get("_table", self._modules.get("pursuit"))
        try:
            pursuit = pursuit if stays else pursuit.attach(self.dictionary)
        except AttributeError as error:
            raise ValueError(f"{pursuit!r} is not made for this dictionary: {error}") from error
        self._penalty, self._gradient = penalty, gradient
        if stays:
            return
        # A table is plain data; a pursuit with parameters of its own is a module.
        self._modules.pop("pursuit", None)
        self.__dict__.pop("_table", None)
        if isinstance(pursuit, nn.Module):
            self._modules["pursuit"] = pursuit.train(self.training)
        else:
            self._table = pursuit

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.settled:
            raise ValueError(f"{self._get_name()}: {name} is chosen when the layer is built, and stays, got {value!r}")
        if name == "dictionary":
            self._check_dictionary(value)
        own = getattr(type(self), name, None)
        if isinstance(own, property) and own.fset is not None and not parametrize.is_parametrized(self, name):
            with errors_of(self._get_name()):
                own.fset(self, value)
            return
        if name == "lam" and ("lam" in self.__dict__.get("_buffers", ()) or parametrize.is_parametrized(self, name)):
            value = self._as_lam(value)
        super().__setattr__(name, value)

    def _check_dictionary(self, dictionary: Any) -> None:
        if not isinstance(dictionary, Operator):
            raise ValueError(
                f"{self._get_name()}: dictionary must have analysis and synthesis, got {type(dictionary).__name__}"
            )
        if "lam" not in self._buffers and not parametrize.is_parametrized(self):
            return  # the first one
        lam, atoms = getattr(self, "lam", None), getattr(dictionary, "out_channels", None)
        if lam is not None and lam.ndim and atoms not in (None, len(lam)):
            raise ValueError(f"{self._get_name()}: dictionary must have {len(lam)} atoms, as lam has, got {atoms}")
        if "pursuit" in self._modules:  # with numbers of its own for each atom
            old, new = self.atoms.shape, getattr(dictionary, "weight", self.lam).shape
            if old != new:
                raise ValueError(
                    f"{self._get_name()}: dictionary must have atoms {tuple(old)}, as {self.pursuit!r} has, "
                    f"got {tuple(new)}"
                )

    @property
    def pursuit(self) -> Any:
        """The :class:`~csc_nets.functional.Pursuit`. A name that is assigned keeps the numbers of the last one."""
        return self.__dict__["_table"] if "_table" in self.__dict__ else self._modules["pursuit"]

    @pursuit.setter
    def pursuit(self, value: Any) -> None:
        new = as_pursuit(value, self.steps, self.tol) if isinstance(value, str) else as_pursuit(value)
        self._take(new, self._penalty, self._gradient)

    @property
    def steps(self) -> int | None:
        """Number of steps of the pursuit; None where a tolerance decides."""
        return self.pursuit.count

    @steps.setter
    def steps(self, value: int | None) -> None:
        if value is None and self.tol is None:
            raise ValueError("steps=None solves to a tolerance: give tol first")
        count = None if value is None else as_count(value)
        self._take(self.pursuit.changed(count=count), self._penalty, self._gradient)

    @property
    def tol(self) -> float | None:
        """Tolerance of the pursuit; None where it takes all steps."""
        return self.pursuit.tol

    @tol.setter
    def tol(self, value: float | None) -> None:
        self._take(self.pursuit.changed(tol=value), self._penalty, self._gradient)

    @property
    def penalty(self) -> Any:
        """The :class:`~csc_nets.functional.Penalty`."""
        return self._penalty

    @penalty.setter
    def penalty(self, value: Any) -> None:
        self._take(self.pursuit, as_penalty(value), self._gradient)

    @property
    def nonneg(self) -> bool:
        """Whether codes are non-negative; assigning it takes one of the two l1 norms."""
        return self._penalty.nonneg

    @nonneg.setter
    def nonneg(self, value: bool) -> None:
        self._take(self.pursuit, as_penalty(None, value), self._gradient)

    @property
    def gradient(self) -> Any:
        """The :class:`~csc_nets.functional.Gradient`. Where none was chosen it is that of the steps, or of a solution
        without a number of steps."""
        return self._gradient or default_gradient(self.pursuit)

    @gradient.setter
    def gradient(self, value: Any) -> None:
        self._take(self.pursuit, self._penalty, None if value is None else as_gradient(value))

    @property
    def backward(self) -> str:
        """Older name of ``gradient``: its registered name."""
        return str(self.gradient.registered_name)

    @backward.setter
    def backward(self, value: str | None) -> None:
        self.gradient = renamed_gradient(None, value)

    @property
    def step_size(self) -> Any:
        """Step size that the pursuit was given; None where it follows the atoms. A state dict holds it."""
        return self.given_step_size

    @step_size.setter
    def step_size(self, value: float | None) -> None:
        new = self._as_step_size(check_step_size(value))
        if new is not None and not self.pursuit.takes_step_size:
            raise ValueError(f"{self.pursuit!r} has steps of its own and takes no step_size")
        self.given_step_size = new

    def _as_step_size(self, value: float | None) -> Tensor | None:
        like = self._like()
        return None if value is None else torch.tensor(value, dtype=like.dtype, device=like.device)

    @property
    def ridge(self) -> float:
        """Weight of half the squared norm of the code."""
        return self._ridge

    @ridge.setter
    def ridge(self, value: float) -> None:
        self._ridge = check_ridge(value)

    def _as_lam(self, lam: float | Tensor) -> Tensor:
        """A weight for all atoms ``()`` or one per atom ``(M,)``, in the dictionary's dtype."""
        name, atoms = self._get_name(), getattr(self.dictionary, "out_channels", None)
        if isinstance(lam, Tensor) and (lam.ndim > 1 or (lam.ndim and atoms is not None and lam.shape != (atoms,))):
            raise ValueError(
                f"{name}: lam of the layer must be a number or one per atom ({atoms or 'M'},), "
                f"got shape {tuple(lam.shape)}; weights per sample go to forward(x, lam=...)"
            )
        as_weight(lam, 2, f"{name}: lam")
        like = self._like()
        value = torch.as_tensor(lam, dtype=like.dtype, device=like.device).detach().clone()
        if parametrize.is_parametrized(self, "lam") and not _is_positive(lam):
            raise ValueError(f"{name}: a learned lam must be above 0, got {lam!r}")
        # One number for a layer with a weight per atom is that number for every atom.
        now = getattr(self, "lam", None)
        return value if now is None or value.ndim >= now.ndim else value.expand(now.shape).clone()

    def _like(self) -> Tensor:
        """A real tensor with the dtype and device of the dictionary."""
        own = getattr(self.dictionary, "lipschitz", None)
        if isinstance(own, Tensor):
            return own
        tensors = [t for t in (*self.parameters(), *self.buffers()) if t.is_floating_point() or t.is_complex()]
        like = tensors[0] if tensors else torch.empty(0)
        return like.real if like.is_complex() else like

    @property
    def atoms(self) -> Tensor:
        """The atoms ``(M, C, *K)``, of unit norm unless the dictionary was built without.

        Assign atoms of your own: ``layer.atoms = W``. The next forward pass codes with them. Writing into what is read
        here is refused, because it would be lost.
        """
        return self.dictionary.weight  # type: ignore[no-any-return]

    @atoms.setter
    def atoms(self, value: Tensor) -> None:
        setter = getattr(self.dictionary, "set_atoms", None)
        if setter is None:
            raise ValueError(f"atoms of {type(self.dictionary).__name__} cannot be set: it has no set_atoms")
        setter(value)

    @property
    def weight(self) -> Tensor:
        """The atoms, under the name that ``nn.Conv`` and ``nn.Linear`` have for them."""
        return self.atoms

    @weight.setter
    def weight(self, value: Tensor) -> None:
        self.atoms = value

    def problem(self, x: Tensor, lam: float | Tensor | None = None, mask: Tensor | None = None) -> Problem:
        """The problem that the layer solves for ``x``, with its objective, duality gap and ``lam_max``."""
        operator = read(self.dictionary)
        return self._problem(operator, check_inputs(self._get_name(), operator, x, lam, mask=mask))

    def _problem(self, operator: Any, given: Inputs) -> Problem:
        mask = None if given.mask is None else observed(given.mask)
        return Problem(
            given.x if mask is None else given.x.masked_fill(~mask, 0),
            operator,
            self.lam if given.lam is None else given.lam,
            self.ridge,
            mask=mask,
            penalty=self.penalty,
            step=self.given_step_size,
            check=False,
        )

    def synthesize(self, z: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """The signal ``D z`` of a code ``(N, M, *S')`` or ``(M, *S')``, of spatial size ``output_size``."""
        geometry = getattr(self.dictionary, "geometry", None)
        if geometry is None:
            return self.dictionary.synthesis(z, output_size)  # type: ignore[no-any-return]
        atoms, like = self.dictionary.out_channels, self._like()
        z, single = as_batch(self._get_name(), z, atoms, geometry.dims, like, "z", "code channels")
        signal = self.dictionary.synthesis(z, output_size)
        return signal[0] if single else signal

    def objective(
        self, x: Tensor, z: Tensor, *, lam: float | Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Objective of a code per sample, ``(N,)``; a number for a signal without a batch axis."""
        operator, name = read(self.dictionary), self._get_name()
        given = check_inputs(name, operator, x, lam, mask=mask)
        shape = known_shape(operator, given.x)
        if shape is not None:
            z = check_code(name, "z", z, shape, given.x, given.single, many=shape[0] == 1)
        return given.result(self._problem(operator, given).objective(z))

    def lam_max(self, x: Tensor) -> Tensor:
        """The smallest sparsity weight per sample at which the code is zero, ``(N, 1, ...)``."""
        operator = read(self.dictionary)
        given = check_inputs(self._get_name(), operator, x)
        return given.result(self._problem(operator, given).lam_max())

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
        calibrate = getattr(self.pursuit, "calibrate", None)
        if calibrate is None:
            raise ValueError(f"{self._get_name()}: {self.pursuit!r} has nothing to calibrate")
        calibrate(self.problem(x, mask=mask), updates)

    @leaf
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
            x: signals ``(N, C, *S)``; or one signal ``(C, *S)``, whose code, ``init`` and ``lam`` have no axis N.
            lam: in place of the layer's own: a number, one per atom ``(M,)``, or one per sample ``(N, 1, ...)``.
            init: warm start ``(N, M, *S')``.
            mask: 0 or NaN where ``x`` is missing (NaN is welcome there); broadcasts against ``x``.

        Returns:
            Codes ``(N, M, *S')``.

        Raises:
            ValueError: an argument of another shape, type or device than the dictionary asks for, or a bad ``lam``.
        """
        operator = track(self.dictionary)
        given = check_inputs(self._get_name(), operator, x, lam, init, mask)
        return given.result(self._solve(operator, given))

    def _solve(self, operator: Any, given: Inputs) -> Tensor:
        """The code ``(N, M, *S')`` of checked inputs."""
        code: Tensor = self.gradient(self.pursuit, self._problem(operator, given), given.init)
        return code

    def coded(self, x: Tensor, output: Tensor, **arguments: Any) -> list[CodedStep]:
        """See :class:`~csc_nets.layers.coder.Coder`."""
        if not hasattr(self.dictionary, "weight"):
            return []  # an operator without atoms
        geometry = getattr(self.dictionary, "geometry", None) or ConvGeometry.create(0, ())
        gain = None if arguments.get("init") is not None else self.pursuit.single_gain
        mask = arguments.get("mask")
        mask = None if mask is None else observed(mask)
        if x.ndim == geometry.dims + 1:
            x, output = x[None], output[None]
        return [CodedStep(x, self.atoms, geometry, output, gain, mask=mask)]

    def thresholds(self) -> dict[str, Tensor]:
        """See :class:`~csc_nets.layers.coder.Coder`."""
        return {"": self.lam.expand(len(self.atoms))} if hasattr(self.dictionary, "weight") else {}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # Coefficients of calibrated steps stood beside the pursuit before it was a part of its own.
        old, new = f"{prefix}calibrated.coefficients", f"{prefix}pursuit.coefficients"
        if old in state_dict:
            state_dict[new] = state_dict.pop(old)
        given, key = self.given_step_size, f"{prefix}given_step_size"
        if given is None and key in state_dict and self.pursuit.takes_step_size:
            self.given_step_size = self._like().new_empty(())
        elif given is not None:
            state_dict.setdefault(key, given)  # of a network that followed its atoms
        super()._load_from_state_dict(state_dict, prefix, *args)

    def __repr__(self) -> str:
        own = self.dictionary.extra_repr() if isinstance(self.dictionary, nn.Module) else ""
        described = own or repr(self.dictionary)
        return f"{self._get_name()}({described}, {self.extra_repr()})"

    def _get_name(self) -> str:
        return type(self).__name__.removeprefix("Parametrized")

    def extra_repr(self) -> str:
        lam = f"{self.lam.item():.4g}" if self.lam.numel() == 1 and not self.lam.is_meta else tuple(self.lam.shape)
        return f"lam={lam}, pursuit={self.pursuit!r}{self._unusual()}"

    def _unusual(self) -> str:
        """The parts that are not the usual ones, for :meth:`extra_repr`."""
        text = "" if self.penalty == as_penalty(None) else f", penalty={self.penalty!r}"
        given = self.given_step_size
        text += "" if given is None or given.is_meta else f", step_size={given.item():.4g}"
        text += f", ridge={self.ridge}" if self.ridge else ""
        return text + ("" if self.gradient == default_gradient(self.pursuit) else f", gradient={self.gradient!r}")


def _is_positive(lam: float | Tensor) -> bool:
    return bool((lam > 0).all()) if isinstance(lam, Tensor) and not lam.is_meta else isinstance(lam, Tensor) or lam > 0
