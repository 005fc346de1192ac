"""Gradient checkpointing of a stage that keeps state in buffers."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

__all__ = ["checkpoint_stage"]


def checkpoint_stage(stage: nn.Module, x: Tensor) -> Tensor:
    """Runs ``stage(x)`` without keeping its activations: the backward pass computes them a second time.

    Batch norm moves its running statistics and a dictionary its power iteration in every training forward. The second
    computation therefore runs on a copy of the buffers as they were before the first one: it repeats the first exactly,
    even when the network ran again in between (two forwards before one backward), and leaves the buffers alone.

    Under ``torch.compile`` the stage runs as it is: the compiler decides by itself what it recomputes, and a checkpoint
    inside its graph would recompute from buffers that have moved on.

    Args:
        stage: the module to run.
        x: its input.

    Returns:
        ``stage(x)``.
    """
    if torch.compiler.is_compiling():
        output: Tensor = stage(x)
        return output
    before = {name: buffer.clone() for name, buffer in stage.named_buffers()}
    seen = False

    def run(x: Tensor) -> Any:
        nonlocal seen
        if seen:
            return functional_call(stage, {name: buffer.clone() for name, buffer in before.items()}, (x,))
        seen = True
        return stage(x)

    kept: Tensor = checkpoint(run, x, use_reentrant=False)
    return kept
