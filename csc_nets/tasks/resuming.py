"""Where an interrupted run goes on."""

from pathlib import Path
from typing import Any

from torch import Tensor

from csc_nets.checkpoint import network_weights, read_checkpoint
from csc_nets.tasks.checkpoint_io import previous, recover
from csc_nets.tasks.run_folder import RunFolder
from csc_nets.tasks.safe_files import note

__all__ = ["checkpoint_to_resume", "fit_of_checkpoint", "weights_of_run"]


def weights_of_run(folder: RunFolder, config: dict[str, Any]) -> dict[str, Tensor] | None:
    """The weights in the checkpoint that a run will go on from, as far as one can tell before its lock is taken.

    Args:
        folder: of the run.
        config: of the run.

    Returns:
        The state dict of the network; None where no checkpoint is readable.

    Raises:
        ValueError: it is that of another network.
    """
    for which in ("last", "best"):
        for file in (folder.checkpoint(which), previous(folder.checkpoint(which))):
            try:
                checkpoint = read_checkpoint(file)
            except (OSError, ValueError):
                continue
            fit_of_checkpoint(checkpoint, config, file)
            return network_weights(checkpoint)
    return None


def checkpoint_to_resume(folder: RunFolder, config: dict[str, Any]) -> Path | None:
    """The checkpoint that a run goes on from; whatever is not its last state is said on stderr.

    ``last.ckpt``; where it is lost or damaged the one before it, which is kept while it is written; where it is lost,
    ``best.ckpt``; None where the run has no checkpoint.

    Args:
        folder: of the run, which nobody else writes.
        config: of the run.

    Raises:
        ValueError: ``last.ckpt`` is damaged and the one before is lost too, or it is that of another network.
    """
    last, best = folder.checkpoint("last"), folder.checkpoint("best")
    for file in (last, best):
        if recover(file):
            note(f"{file} was lost or damaged: the one before it has taken its place")
    file = last if last.is_file() else best
    if not file.is_file():
        if (folder.path / "metrics.csv").is_file():
            note(f"{folder.path} holds no checkpoint: the run starts again at epoch 0")
        return None
    try:
        checkpoint = read_checkpoint(file)
    except ValueError as error:
        advice = f"; to go on from best.ckpt, delete {file}" if file == last and best.is_file() else ""
        raise ValueError(f"{error}{advice}") from error
    fit_of_checkpoint(checkpoint, config, file)
    if file == best:
        note(f"{last} is lost: the run goes on from best.ckpt, after epoch {checkpoint.get('epoch')}")
    return file


def fit_of_checkpoint(checkpoint: dict[str, Any], config: dict[str, Any], file: Path) -> None:
    """Refuses a checkpoint of another network than that of the run.

    Raises:
        ValueError: its name, or an argument that both name, is not that of ``config``.
    """
    name, arguments = (checkpoint["hyper_parameters"].get(key) for key in ("model_name", "model_args"))
    wanted = config["model"]
    theirs = {"name": name, **(arguments if isinstance(arguments, dict) else {})}
    for key in wanted:
        if key in theirs and _plain(theirs[key]) != _plain(wanted[key]):
            raise ValueError(
                f"{file} is that of another network: its model.{key} is {theirs[key]!r}, config.yaml of the run says "
                f"{wanted[key]!r}"
            )


def _plain(value: Any) -> Any:
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value
