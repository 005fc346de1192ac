"""One writer for each run folder."""

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

try:
    import fcntl
except ImportError:  # no such locks on Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["run_lock"]

_held: set[Path] = set()


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Inside this context, no other process may write into a run folder.

    The lock is the operating system's. It goes with its holder, however that one ends, so that no lock is ever left
    behind; the file ``lock`` in the folder says who the holder is. It works across machines where the file system has
    locks; where it has none, a note says so.

    Args:
        folder: the run folder, which exists.

    Raises:
        BlockingIOError: somebody else holds it.
    """
    file = folder.resolve() / "lock"
    if file in _held:  # a lock of the operating system does not stop its own process
        raise BlockingIOError(_in_use(folder, _holder_here()))
    handle = _locked(file, folder)
    _held.add(file)
    try:
        yield
    finally:
        _held.discard(file)
        if handle is not None:
            file.unlink(missing_ok=True)
            os.close(handle)


def _locked(file: Path, folder: Path) -> int | None:
    """The open, locked file; None where the file system has no locks."""
    if fcntl is None:
        return None
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            # Of the kind that a forked child does not inherit: a worker must not keep the lock of a dead trainer.
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            holder = os.read(handle, 1000).decode(errors="replace").strip()
            os.close(handle)
            raise BlockingIOError(_in_use(folder, holder or "another process")) from None
        except OSError:
            os.close(handle)
            file.unlink(missing_ok=True)
            print(f"note: no locks on the file system of {folder}: let one process at a time write it", file=sys.stderr)
            return None
        if _is_there(file, handle):
            os.ftruncate(handle, 0)
            os.write(handle, _holder_here().encode())
            return handle
        os.close(handle)  # the holder before has just taken its file away: once more


def _is_there(file: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(file), os.fstat(handle))
    except FileNotFoundError:
        return False


def _holder_here() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}, since {datetime.now():%Y-%m-%d %H:%M:%S}"


def _in_use(folder: Path, holder: str) -> str:
    return f"{folder} is in use by {holder}: wait for its end, or stop it"
