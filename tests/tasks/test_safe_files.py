import errno
import os
import socket
import subprocess
import sys
import time

import pytest

from csc_nets.tasks import safe_files
from csc_nets.tasks.safe_files import sweep_temporary, temporary_name, write_whole, written_whole


def full_disk(*args):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_text_and_bytes(tmp_path):
    write_whole(tmp_path / "a", "ä\n")
    assert (tmp_path / "a").read_bytes() == "ä\n".encode()
    write_whole(tmp_path / "a", b"\0")
    assert (tmp_path / "a").read_bytes() == b"\0"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_full_disk_leaves_the_old_content_and_nothing_else(tmp_path, monkeypatch):
    write_whole(tmp_path / "a", "old")
    monkeypatch.setattr(safe_files.os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "a", "new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "old")]


@pytest.mark.parametrize("links", [True, False])
def test_of_several_writers_one_succeeds(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(safe_files.os, "link", full_disk)
    write_whole(tmp_path / "a", "first", exclusive=True)
    with pytest.raises(FileExistsError):
        write_whole(tmp_path / "a", "second", exclusive=True)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "first")]


def test_a_reader_always_sees_a_whole_file(tmp_path):
    program = f"""
from pathlib import Path
from csc_nets.tasks.safe_files import write_whole
for n in range(2000):
    write_whole(Path({str(tmp_path)!r}) / "a", str(n % 10) * 5000)
"""
    write_whole(tmp_path / "a", "0" * 5000)
    writer = subprocess.Popen([sys.executable, "-c", program])
    seen = 0
    while writer.poll() is None and seen < 2000:
        text = (tmp_path / "a").read_text()
        assert len(text) == 5000 and len(set(text)) == 1
        seen += 1
    writer.kill()
    writer.wait()


def test_temporary_files_of_dead_writers_are_swept_up(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = socket.gethostname()
    names = {
        "dead": f".last.ckpt.{host}.{dead.pid}.tmp",
        "mine": temporary_name(tmp_path / "last.ckpt").name,
        "elsewhere": f".last.ckpt.other-{host}.{dead.pid}.tmp",
        "old": f".metrics.csv.other-{host}.1.tmp",
        "not ours": ".notes.tmp",
    }
    for name in names.values():
        (tmp_path / name).touch()
    os.utime(tmp_path / names["old"], (time.time() - 2 * 86400,) * 2)
    gone = {path.name for path in sweep_temporary(tmp_path)}
    assert gone == {names["dead"], names["old"]}
    assert {path.name for path in tmp_path.iterdir()} == set(names.values()) - gone


def test_a_folder_is_written_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "a" / "b"
    with pytest.raises(ZeroDivisionError), written_whole(folder) as room:
        (room / "file").write_text("new")
        raise ZeroDivisionError
    with written_whole(folder):
        pass  # nothing to move
    assert not list(tmp_path.iterdir())
    for content, names in (("first", ["one", "two"]), ("second", ["one"])):
        with written_whole(folder) as room:
            (room / "file").write_text(content)
            (room / "inside").mkdir()
            for name in names:
                (room / "inside" / name).touch()
            (folder / "mine").touch() if folder.exists() else None
    assert (folder / "file").read_text() == "second"
    found = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*"))
    assert found == ["a", "a/b", "a/b/file", "a/b/inside", "a/b/inside/one", "a/b/mine"]


def test_a_folder_that_a_killed_writer_has_left_is_swept(tmp_path):
    left = tmp_path / f".reports.{socket.gethostname()}.{2**22 + 1}.tmp"
    left.mkdir()
    (left / "part").touch()
    assert sweep_temporary(tmp_path) == [left] and not left.exists()
