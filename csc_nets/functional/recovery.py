"""Sparse codes of a model without a convex penalty: a Lasso finds the support, a second one finds the values."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from csc_nets.functional.operators import Operator, as_operator
from csc_nets.functional.problem import Problem
from csc_nets.functional.pursuits.solvers import solve

__all__ = ["sparse_code_recovery"]


@dataclass(frozen=True)
class Restricted:
    """A dictionary restricted to a support ``(N, M, *S')``: the other coefficients are left out."""

    pair: Operator
    support: Tensor
    norm: Tensor  # a bound for the whole dictionary holds for a part of it

    def analysis(self, x: Tensor) -> Tensor:
        return self.pair.analysis(x) * self.support

    def synthesis(self, z: Tensor, output_size: tuple[int, ...] | None = None) -> Tensor:
        return self.pair.synthesis(z * self.support, output_size)

    def bound(self, signal_size: tuple[int, ...]) -> Tensor:
        return self.norm


def sparse_code_recovery(
    x: Tensor,
    dictionary: Operator | Tensor,
    lam: float | Tensor,
    project: Callable[[Tensor], Tensor],
    *,
    tol: float = 1e-4,
    steps: int = 10_000,
    nonneg: bool = False,
) -> Tensor:
    r"""Codes of a model by two certified Lasso problems. The second one is solved on the support of the projection.

    .. math:: z' = \arg\min_z \tfrac12 \|x - D z\|^2 + \lambda \|z\|_1, \qquad S = \mathrm{supp}\, P(z'), \qquad
              \hat z = \arg\min_{z_{\bar S} = 0} \tfrac12 \|x - D z\|^2 + \lambda \|z\|_1

    Source: Algorithm 2 of Gilbert, Zhang, Lee, Zhang, Lee, `Towards Understanding the Invertibility of Convolutional
    Neural Networks <https://arxiv.org/abs/1705.08664>`_. The objective there has no factor 1/2, so the lambda there is
    twice ours. The paper does not give a value.

    Args:
        x: signals ``(N, C, *S)`` or ``(N, F)``.
        dictionary: as for :func:`~csc_nets.functional.fista`.
        lam: sparsity weight of both problems.
        project: projection on the model, such as :func:`~csc_nets.functional.one_per_block` with its k.
        tol, steps: of each problem, see :func:`~csc_nets.functional.solve`.
        nonneg: codes are non-negative.

    Returns:
        Codes ``(N, M, *S')`` with the support of a projection.

    Raises:
        ValueError, RuntimeError: as for :func:`~csc_nets.functional.solve`.

    Example:
        >>> import torch
        >>> from csc_nets.functional import top_k
        >>> x = torch.tensor([[3.0, -2.0, 1.0]])
        >>> sparse_code_recovery(x, torch.eye(3), 0.5, lambda z: top_k(z, 2))
        tensor([[ 2.5000, -1.5000,  0.0000]])
    """
    pair = as_operator(dictionary)
    code = project(solve(x, pair, lam, tol=tol, steps=steps, nonneg=nonneg))
    part = Restricted(pair, (code != 0).to(x.dtype), Problem(x, pair, lam).lipschitz())
    return solve(x, part, lam, tol=tol, steps=steps, nonneg=nonneg, init=code)
