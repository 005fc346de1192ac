"""csc_nets: a PyTorch zoo of unrolled sparse-coding networks."""

from csc_nets.checkpoint import load
from csc_nets.functional import register_gradient, register_penalty, register_pursuit, solve
from csc_nets.models import create_model, is_model, list_models, register_model
from csc_nets.plugins import import_plugins

__version__ = "0.2.0"

__all__ = [
    "create_model",
    "import_plugins",
    "is_model",
    "list_models",
    "load",
    "register_gradient",
    "register_model",
    "register_penalty",
    "register_pursuit",
    "solve",
]
