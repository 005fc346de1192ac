"""Batch norms that normalise by the images at hand."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from csc_nets.tasks.precise_batch_norm import BATCH_NORMS

__all__ = ["batch_statistics"]


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Inside, all batch norms in evaluation mode normalise by the mean and variance of the batch they are given.

    Their running statistics are as before afterwards, bit by bit. Nado et al., `Evaluating Prediction-Time Batch
    Normalization for Robustness under Covariate Shift <https://arxiv.org/abs/2006.10963>`_, 2020. The answer for an
    image depends on the other images of its batch. So a batch must be large, all of one corruption, and mixed in its
    classes: a batch of one class is told apart worse.

    Raises:
        ValueError: the model has no batch norm with running statistics.
    """
    norms: list[Any] = [m for m in model.modules() if isinstance(m, BATCH_NORMS) and m.running_mean is not None]
    if not norms:
        raise ValueError(f"batch_statistics: {type(model).__name__} has no batch norm with running statistics")
    kept = [(norm, norm.running_mean, norm.running_var) for norm in norms]
    try:
        for norm in norms:
            norm.running_mean = norm.running_var = None  # torch then takes those of the batch
        yield
    finally:
        for norm, mean, variance in kept:
            norm.running_mean, norm.running_var = mean, variance
