"""Trained networks from disk."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from csc_nets.functional.checks import is_number
from csc_nets.models import StagedEncoder, list_models
from csc_nets.models.rebuilding import MisfitError, rebuild_model
from csc_nets.reading import read_torch_file

__all__ = ["load", "network_weights", "read_checkpoint"]


def load(path: str | Path, map_location: str | torch.device = "cpu") -> nn.Module:
    """Loads a trained network, without the trainer around it.

    The file may come from anybody. No code in it is executed, nothing that it names is imported, and no other file and
    no address is opened. Its arguments must be among those that build the network, and the sizes of its weights, or it
    is refused before memory is taken. docs/security.md says more.

    A network of your own must be registered before: import its module, or call :func:`csc_nets.import_plugins`. Where
    training averaged the weights (EMA), the averaged ones come back.

    Args:
        path: a run folder (its ``checkpoints/best.ckpt`` is taken, or ``last.ckpt`` where there is no best one), or a
            checkpoint file that ``train.py`` wrote.
        map_location: device for the weights.

    Returns:
        The network in eval mode.

    Raises:
        FileNotFoundError: there is no such file, or no checkpoint in the folder.
        ValueError: the file is damaged, no checkpoint of this package, does not fit its network, holds NaN or infinity,
            or holds a network that is not registered; the message then names the plugins of the run.

    Example:
        >>> model = csc_nets.load("runs/csc_small-digits/2025-01-31_12-00-00")  # doctest: +SKIP
    """
    file = _checkpoint_file(Path(path))
    checkpoint = read_checkpoint(file)
    name, args, plugins = (checkpoint["hyper_parameters"].get(key) for key in ("model_name", "model_args", "plugins"))
    if not isinstance(name, str) or not isinstance(args, dict):
        raise ValueError(f"load: {file} does not say which network it holds")
    hint = ""
    if isinstance(plugins, list) and plugins:
        trained = ", ".join(repr(plugin) for plugin in plugins if isinstance(plugin, str))
        hint = (
            f"of a run that was trained with plugins=[{trained}]; "
            f"import them first, with csc_nets.import_plugins([{trained}])"
        )
    if name not in list_models() and hint:
        raise ValueError(f"load: {file} holds the network {name!r} {hint}")
    weights = network_weights(checkpoint)
    try:
        model = rebuild_model(name, args, weights)
    except MisfitError as error:
        raise ValueError(f"load: the weights in {file} do not fit {name}: {error}") from error
    except Exception as error:  # arguments that make no sense end in whatever a network does with them
        reason = " ".join(str(error).split())
        kind = "" if isinstance(error, TypeError | ValueError) else f"{type(error).__name__}: "
        hint = f" ({hint})" if hint else ""
        raise ValueError(f"load: {file} holds a network that cannot be built: {kind}{reason}{hint}") from error
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        detail = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise ValueError(f"load: the weights in {file} do not fit {name}: {detail}") from error
    if broken := [name for name, value in weights.items() if value.is_floating_point() and not value.isfinite().all()]:
        raise ValueError(f"load: {file} holds weights that are not finite ({broken[0]}): the training had broken down")
    if isinstance(model, StagedEncoder):
        model.trained_on = _images(checkpoint["hyper_parameters"].get("images"))
    return model.to(map_location).eval()


def _images(facts: Any) -> dict[str, Any]:
    """What a checkpoint says of its images, in timm's words; {} for one of before, or for what are no numbers."""
    given: dict[str, tuple[float, ...]] = {}
    for key in ("mean", "std", "input_size", "crop_pct"):
        value = facts.get(key) if isinstance(facts, dict) else None
        if not isinstance(value, list) or not value or not all(map(is_number, value)):
            return {}
        given[key] = tuple(value)
    return {**given, "crop_pct": given["crop_pct"][0], "interpolation": "bilinear"}


def read_checkpoint(file: str | Path) -> dict[str, Any]:
    """The contents of a checkpoint file that ``train.py`` wrote, with all tensors on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or no checkpoint of this package.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"load: there is no file {file}")
    if file.stat().st_size == 0:
        raise ValueError(f"load: {file} is empty")
    try:
        checkpoint = read_torch_file(file)
    except ValueError as error:
        raise ValueError(f"load: {file} is damaged, or no checkpoint (of plain tensors and values): {error}") from error
    parts = ("state_dict", "hyper_parameters")
    if not isinstance(checkpoint, dict) or not all(isinstance(checkpoint.get(part), dict) for part in parts):
        raise ValueError(f"load: {file} is no checkpoint of train.py (it lacks state_dict or hyper_parameters)")
    for key, value in checkpoint["state_dict"].items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ValueError(f"load: {file} is no checkpoint of train.py (its state_dict holds {key!r}: {value!r:.40})")
    if strange := [key for key in checkpoint["hyper_parameters"] if not isinstance(key, str)]:
        raise ValueError(f"load: {file} is no checkpoint of train.py (its hyper_parameters have {strange[0]!r})")
    return checkpoint


def network_weights(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """The state dict of the network in a checkpoint."""
    state = checkpoint["state_dict"]
    return {key.removeprefix("model."): value for key, value in state.items() if key.startswith("model.")}


def _checkpoint_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    files = [path / "checkpoints" / name for name in ("best.ckpt", "last.ckpt")]
    found = [file for file in files if file.is_file()]
    if not found:
        raise FileNotFoundError(f"load: {path} holds no checkpoints/best.ckpt or checkpoints/last.ckpt")
    return found[0]
