"""The coding rate as a loss, for self-supervised learning in half precision and over several processes."""

import torch
from torch import Tensor, nn
from torch.distributed import get_world_size, is_available, is_initialized

from csc_nets.functional import coding_rate, rate_reduction

__all__ = ["CodingRateLoss"]


class CodingRateLoss(nn.Module):
    r"""Minus the coding rate of features, or minus their rate reduction where there are labels.

    .. math:: -R(Z) = -\tfrac12 \log\det\Bigl(I + \frac{d}{n \epsilon} Z^T Z\Bigr)

    It keeps features from collapsing: the term that SimDINO has in place of DINO's centring and sharpening (Wu et al.,
    `Simplifying DINO via Coding Rate Regularization <https://arxiv.org/abs/2502.10385>`_, 2025), and the loss of
    maximal coding rate reduction (Yu et al. 2020). Half precision has too few digits for the determinant: it is
    computed in float32, also under autocast. Features of all processes are gathered first, because the rate of a batch
    is no mean of those of its parts; gradients then pass to the features of each process, and the mean that
    ``DistributedDataParallel`` takes is the gradient of the rate of the whole batch.

    Args:
        eps: precision :math:`\epsilon` (the square of the papers).
        normalize: put features on the unit sphere first, as the papers do.
        gather: over all processes, where there are several.

    Shape:
        features ``(n, d)``, labels ``(n,)`` of integers; in every process as many.
    """

    def __init__(self, eps: float = 0.5, normalize: bool = True, gather: bool = True) -> None:
        super().__init__()
        if not eps > 0:
            raise ValueError(f"eps must be greater than 0, got {eps!r}")
        self.eps, self.normalize, self.gather = eps, normalize, gather

    def forward(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        """The loss, 0-d, in float32 at least."""
        if features.ndim != 2:
            raise ValueError(f"CodingRateLoss: expected features (n, d), got {tuple(features.shape)}")
        wide = features.to(torch.promote_types(features.dtype, torch.float32))
        if self.normalize:
            wide = nn.functional.normalize(wide, dim=1)
        if self.gather and is_available() and is_initialized() and get_world_size() > 1:
            from torch.distributed.nn.functional import all_gather

            wide = torch.cat(all_gather(wide))
            if labels is not None:
                labels = torch.cat(all_gather(labels))
        if labels is None:
            return -coding_rate(wide, self.eps)
        return -rate_reduction(wide, labels, self.eps)

    def extra_repr(self) -> str:
        return f"eps={self.eps}, normalize={self.normalize}, gather={self.gather}"
