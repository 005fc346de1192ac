"""Batch norms that see the batch of all processes, on CPUs too."""

from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.plugins.layer_sync import TorchSyncBatchNorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["SyncedNorms"]


class SyncedNorms(TorchSyncBatchNorm):
    """What ``trainer.sync_batchnorm`` does: torch's ``SyncBatchNorm``, and on CPUs, which that refuses, ours."""

    def apply(self, model: nn.Module) -> nn.Module:
        """Has batch norms exchange their statistics in training.

        Args:
            model: changed in place where its parameters are on a CPU.
        """
        if any(parameter.device.type != "cpu" for parameter in model.parameters()):
            return super().apply(model)
        for module in model.modules():
            if type(module) in _SYNCED:
                module.__class__ = _SYNCED[type(module)]
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        """Has each process see its own batch again."""
        for module in model.modules():
            if isinstance(module, _Synced):
                module.__class__ = type(module).__bases__[1]
        return super().revert(model)


class _Sum(torch.autograd.Function):
    """The sum over processes. What each of them makes of it counts: the gradient is summed too."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor) -> Tensor:
        total = mine.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


class _Synced(_BatchNorm):
    r"""Batch norm whose mean and variance are those of the batch of all processes.

    .. math:: \mu = \frac{\sum_r \sum_i x_{r,i}}{\sum_r n_r}, \qquad
              \sigma^2 = \frac{\sum_r \sum_i (x_{r,i} - \mu)^2}{\sum_r n_r}

    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or not dist.is_initialized():
            return super().forward(input)
        self._check_input_dim(input)
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        axes = [axis for axis in range(x.ndim) if axis != 1]
        shape = [1, -1, *[1] * (x.ndim - 2)]
        count = x.new_full((1,), x.numel() / x.shape[1])
        total = _Sum.apply(torch.cat([x.sum(axes), count]))
        mean, count = total[:-1] / total[-1], total[-1].detach()
        centred = x - mean.view(shape)
        variance = _Sum.apply(centred.square().sum(axes)) / count
        self._follow(mean.detach(), variance.detach() * count / (count - 1))
        out = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        return out.to(input.dtype)

    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Brings the running statistics up to date, the variance with one degree of freedom less."""
        if not self.track_running_stats or self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean), share)
        self.running_var.lerp_(variance.to(self.running_var), share)


class _Synced1d(_Synced, nn.BatchNorm1d):
    pass


class _Synced2d(_Synced, nn.BatchNorm2d):
    pass


class _Synced3d(_Synced, nn.BatchNorm3d):
    pass


_SYNCED: dict[type[Any], type[_Synced]] = {synced.__bases__[1]: synced for synced in (_Synced1d, _Synced2d, _Synced3d)}
