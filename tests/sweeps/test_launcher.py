"""Jobs in processes of their own: a kill stays with the job that it hits, and the same command ends what it began."""

import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest
from program import TINY, call, forked, numbers, sweep_rows

import csc_nets.cli as cli
from csc_nets.sweeps.job import IN_USE, killed_by
from csc_nets.sweeps.launcher import ProcessLauncher
from csc_nets.tasks.run_lock import run_lock

ROOT = Path(__file__).parents[2]
PROCESSES = ["hydra/launcher=processes", "hydra.launcher.n_jobs=2"]
SHORT = [*TINY, "debug=fast", "trainer.max_epochs=4"]


@pytest.fixture
def sweep(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: call(monkeypatch, capsys, "train", "-m", *SHORT, *arguments)


def in_the_background(folder, *arguments):
    def program():
        os.chdir(folder)
        sys.argv = ["train.py", "-m", *SHORT, *arguments]
        cli.run(cli.train, ROOT / "configs", "train")

    return forked(program, daemon=False)


def running_job(sweep, parent):
    """The process of a job that trains, and its folder."""
    while parent.is_alive():
        for lock in sweep.glob("*/lock"):
            try:
                holder = re.match(r"process (\d+) ", lock.read_text())
            except FileNotFoundError:
                continue
            if holder and int(holder[1]) != parent.pid and (lock.parent / "checkpoints" / "last.ckpt").exists():
                return int(holder[1]), lock.parent
        time.sleep(0.01)
    raise AssertionError("the sweep has ended")


def test_a_killed_job_and_a_killed_sweep_leave_the_same_table(tmp_path, sweep):
    command = ["model.lam=0.1,0.2", "seed=0,1", *PROCESSES]
    assert sweep(*command, "run_dir=whole") == (0, [])
    killed = tmp_path / "killed"
    process = in_the_background(tmp_path, *command, f"run_dir={killed}")
    job, _ = running_job(killed, process)
    os.kill(job, signal.SIGKILL)
    running_job(killed, process)
    process.kill()
    process.join()
    status, errors = sweep(*command, f"run_dir={killed}")
    assert status == 0 and not [line for line in errors if line.startswith("error")]
    assert sweep_rows(killed) == sweep_rows("whole") and [row["finished"] for row in sweep_rows("whole")] == ["2", "2"]


def test_a_job_that_is_killed_too_often_has_failed(tmp_path, sweep, monkeypatch):
    def program(config):
        if config["seed"] == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"val/best": 0.5}

    monkeypatch.setattr(cli, "train", program)
    status, errors = sweep("seed=0,1", *PROCESSES, "hydra.launcher.retries=1", "run_dir=sweep")
    assert status == 1
    assert errors == [
        "note: seed-1 was killed by SIGKILL: it goes on",
        "error: seed-1: killed by SIGKILL; the sweep goes on",
    ]
    assert "failed: seed-1: killed by SIGKILL" in Path("sweep/table.txt").read_text()


def test_a_job_in_use_waits_for_its_turn(tmp_path, sweep):
    (tmp_path / "sweep" / "seed-0").mkdir(parents=True)
    assert sweep("seed=0,1", *PROCESSES, "run_dir=sweep") == (0, [])
    (tmp_path / "sweep" / "seed-0" / "metrics.json").unlink()

    def hold():
        with run_lock(tmp_path / "sweep" / "seed-0"):
            (tmp_path / "held").touch()
            time.sleep(3)

    holder = forked(hold)
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    assert sweep("seed=0,1", *PROCESSES, "run_dir=sweep") == (0, [])
    holder.join()
    assert "test/acc" in numbers("sweep/seed-0")


def test_processes_that_inherit_nothing(tmp_path, sweep, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    assert sweep("seed=0", *PROCESSES, "hydra.launcher.start_method=spawn", "run_dir=sweep") == (0, [])
    assert numbers("sweep/job")["collapsed"] == 0


def test_jobs_end_with_their_sweep(tmp_path):
    process = in_the_background(
        tmp_path, "trainer.max_epochs=1000", "seed=0,1", *PROCESSES, f"run_dir={tmp_path / 'sweep'}"
    )
    job, _ = running_job(tmp_path / "sweep", process)
    process.kill()
    process.join()
    for _ in range(300):
        try:
            os.kill(job, 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{job}/stat").exists() and Path(f"/proc/{job}/stat").read_text().split()[2] == "Z":
            return  # nobody has asked for its exit status
        time.sleep(0.1)
    raise AssertionError("the job goes on without its sweep")


def test_what_ended_a_process():
    assert [killed_by(status) for status in (-9, -11, 143, 130)] == ["SIGKILL", "SIGSEGV", "SIGTERM", "SIGINT"]
    assert [killed_by(status) for status in (0, 1, IN_USE, 128, 255)] == [None] * 5


def test_numbers_out_of_range():
    with pytest.raises(ValueError, match="n_jobs must be >= 1 and retries >= 0, got 0 and 3"):
        ProcessLauncher(n_jobs=0)
