"""A network from what a file says of it, which may be anything: checked before it is built."""

import os
import threading
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.utils._python_dispatch import TorchDispatchMode

from csc_nets.models.registry import ENTRIES, create_model, network_signature
from csc_nets.models.staged_encoder import StagedEncoder
from csc_nets.signature import check_value, nearest, shown

__all__ = ["MisfitError", "check_network", "rebuild_model"]

_LARGEST = 2**20  # of a number that counts something
_MOST_ITEMS = 10_000
_WORK, _FREE_WORK = 100, 60_000  # operations that build a tensor of the weights, and a network without any
_PARAMETERS, _FREE_PARAMETERS = 8, 500  # the same of parameters; a parametrized one is registered more than once
_FREE_NUMBERS = 10_000_000  # of a work space
_OF_CALLER = ("checkpoint_path", "pretrained", "features_only", "out_indices")


class MisfitError(ValueError):
    """A network has other sizes than the weights that are to be its own."""


def rebuild_model(name: str, arguments: Mapping[str, Any], weights: Mapping[str, Tensor]) -> StagedEncoder:
    """The network that a file describes, with fresh weights of the same shapes as those of the file.

    Args:
        name: one of :func:`~csc_nets.models.list_models`.
        arguments: of the network. Nothing else is taken: no path, no address, no weights by name.
        weights: state dict of the file.

    Raises:
        ValueError: In one line, see :func:`check_network`.
    """
    check_network(name, arguments, weights)
    return create_model(name, **arguments)


def check_network(name: str, arguments: Mapping[str, Any], weights: Mapping[str, Tensor] | None) -> None:
    """Refuses arguments that build another network than the one whose weights these are, before memory is taken.

    The network is built without memory first, on torch's meta device; so its sizes are known.

    Args:
        name, arguments: of the network.
        weights: its state dict; None where there is none, and the network must fit into the memory of the machine.

    Raises:
        MisfitError: In one line: sizes that are not those of the weights.
        ValueError: In one line: an unknown network; an argument that does not build it, or is of a wrong type.
    """
    _check_arguments(name, arguments)
    budget = _Budget(weights)
    weights = weights or {}
    try:
        with torch.device("meta"), budget:
            built = create_model(name, **arguments)
    except (NotImplementedError, RuntimeError) as error:
        if not ENTRIES[name].build.__module__.startswith("csc_nets."):
            return  # code of the user, which reads its tensors while it builds
        raise ValueError(f"{name} cannot be built: {str(error).splitlines()[0]}") from error
    sizes = {key: value.shape for key, value in built.state_dict().items()}
    for key, size in sizes.items():
        # A number may be kept with one axis or none, see csc_nets.layers.saving.
        if key in weights and size != weights[key].shape and size.numel() + weights[key].numel() > 2:
            raise MisfitError(
                f"{key} would have the shape {tuple(size)}, and the file holds {tuple(weights[key].shape)} of it"
            )
    missing = [size.numel() for key, size in sizes.items() if key not in weights]
    if sum(missing) > budget.numbers:
        raise MisfitError(f"it would have {sum(missing)} numbers more than {budget.owner}")


def _check_arguments(name: str, arguments: Mapping[str, Any]) -> None:
    signature = network_signature(name)
    for key, value in arguments.items():
        if key in _OF_CALLER or (key not in signature.arguments and not signature.is_open):
            near = nearest(key, signature.arguments)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"{name} is not built from {key}={shown(value)[:80]}{hint}")
        _check_size(key, value, [_MOST_ITEMS])
        if key in signature.arguments:
            check_value(key, value, signature.arguments[key])


def _check_size(key: str, value: Any, left: list[int]) -> None:
    """Refuses numbers that count without end, and lists that are as long."""
    left[0] -= 1
    if left[0] < 0:
        raise ValueError(f"{key} has more than {_MOST_ITEMS} values")
    if isinstance(value, int) and abs(value) > _LARGEST:
        raise ValueError(f"{key} is {shown(value)[:40]}, beyond all use")
    for inside in value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ():
        _check_size(key, inside, left)


class _Budget(TorchDispatchMode):
    """Stops the building of a network that does not end, or takes work spaces far beyond the weights it is for.

    Attributes:
        numbers: most numbers of a tensor, and of all that the weights lack.
        owner: who has no room for more, in messages.
    """

    def __init__(self, weights: Mapping[str, Tensor] | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        count = len(weights) if weights is not None else 10_000
        self.work = _FREE_WORK + _WORK * count
        self.parameters = _FREE_PARAMETERS + _PARAMETERS * count
        if weights is None:
            self.numbers, self.owner = _memory() // 4, "this machine has memory for"
        else:
            self.numbers = _FREE_NUMBERS + 4 * sum(value.numel() for value in weights.values())
            self.owner = "the file holds"

    def __enter__(self) -> Any:
        self.thread = threading.get_ident()
        self.hook = register_module_parameter_registration_hook(self.count_parameter)
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *error: Any) -> None:
        self.hook.remove()
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def count_parameter(self, module: nn.Module, name: str, parameter: Any) -> None:
        """Counts a parameter, if this thread registers it: the hook is one for all modules."""
        if threading.get_ident() == self.thread:
            self.parameters -= 1
            self.check()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = operation(*args, **(kwargs or {}))
        self.work -= 1
        self.check()
        if isinstance(made, Tensor) and made.numel() > self.numbers:
            raise MisfitError(f"a tensor of shape {tuple(made.shape)} would be larger than all that {self.owner}")
        return made

    def check(self) -> None:
        """Raises MisfitError where nothing is left."""
        if min(self.work, self.parameters) < 0:
            raise MisfitError(f"it would have more layers than {self.owner}")


def _memory() -> int:
    """Bytes of the machine, or more than any has where nobody can tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 1 << 44
