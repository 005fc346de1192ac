"""``trainer.strategy=fsdp2``: weights, gradients and the optimiser's state are spread over processes."""

from typing import Any

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

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Reads plain values only."""
        return super().load_checkpoint(checkpoint_path, weights_only=True)
