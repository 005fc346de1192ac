"""The ``repr`` of a network on one screen."""

from torch import nn

__all__ = ["LINES", "outline"]

LINES = 40
"""Lines of a screen, with some left for the prompt."""


def outline(module: nn.Module, lines: int = LINES) -> str:
    """The modules of a network as torch writes them, as deep as fits; what lies deeper is its number of parameters.

    Args:
        module: the network.
        lines: most lines, if one line a child of the network is not more.
    """
    text = nn.Module.__repr__(module)
    for depth in (4, 3, 2, 1):
        if text.count("\n") < lines:
            break
        text = _down_to(module, depth, top=True)
    return text


def _down_to(module: nn.Module, depth: int, top: bool = False) -> str:
    name, children = module._get_name(), list(module.named_children())
    plain = (nn.Module.__repr__, nn.ModuleList.__repr__)
    if not children or (type(module).__repr__ not in plain and not top):  # a coding layer writes itself in a line
        return repr(module)
    if depth == 0:
        return f"{name}({sum(parameter.numel() for parameter in module.parameters()):,} parameters)"
    inside = [f"({key}): {_down_to(child, depth - 1)}".replace("\n", "\n  ") for key, child in children]
    return f"{name}(\n  " + "\n  ".join(inside) + "\n)"
