"""``create_model("local-dir:FOLDER")`` and ``create_model("hf-hub:OWNER/NAME")``."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from csc_nets.models.hub import CONFIG, SOURCES, WEIGHTS, hub_files
from csc_nets.models.rebuilding import check_network
from csc_nets.models.registry import create_model
from csc_nets.models.staged_encoder import StagedEncoder
from csc_nets.reading import read_safetensors

__all__: list[str] = []

_LARGEST_CONFIG = 1_000_000
# What the network says of itself; the rest of pretrained_cfg is of its training.
_OWN = {"architecture", "url", "first_conv", "num_classes", "classifier"}


def _create(
    files: Callable[[str], tuple[Path, Path]],
    kind: str,
    place: str,
    *,
    pretrained: bool = False,
    num_classes: int | None = None,
    in_chans: int | None = None,
    **overrides: Any,
) -> StagedEncoder:
    """The network that a config describes, checked against its weights before it is built.

    Raises:
        FileNotFoundError: there is no such folder or file.
        ValueError: in one line: a damaged file, or a network that does not fit its weights.
    """
    config_file, weights_file = files(place)
    try:
        if config_file.stat().st_size > _LARGEST_CONFIG:
            raise ValueError(f"it has more than {_LARGEST_CONFIG} bytes")
        config = json.loads(config_file.read_text())
        name, known, args = config["architecture"], config.get("pretrained_cfg", {}), config.get("model_args", {})
        if not isinstance(name, str) or not isinstance(known, dict) or not isinstance(args, dict):
            raise ValueError("architecture, model_args or pretrained_cfg is of a wrong type")
        check_network(name, args, read_safetensors(weights_file))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"create_model: {kind}:{place} is refused: {' '.join(str(error).split())}") from error
    given = {key: value for key, value in (("num_classes", num_classes), ("in_chans", in_chans)) if value is not None}
    if overrides.get("checkpoint_path") is None and pretrained:
        overrides["checkpoint_path"] = weights_file
    model = create_model(name, **{**args, **given, **overrides})
    model.trained_on = {key: value for key, value in known.items() if key not in _OWN}
    return model


def _folder(place: str) -> tuple[Path, Path]:
    folder = Path(place).expanduser()
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            raise FileNotFoundError(f"create_model: local-dir:{place} holds no {file}")
    return folder / CONFIG, folder / WEIGHTS


SOURCES |= {"local-dir": partial(_create, _folder, "local-dir"), "hf-hub": partial(_create, hub_files, "hf-hub")}
