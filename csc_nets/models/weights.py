"""Trained weights from a file or an address into a network."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from csc_nets.models.image_classifier import ImageClassifier
from csc_nets.models.staged_encoder import StagedEncoder

__all__ = ["load_weights"]


def load_weights(model: StagedEncoder, source: str | Path) -> None:
    """Loads a state dict; a classifier for another number of classes keeps its fresh weights, as in timm.

    Args:
        model: the network to fill.
        source: path or address (``https://``, ``file://``) of what ``torch.save(model.state_dict(), ...)`` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, holds something else, or belongs to another network.
    """
    state = _read(source)
    own = model.state_dict()
    fresh: set[str] = set()
    if isinstance(model, ImageClassifier):
        head = {name for name in own if name.startswith("fc.")}
        if any(name in state and state[name].shape != own[name].shape for name in head):
            fresh = head
    expected, given = set(own) - fresh, set(state) - fresh
    wrong = sorted((given ^ expected) | {k for k in given & expected if state[k].shape != own[k].shape})
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError(f"{source} does not fit {model.model_name}: see {', '.join(wrong[:3])}{more}")
    model.load_state_dict({**own, **{key: state[key] for key in given}})


def _read(source: str | Path) -> Mapping[str, Tensor]:
    try:
        if "://" in str(source):
            state = torch.hub.load_state_dict_from_url(str(source), map_location="cpu", weights_only=True)
        else:
            state = torch.load(source, map_location="cpu", weights_only=True)
    except OSError:  # Not found or not readable: the message says which.
        raise
    except Exception as error:  # torch raises whatever the damaged bytes lead to.
        raise ValueError(f"{source} is not a file of weights: {type(error).__name__}") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{source} must hold a state dict (name: tensor), got {type(state).__name__}")
    return state
