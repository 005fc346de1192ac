import json
import os
import socket
import subprocess
import sys

import pytest
import yaml

from csc_nets.sweeps.jobs import begin_job, finished_numbers, note_failure, read_job, read_jobs


def leave(folder, numbers=None, config=True):
    folder.mkdir(parents=True, exist_ok=True)
    if config:
        parts = {"data": {"name": "digits"}, "model": {"name": "csc_small"}, "task": {"name": "classification"}}
        (folder / "config.yaml").write_text(yaml.safe_dump(parts))
    if numbers is not None:
        (folder / "metrics.json").write_text(json.dumps(numbers))
    return folder


def test_a_job_that_is_finished(tmp_path):
    folder = leave(tmp_path, {"test/acc": 0.9, "training_seconds": 3.0, "collapsed": 0})
    assert (read_job(folder).state, read_job(folder).numbers["test/acc"]) == ("finished", 0.9)
    assert read_job(folder).config["data"] == {"name": "digits"}


@pytest.mark.parametrize("numbers", [None, {}, {"test/acc": 0.5, "checkpoint": "last"}, "damaged"])
def test_a_job_without_numbers_of_its_training_is_not_finished(tmp_path, numbers):
    folder = leave(tmp_path, numbers)
    assert finished_numbers(folder) is None and read_job(folder).state == "stopped"


def test_a_job_that_collapsed_is_done(tmp_path):
    assert read_job(leave(tmp_path, {"collapsed": 1, "collapsed_at_batch": 3})).state == "collapsed"


def test_a_job_that_failed_says_why_until_it_begins_again(tmp_path):
    folder = tmp_path / "lam-0.1"
    begin_job(folder, {"model.lam": "0.1"})
    note_failure(folder, "no room")
    job = read_job(folder)
    assert (job.state, job.error, job.options, job.config) == ("failed", "no room", {"model.lam": "0.1"}, {})
    begin_job(folder, {"model.lam": "0.1"})
    assert (read_job(folder).state, read_job(folder).error) == ("stopped", None)


def test_a_job_runs_while_the_holder_of_its_lock_lives(tmp_path):
    folder = leave(tmp_path)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for holder, state in (
        (f"process {os.getpid()} on {socket.gethostname()}, since now", "running"),
        ("process 1 on another.machine, since now", "running"),
        (f"process {gone.pid} on {socket.gethostname()}, since now", "stopped"),
        ("", "stopped"),
    ):
        (folder / "lock").write_text(holder)
        assert read_job(folder).state == state, holder


def test_the_jobs_of_a_sweep_of_an_older_version(tmp_path):
    leave(tmp_path / "0_lam-0.1", {"training_seconds": 1.0})
    leave(tmp_path / "1_lam-0.2")
    (tmp_path / "notes").mkdir()
    assert [(job.folder.name, job.state, job.options) for job in read_jobs(tmp_path)] == [
        ("0_lam-0.1", "finished", {}),
        ("1_lam-0.2", "stopped", {}),
    ]


def test_a_folder_without_jobs(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no folder of a sweep: it holds no jobs"):
        read_jobs(tmp_path)
