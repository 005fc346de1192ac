"""``trainer.strategy=fsdp2``: weights, gradients and the optimiser's state are spread over processes."""

from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy

__all__ = ["FullySharded"]


class FullySharded(ModelParallelStrategy):
    """PyTorch's ``fully_shard`` over all processes, with checkpoints in one file as those of any other run."""

    def __init__(self, **options: Any) -> None:
        super().__init__(data_parallel_size=1, tensor_parallel_size=1, save_distributed_checkpoint=False, **options)

    def setup_environment(self) -> None:
        """Spreads over as many processes as there are."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def check_device(self) -> None:
        """Refuses CPUs where torch cannot spread weights over their processes.

        Raises:
            ValueError: says since which version it can.
        """
        # torch asks the streams of a device for it, of CPUs too.
        if self.root_device.type == "cpu" and not hasattr(torch.cpu.Stream, "record_event"):
            raise ValueError(
                f"trainer.strategy=fsdp2 needs torch 2.7 or newer on CPUs, got {torch.__version__}: take ddp, or GPUs"
            )

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Reads plain values only."""
        return super().load_checkpoint(checkpoint_path, weights_only=True)
