"""Trainings of the command line in several processes."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from program import TINY, end, numbers, resume, start, table, train

TWO = ["trainer.devices=2", "trainer.strategy=ddp"]


def rows(folder):
    return [{key: float(value) for key, value in row.items() if value and key != "lr"} for row in table(folder)]


def close(ours, theirs):
    return all(
        mine.keys() == other.keys() and all(mine[key] == pytest.approx(other[key], rel=2e-4, abs=2e-4) for key in mine)
        for mine, other in zip(ours, theirs, strict=True)
    )


def children(process):
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]


def test_a_run_goes_on_with_another_number_of_processes(tmp_path, capsys):
    """One process, then two, then one: the numbers are those of one that nobody has stopped, and a line says so."""
    whole, folder, options = tmp_path / "whole", tmp_path / "run", ["test=false", "task.schedule=constant"]
    train(f"run_dir={whole}", "trainer.max_epochs=3", *options)
    train(f"run_dir={folder}", "trainer.max_epochs=1", *options)
    same = "so that a step sees the same 32 images"
    further(folder, epochs=2)
    _, errors = end(start("train.py", f"resume={folder}", *TWO, cwd=tmp_path), timeout=400)
    assert errors == [
        f"note: the run goes on with 2 processes in place of 1: data.batch_size is 16 in place of 32, {same}"
    ]
    further(folder, epochs=3)
    resume(folder)
    assert f"1 process in place of 2: data.batch_size is 32 in place of 16, {same}" in capsys.readouterr().err
    assert len(rows(whole)) == 3 and close(rows(folder), rows(whole))


def further(folder, epochs):
    file = folder / "config.yaml"
    file.write_text(file.read_text().replace(f"max_epochs: {epochs - 1}\n", f"max_epochs: {epochs}\n"))


@pytest.mark.parametrize("whose", ["first", "second"])
def test_where_one_process_is_killed_the_other_ends_with_one_line(tmp_path, whose):
    folder = tmp_path / "run"
    process = start("train.py", *TINY, *TWO, "trainer.max_epochs=100000", f"run_dir={folder}", cwd=tmp_path)
    other = None
    try:
        while not (folder / "checkpoints" / "last.ckpt").exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.1)
        (other,) = children(process)
        began = time.monotonic()
        os.kill(process.pid if whose == "first" else other, signal.SIGKILL)
        _, errors = process.communicate(timeout=90)  # both have let go of stderr
        seconds = time.monotonic() - began
    finally:
        process.kill()
        if other is not None and Path(f"/proc/{other}").exists():
            os.kill(other, signal.SIGKILL)
    lines = [line for line in errors.splitlines() if line.strip()]
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: another of the 2 processes has ended (")
    assert lines[0].endswith(f"; to go on: python train.py resume={folder}")
    # Without a sign of the other one, gloo waits for half an hour.
    assert seconds < 30 and process.returncode == (1 if whose == "second" else -signal.SIGKILL)


def test_all_processes_of_a_trial_have_its_values(tmp_path):
    """A command that draws values is given to no other process."""
    pytest.importorskip("optuna", reason="optuna is not installed")
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="hydra-optuna-sweeper is not installed")
    options = [*TINY, *TWO, "debug=fast", "trainer.max_epochs=1", "sweep=optuna", "hydra.sweeper.n_trials=2"]
    end(start("train.py", "-m", *options, "run_dir=sweep", cwd=tmp_path), timeout=400)
    jobs = [json.loads(file.read_text())["options"] for file in (tmp_path / "sweep").glob("*/job.json")]
    assert len(jobs) == 2 == len({tuple(sorted(job.items())) for job in jobs})
    assert len(list((tmp_path / "sweep").glob("*/metrics.json"))) == 2


def test_processes_that_are_forked_leave_all_numbers(tmp_path):
    train(f"run_dir={tmp_path / 'one'}")
    options = [*TINY, "trainer.devices=2", "trainer.strategy=ddp_fork", "data.batch_size=16", "run_dir=two"]
    end(start("train.py", *options, cwd=tmp_path), timeout=400)
    one, two = numbers(tmp_path / "one"), numbers(tmp_path / "two")
    assert two["training_seconds"] > 0 and two["val/best"] == pytest.approx(one["val/best"], abs=0.01)
    assert close(rows(tmp_path / "two"), rows(tmp_path / "one"))
