"""Trained networks from disk."""

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from csc_nets.models import create_model, list_models

__all__ = ["load", "read_checkpoint"]


def load(path: str | Path, map_location: str | torch.device = "cpu") -> nn.Module:
    """Loads a trained network, without the trainer around it.

    No code in the file is executed: it is read with ``torch.load(..., weights_only=True)``. Nothing that it names is
    imported. A network of your own must be registered before: import its module, or call
    :func:`csc_nets.import_plugins`. Where training averaged the weights (EMA), the averaged ones come back.

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
    weights = {key.removeprefix("model."): v for key, v in checkpoint["state_dict"].items() if key.startswith("model.")}
    try:
        model = create_model(name, **args)
    except (TypeError, ValueError) as error:
        hint = f" ({hint})" if hint else ""
        raise ValueError(f"load: {file} holds a network that cannot be built: {error}{hint}") from error
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        detail = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise ValueError(f"load: the weights in {file} do not fit {name}: {detail}") from error
    if broken := [name for name, value in weights.items() if value.is_floating_point() and not value.isfinite().all()]:
        raise ValueError(f"load: {file} holds weights that are not finite ({broken[0]}): the training had broken down")
    return model.to(map_location).eval()


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
        with warnings.catch_warnings(action="ignore"):  # torch muses about foreign pickles
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a damaged file
        raise ValueError(f"load: {file} is damaged, or no checkpoint (of plain tensors and values)") from error
    parts = ("state_dict", "hyper_parameters")
    if not isinstance(checkpoint, dict) or not all(isinstance(checkpoint.get(part), dict) for part in parts):
        raise ValueError(f"load: {file} is no checkpoint of train.py (it lacks state_dict or hyper_parameters)")
    return checkpoint


def _checkpoint_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    files = [path / "checkpoints" / name for name in ("best.ckpt", "last.ckpt")]
    found = [file for file in files if file.is_file()]
    if not found:
        raise FileNotFoundError(f"load: {path} holds no checkpoints/best.ckpt or checkpoints/last.ckpt")
    return found[0]
