"""Files that are whole or absent, whatever stops their writer."""

import contextlib
import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

__all__ = ["is_alive", "note", "set_aside", "sweep_temporary", "temporary_name", "write_whole", "written_whole"]

_DAY = 24 * 60 * 60


def write_whole(file: Path, content: str | bytes | memoryview, *, exclusive: bool = False) -> None:
    """Writes a file so that a reader sees the old content or the new one, and never a part.

    The content goes to a temporary file in the same folder and from there to the disk, before it takes the name.

    Args:
        file: in a folder that exists.
        content: text (UTF-8) or bytes.
        exclusive: refuse to replace a file. Of several writers exactly one succeeds.

    Raises:
        FileExistsError: ``exclusive``, and the file exists.
        OSError: the disk is full, or the folder cannot be written. The old content is then still there.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = temporary_name(file)
    try:
        write_through(temporary, data)
        if exclusive:
            _take_name(temporary, file)
        else:
            os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(file.parent)


@contextlib.contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """A temporary folder to write in, whose files and folders move to ``folder`` at the end; after an error none does.

    They replace those of the same name, a folder as a whole. Other files stay. ``folder`` is made where it does not
    exist and there is something to move.
    """
    base = next(parent for parent in chain([folder], folder.parents) if parent.is_dir())
    temporary = temporary_name(base / folder.name)
    shutil.rmtree(temporary, ignore_errors=True)  # of a dead process of the same number
    temporary.mkdir()
    try:
        yield temporary
        parts = sorted(temporary.iterdir())
        if parts:
            folder.mkdir(parents=True, exist_ok=True)
        for part in parts:
            if (folder / part.name).is_dir():
                shutil.rmtree(folder / part.name)
            os.replace(part, folder / part.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_through(file: Path, data: bytes | memoryview) -> None:
    """Writes a file and waits until it is on the disk.

    Raises:
        OSError: with the name of the file, which the system leaves out where the disk is full.
    """
    try:
        with file.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from error


def sync_folder(folder: Path) -> None:
    """Waits until the names in a folder are on the disk, where the file system can do that."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def temporary_name(file: Path) -> Path:
    """Where this process writes before ``file`` takes over; the name says who writes."""
    return file.with_name(f".{file.name}.{socket.gethostname()}.{os.getpid()}.tmp")


def sweep_temporary(folder: Path) -> list[Path]:
    """Removes what killed writers left in a folder: temporary files of dead processes, and those of a day ago.

    Returns:
        The files that are gone.
    """
    swept = []
    for file in folder.glob(".*.tmp"):
        rest, _, pid = file.name.removesuffix(".tmp").rpartition(".")
        if not pid.isdigit():
            continue
        here = rest.endswith(f".{socket.gethostname()}")
        with contextlib.suppress(OSError):
            if (here and not is_alive(int(pid))) or time.time() - file.stat().st_mtime > _DAY:
                shutil.rmtree(file) if file.is_dir() else file.unlink()
                swept.append(file)
    return swept


def set_aside(file: Path, why: str) -> None:
    """Gives a damaged file the name ``FILE.damaged`` and says so on stderr: what it stands in the way of goes on."""
    os.replace(file, damaged := file.with_name(f"{file.name}.damaged"))
    note(f"{file} is damaged ({why}): it is now {damaged.name}")


def note(message: str) -> None:
    """Says on stderr what a user should know and need not act on."""
    print(f"note: {message}", file=sys.stderr)


def is_alive(pid: int) -> bool:
    """Whether a process of this machine runs; where nobody can tell, yes."""
    if os.name != "posix":  # there, this signal would end it
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it runs, and is somebody else's
        return True
    return True


def _take_name(temporary: Path, file: Path) -> None:
    try:
        os.link(temporary, file)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if file.exists():
            raise FileExistsError(f"{file} exists already") from None
        os.replace(temporary, file)
