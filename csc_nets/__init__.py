"""csc_nets: a PyTorch zoo of unrolled sparse-coding networks.

What is named here is imported when it is first asked for, so that the command line answers before torch is loaded.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from csc_nets.checkpoint import load
    from csc_nets.conversion import calibrate_density, convert, freeze_dictionaries, to_plain
    from csc_nets.functional import register_gradient, register_penalty, register_pursuit, solve
    from csc_nets.models import create_model, is_model, list_models, register_model
    from csc_nets.plugins import import_plugins

__version__ = "0.2.0"

__all__ = [
    "calibrate_density",
    "convert",
    "create_model",
    "freeze_dictionaries",
    "import_plugins",
    "is_model",
    "list_models",
    "load",
    "register_gradient",
    "register_model",
    "register_penalty",
    "register_pursuit",
    "solve",
    "to_plain",
]

_HOMES = {"load": "checkpoint", "import_plugins": "plugins"}
_HOMES |= dict.fromkeys(("create_model", "is_model", "list_models", "register_model"), "models")
_HOMES |= dict.fromkeys(("register_gradient", "register_penalty", "register_pursuit", "solve"), "functional")
_HOMES |= dict.fromkeys(("calibrate_density", "convert", "freeze_dictionaries", "to_plain"), "conversion")
_ROOMS = ("checkpoint", "conversion", "functional", "layers", "models", "plugins", "registry", "theory")


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    elif name in _ROOMS:
        value = import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS})
