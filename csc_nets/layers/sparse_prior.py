"""A convolution with ReLU whose biases are the rates of an exponential prior."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from csc_nets.functional import LCA, PriorISTA, as_weight
from csc_nets.functional.checks import errors_of, full_precision
from csc_nets.layers.coding import CSC, Positive
from csc_nets.layers.csc import CSC2d
from csc_nets.layers.dictionary import Dictionary2d

__all__ = ["SparsePriorConv2d"]

DYNAMICS: dict[str, type[PriorISTA]] = {"ista": PriorISTA, "lca": LCA}


class RateTimesVariance(Positive):
    r"""Parametrization of the thresholds :math:`\lambda_i \sigma^2` by the rates behind a softplus, and :math:`\sigma`.

    Args:
        sigma: standard deviation of the noise.
        learn: train it too.
    """

    sigma: Tensor

    def __init__(self, sigma: Tensor, learn: bool) -> None:
        super().__init__()
        if learn:
            self.sigma = nn.Parameter(sigma)
            parametrize.register_parametrization(self, "sigma", Positive(scalar=True))
        else:
            self.register_buffer("sigma", sigma)

    def forward(self, raw: Tensor) -> Tensor:
        return super().forward(raw) * self.sigma.square()

    def right_inverse(self, value: Tensor) -> Tensor:
        return super().right_inverse(value / self.sigma.square())


class SparsePriorConv2d(CSC2d):
    r"""A CNN layer whose biases stay the rates of a sparse prior, from the sparse coding interpretation of neural
    networks (Bowren, `A Sparse Coding Interpretation of Neural Networks and Theoretical Implications
    <https://arxiv.org/abs/2108.06622>`_).

    The signal is a combination of atoms plus Gaussian noise, and each coefficient has an exponential prior with a rate
    of its own:

    .. math:: x = \Phi a + n, \quad n \sim \mathcal N(0, \sigma^2 I), \quad
              p(a_i) = \lambda_i e^{-\lambda_i a_i},\ a_i \ge 0

    For orthonormal atoms its most probable code is :math:`a_i = \max(\phi_i^T x - \lambda_i \sigma^2, 0)`, a
    convolution with ReLU whose bias is :math:`b_i = -\lambda_i \sigma^2` (derivation: the residual separates,
    :math:`\|x - \Phi a\|^2 = \|x\|^2 - \|\Phi^T x\|^2 + \|\Phi^T x - a\|^2`; over atoms of norm :math:`r_i` the code is
    that convolution divided by :math:`r_i^2`). A trained CNN may lose the prior: a bias of 0 is a flat one, a bias
    above 0 one that grows. Here rates stay positive.

    How the paper keeps the prior in training, and which stronger nonlinearity it has in mind, its abstract does not
    say; what follows is our reading. The first step is the convolution with ReLU above, for every number of steps. The
    others correct it for atoms that are not orthonormal, and approach

    .. math:: a = \arg\min_{a \ge 0} \tfrac{1}{2\sigma^2} \|x - \Phi a\|^2 + \sum_i \lambda_i a_i

    by one of two dynamics whose fixed points are the same, with step size :math:`\eta` and
    :math:`t_i = \lambda_i \sigma^2`:

    - ``"ista"``: :math:`a \leftarrow \max\bigl(a + \eta \Phi^T (x - \Phi a) - \eta t, 0\bigr)`
    - ``"lca"``: the locally competitive algorithm with time constant :math:`\tau`,
      :math:`\tau \dot u = \Phi^T x - u - (\Phi^T \Phi - I) a,\ a = \max(u - t, 0)`, in Euler steps
      :math:`\eta = dt / \tau` from rest, :math:`u = 0`. The Gram term is lateral inhibition. With :math:`\eta = 1` both
      dynamics are the same.

    The first step has :math:`\eta = 1`; the others have :math:`0.9 / \|\Phi\|^2` for ISTA and
    :math:`0.9 / \max(1, \|\Phi\|^2)` for LCA. With these the objective falls at every further step and its distance to
    the minimum at least as 1 / ``steps`` (derivation for LCA: :math:`u - a` is a subgradient of the prior term g at a,
    so an Euler step is a step of mirror descent with the mirror map :math:`\tfrac12 \|a\|^2 + g(a)`, relative to which
    the objective is :math:`\max(1, \|\Phi\|^2)`-smooth). A ``step_size`` is that of all steps, the first included:
    textbook iterations from the zero code. Above :math:`2 / \|\Phi\|^2` they need not converge, nor LCA above 2.

    Args:
        in_channels: channels C of the signal.
        out_channels: number M of atoms.
        kernel_size, stride, padding, dilation, padding_mode: as for :class:`CSC2d`.
        rate: rates :math:`\lambda_i` at the start, > 0: a number or one per atom ``(M,)``, per unit of the code.
        sigma: standard deviation of the noise, > 0, in units of the signal.
        steps: steps of the dynamics; 1 is a CNN layer.
        dynamics: ``"ista"`` or ``"lca"``.
        step_size: :math:`\eta` of all steps; None as above.
        unit_norm: keep the atoms on the unit sphere; False trains plain filters, as a CNN does.
        learn_sigma: train :math:`\sigma`, kept positive by a softplus.

    Attributes:
        lam: the thresholds :math:`\lambda_i \sigma^2`, ``(M,)``: this is :class:`CSC2d` with ``lam`` made of rates,
            and its methods mean the same. ``objective(x, a) / sigma ** 2`` is the negative log posterior of a code but
            for what does not depend on the code.

    Shape:
        ``(N, C, H, W)`` to ``(N, M, H', W')``, sizes as ``nn.Conv2d``; any ``H``, ``W``.

    Example:
        >>> layer = SparsePriorConv2d(3, 16, 3, padding=1, rate=0.2, sigma=0.5)
        >>> x = torch.randn(8, 3, 32, 32)
        >>> bool((layer(x) == nn.functional.conv2d(x, layer.atoms, layer.bias, padding=1).relu()).all())
        True
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
        rate: float | Tensor = 0.1,
        sigma: float = 1.0,
        steps: int = 1,
        dynamics: str = "ista",
        step_size: float | None = None,
        unit_norm: bool = True,
        learn_sigma: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        name = "SparsePriorConv2d"
        if dynamics not in DYNAMICS:
            raise ValueError(f"{name}: dynamics must be one of {', '.join(DYNAMICS)}, got {dynamics!r}")
        if isinstance(sigma, bool) or not isinstance(sigma, int | float) or not 0 < sigma < math.inf:
            raise ValueError(f"{name}: sigma must be a finite number > 0, got {sigma!r}")
        as_weight(rate, 2, f"{name}: rate")
        if not (rate.is_meta or bool((rate > 0).all()) if isinstance(rate, Tensor) else rate > 0):
            raise ValueError(f"{name}: rate must be above 0 (0 is no prior that integrates), got {rate!r}")
        dictionary = Dictionary2d(
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
        with errors_of(name):
            pursuit = DYNAMICS[dynamics](steps, step_size)
        CSC.__init__(self, dictionary, lam=rate, pursuit=pursuit)
        self._first_sigma = float(sigma)
        variance = RateTimesVariance(torch.as_tensor(sigma).to(self.lam, copy=True), learn_sigma)
        thresholds = (self.lam * variance.sigma.detach().square()).expand(out_channels).clone()
        del self.lam
        self.lam = nn.Parameter(thresholds)
        parametrize.register_parametrization(self, "lam", variance)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws fresh atoms, and puts the rates and :math:`\sigma` back to their start."""
        self.dictionary.reset_parameters()
        sigma: Any = torch.full_like(self.sigma, self._first_sigma)
        if parametrize.is_parametrized(self._variance, "sigma"):
            self._variance.sigma = sigma
        else:
            self._variance.sigma.copy_(sigma)
        self.lam = self._first_lam * self._first_sigma**2  # type: ignore[assignment]

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, sigma: float = 1.0, *, clamp: float | None = None) -> "SparsePriorConv2d":
        r"""The layer with the filters of a convolution (as they are, ``unit_norm=False``) and the rates of its biases.

        With one step its output is ``conv(x).relu()``, which for orthogonal filters of norm :math:`r_i` is
        :math:`r_i^2` times the most probable code; further steps approach the code itself.

        Args:
            conv: a convolution without groups.
            sigma: standard deviation of the noise.
            clamp: least threshold, > 0: biases above ``-clamp`` become ``-clamp``.

        Raises:
            ValueError: a bias of 0 or above, which is no rate :math:`-b / \sigma^2`, and no ``clamp``; groups; a
                ``clamp`` that is not above 0.
        """
        if conv.groups != 1:
            raise ValueError(f"SparsePriorConv2d.from_conv: groups must be 1, got {conv.groups}")
        if clamp is not None and not 0 < clamp < math.inf:
            raise ValueError(f"SparsePriorConv2d.from_conv: clamp must be a finite number > 0, got {clamp!r}")
        weight = conv.weight.detach()
        bias = weight.new_zeros(len(weight)) if conv.bias is None else conv.bias.detach()
        flat, rising = int((bias == 0).sum()), int((bias > 0).sum())
        if clamp is not None:
            bias = bias.clamp_max(-clamp)
        elif flat or rising:
            raise ValueError(
                f"SparsePriorConv2d.from_conv: {flat + rising} of {len(bias)} biases are no rate of a prior "
                f"({flat} are 0, {rising} above 0); clamp=c replaces those above -c by -c"
            )
        layer = cls(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            conv.stride,
            conv.padding,
            conv.dilation,
            conv.padding_mode,
            sigma=sigma,
            unit_norm=False,
            device=weight.device,
            dtype=weight.dtype,
        )
        with torch.no_grad():
            layer.dictionary.weight.copy_(weight)
        layer.dictionary.refresh()
        layer.lam = -bias
        return layer.train(conv.training)

    @property
    def dynamics(self) -> str:
        """Name of the dynamics."""
        return next((name for name, kind in DYNAMICS.items() if type(self.pursuit) is kind), "other")

    @dynamics.setter
    def dynamics(self, value: str) -> None:
        if value not in DYNAMICS:
            raise ValueError(f"dynamics must be one of {', '.join(DYNAMICS)}, got {value!r}")
        self.pursuit = DYNAMICS[value](self.pursuit.count, self.step_size)

    @property
    def step_size(self) -> float | None:
        """Step size of all steps; None as in the class."""
        return getattr(self.pursuit, "step_size", None)

    @step_size.setter
    def step_size(self, value: float | None) -> None:
        self.pursuit = replace(self.pursuit, step_size=value)

    @property
    def sigma(self) -> Tensor:
        """Standard deviation of the noise, 0-d."""
        return self._variance.sigma

    @property
    def rates(self) -> Tensor:
        """Rates of the exponential priors ``(M,)``, above 0. Assign a number or one per atom."""
        return Positive.forward(self._variance, self.get_parameter("parametrizations.lam.original"))

    @rates.setter
    def rates(self, rates: float | Tensor) -> None:
        self.lam = rates * self.sigma.detach().square()

    @property
    def bias(self) -> Tensor:
        """Bias of the convolution, ``-rates * sigma ** 2``, ``(M,)``."""
        return -self.lam

    @property
    def _variance(self) -> RateTimesVariance:
        return self.parametrizations.lam[0]  # type: ignore[union-attr, index, return-value]

    def negative_log_prior(self, a: Tensor) -> Tensor:
        r"""How improbable a code is before the signal is seen: the mean over positions of
        :math:`\sum_i \lambda_i a_i - \log \lambda_i`, per sample ``(N,)``.

        As a term of a training loss it keeps codes sparse and rates from vanishing (our reading of "maintaining sparse
        priors"). It has no lower bound: an atom that is never used drives its rate to infinity.

        Args:
            a: non-negative code ``(N, M, H', W')``.
        """
        rates = self.rates
        return (a.mean((2, 3), dtype=rates.dtype) * rates - rates.log()).sum(1)

    def orthogonality(self) -> Tensor:
        r"""How far the atoms are from orthonormal, where one step is exact: :math:`\|\Phi^T \Phi - I\|_F^2`, 0-d.

        Atoms are the vectors of the local bank, of length d = C kh kw; their shifts are left out of account. More atoms
        than d cannot reach 0: the least value is M - d for filters of any norm, and the Welch bound M (M - d) / d for
        unit atoms (derivation: at most d eigenvalues of the Gram matrix are not 0; they are best all 1, or all M / d
        where its trace is M).
        """
        bank = self.atoms.flatten(1)
        with full_precision(bank):
            gram = bank @ bank.T
        return (gram - torch.eye(len(gram), dtype=gram.dtype, device=gram.device)).square().sum()

    def extra_repr(self) -> str:
        sigma = "?" if self.sigma.is_meta else f"{self.sigma.item():.4g}"
        text = f"sigma={sigma}, steps={self.steps}"
        if self.pursuit.count > 1:
            text += f", dynamics={self.dynamics!r}"
        return text + (f", step_size={self.step_size}" if self.step_size is not None else "")
