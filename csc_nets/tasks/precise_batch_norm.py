"""Statistics of batch norm that belong to the weights of now, and not to those of the last steps."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

__all__ = ["BATCH_NORMS", "renew_statistics"]

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@torch.no_grad()
def renew_statistics(
    model: nn.Module, batches: Iterable[Tensor], reduce: Callable[[Tensor], Tensor] = lambda value: value
) -> None:
    """Replaces the running statistics of all batch norms by plain averages over some batches.

    Running statistics are averages over the last steps, so over other weights. At high learning rates they lag behind,
    and each layer hands its error on to the next one. Source: Wu and Johnson, `Rethinking "Batch" in BatchNorm
    <https://arxiv.org/abs/2105.07576>`_, 2021, section 3 ("precise batch norm").

    All other modules are in evaluation meanwhile: dropout is off, dictionaries take the bounds of their evaluation, and
    no random number is drawn. Training goes on as it would have, since it normalises by its batches.

    Args:
        model: any network; one without batch norms, or with some that keep no statistics, stays as it is.
        batches: images ``(N, C, H, W)``, each batch weighs the same.
        reduce: mean over all processes of a tensor.
    """
    norms = [module for module in model.modules() if isinstance(module, BATCH_NORMS) and module.track_running_stats]
    if not norms:
        return
    modes = {module: module.training for module in model.modules()}
    momenta = {norm: norm.momentum for norm in norms}
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average
        norm.train()
    try:
        for images in batches:
            model(images)
        for norm in norms:
            for value in (norm.running_mean, norm.running_var):
                assert value is not None
                value.copy_(reduce(value))
    finally:
        for module, training in modes.items():
            module.training = training
        for norm, momentum in momenta.items():
            norm.momentum = momentum
