"""Rates, stops, precisions and tests of a run are what they are called."""

import json
import math
import os
import signal
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import lightning as L
import pytest
from PIL import Image
from program import ROOT, TINY, call, config, evaluate, forked, numbers, resume, start, table, train

import csc_nets.cli as cli
from csc_nets.checkpoint import read_checkpoint


@pytest.fixture
def tree(tmp_path):
    """Images of two classes, in ``train/`` alone."""
    for label in range(2):
        for number in range(12):
            file = tmp_path / "images" / "train" / f"class_{label}" / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (200 * label, 10 * number, 0)).save(file)
    return tmp_path / "images"


def on(tree, *overrides):
    folder = [f"data.root={tree}", "data.image_size=8", "data.num_workers=0", "data.batch_size=4"]
    return ["data=image_folder", *folder, "+data.val_fraction=0.25", "trainer.max_epochs=1", *overrides]


def test_an_early_stopped_run_stays_stopped(tmp_path):
    folder = tmp_path / "run"
    train(f"run_dir={folder}", "callbacks.patience=1", "trainer.max_epochs=60", "task.lr=1e-9")
    reached, rows = read_checkpoint(folder / "checkpoints" / "last.ckpt")["epoch"], table(folder)
    assert reached < 10
    for _ in range(2):
        resume(folder)
        assert read_checkpoint(folder / "checkpoints" / "last.ckpt")["epoch"] == reached
    assert table(folder) == rows
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("patience: 1", "patience: 3"))
    resume(folder)  # more patience lets it go on
    assert read_checkpoint(folder / "checkpoints" / "last.ckpt")["epoch"] > reached


@pytest.mark.parametrize(
    ("option", "meant"),
    [
        ("+lr=0.1", "unknown option lr, did you mean task.lr?"),
        ("+epochs=3", "unknown option epochs, did you mean task.warmup_epochs or trainer.max_epochs?"),
        ("+batch_sise=3", "unknown option batch_sise, did you mean data.batch_size"),
        ("+debug.max_epochs=3", "unknown option debug"),
        ("+callbacks.patiense=3", "unknown option callbacks.patiense"),
        ("+logger.project=mine", "unknown option logger.project: logger=csv takes none"),
        ("+trainer.epochs=3", "epochs"),
        ("+task.rate=3", "rate"),
        ("+data.nothing=3", "nothing"),
        ("+model.nothing=3", "nothing"),
        ("trainer.fast_dev_run=true", "trainer.fast_dev_run leaves no checkpoint to test: use debug=fast"),
        ("+trainer.fast_dev_run=true", "trainer.fast_dev_run leaves no checkpoint to test: use debug=fast"),
    ],
)
def test_options_that_nobody_reads_are_refused(tmp_path, monkeypatch, capsys, option, meant):
    monkeypatch.chdir(tmp_path)
    status, errors = call(monkeypatch, capsys, "train", *TINY, option)
    assert status == 1 and len(errors) == 1 and meant in errors[0], errors
    assert not list(tmp_path.iterdir())


def test_options_that_evaluation_does_not_read_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    status, errors = call(monkeypatch, capsys, "evaluate", "run=run", "+batches=3")
    assert status == 1 and len(errors) == 1 and errors[0].startswith("error: unknown option batches, did you mean")


def test_numbers_that_do_not_compare_have_a_name_of_their_own(tmp_path):
    folder = tmp_path / "run"
    train(f"run_dir={folder}", "trainer.max_epochs=1")
    own = (folder / "metrics.json").read_text()
    written = {
        "which=last": ["which=last"],
        "limit_test_batches=1": ["trainer.limit_test_batches=1"],
        "split_seed=1": ["+data.split_seed=1"],
        "which=last-lam=5": ["which=last", "lam=5"],
        "precision=64-true": ["trainer.precision=64-true"],
    }
    for label, overrides in written.items():
        results = evaluate(folder, *overrides)
        assert numbers(folder, f"metrics-{label}") == results
    assert (folder / "metrics.json").read_text() == own
    evaluate(folder, "+data.eval_batch_size=100")
    again = numbers(folder)
    kept = json.loads(own)
    assert all(again[key] == pytest.approx(value) for key, value in kept.items() if isinstance(value, float))
    assert set(again) == set(kept)


def test_images_that_come_later_do_not_change_sides(tree, tmp_path):
    folder = tmp_path / "run"
    train(*on(tree, f"run_dir={folder}"))
    held = set(json.loads((folder / "split.json").read_text())["val"])
    assert len(held) == 6
    Image.new("RGB", (8, 8), (1, 2, 3)).save(tree / "train" / "class_0" / "0_new.png")
    renamed = sorted(held)[0]
    (tree / renamed).rename(tree / "train" / Path(renamed).parent.name / "renamed.png")
    expected = (held - {renamed}) | {f"{Path(renamed).parent}/renamed.png"}
    seen = {}

    def spy(self, *args, **kwargs):
        seen["val"] = {str(path.relative_to(tree)) for path in kwargs["datamodule"].files["val"].paths}
        return real(self, *args, **kwargs)

    for name, program in (("fit", resume), ("test", evaluate)):
        seen.clear()
        real = getattr(L.Trainer, name)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(L.Trainer, name, spy)
            program(folder)
        assert seen["val"] == expected


def test_without_test_images_nothing_is_called_a_test(tree, tmp_path, capsys):
    results = train(*on(tree, f"run_dir={tmp_path / 'run'}"))
    printed = capsys.readouterr().out
    assert "validation accuracy" in printed and "test accuracy" not in printed
    assert "validation images, which chose the checkpoint" in printed
    assert results["tested_on"] == numbers(tmp_path / "run")["tested_on"] == "val"
    (tree / "train").rename(tree / "test")
    for split in ("train", "val"):
        (tree / split).symlink_to(tree / "test")
    results = train(*on(tree, f"run_dir={tmp_path / 'tested'}"))
    assert "test accuracy" in capsys.readouterr().out and results["tested_on"] == "test"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "Ctrl-C"])
def test_a_stopped_run_says_so_with_its_status(tmp_path, capfd, number, status):
    folder = tmp_path / "run"
    arguments = [*TINY, "trainer.max_epochs=100000", f"run_dir={folder}"]

    def program():
        sys.argv = ["train.py", *arguments]
        cli.run(cli.train, ROOT / "configs", "train")

    process = forked(program)
    while not (folder / "checkpoints" / "last.ckpt").exists():
        assert process.is_alive()
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode == status
    lines = [line for line in capfd.readouterr().err.splitlines() if line.strip()]
    assert lines == [f"stopped; to go on: python train.py resume={folder}"]
    assert not (folder / "lock").exists()


def test_two_processes_stop_together(tmp_path):
    """SIGTERM to the first of two that exchange gradients all the time."""
    folder = tmp_path / "run"
    two = ["trainer.devices=2", "trainer.strategy=ddp", "trainer.max_epochs=100000", f"run_dir={folder}"]
    process = start("train.py", *TINY, *two, cwd=tmp_path)
    try:
        while not (folder / "checkpoints" / "last.ckpt").exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.1)
        process.terminate()
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 143
    assert errors.splitlines()[-1] == f"stopped; to go on: python train.py resume={folder}"


def test_ctrl_c_in_a_sweep_is_one_line(tmp_path, capfd):
    def program():
        def slow(config):
            print("begun", flush=True)
            time.sleep(60)

        os.chdir(tmp_path)
        sys.argv = ["train.py", "-m", "seed=0,1"]
        cli.run(slow, ROOT / "configs", "train")

    process = forked(program)
    while "begun" not in capfd.readouterr().out:
        assert process.is_alive()
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 130
    assert [line for line in capfd.readouterr().err.splitlines() if line.strip()] == [
        "stopped; to go on: the same command"
    ]


@pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed")
def test_each_run_of_a_sweep_has_a_run_of_its_own_at_weights_and_biases(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    sweep = ["-m", *TINY, "debug=fast", "logger=wandb", "seed=0,1", "task.lr=0.01,0.02"]
    status, errors = call(monkeypatch, capsys, "train", *sweep, "run_dir=sweep")
    assert status == 0, errors
    import wandb

    assert wandb.run is None
    folders = sorted(path.parent for path in Path("sweep").rglob("metrics.json"))
    ids = {}
    for folder in folders:
        (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
        ids[folder] = file.stem.removeprefix("run-")
        assert f"id: {ids[folder]}" in (folder / "config.yaml").read_text()
        # The configuration is logged. A service of its own writes the file, a moment later on a busy machine.
        deadline = time.monotonic() + 30
        while b"label_smoothing" not in file.read_bytes():
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert len(folders) == len(set(ids.values())) == 4
    resume(folders[0])
    assert {file.stem for file in folders[0].glob("wandb/offline-run-*/run-*.wandb")} == {f"run-{ids[folders[0]]}"}


def test_rates_of_a_training_that_ends_inside_an_epoch(tmp_path):
    rates = []

    class Recorder(L.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    step = ["task.schedule=step", "task.milestones=[2]", "task.warmup_epochs=1", "task.lr=0.01"]
    short = ["trainer.max_epochs=30", "+trainer.max_steps=12", "trainer.limit_train_batches=4"]
    data, task = cli.build(config(*TINY, *step, *short))
    trainer = L.Trainer(
        max_epochs=30, max_steps=12, limit_train_batches=4, callbacks=[Recorder()], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        accelerator="cpu",
    )  # fmt: skip
    trainer.fit(task, datamodule=data)
    assert rates == pytest.approx([0.0025, 0.005, 0.0075, 0.01, *[0.01] * 4, *[0.001] * 4])
    assert all(map(math.isfinite, rates))


def test_a_training_that_ends_inside_an_epoch_is_validated(tmp_path):
    folder = tmp_path / "run"
    results = train(f"run_dir={folder}", "+trainer.max_steps=50", "trainer.max_epochs=30", "task.lr=0.02")
    *epochs, _ = table(folder)
    assert [(row["epoch"], row["step"]) for row in epochs] == [("0", "32"), ("1", "49")]
    assert results["val/best"] == pytest.approx(max(float(row["val/acc"]) for row in epochs))
    assert all(row["val/acc"] for row in epochs)
    assert resume(folder)["test/acc"] == results["test/acc"]
    assert table(folder)[:2] == epochs
    assert read_checkpoint(folder / "checkpoints" / "last.ckpt")["global_step"] == 50


def test_views_of_test_images_have_numbers_of_their_own(tmp_path):
    folder = tmp_path / "run"
    train(f"run_dir={folder}")
    results = evaluate(folder, "test_views=6")
    assert results["test_views"] == 6 and numbers(folder, "metrics-test_views=6") == results
    assert results["test/loss"] != numbers(folder)["test/loss"]
    with pytest.raises(ValueError, match="test_views is for tests; report=page looks at each image once"):
        evaluate(folder, "test_views=6", "report=page")


def test_photographs_of_ones_own_have_numbers_of_their_own(tmp_path):
    """A folder without folders for the splits cannot be the run's data in another place."""
    folder, mine = tmp_path / "run", tmp_path / "mine"
    mine.mkdir()
    Image.linear_gradient("L").resize((20, 24)).save(mine / "a.png")
    small = ["model.steps=1", "model.atoms=2", "data.crops=2", "trainer.max_epochs=1", "pictures=false"]
    cli.train(config("experiment=photographs_cdlnet", *small, "callbacks.progress_bar=false", f"run_dir={folder}"))
    own = (folder / "metrics.json").read_text()
    results = evaluate(folder, f"+data.root={mine}")
    (written,) = folder.glob("metrics-data=mine-????????.json")
    assert numbers(folder, written.stem) == results
    evaluate(folder, f"+data.root={mine}", "report=restoration", "+options.noise=[25]")
    assert len(list((folder / "reports").glob("data=mine-noise=25-????????/restoration.png"))) == 1
    assert (folder / "metrics.json").read_text() == own
    with pytest.raises(FileNotFoundError, match="mine/train is missing"):
        cli.train(config("experiment=photographs_cdlnet", *small, f"data.root={mine}", f"run_dir={tmp_path / 'no'}"))
    mine.rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match="mine"):
        evaluate(folder, f"+data.root={mine}")
    with pytest.raises(ValueError, match="test_views is for classifiers; the run is one of task denoising"):
        evaluate(folder, "test_views=2")
