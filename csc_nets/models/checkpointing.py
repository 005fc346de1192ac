"""Gradient checkpointing of a stage that keeps state in buffers."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

__all__ = ["checkpoint_stage"]


def checkpoint_stage(stage: nn.Module, *inputs: Any) -> Tensor:
    """Runs ``stage(*inputs)`` without keeping its activations: the backward pass computes them a second time.

    Batch norm moves its running statistics and a dictionary its power iteration in every training forward. The second
    computation therefore runs on a copy of the buffers as they were before the first one: it repeats the first exactly,
    even when the network ran again in between (two forwards before one backward), and leaves the buffers alone.

    Under ``torch.compile`` the stage runs as it is: the compiler decides by itself what it recomputes, and a checkpoint
    inside its graph would recompute from buffers that have moved on.

    Args:
        stage: the module to run.
        *inputs: its arguments.

    Returns:
        ``stage(*inputs)``.
    """
    if torch.compiler.is_compiling():
        output: Tensor = stage(*inputs)
        return output
    before = {name: buffer.clone() for name, buffer in stage.named_buffers()}
    seen = False

    def run(*inputs: Any) -> Any:
        nonlocal seen
        if seen:
            return functional_call(stage, {name: buffer.clone() for name, buffer in before.items()}, inputs)
        seen = True
        return stage(*inputs)

    kept: Tensor = checkpoint(run, *inputs, use_reentrant=False)
    return kept
