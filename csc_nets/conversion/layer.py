r"""Layers that compute what a convolution or a linear layer computed, and whose further steps sharpen the code.

Write the filters of a layer as :math:`w_m = r_m a_m` with unit atoms :math:`a_m`, and what comes before its activation
(its bias and its batch norm included) as :math:`y_m = p_m \langle a_m, x \rangle + q_m` with :math:`p_m \ge 0`; the
sign of a negative scale is part of the atom. Then

.. math:: \max(y_m, 0) = p_m \max(\langle a_m, x \rangle - t_m, 0), \qquad t_m = -q_m / p_m

is one thresholding step of size 1 with thresholds :math:`t_m` of any sign, followed by scales :math:`p_m`. Further
steps solve

.. math:: z(x) = \arg\min_{z \ge 0} \tfrac12 \|x - D z\|^2 + \sum_m (\lambda_m + t_m) z_m,

and the layer returns :math:`p_m z_m`. The objective is convex for thresholds of any sign. With negative ones it has a
minimum where some signal correlates with all atoms by at least :math:`-(\lambda_m + t_m)`, or with a ridge.

Without a ReLU behind it, a layer returns :math:`p_m z_m + q_m` with signed codes, :math:`\lambda_m \|z_m\|_1` and
no :math:`t_m`: its one step with :math:`\lambda = 0` is the layer as it was.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from csc_nets.functional import Problem, Pursuit, Step, as_penalty
from csc_nets.functional.inputs import Inputs
from csc_nets.functional.operators.protocol import read
from csc_nets.functional.problem import align
from csc_nets.layers import (
    CSC,
    CodedStep,
    CodingOptions,
    DenseDictionary,
    Dictionary1d,
    Dictionary2d,
    Dictionary3d,
    SparseCoding,
)

__all__ = ["Converted", "ConvertedConv", "ConvertedLinear"]


@dataclass(frozen=True, repr=False)
class Further(Pursuit):
    """The rows of a pursuit after its first one, for a layer that took the first step itself."""

    whole: Any = None

    @property
    def count(self) -> int:  # type: ignore[override]
        """Steps that are left."""
        return int(self.whole.count) - 1

    @property
    def solves(self) -> bool:  # type: ignore[override]
        """As for the whole pursuit."""
        return bool(self.whole.solves)

    @property
    def tol(self) -> float | None:  # type: ignore[override]
        """As for the whole pursuit."""
        return self.whole.tol  # type: ignore[no-any-return]

    def steps(self, problem: Problem) -> list[Step]:
        """The rows."""
        return list(self.whole.steps(problem))[1:]


class Converted(CSC):
    r"""A converted layer; the equations are at the top of the file.

    The first step is the layer as it was: the convolution with its batch norm, in training with the statistics of the
    batch. The steps after it are those of the pursuit, with its own step sizes.

    Args:
        dictionary: with atoms ``(M, ...)``.
        scale: norms of the filters, ``(M,)``.
        bias: of the layer, ``(M,)``, or None.
        norm: batch norm behind the layer, or None.
        rectified: whether a ReLU follows.
        **options: see :class:`~csc_nets.layers.CodingOptions`; ``lam`` is added to the thresholds of the layer.

    Attributes:
        scale, bias, norm: as given; they train.

    Shape:
        as the layer that it replaces. The output is what the network computes at this place, and so is ``init``.
    """

    bias: nn.Parameter | None
    _dims = 0

    def __init__(
        self,
        dictionary: Any,
        scale: Tensor,
        bias: Tensor | None,
        norm: nn.Module | None,
        rectified: bool,
        **options: Unpack[CodingOptions],
    ) -> None:
        CSC.__init__(self, dictionary, **options)
        self.scale = nn.Parameter(scale.detach().clone())
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias.detach().clone()))
        self.norm = norm
        self.rectified = rectified

    @property
    def is_one_step(self) -> bool:
        """Whether the layer takes no step beside that of the network."""
        return bool(self.pursuit.count == 1 and self.pursuit.tol is None)

    @property
    def folds(self) -> bool:
        """Whether one step is a plain layer with an l1 threshold."""
        return bool(self.penalty == as_penalty(None, self.rectified) and not self.ridge)

    @property
    def _uses_batch(self) -> bool:
        """Whether the batch norm takes the statistics of the batch."""
        return self.norm is not None and bool(self.norm.training or self.norm.running_var is None)

    def affine(self) -> tuple[Tensor, Tensor]:
        r"""Scales :math:`p` and offsets :math:`q` ``(M,)`` in evaluation mode."""
        q = torch.zeros_like(self.scale) if self.bias is None else self.bias
        if self.norm is None or self.norm.running_var is None:
            return self.scale, q
        return self._through_norm(q, self.norm.running_mean, self.norm.running_var)  # type: ignore[arg-type]

    def _through_norm(self, q: Tensor, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        norm: Any = self.norm
        gain = (var + norm.eps).rsqrt()
        gain = gain if norm.weight is None else gain * norm.weight
        q = gain * (q - mean)
        return self.scale * gain, q if norm.bias is None else q + norm.bias

    def plain(self, atoms: Tensor) -> tuple[Tensor, Tensor]:
        """Filters ``(M, ...)`` and bias ``(M,)`` of the plain layer that the first step is, in evaluation mode."""
        p, q = self.affine()
        return atoms * p.view(-1, *(1,) * (atoms.ndim - 1)), q - p * self.lam if self.rectified else q

    def _first(self, operator: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What comes before the activation, ``(N, M, *S')``, with its scales and offsets."""
        if not self._uses_batch:
            p, q = self.affine()
            return operator.map(lambda w: w * p.view(-1, *(1,) * (w.ndim - 1))).analysis(x, q), p, q
        norm: Any = self.norm
        filters = operator.map(lambda w: w * self.scale.view(-1, *(1,) * (w.ndim - 1)))
        y = filters.analysis(x, self.bias)
        var, mean = torch.var_mean(y, (0, *range(2, y.ndim)), correction=0)
        p, q = self._through_norm(torch.zeros_like(mean) if self.bias is None else self.bias, mean, var)
        return norm(y), p, q

    def _weights(self, p: Tensor, q: Tensor, lam: float | Tensor | None, ndim: int) -> Any:
        r"""The weight :math:`\lambda_m + t_m` of every coefficient; an atom of scale 0 is never used."""
        lam = self.lam if lam is None else lam
        lam = align(lam, ndim) if isinstance(lam, Tensor) else lam
        if not self.rectified:
            return lam
        never = torch.finfo(q.dtype).max ** 0.5
        return lam + align(torch.where(p > 0, -q / torch.where(p > 0, p, 1), never), ndim)

    def _problem(self, operator: Any, given: Inputs) -> Problem:
        problem = super()._problem(operator, given)
        p, q = self._first(operator, problem.x)[1:] if self._uses_batch else self.affine()
        return replace(problem, lam=self._weights(p, q, given.lam, problem.x.ndim))

    def _solve(self, operator: Any, given: Inputs) -> Tensor:
        """Output of the layer ``(N, M, *S')`` for checked inputs."""
        ndim = given.x.ndim
        problem = CSC._problem(self, operator, given)
        plain = self.is_one_step and self.folds and given.init is None
        if plain and self.rectified and given.lam is None and not self._uses_batch:
            weight, bias = self.plain(operator.weight)
            return operator.map(lambda _: weight).analysis(problem.x, bias).clamp_min(0)  # type: ignore[no-any-return]
        y, p, q = self._first(operator, problem.x)
        p_, q_ = align(p, ndim), align(q, ndim)
        lam = self.lam if given.lam is None else given.lam
        lam = align(lam, ndim) if isinstance(lam, Tensor) else lam
        if plain:
            if self.rectified:
                # Not relu_, whose gradient reads its output: the activation that follows may overwrite it.
                return (y - p_ * lam).clamp_min(0)
            # Exactly q where the code is 0.
            move, t = y - q_, p_ * lam
            return torch.where(move.abs() <= t, q_, y - torch.clamp(move, -t, t))
        problem = replace(problem, lam=self._weights(p, q, given.lam, ndim))
        inverse = torch.where(p_ > 0, 1 / torch.where(p_ > 0, p_, 1), 0)
        pursuit, z = self.pursuit, given.init
        if z is not None:
            z = z * inverse if self.rectified else (z - q_) * inverse
        else:
            z = self.penalty.prox((y - q_) * inverse, problem.lam)
            pursuit = None if self.is_one_step else Further(pursuit) if pursuit.is_table else pursuit
        if pursuit is not None:
            z = self.gradient(pursuit, problem, z)
        return p_ * z + (torch.where(p_ > 0, 0, q_.relu()) if self.rectified else q_)

    def code(self, output: Tensor) -> Tensor:
        """The code of the unit atoms that belongs to an output ``(N, M, *S')``, in evaluation mode."""
        p, q = (t.view(-1, *(1,) * self._dims) for t in self.affine())
        inverse = torch.where(p > 0, 1 / torch.where(p > 0, p, 1), 0)
        return output * inverse if self.rectified else (output - q) * inverse

    def synthesize(self, z: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """The signal of an output of the layer."""
        return super().synthesize(self.code(z), output_size)

    def objective(
        self, x: Tensor, z: Tensor, *, lam: float | Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Objective of an output ``z`` of the layer, per sample ``(N,)``."""
        return super().objective(x, self.code(z), lam=lam, mask=mask)

    def coded(self, x: Tensor, output: Tensor, **arguments: Any) -> list[CodedStep]:
        """See :class:`~csc_nets.layers.coder.Coder`. The filters of one step are those of the network."""
        steps = super().coded(x, output, **arguments)
        p, q = self.affine()
        one = self.is_one_step and arguments.get("init") is None
        found = []
        for step in steps:
            scale = p.view(-1, *(1,) * (step.weight.ndim - 1))
            weight = step.weight * (scale if one else torch.where(scale > 0, 1 / scale, 0))
            code = step.code if self.rectified else step.code - q.view(-1, *(1,) * step.geometry.dims)
            gain = 1.0 if one else None
            found.append(replace(step, weight=weight, code=code, gain=gain, returned=self.rectified))
        return found

    def thresholds(self) -> dict[str, Tensor]:
        """See :class:`~csc_nets.layers.coder.Coder`."""
        p, q = self.affine()
        weights: Tensor = self._weights(p, q, None, 2)
        return {"": weights.expand(len(self.scale))}

    def to_plain(self) -> nn.Module:
        """The convolution or linear layer that one step is, in evaluation mode.

        Raises:
            ValueError: more steps, or a penalty or weight that a plain layer does not have.
        """
        plain = self.is_one_step and self.folds and (self.rectified or not bool(self.lam.any()))
        if not plain:
            raise ValueError(
                f"to_plain: {self._get_name()} must have one step, an l1 penalty and, without a ReLU behind it, lam=0, "
                f"got {self.extra_repr()}"
            )
        if self._uses_batch and not self.training:
            raise ValueError(f"to_plain: the batch norm of {self._get_name()} keeps no statistics")
        with torch.no_grad():
            weight, bias = self.plain(self.atoms)
            layer = self._empty(weight)
            layer.weight.copy_(weight)  # type: ignore[operator]
            layer.bias.copy_(bias)  # type: ignore[operator]
        return layer.train(self.training)

    def _empty(self, weight: Tensor) -> nn.Module:
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f"{'rectified' if self.rectified else 'signed'}, {super().extra_repr()}"


class ConvertedConv(Converted):
    """A convolution of one to three axes, perhaps with its batch norm and its ReLU."""

    def __init__(self, dictionary: Any, *args: Any, **options: Any) -> None:
        super().__init__(dictionary, *args, **options)
        self._dims = dictionary.geometry.dims

    def _empty(self, weight: Tensor) -> nn.Module:
        geometry = self.dictionary.geometry
        kind: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[geometry.dims - 1]
        return kind(  # type: ignore[no-any-return]
            self.dictionary.in_channels,
            self.dictionary.out_channels,
            geometry.kernel_size,
            geometry.stride,
            self.dictionary.padding,
            geometry.dilation,
            geometry.groups,
            True,
            geometry.padding_mode,
            weight.device,
            weight.dtype,
        )

    @classmethod
    def of(
        cls, conv: Any, norm: nn.Module | None, rectified: bool, **options: Unpack[CodingOptions]
    ) -> "ConvertedConv":
        """The layer with the filters of a convolution, and with its batch norm, which it takes over.

        Args:
            conv: ``nn.Conv1d``, ``nn.Conv2d`` or ``nn.Conv3d``.
            norm: a batch norm of torch's or None; its numbers are changed where scales are negative.
            rectified: whether a ReLU follows.
            **options: see :class:`~csc_nets.layers.CodingOptions`.
        """
        weight = conv.weight.detach()
        kind: Any = (Dictionary1d, Dictionary2d, Dictionary3d)[weight.ndim - 3]
        sizes = (conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation)

        def dictionary(atoms: Tensor) -> Any:
            return kind.holding(atoms, *sizes, conv.padding_mode, groups=conv.groups)

        return _filled(cls, dictionary, conv, norm, rectified, options)


class ConvertedLinear(Converted, SparseCoding):
    """A linear layer of vectors or tokens, perhaps with its ReLU."""

    def _empty(self, weight: Tensor) -> nn.Module:
        atoms, features = weight.shape
        return nn.Linear(features, atoms, True, weight.device, weight.dtype)

    @classmethod
    def of(cls, linear: nn.Linear, rectified: bool, **options: Unpack[CodingOptions]) -> "ConvertedLinear":
        """The layer with the rows of a linear layer as filters."""

        def dictionary(atoms: Tensor) -> Any:
            return DenseDictionary.holding(atoms, linear.in_features, linear.out_features)

        return _filled(cls, dictionary, linear, None, rectified, options)

    def synthesize(self, z: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """The vectors ``(..., F)`` of outputs ``(..., M)``."""
        return SparseCoding.synthesize(self, self.code(z))

    def objective(
        self, x: Tensor, z: Tensor, *, lam: float | Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Objective of an output per vector, ``(...)``."""
        return SparseCoding.objective(self, x, self.code(z), lam=lam, mask=mask)

    def problem(self, x: Tensor, lam: float | Tensor | None = None, mask: Tensor | None = None) -> Problem:
        """The problem for the vectors of ``x``, as one batch ``(N, F)``."""
        operator = read(self.dictionary)
        return self._problem(operator, self._rows(operator, x, lam, mask=mask)[0])


def _filled(
    cls: Any,
    dictionary: Callable[[Tensor], Any],
    layer: Any,
    norm: nn.Module | None,
    rectified: bool,
    options: CodingOptions,
) -> Any:
    """A converted layer with the numbers of a plain one."""
    weight, bias = layer.weight.detach(), layer.bias
    axes = tuple(range(1, weight.ndim))
    scale = torch.linalg.vector_norm(weight, dim=axes)
    sign: Any = torch.ones_like(scale)
    if norm is not None and norm.weight is not None:
        sign = _take_signs(norm)
    # A filter of zeros has no direction: any atom will do.
    atoms = torch.where((scale > 0).view(-1, *(1,) * len(axes)), weight, 1.0)
    atoms = atoms * sign.view(-1, *(1,) * len(axes))
    atoms = atoms / torch.linalg.vector_norm(atoms, dim=axes, keepdim=True)
    bias = None if bias is None else bias.detach() * sign
    options = {"nonneg": rectified, **options} if options.get("penalty") is None else options
    made = cls(dictionary(atoms), scale, bias, norm, rectified, **options)
    made.dictionary.requires_grad_(layer.weight.requires_grad)
    made.scale.requires_grad_(layer.weight.requires_grad)
    if bias is not None:
        made.bias.requires_grad_(layer.bias.requires_grad)
    return made.train(layer.training)


@torch.no_grad()
def _take_signs(norm: Any) -> Tensor:
    """Makes the scales of a batch norm positive, and returns their signs, which belong to its inputs then."""
    sign = torch.where(norm.weight < 0, -1.0, 1.0).to(norm.weight.dtype)
    norm.weight.mul_(sign)
    if norm.running_mean is not None:
        norm.running_mean.mul_(sign)
    return sign
