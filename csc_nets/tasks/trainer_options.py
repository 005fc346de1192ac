"""What ``trainer.*`` takes: the arguments of Lightning's ``Trainer``, and the values that it does not check itself."""

from typing import Annotated, Any, Literal, TypedDict, get_type_hints

import lightning as L
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.strategies import StrategyRegistry

from csc_nets.signature import Above, Argument, AtLeast, AtMost, Signature, signature_of
from csc_nets.tasks.sharding import FullySharded

__all__ = ["trainer_signature"]

StrategyRegistry.register("fsdp2", FullySharded, override=True)

# A run makes these itself, or could not be tested and resumed with them.
_OURS = ("default_root_dir", "callbacks", "logger", "enable_progress_bar", "enable_checkpointing", "plugins")

_Positive = Annotated[int, AtLeast(1)]
# A number of batches, or a share of them.
_SomeBatches = _Positive | Annotated[float, Above(0), AtMost(1)]
_AnyBatches = Annotated[int, AtLeast(0)] | Annotated[float, AtLeast(0), AtMost(1)]


class _Narrower(TypedDict):
    max_epochs: _Positive
    min_epochs: _Positive | None
    max_steps: Literal[-1] | _Positive
    min_steps: _Positive | None
    num_nodes: _Positive
    devices: Literal["auto", -1] | _Positive | list[int] | str
    accumulate_grad_batches: _Positive
    check_val_every_n_epoch: _Positive | None
    gradient_clip_val: Annotated[float, AtLeast(0)] | None
    gradient_clip_algorithm: Literal["norm", "value"] | None
    limit_train_batches: _SomeBatches | None
    limit_val_batches: _AnyBatches | None
    limit_test_batches: _SomeBatches | None
    overfit_batches: _AnyBatches
    num_sanity_val_steps: Literal[-1] | Annotated[int, AtLeast(0)] | None
    log_every_n_steps: Annotated[int, AtLeast(0)] | None
    reload_dataloaders_every_n_epochs: Annotated[int, AtLeast(0)]


def trainer_signature() -> Signature:
    """The arguments by name, with the accelerators and strategies that are registered."""
    names = {
        "accelerator": ["auto", "gpu", *sorted(AcceleratorRegistry.available_accelerators())],
        "strategy": ["auto", *StrategyRegistry.available_strategies()],
    }
    choices: dict[str, Any] = {key: Literal[tuple(allowed)] for key, allowed in names.items()}
    hints = choices | get_type_hints(_Narrower, include_extras=True)
    taken = signature_of(L.Trainer).without(_OURS)
    return Signature({**taken.arguments, **{key: Argument(hint) for key, hint in hints.items()}})
