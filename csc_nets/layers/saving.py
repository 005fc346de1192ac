"""What torch leaves out when modules with parametrized tensors are written and read."""

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

__all__ = ["Savable"]


class Savable(nn.Module):
    """A module that can be pickled though some of its tensors are parametrized.

    ``torch.nn.utils.parametrize`` gives such a module a class of its own that no other process knows, and forbids
    pickle. Here pickle writes the class from before and the names of the parametrized tensors. So
    ``torch.save(model)``, processes that are spawned, joblib and Ray work. State dicts stay as they are.

    A number that is trained is kept with one axis, ``(1,)``: ``fully_shard`` takes no tensors without axes. State dicts
    that hold it without an axis still load.
    """

    def __reduce_ex__(self, protocol: Any) -> Any:
        if not parametrize.is_parametrized(self):
            return super().__reduce_ex__(protocol)
        names: Any = self.parametrizations
        return _revived, (parametrize.type_before_parametrizations(self), tuple(names)), self.__dict__.copy()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name, parameter in self.named_parameters():
            saved = state_dict.get(prefix + name)
            if parameter.shape == (1,) and saved is not None and saved.ndim == 0:
                state_dict[prefix + name] = saved.reshape(1)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _revived(kind: type[nn.Module], names: tuple[str, ...]) -> nn.Module:
    """An empty module with parametrized tensors of these names; unpickling then fills it."""
    module = kind.__new__(kind)
    nn.Module.__init__(module)
    for name in names:
        module.register_parameter(name, nn.Parameter(torch.empty(0)))
        own = getattr(module, f"parametrize_{name}", None)  # which may add to the class
        register = own or partial(parametrize.register_parametrization, module, name)
        register(nn.Identity())
    return module
