"""The same command again: nothing is done twice, nothing is lost, and what fails stops nothing else."""

import os
import time
from pathlib import Path

import pytest
import yaml
from program import TINY, call, forked, numbers, sweep_rows, train
from program import table as epochs

import csc_nets.cli as cli
from csc_nets.tasks.run_lock import run_lock

ROOT = Path(__file__).parents[2]


@pytest.fixture
def sweep(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: call(monkeypatch, capsys, "train", "-m", *TINY, *arguments)


def stamps(folder):
    return {
        file: file.stat().st_mtime_ns for file in Path(folder).rglob("*") if file.name in ("last.ckpt", "metrics.json")
    }


def test_finished_jobs_are_not_repeated(sweep):
    command = ["debug=fast", "model.lam=0.1,0.2", "seed=0,1"]
    assert sweep(*command) == (0, [])
    (folder,) = Path("runs").glob("*/*")
    assert {job.name for job in folder.iterdir() if job.is_dir()} == {
        f"lam-{lam}_seed-{seed}" for lam in (0.1, 0.2) for seed in (0, 1)
    }
    first = stamps(folder)
    table = sweep_rows(folder)
    time.sleep(1.1)  # the name of another sweep
    assert sweep(*command) == (0, [])
    assert stamps(folder) == first
    assert sweep_rows(folder) == table and [row["finished"] for row in table] == ["2", "2"]
    assert sweep("debug=fast", "model.lam=0.1,0.2") == (0, [])  # another command
    assert len(list(Path("runs").glob("*/*"))) == 2


def test_a_killed_sweep_ends_as_if_nothing_had_happened(tmp_path, sweep, capsys):
    command = ["debug=fast", "trainer.max_epochs=12", "model.lam=0.1,0.2"]
    assert sweep(*command, "run_dir=whole")[0] == 0

    def program():
        import sys

        os.chdir(tmp_path)
        sys.argv = ["train.py", "-m", *TINY, *command, "run_dir=killed"]
        cli.run(cli.train, ROOT / "configs", "train")

    process = forked(program)
    second = tmp_path / "killed" / "lam-0.2"
    while not (second / "checkpoints" / "last.ckpt").exists():
        assert process.is_alive()
    process.kill()
    process.join()
    assert "test/acc" in numbers("killed/lam-0.1") and not (second / "metrics.json").exists()
    before = (second / "config.yaml").stat().st_mtime_ns
    assert sweep(*command, "run_dir=killed") == (0, [])
    assert (second / "config.yaml").stat().st_mtime_ns == before  # it went on
    assert [row["epoch"] for row in epochs(second)][:12] == [str(epoch) for epoch in range(12)]
    assert sweep_rows("killed") == sweep_rows("whole") and len(sweep_rows("whole")) == 2


def test_a_sweep_goes_on_past_jobs_that_fail_and_repeats_them(tmp_path, sweep, monkeypatch):
    broken = {1, 2}

    def program(config):
        if config["seed"] in broken:
            raise ValueError(f"seed {config['seed']} has no room")
        return real(config)

    real = cli.train
    monkeypatch.setattr(cli, "train", program)
    status, errors = sweep("debug=fast", "seed=0,1,2,3", "run_dir=sweep")
    assert status == 1
    assert errors == [
        f"error: seed {seed} has no room (in {tmp_path}/sweep/seed-{seed}; the sweep goes on)" for seed in (1, 2)
    ]
    text = Path("sweep/table.txt").read_text()
    assert "2 of 4 jobs are finished, 2 failed" in text
    assert "failed: seed-1: ValueError: seed 1 has no room" in text
    broken.clear()
    assert sweep("debug=fast", "seed=0,1,2,3", "run_dir=sweep") == (0, [])
    assert [row["finished"] for row in sweep_rows("sweep")] == ["4"]


def test_a_bad_value_of_one_job_stops_no_other(sweep):
    status, errors = sweep("debug=fast", "model.steps=-1,1", "run_dir=sweep")
    assert status == 1 and len(errors) == 1 and "steps" in errors[0]
    assert "test/acc" in numbers("sweep/steps-1") and not Path("sweep/steps--1/config.yaml").exists()


def test_a_sweep_may_grow(sweep):
    assert sweep("debug=fast", "seed=0,1", "run_dir=sweep") == (0, [])
    before = stamps("sweep/seed-0")
    assert sweep("debug=fast", "seed=0,1,2", "run_dir=sweep") == (0, [])
    assert stamps("sweep/seed-0") == before and sweep_rows("sweep")[0]["finished"] == "3"


def test_a_folder_with_a_run_of_other_options_is_refused(sweep):
    assert sweep("debug=fast", "seed=0,1", "run_dir=sweep") == (0, [])
    status, errors = sweep("debug=fast", "seed=0,1", "task.lr=0.5", "run_dir=sweep")
    assert status == 1 and len(errors) == 2
    assert "holds a run with task.lr=0.01, and now it is 0.5: choose another run_dir, or delete it" in errors[0]
    assert yaml.safe_load(Path("sweep/seed-0/config.yaml").read_text())["task"]["lr"] == 0.01
    assert numbers("sweep/seed-0")["collapsed"] == 0


def test_a_job_that_another_process_runs_is_passed_over(sweep, tmp_path):
    assert sweep("debug=fast", "seed=0", "run_dir=sweep") == (0, [])
    (tmp_path / "sweep" / "job" / "metrics.json").unlink()
    with run_lock(tmp_path / "sweep" / "job"):
        status, errors = sweep("debug=fast", "seed=0", "run_dir=sweep")
    assert (
        status == 0 and len(errors) == 1 and errors[0].startswith(f"note: passed over: {tmp_path}/sweep/job is in use")
    )


def test_a_job_that_another_process_begins_at_the_same_moment_is_passed_over(sweep, monkeypatch):
    def program(config):
        real(config)  # of the other one
        Path("sweep/job/metrics.json").unlink()
        return real(config)

    real = cli.train
    monkeypatch.setattr(cli, "train", program)
    status, errors = sweep("debug=fast", "seed=0", "run_dir=sweep")
    assert status == 0 and len(errors) == 1 and "already holds a run" in errors[0]
    assert errors[0].startswith("note: passed over: ")


def test_names_of_jobs_need_no_quotes(sweep, monkeypatch, capsys):
    options = ["model.widths=[4],[4,8]", "task.lr=1e-3"]
    assert sweep("debug=fast", *options)[0] == 0
    for folder in Path("runs").glob("*/*/widths*"):
        assert call(monkeypatch, capsys, "evaluate", f"run={folder}") == (0, [])
        assert call(monkeypatch, capsys, "train", f"resume={folder}")[0] == 0
    assert len(list(Path("runs").glob("*/*/widths*"))) == 2


def test_a_collapse_is_a_result_and_not_repeated(sweep, monkeypatch):
    def program(config):
        train_seed = config["seed"]
        Path(config["run_dir"]).mkdir(exist_ok=True)
        if train_seed:
            (Path(config["run_dir"]) / "metrics.json").write_text('{"collapsed": 1}')
            calls.append(train_seed)
            raise FloatingPointError("the loss is nan")
        return train(f"run_dir={config['run_dir']}", "debug=fast")

    calls = []
    monkeypatch.setattr(cli, "train", program)
    monkeypatch.setattr("program.cli.train", program)
    status, errors = sweep("seed=1,2", "run_dir=sweep")
    assert status == 0 and len(errors) == 2 and calls == [1, 2]
    assert sweep("seed=1,2", "run_dir=sweep")[0] == 0
    assert "0 (2 collapsed)" in Path("sweep/table.txt").read_text()
