"""What resuming and testing make of run folders that something has damaged."""

import json
import os
import resource
import shutil
import sys
import tempfile
import time

import pytest
import torch
from lightning.pytorch.trainer.connectors.logger_connector import _LoggerConnector
from program import ROOT, TINY, call, evaluate, forked, numbers, resume, table, train

import csc_nets.cli as cli
from csc_nets.checkpoint import read_checkpoint
from csc_nets.tasks.checkpoint_io import SafeCheckpointIO, previous
from csc_nets.tasks.results import add_results


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of three epochs."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    train("trainer.max_epochs=3", f"run_dir={folder}")
    return folder


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def change(file, **changes):
    checkpoint = torch.load(file, weights_only=True)
    torch.save({**checkpoint, **changes}, file)


def epochs(folder, count, of=3):
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace(f"max_epochs: {of}\n", f"max_epochs: {count}\n"))


@pytest.mark.parametrize("damage", ["lost", "empty"])
def test_the_last_checkpoint_falls_back_to_the_one_before_it(run, capsys, damage):
    whole = read_checkpoint(run / "checkpoints" / "last.ckpt")
    last = run / "checkpoints" / "last.ckpt"
    shutil.copy(last, previous(last))
    last.unlink() if damage == "lost" else last.write_bytes(b"")
    resume(run)
    assert "last.ckpt was lost or damaged: the one before it has taken its place" in capsys.readouterr().err
    assert sorted(file.name for file in (run / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    assert read_checkpoint(last)["epoch"] == whole["epoch"] == 2


def test_a_lost_last_checkpoint_is_said_and_the_best_one_taken(run, capsys):
    last, best = run / "checkpoints" / "last.ckpt", run / "checkpoints" / "best.ckpt"
    whole, epoch = read_checkpoint(last), read_checkpoint(best)["epoch"]
    last.unlink()
    if epoch == 2:
        epochs(run, 4)
    resume(run)
    assert f"last.ckpt is lost: the run goes on from best.ckpt, after epoch {epoch}" in capsys.readouterr().err
    if epoch < 2:
        torch.testing.assert_close(read_checkpoint(last)["state_dict"], whole["state_dict"], rtol=0, atol=0)


def test_a_run_without_checkpoints_says_that_it_starts_again(run, capsys):
    shutil.rmtree(run / "checkpoints")
    before = numbers(run)
    resume(run)
    assert "holds no checkpoint: the run starts again at epoch 0" in capsys.readouterr().err
    assert {**numbers(run), "training_seconds": 0} == {**before, "training_seconds": 0}


def test_a_lost_best_checkpoint_has_no_score(run, capsys):
    (run / "checkpoints" / "best.ckpt").unlink()
    results = resume(run)
    printed = capsys.readouterr()
    assert "best.ckpt is lost: its score no longer counts" in printed.err
    assert (results["val/best"], results["checkpoint"]) == (None, "last") and numbers(run)["val/best"] is None
    assert any(line.split() == ["checkpoint", "last"] for line in printed.out.splitlines())


def test_a_lost_best_checkpoint_is_followed_by_the_best_of_what_comes(run):
    (run / "checkpoints" / "best.ckpt").unlink()
    epochs(run, 5)
    results = resume(run)
    later = [float(row["val/acc"]) for row in table(run) if row["val/acc"]][3:]
    assert results["val/best"] == pytest.approx(max(later)) and results["checkpoint"] == "best"


def test_weights_that_are_not_finite_are_refused(run):
    best = run / "checkpoints" / "best.ckpt"
    weights = read_checkpoint(best)["state_dict"]
    weights["model.fc.weight"][0, 0] = float("nan")
    change(best, state_dict=weights)
    with pytest.raises(ValueError, match=r"best\.ckpt holds weights that are not finite \(fc\.weight\)"):
        evaluate(run)


def test_a_checkpoint_of_another_network_is_refused(run, tmp_path):
    train("model.widths=[4,6]", f"run_dir={tmp_path / 'other'}", "trainer.max_epochs=1")
    for name in ("best", "last"):
        shutil.copy(tmp_path / "other" / "checkpoints" / f"{name}.ckpt", run / "checkpoints" / f"{name}.ckpt")
    message = r"\.ckpt is that of another network: its model.widths is \[4, 6\], config.yaml of the run says \[4, 8\]"
    with pytest.raises(ValueError, match=f"best{message}"):
        evaluate(run)
    with pytest.raises(ValueError, match=f"last{message}"):
        resume(run)


@pytest.mark.parametrize("tail", ["3,2", "2,41,0.0", '"', "3,garbage,1,2,3,4,5,6,7,8,9"])
def test_a_torn_row_of_the_table_does_not_stop_a_run(run, capsys, tail):
    before = table(run)
    with (run / "metrics.csv").open("a") as file:
        file.write(tail)
    resume(run)
    assert "metrics.csv: a torn row is left out" in capsys.readouterr().err
    assert [row["epoch"] for row in table(run)] == [row["epoch"] for row in before]


@pytest.mark.parametrize("text", ["{", "[1]", '{"test/acc": 0.'])
def test_damaged_numbers_are_set_aside(run, capsys, text):
    (run / "metrics.json").write_text(text)
    results = resume(run)
    assert f"{run / 'metrics.json'} is damaged (" in capsys.readouterr().err
    assert numbers(run) == results and (run / "metrics.json.damaged").read_text() == text


@pytest.mark.parametrize("text", ["no table", "a,b\n1,2\n", "\ufffe"])
def test_a_damaged_table_is_set_aside(run, capsys, text):
    (run / "metrics.csv").write_text(text)
    epochs(run, 4)
    resume(run)
    assert f"{run / 'metrics.csv'} is damaged (" in capsys.readouterr().err
    assert [row["epoch"] for row in table(run)] == ["3", "4"]


def test_an_epoch_whose_checkpoint_is_written_keeps_its_numbers(tmp_path, monkeypatch):
    """Killed between the checkpoint and what Lightning logs after it."""
    write = _LoggerConnector.update_train_epoch_metrics

    def die(self):
        os._exit(9) if self.trainer.current_epoch == 1 else write(self)

    with monkeypatch.context() as patch:
        patch.setattr(_LoggerConnector, "update_train_epoch_metrics", die)
        process = forked(train, "trainer.max_epochs=3", f"run_dir={tmp_path / 'killed'}")
    process.join(60)
    assert process.exitcode == 9
    assert read_checkpoint(tmp_path / "killed" / "checkpoints" / "last.ckpt")["epoch"] == 1
    resume(tmp_path / "killed")
    *rows, _ = table(tmp_path / "killed")
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert all(row[key] for row in rows for key in ("train/loss", "lr", "val/acc"))


def test_a_kill_while_checkpoints_are_written_costs_no_run(tmp_path, monkeypatch):
    """SIGKILL at many moments of runs that do little but write; temporary files go to another file system."""
    monkeypatch.setattr(tempfile, "tempdir", "/dev/shm")
    folder, epoch = tmp_path / "run", -1
    last = folder / "checkpoints" / "last.ckpt"
    few = [f"trainer.limit_{part}_batches=1" for part in ("train", "val")]
    process = forked(train, *few, "trainer.max_epochs=100000", f"run_dir={folder}")
    for pause in (0.02, 0.05, 0.09, 0.14, 0.2, 0.27):
        begun = last.stat().st_mtime_ns if last.exists() else 0
        while not last.exists() or last.stat().st_mtime_ns == begun:
            assert process.is_alive()
        time.sleep(pause)
        process.kill()
        process.join()
        reached = read_checkpoint(last)["epoch"]
        assert reached > epoch
        epoch = reached
        process = forked(resume, folder)
    while last.stat().st_mtime_ns == begun:
        assert process.is_alive()
    process.kill()
    process.join()
    epochs(folder, epoch + 1, of=100000)
    resume(folder)
    assert not [file.name for file in folder.rglob("*") if file.suffix == ".tmp" or "previous" in file.name]


def test_what_json_does_not_have_is_null(run):
    add_results({"test/psnr": float("inf"), "test/ssim": float("nan"), "test/loss": 0.5}, run / "metrics.json")
    text = (run / "metrics.json").read_text()
    strict = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert (strict["test/psnr"], strict["test/ssim"], strict["test/loss"]) == (None, None, 0.5)


def test_an_empty_config_is_one_line(run, monkeypatch, capsys):
    (run / "config.yaml").write_text("")
    status, errors = call(monkeypatch, capsys, "train", f"resume={run}")
    assert status == 1 and len(errors) == 1 and "config.yaml is damaged: it holds no options" in errors[0]


def test_a_full_disk_costs_no_checkpoint(tmp_path, monkeypatch, capfd):
    """A limit on the size of files stands in for it: the system refuses to write more."""
    folder, calls = tmp_path / "run", []
    save = SafeCheckpointIO.save_checkpoint

    def fill(self, *args, **kwargs):
        calls.append(args)
        if len(calls) == 4:  # best and last of the second epoch
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        return save(self, *args, **kwargs)

    def program():
        sys.argv = ["train.py", *TINY, "trainer.max_epochs=3", "task.lr=0.02", f"run_dir={folder}"]
        cli.run(cli.train, ROOT / "configs", "train")

    with monkeypatch.context() as patch:
        patch.setattr(SafeCheckpointIO, "save_checkpoint", fill)
        process = forked(program)
    process.join(60)
    assert process.exitcode == 1
    lines = [line for line in capfd.readouterr().err.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("error: [Errno 27] File too large")
    assert read_checkpoint(folder / "checkpoints" / "last.ckpt")["epoch"] == 0
    assert not [file for file in folder.rglob("*") if file.suffix == ".tmp"]
    resume(folder)
    train("trainer.max_epochs=3", "task.lr=0.02", f"run_dir={tmp_path / 'whole'}")
    assert (folder / "metrics.csv").read_text() == (tmp_path / "whole" / "metrics.csv").read_text()


def test_a_run_of_an_older_version_goes_on(run):
    """Without what newer checkpoints and configurations hold."""
    for name in ("best", "last"):
        file = run / "checkpoints" / f"{name}.ckpt"
        checkpoint = torch.load(file, weights_only=True)
        del checkpoint["divergence"]
        torch.save(checkpoint, file)
    epochs(run, 4)
    resume(run)
    assert read_checkpoint(run / "checkpoints" / "last.ckpt")["epoch"] == 3
