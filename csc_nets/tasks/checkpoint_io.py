"""Checkpoints on the disk: written whole, and found again after a crash."""

import contextlib
import io
import os
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from csc_nets.checkpoint import read_checkpoint
from csc_nets.reading import read_torch_file
from csc_nets.tasks.safe_files import sync_folder, temporary_name, write_through

__all__ = ["SafeCheckpointIO", "previous", "recover"]


class SafeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint so that a good one is there at every moment.

    The new one is written beside the old one, brought to the disk and read back, before it takes the name. The old one
    stays under another name (:func:`previous`) until then. (Lightning writes to the folder for temporary files; where
    that is on another file system, it copies over the old checkpoint, and a full disk or a kill destroys both.)
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes ``checkpoint`` to ``path``.

        Raises:
            OSError: the disk is full, or what was written cannot be read. The old checkpoint is then still there.
        """
        file, buffer = Path(path), io.BytesIO()
        torch.save(checkpoint, buffer)
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_name(file)
        try:
            write_through(temporary, buffer.getbuffer())
            if not _is_sound(temporary):
                raise OSError(f"{file}: what was written to the disk cannot be read back")
            _keep(file)
            os.replace(temporary, file)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(file.parent)
        previous(file).unlink(missing_ok=True)

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Reads plain values, whatever the trainer's settings are: a checkpoint, or the weights of other processes.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is damaged.
        """
        try:
            return read_torch_file(path)
        except ValueError as error:
            raise ValueError(f"{path} is damaged: {error}") from error


def previous(file: Path) -> Path:
    """Where the checkpoint before is kept while a new one is written."""
    return file.with_name(f"{file.stem}.previous{file.suffix}")


def recover(file: Path) -> bool:
    """Puts the checkpoint before in the place of one that is lost or damaged.

    Args:
        file: where the checkpoint should be.

    Returns:
        Whether that was necessary, and the checkpoint before is a good one.
    """
    kept = previous(file)
    if not kept.is_file():
        return False
    if _is_readable(file):
        kept.unlink(missing_ok=True)
        return False
    if not _is_readable(kept):
        return False
    with contextlib.suppress(FileNotFoundError):  # another process of the same run was faster
        os.replace(kept, file)
    sync_folder(file.parent)
    return True


def _keep(file: Path) -> None:
    """Gives the old checkpoint a second name, or its only one where the file system has no links."""
    kept = previous(file)
    kept.unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):  # the first checkpoint of a run
        try:
            os.link(file, kept)
        except FileNotFoundError:
            raise
        except OSError:
            os.replace(file, kept)


def _is_sound(file: Path) -> bool:
    """Whether every part of a file of ``torch.save`` has its checksum."""
    try:
        with zipfile.ZipFile(file) as parts:
            return parts.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False


def _is_readable(file: Path) -> bool:
    try:
        read_checkpoint(file)
    except (OSError, ValueError):
        return False
    return True
