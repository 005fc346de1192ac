"""Trained weights from a file or an address into a network."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import torch
from torch import Tensor

from csc_nets.models.image_classifier import ImageClassifier
from csc_nets.models.staged_encoder import StagedEncoder
from csc_nets.reading import read_safetensors, read_torch_file

__all__ = ["load_weights"]


def load_weights(model: StagedEncoder, source: str | Path) -> None:
    """Loads a state dict; a classifier for another number of classes keeps its fresh weights, as in timm.

    Args:
        model: the network to fill.
        source: path or address (``https://``, ``file://``) of what ``torch.save(model.state_dict(), ...)`` wrote, or of
            a file whose name ends in ``.safetensors``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, holds something else, or belongs to another network.
    """
    state = model.adapted(_read(source))
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
    file = _local(str(source)) if "://" in str(source) else Path(source)
    try:
        state = (read_safetensors if file.suffix == ".safetensors" else read_torch_file)(file)
    except ValueError as error:
        raise ValueError(f"{source} is not a file of weights: {error}") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{source} must hold a state dict (name: tensor), got {type(state).__name__}")
    return state


def _local(address: str) -> Path:
    """The file of an address, fetched once.

    Its name in torch's cache is made of the whole address: under a name of the address's own choice, another package
    would take it for weights of its own.
    """
    parts = urlsplit(address)
    if parts.scheme == "file":
        return Path(url2pathname(parts.path))
    digest = hashlib.sha256(address.encode()).hexdigest()[:16]
    suffix = ".safetensors" if parts.path.endswith(".safetensors") else ".pt"
    file = Path(torch.hub.get_dir()) / "csc_nets" / f"{digest}{suffix}"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(address, str(file), progress=False)
    return file
