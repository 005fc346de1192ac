"""Reads the biases of a trained CNN as the rates of exponential priors."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from csc_nets.layers import Coder

__all__ = ["LayerRates", "PriorRates", "prior_rates"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_READ = (*_CONVOLUTIONS, Coder)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@dataclass(frozen=True)
class LayerRates:
    """Rates of one layer.

    Attributes:
        name: name of the layer in the network.
        rates: one per filter, ``(M,)``, float64.
    """

    name: str
    rates: Tensor

    @property
    def filters(self) -> int:
        """Number of filters M."""
        return len(self.rates)

    @property
    def proper(self) -> int:
        """Number of filters with a rate above 0, which is an exponential prior."""
        return int((self.rates > 0).sum())

    @property
    def flat(self) -> int:
        """Number of filters with rate 0: all coefficients are equally probable, which is not a density."""
        return int((self.rates == 0).sum())

    @property
    def improper(self) -> int:
        """Number of filters with a rate below 0: large coefficients are more probable: no density either."""
        return int((self.rates < 0).sum())

    @property
    def smallest(self) -> float:
        """The lowest rate."""
        return self.rates.min().item()

    @property
    def median(self) -> float:
        """The median rate."""
        return self.rates.quantile(0.5).item()

    @property
    def largest(self) -> float:
        """The highest rate."""
        return self.rates.max().item()


@dataclass(frozen=True)
class PriorRates:
    """Rates of all layers of a network; ``print`` it for a table.

    Attributes:
        layers: the layers, in the order of registration.
        sigma: standard deviation of the noise that the rates assume.
    """

    layers: tuple[LayerRates, ...]
    sigma: float

    @property
    def total(self) -> LayerRates:
        """The rates of all layers together."""
        return LayerRates("all", torch.cat([layer.rates for layer in self.layers]))

    def __iter__(self) -> Iterator[LayerRates]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __str__(self) -> str:
        rows = [*self.layers, *([self.total] if len(self) > 1 else [])]
        width = max(5, *(len(row.name) for row in rows))
        heads = ("filters", "proper", "flat", "improper", "min", "median", "max")
        lines = [f"{'layer':<{width}}" + "".join(f"{head:>10}" for head in heads)]
        for row in rows:
            counts = (row.filters, row.proper, row.flat, row.improper)
            numbers = (row.smallest, row.median, row.largest)
            cells = [*(f"{count:>10}" for count in counts), *(f"{number:>10.3g}" for number in numbers)]
            lines.append(f"{row.name:<{width}}" + "".join(cells))
        return "\n".join(lines)


def prior_rates(model: nn.Module, sigma: float = 1.0) -> PriorRates:
    r"""Reads the biases of a CNN as rates of exponential priors, :math:`\lambda_i = -b_i / \sigma^2`.

    A convolution with ReLU is the most probable code over orthonormal filters under that prior (Bowren, `A Sparse
    Coding Interpretation of Neural Networks and Theoretical Implications <https://arxiv.org/abs/2108.06622>`_;
    derivation in :class:`csc_nets.layers.SparsePriorConv2d`). Training may leave this model: a bias of 0 is a flat
    prior, and a bias above 0 is a prior that grows without bound.

    - **Batch norm.** If a batch norm is registered directly after a convolution and has as many channels, it is folded
      into the convolution as in evaluation: :math:`b' = \beta + \gamma (b - \mu) / \sqrt{v + \epsilon}`. The model does
      not run, so the order of registration must be the order of execution. Several convolutions followed by their batch
      norms are refused, unless they are in an ``nn.Sequential``. Other operations between convolution and ReLU, such as
      the sum with a shortcut, are not seen.
    - **Sparse coding layers.** Their sparsity weight is :math:`\lambda_i \sigma^2`. A
      :class:`~csc_nets.layers.SparsePriorConv2d` has its own rates and noise, and does not use ``sigma``.
    - **Stacks.** The layers of :class:`~csc_nets.layers.MultiLayerCSC` have the threshold divided by the step size,
      :math:`\lambda_i - b_i / \eta_i`. For the pursuits ``"ml_..."`` this is
      :math:`\eta_1 \cdots \eta_{i-1} \lambda_i - b_i / \eta_i`. The step sizes are those for signals whose size is a
      multiple of the stride. ``"all_free"`` has one row for each layer of each set.

    Args:
        model: any network.
        sigma: standard deviation of the noise in the input of every layer. It changes the scale of the rates, not their
            signs.

    Raises:
        ValueError: ``sigma`` is not above 0, the network has no such layer, a bias is not finite, or a batch norm has
            no running statistics or may belong to several convolutions.

    Example:
        >>> conv = nn.Conv2d(1, 4, 3)
        >>> conv.bias.data = torch.tensor([-0.5, -0.25, 0.0, 0.75])
        >>> print(prior_rates(nn.Sequential(conv, nn.ReLU()), sigma=0.5))
        layer   filters    proper      flat  improper       min    median       max
        0             4         2         1         1        -3       0.5         2
    """
    if not 0 < sigma < math.inf:
        raise ValueError(f"sigma must be a finite number > 0, got {sigma!r}")
    rows = []
    leaves = list(_leaves("", model))
    _check_order(model, leaves)
    for (name, module), (behind, follower) in zip(leaves, [*leaves[1:], ("", None)], strict=True):
        for label, threshold in _thresholds(module, behind, follower).items():
            if not bool(threshold.isfinite().all()):
                raise ValueError(f"prior_rates: the biases of {name!r} must be finite, got NaN or infinite values")
            own = getattr(module, "sigma", None)
            noise = sigma if own is None else own.item()
            rows.append(LayerRates(".".join(filter(None, (name, label))), threshold.double().cpu() / noise**2))
    if not rows:
        raise ValueError(f"prior_rates: {type(model).__name__} has no convolution")
    return PriorRates(tuple(rows), float(sigma))


def _leaves(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The layers that are read (with or without children), and all other modules without children."""
    if isinstance(module, _READ) or not list(module.children()):
        yield name, module
        return
    for key, child in module.named_children():
        yield from _leaves(f"{name}.{key}" if name else key, child)


def _check_order(model: nn.Module, leaves: list[tuple[str, nn.Module]]) -> None:
    """Refuses a batch norm after several convolutions if it may belong to one that is not the last."""
    run: list[tuple[str, Any]] = []  # convolutions and their norms, registered one directly after the other
    for name, module in leaves:
        if isinstance(module, _CONVOLUTIONS):
            run = [*(run if run and isinstance(run[-1][1], _CONVOLUTIONS) else []), (name, module)]
        elif isinstance(module, _NORMS) and run:
            parent, before = name.rpartition(".")[0], run[-1][0].rpartition(".")[0]
            in_order = parent == before and type(model.get_submodule(parent)).forward is nn.Sequential.forward
            fits = [key for key, c in run if isinstance(c, _CONVOLUTIONS) and c.out_channels == module.num_features]
            if not in_order and fits and fits != [run[-1][0]]:
                raise ValueError(
                    f"prior_rates: batch norm {name!r} may belong to any of {', '.join(fits)}: it must be registered "
                    "right behind its convolution, or with it in an nn.Sequential"
                )
            run.append((name, module))
        else:
            run = []


@torch.no_grad()
def _thresholds(module: Any, behind: str, follower: nn.Module | None) -> dict[str, Tensor]:
    """The numbers that are subtracted before the ReLU, ``(M,)``. Keys: suffixes for the name of the module."""
    if isinstance(module, Coder):
        return module.thresholds()
    if not isinstance(module, _CONVOLUTIONS):
        return {}
    bias = module.weight.new_zeros(module.out_channels) if module.bias is None else module.bias
    if isinstance(follower, _NORMS) and follower.num_features == module.out_channels:
        if follower.running_mean is None or follower.running_var is None:
            raise ValueError(f"prior_rates: batch norm {behind!r} has no running statistics to fold")
        gain = 1 if follower.weight is None else follower.weight
        shift = 0 if follower.bias is None else follower.bias
        bias = shift + gain * (bias - follower.running_mean) / (follower.running_var + follower.eps).sqrt()
    return {"": 0 - bias}  # not -bias, whose zeros would be -0
