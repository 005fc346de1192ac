import errno

import pytest
import torch

from csc_nets.tasks import checkpoint_io, safe_files
from csc_nets.tasks.checkpoint_io import SafeCheckpointIO, previous, recover


def checkpoint(value):
    return {"state_dict": {"w": torch.full((1000,), float(value))}, "hyper_parameters": {}}


def value_in(file):
    return int(torch.load(file, weights_only=True)["state_dict"]["w"][0])


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_one_file_is_left(tmp_path):
    file = tmp_path / "checkpoints" / "last.ckpt"
    for value in (1, 2):
        SafeCheckpointIO().save_checkpoint(checkpoint(value), file)
        assert (names(file.parent), value_in(file)) == (["last.ckpt"], value)


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_whatever_stops_the_writer_a_good_checkpoint_is_there(tmp_path, monkeypatch, where, links):
    file = tmp_path / "last.ckpt"
    SafeCheckpointIO().save_checkpoint(checkpoint(1), file)
    real = getattr(safe_files.os, where)

    def stop(*args):
        if where == "replace" and args[1] != file:
            return real(*args)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(safe_files.os, where, stop)
        if not links:
            patch.setattr(safe_files.os, "link", stop)
        with pytest.raises(OSError, match="No space left"):
            SafeCheckpointIO().save_checkpoint(checkpoint(2), file)
    recover(file)
    assert value_in(file) == 1 and names(tmp_path) == ["last.ckpt"]


def test_what_cannot_be_read_back_does_not_take_the_place(tmp_path, monkeypatch):
    file = tmp_path / "last.ckpt"
    SafeCheckpointIO().save_checkpoint(checkpoint(1), file)
    monkeypatch.setattr(checkpoint_io, "write_through", lambda f, data: f.write_bytes(bytes(data)[:-100]))
    with pytest.raises(OSError, match=r"last\.ckpt: what was written to the disk cannot be read back"):
        SafeCheckpointIO().save_checkpoint(checkpoint(2), file)
    assert value_in(file) == 1 and names(tmp_path) == ["last.ckpt"]


@pytest.mark.parametrize("damage", ["lost", "empty", "cut short"])
def test_the_one_before_takes_the_place_of_a_damaged_one(tmp_path, damage):
    file = tmp_path / "last.ckpt"
    SafeCheckpointIO().save_checkpoint(checkpoint(2), file)
    SafeCheckpointIO().save_checkpoint(checkpoint(1), previous(file))
    content = file.read_bytes()
    file.unlink() if damage == "lost" else file.write_bytes(content[: 0 if damage == "empty" else -100])
    assert recover(file) and value_in(file) == 1 and names(tmp_path) == ["last.ckpt"]
    assert not recover(file)


def test_a_good_checkpoint_stays(tmp_path):
    file = tmp_path / "last.ckpt"
    SafeCheckpointIO().save_checkpoint(checkpoint(2), file)
    SafeCheckpointIO().save_checkpoint(checkpoint(1), previous(file))
    assert not recover(file) and value_in(file) == 2 and names(tmp_path) == ["last.ckpt"]
