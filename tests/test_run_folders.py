"""Two runs never share a folder, and a sweep loses none of its jobs."""

from pathlib import Path

import pytest
from program import TINY, call, forked, numbers, resume, train

from csc_nets.checkpoint import read_checkpoint


def test_runs_of_one_second_have_a_folder_each(tmp_path):
    name = tmp_path / "2025-01-31_12-00-00"
    programs = [forked(train, "test=false", f"seed={seed}", f"run_dir={name}") for seed in range(3)]
    for program in programs:
        program.join(120)
    assert [program.exitcode for program in programs] == [0, 0, 0]
    folders = sorted(path.parent for path in tmp_path.glob("*/config.yaml"))
    assert [folder.name for folder in folders] == [f"2025-01-31_12-00-00{more}" for more in ("", "_2", "_3")]
    seeds = [
        line for folder in folders for line in (folder / "config.yaml").read_text().splitlines() if "seed:" in line
    ]
    assert sorted(line for line in seeds if line.startswith("seed:")) == ["seed: 0", "seed: 1", "seed: 2"]
    assert all((folder / "checkpoints" / "last.ckpt").is_file() for folder in folders)


def test_a_name_that_somebody_chose_is_taken_once(tmp_path):
    train("trainer.max_epochs=1", f"run_dir={tmp_path / 'chosen'}")
    with pytest.raises(FileExistsError, match="already holds a run; to go on with it: resume="):
        train(f"run_dir={tmp_path / 'chosen'}")
    assert [path.name for path in tmp_path.iterdir()] == ["chosen"]


def test_a_sweep_over_groups_loses_no_job(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = ["callbacks.progress_bar=false", "trainer.max_epochs=1", "pictures=false", "trainer.limit_train_batches=2"]
    groups = ["experiment=digits_csc_small,digits_autoencoder", "callbacks=default,ema", "logger=csv,none"]
    status, errors = call(monkeypatch, capsys, "train", "-m", *small, *groups, "debug=fast")
    assert (status, errors) == (0, [])
    (sweep,) = Path("runs").glob("*/*")  # one folder, though the experiments have names of their own
    jobs = sorted(folder for folder in sweep.iterdir() if folder.is_dir())
    assert len(jobs) == 8 and all("training_seconds" in numbers(job) for job in jobs)
    assert "experiment-digits_csc_small_callbacks-default_logger-csv" in [job.name for job in jobs]


def test_two_sweeps_of_one_second_have_a_folder_each(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for batch in (100, 200):
        arguments = [*TINY, f"data.batch_size={batch}", "seed=0,1", "debug=fast", "run_dir=2025-01-31_12-00-00"]
        assert call(monkeypatch, capsys, "train", "-m", *arguments)[0] == 0
    name = next(Path().glob("*_2/seed-1"))
    assert call(monkeypatch, capsys, "evaluate", f"run={name}")[0] == 0  # no quotes
    found = sorted(str(path.parent) for path in Path().rglob("metrics.json"))
    assert found == [f"2025-01-31_12-00-00{more}/seed-{job}" for more in ("", "_2") for job in (0, 1)]


def test_many_options_make_a_name_that_fits(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = ["task.weight_decay", "task.label_smoothing", "task.mixup_alpha"]
    options += ["task.cutmix_alpha", "task.gamma", "task.warmup_epochs", "task.momentum", "task.prior_weight"]
    many = [f"{option}=0.00000{n}" for n, option in enumerate(options[:-1], 1)] + ["task.prior_weight=0.0"]
    many += ["task.optimizer=sgd,adamw", "task.nesterov=true,false"]
    many += [f"+hydra.job.env_set.SOME_LONG_NAME_{n}=value_{n}_{'x' * 30}" for n in range(6)]
    status, errors = call(monkeypatch, capsys, "train", "-m", *TINY, "debug=fast", *many, "run_dir=sweep")
    assert (status, errors) == (0, [])
    names = sorted(path.parent.name for path in Path("sweep").rglob("metrics.json"))
    assert names[-1] == "optimizer-sgd_nesterov-True" and len(names) == 4


def test_a_folder_with_parts_of_another_run_is_refused(tmp_path):
    train(f"run_dir={tmp_path / 'a'}", "trainer.max_epochs=1")
    (tmp_path / "b" / "checkpoints").mkdir(parents=True)
    (tmp_path / "a" / "checkpoints" / "last.ckpt").rename(tmp_path / "b" / "checkpoints" / "last.ckpt")
    with pytest.raises(FileExistsError, match=r"holds checkpoints/last\.ckpt of another run: take another folder"):
        train(f"run_dir={tmp_path / 'b'}", "seed=5")
    assert not (tmp_path / "b" / "config.yaml").exists()


def test_an_empty_folder_and_notes_in_it_are_no_run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    (folder / "config.yaml").touch()  # what a full disk left of a run that never began
    train(f"run_dir={folder}", "trainer.max_epochs=1")
    assert numbers(folder)["collapsed"] == 0


@pytest.mark.parametrize("value", ["''", "null", "true", "[1]", "'a::b'", "'s3://a'"])
def test_names_that_are_none_are_refused(tmp_path, monkeypatch, capsys, value):
    monkeypatch.chdir(tmp_path)
    status, errors = call(monkeypatch, capsys, "train", *TINY, f"run_dir={value}")
    assert status == 1 and len(errors) == 1 and errors[0].startswith("error: run_dir must be the name of a folder")
    assert not list(tmp_path.iterdir())


def test_a_run_to_resume_or_to_test_must_be_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, option in (("train", "resume"), ("evaluate", "run")):
        for value, seen in (("''", "''"), ("", "''"), ("null", "null"), ("[1]", "[1]"), ("true", "true")):
            status, errors = call(monkeypatch, capsys, name, f"{option}={value}")
            example = "runs/csc_small-digits/2025-01-31_12-00-00"
            assert status == 1 and errors == [
                f"error: {option} must be the name of a folder such as {example}, got {seen}"
            ]
    assert not list(tmp_path.iterdir())


def test_one_process_at_a_time_writes_a_run(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    running = forked(train, "trainer.max_epochs=300", "test=false", f"run_dir={folder}")
    while not (folder / "checkpoints" / "last.ckpt").exists():
        assert running.is_alive()
    try:
        status, errors = call(monkeypatch, capsys, "train", f"resume={folder}")
        assert status == 1 and len(errors) == 1
        assert f"{folder} is in use by process {running.pid} on " in errors[0]
    finally:
        running.kill()
        running.join()
    text = (folder / "config.yaml").read_text()
    done = read_checkpoint(folder / "checkpoints" / "last.ckpt")["epoch"] + 1  # it may have trained on until the kill
    (folder / "config.yaml").write_text(text.replace("max_epochs: 300", f"max_epochs: {done}"))
    resume(folder)  # the lock went with its holder
    assert not (folder / "lock").exists()
