"""Encoders of sparse autoencoders: one matrix, and a rule that says which entries stay."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from csc_nets.functional import prox
from csc_nets.functional.checks import as_count
from csc_nets.registry import Part, Registry

__all__ = ["BatchTopKEncoder", "Encoder", "JumpReLUEncoder", "LinearEncoder", "TopKEncoder", "register_encoder"]


class Encoder(Part, nn.Module):
    r"""Base of all encoders: :math:`z = \mathrm{rule}(W x + b)` with weights of its own.

    A subclass gives :meth:`rule`, and :meth:`sparsity` where its training needs a term for it.

    Args:
        atoms: where the weights start, ``(M, C, *K)`` or ``(M, F)``.
        k: number of atoms that a code should have at each position.
    """

    def __init__(self, atoms: Tensor, k: int = 32) -> None:
        super().__init__()
        self.k = as_count(k, "k")
        self.weight = nn.Parameter(atoms.detach().clone())
        self.bias = nn.Parameter(torch.zeros(len(atoms), dtype=atoms.dtype, device=atoms.device))

    def forward(self, x: Tensor, analysis: Callable[..., Tensor]) -> Tensor:
        """The code of signals; ``analysis(x, weight, bias)`` correlates as the dictionary does."""
        return self.rule(analysis(x, self.weight, self.bias))

    def rule(self, scores: Tensor) -> Tensor:
        """The code ``(N, M, *S')`` of scores of that shape."""
        raise NotImplementedError

    def sparsity(self, scores: Tensor) -> Tensor:
        """What training adds to the loss, a number; 0 where the rule itself limits the number of atoms."""
        return scores.new_zeros(())

    def extra_repr(self) -> str:
        return f"k={self.k}"


_ENCODERS: Registry[type[Encoder]] = Registry("encoder")
register_encoder = _ENCODERS.decorator


def build_encoder(spelling: str | Mapping[str, Any], atoms: Tensor, k: int) -> Encoder:
    """An encoder from a registered name, or a mapping with ``name`` and further arguments.

    Raises:
        ValueError: an unknown name, or arguments that it does not take.
    """
    built: Encoder = _ENCODERS.build(spelling, Encoder, atoms=atoms, k=k)
    return built


@register_encoder("linear")
class LinearEncoder(Encoder):
    """A ReLU; training adds the l1 norm of the scores (Bricken et al. 2023, Cunningham et al. 2023)."""

    def rule(self, scores: Tensor) -> Tensor:
        """Positive scores."""
        return scores.relu()

    def sparsity(self, scores: Tensor) -> Tensor:
        """The l1 norm of a code, a mean over positions."""
        return scores.relu().sum(1).mean()


@register_encoder("top_k")
class TopKEncoder(Encoder):
    """The k largest of each position; Gao et al., `Scaling and evaluating sparse autoencoders
    <https://arxiv.org/abs/2406.04093>`_, 2024."""

    def rule(self, scores: Tensor) -> Tensor:
        """The k largest positive scores of each position."""
        return prox.top_k(scores.relu(), self.k, per_position=True)


@register_encoder("batch_top_k")
class BatchTopKEncoder(Encoder):
    """In training the largest of a whole batch, k a position on average; then all above a threshold.

    Bussmann, Leask, Nanda, `BatchTopK Sparse Autoencoders <https://arxiv.org/abs/2412.06410>`_, 2024. The threshold is
    a running mean of the least score that was kept.
    """

    threshold: Tensor

    def __init__(self, atoms: Tensor, k: int = 32, momentum: float = 0.01) -> None:
        super().__init__(atoms, k)
        self.momentum = momentum
        self.register_buffer("threshold", torch.tensor(-1.0, dtype=atoms.dtype, device=atoms.device))

    def rule(self, scores: Tensor) -> Tensor:
        """The largest of the batch, or those above the threshold."""
        z = scores.relu()
        if not self.training:
            return z * (z > self.threshold)
        count = self.k * (z.numel() // z.shape[1])
        kept = z.flatten().topk(min(count, z.numel())).values
        with torch.no_grad():
            least = kept[kept > 0].amin() if bool((kept > 0).any()) else self.threshold
            first = self.threshold < 0
            self.threshold.copy_(torch.where(first, least, self.threshold.lerp(least, self.momentum)))
        return z * (z >= kept[-1])


@register_encoder("jump_relu")
class JumpReLUEncoder(Encoder):
    r"""All scores above a learned threshold per atom.

    Rajamanoharan et al., `Jumping Ahead <https://arxiv.org/abs/2407.14435>`_, 2024. The derivative with respect to a
    threshold is that of a box of some width around it. Training adds :math:`(\|z\|_0 / k - 1)^2`, with which the mean
    number of atoms settles at k (their equation 13, with the mean over a batch).

    Args:
        atoms: where the weights start.
        k: number of atoms that a code should have on average.
        threshold: where thresholds start, for signals of norm 1.
        width: of the box.
    """

    def __init__(self, atoms: Tensor, k: int = 32, threshold: float = 0.03, width: float = 0.03) -> None:
        super().__init__(atoms, k)
        if not threshold > 0 or not width > 0:
            raise ValueError(f"JumpReLUEncoder: threshold and width must be above 0, got {threshold} and {width}")
        self.width = width
        self.log_threshold = nn.Parameter(torch.full_like(self.bias, threshold).log())

    def _parts(self, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What is kept; the thresholds; a number of value 0 whose derivative is that of what is kept."""
        threshold = self.log_threshold.exp().view(-1, *(1,) * (scores.ndim - 2))
        near = ((scores - threshold).detach().abs() < self.width / 2).to(scores.dtype) / self.width
        return (scores > threshold).to(scores.dtype), threshold, (threshold.detach() - threshold) * near

    def rule(self, scores: Tensor) -> Tensor:
        """Scores above their threshold."""
        kept, threshold, change = self._parts(scores)
        return scores * kept + threshold.detach() * change

    def sparsity(self, scores: Tensor) -> Tensor:
        """The squared relative distance of the mean number of atoms from k."""
        kept, _, change = self._parts(scores)
        return ((kept + change).sum(1).mean() / self.k - 1).square()
