import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image
from program import call

import csc_nets.cli as cli
from csc_nets.checkpoint import load, read_checkpoint
from csc_nets.models import create_model
from csc_nets.tasks import csc_layers

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
TINY = ["model.widths=[4,8]", "model.steps=2", "callbacks.progress_bar=false"]


def program(name, *arguments, cwd):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / name), *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finished(process, timeout=120):
    output, errors = process.communicate(timeout=timeout)
    assert process.returncode == 0, errors
    return output


def config(*overrides, name="train"):
    with initialize_config_dir(str(CONFIGS)):
        return cli.plain(compose(name, overrides=list(overrides)))


def tiny(tmp_path, *overrides, name="run"):
    return config(*TINY, "trainer.max_epochs=2", f"run_dir={tmp_path / name}", *overrides)


def same_state(a, b):
    """Whether two checkpoints agree bit by bit in all but paths and times."""
    for key in ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers", "epoch", "global_step"):
        torch.testing.assert_close(a.get(key), b.get(key), rtol=0, atol=0)
    return True


def test_a_run_leaves_a_complete_folder_and_a_table(tmp_path, capsys):
    results = cli.train(tiny(tmp_path))
    folder = tmp_path / "run"
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    pictures = {f"pictures/{name}.png" for name in ("atoms", "codes", "reconstructions")}
    checkpoints = {"checkpoints/best.ckpt", "checkpoints/last.ckpt"}
    assert names == {"config.yaml", "metrics.csv", "metrics.json"} | checkpoints | pictures
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    *epochs, test = rows
    assert [row["epoch"] for row in epochs] == ["0", "1"]
    assert all(row[key] for row in epochs for key in ("train/loss", "val/loss", "val/acc", "lr"))
    assert float(test["test/acc"]) == results["test/acc"]
    assert json.loads((folder / "metrics.json").read_text()) == results
    assert {"test/acc", "test/density", "test/reconstruction_error", "training_seconds", "val/best"} <= set(results)
    table = capsys.readouterr().out
    for label in ("test accuracy", "code density", "reconstruction error", "training time", str(folder)):
        assert label in table


def test_evaluation_repeats_the_numbers_of_training_and_of_a_loaded_network(tmp_path):
    trained = cli.train(tiny(tmp_path, "pictures=false"))
    again = cli.evaluate(config(f"run={tmp_path / 'run'}", name="evaluate"))
    assert {k: v for k, v in again.items() if k.startswith("test/")} == {
        k: v for k, v in trained.items() if k.startswith("test/")
    }
    data, _ = cli.build(tiny(tmp_path))
    data.setup("test")
    model = load(tmp_path / "run")
    with torch.no_grad():
        right = [(model(x).argmax(1) == y) for x, y in data.test_dataloader()]
    assert torch.cat(right).float().mean().item() == pytest.approx(again["test/acc"])


def test_another_sparsity_weight_at_test_time(tmp_path):
    trained = cli.train(tiny(tmp_path, "pictures=false", "trainer.max_epochs=1"))
    sparse = cli.evaluate(config(f"run={tmp_path / 'run'}", "lam=5", "which=last", name="evaluate"))
    assert sparse["test/density"] < 0.5 * trained["test/density"]
    assert json.loads((tmp_path / "run" / "metrics-which=last-lam=5.json").read_text()) == sparse
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == trained


def test_a_report_in_place_of_the_test(tmp_path, capsys):
    cli.train(tiny(tmp_path, "pictures=false", "trainer.max_epochs=1"))
    before = (tmp_path / "run" / "metrics.json").read_text()
    assert cli.evaluate(config(f"run={tmp_path / 'run'}", "report=energy", "images=2", name="evaluate")) == {}
    assert "2 samples. Kept by cause" in capsys.readouterr().out
    written = {path.name for path in (tmp_path / "run" / "reports" / "images=2").iterdir()}
    assert written == {"energy.txt", "energy.json", "energy.png"}
    assert (tmp_path / "run" / "metrics.json").read_text() == before
    with pytest.raises(ValueError, match="images must be an int >= 1, got 0"):
        cli.evaluate(config(f"run={tmp_path / 'run'}", "report=energy", "images=0", name="evaluate"))


def test_another_data_set_at_test_time(tmp_path, capsys):
    options = ["experiment=digits_csc_autoencoder", "model.widths=[4]", "trainer.max_epochs=1", "+data.mean=[0.3]"]
    cli.train(config(*options, "callbacks.progress_bar=false", "pictures=false", f"run_dir={tmp_path / 'run'}"))
    own = (tmp_path / "run" / "metrics.json").read_text()
    for label in "ab":
        folder = tmp_path / "others" / "train" / label
        folder.mkdir(parents=True)
        for shade in range(10):
            Image.new("RGB", (12, 10), (25 * shade, 20, 90)).save(folder / f"{shade}.png")
    other = ["+data.name=image_folder", f"+data.root={tmp_path / 'others'}"]
    results = cli.evaluate(config(f"run={tmp_path / 'run'}", *other, name="evaluate"))
    assert (tmp_path / "run" / "metrics.json").read_text() == own
    (written,) = (tmp_path / "run").glob("metrics-data=others-????????.json")
    assert json.loads(written.read_text()) == results
    plainly = {"crop_padding": 0, "padding_mode": "zeros", "flip": False, "cutout": 0}
    shown = cli.build_data(config(*options), {"name": "image_folder", "root": str(tmp_path / "others")})
    assert shown.augmentation == cli.build_data(config(*options), {}).augmentation == plainly and not shown.drop_last
    with pytest.raises(
        ValueError, match=r"the network takes 1 channels, images of sample_images have 3; add .*in_chans=1"
    ):
        cli.build_data(config(*options), {"name": "sample_images", "image_size": 8})
    assert (shown.in_chans, shown.image_size, shown.mean) == (1, 8, (0.3,))  # as the digits were
    cli.evaluate(config(f"run={tmp_path / 'run'}", *other, "report=reconstruction", name="evaluate"))
    assert "2 validation images of image_folder" in capsys.readouterr().out
    assert len(list((tmp_path / "run" / "reports").glob("data=others-????????/reconstruction.png"))) == 1


def test_steps_of_blocks_at_test_time():
    model = create_model("invertible_cnn", widths=[4, 6])
    cli.set_pursuit(model, steps=4)
    assert [layer.steps for layer in model.layers] == [4, 4]
    with pytest.raises(ValueError, match="need a network with CSC layers, got InvertibleCNN"):
        cli.set_pursuit(model, lam=0.1)


def test_steps_of_an_equilibrium_network_are_unrolled():
    model = create_model("csc_small", widths=[4, 6], steps=None, tol=1e-3)
    cli.set_pursuit(model, steps=2)
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    assert all(layer.backward == "unroll" for layer in csc_layers(model).values())


def test_averaged_weights_are_tested_and_loaded(tmp_path):
    cli.train(tiny(tmp_path, "callbacks.ema_decay=0.9", "pictures=false"))
    checkpoint = read_checkpoint(tmp_path / "run" / "checkpoints" / "best.ckpt")
    loaded = load(tmp_path / "run").state_dict()["fc.weight"]
    assert torch.equal(loaded, checkpoint["state_dict"]["model.fc.weight"])
    assert not torch.equal(loaded, checkpoint["current_model_state"]["model.fc.weight"])


def test_an_autoencoder_is_trained_by_its_own_task(tmp_path):
    model = ["model.widths=[4,4]", "callbacks.progress_bar=false", "trainer.max_epochs=1"]
    results = cli.train(config("experiment=digits_csc_autoencoder", *model, f"run_dir={tmp_path / 'run'}"))
    assert {"test/psnr", "test/ssim", "test/density", "test/reconstruction_error"} <= set(results)
    assert (tmp_path / "run" / "pictures" / "reconstructions.png").is_file()


def test_a_denoiser_is_trained_shown_and_tested_on_a_folder(tmp_path):
    chosen = ["experiment=photographs_cdlnet", "model.steps=2", "model.atoms=4", "data.crops=4", "data.image_size=16"]
    quick = ["callbacks.progress_bar=false", "trainer.max_epochs=2", "task.test_noise=[25]"]
    results = cli.train(config(*chosen, *quick, f"run_dir={tmp_path / 'run'}"))
    assert {"test/psnr_25", "test/ssim", "test/gain", "val/best"} <= set(results)
    assert (tmp_path / "run" / "pictures" / "denoising.png").is_file()
    (tmp_path / "mine").mkdir()
    Image.new("L", (40, 30), 90).save(tmp_path / "mine" / "flat.png")
    place = [f"run={tmp_path / 'run'}", f"+data.root={tmp_path / 'mine'}", "+data.test=."]
    flat = cli.evaluate(config(*place, name="evaluate"))
    assert flat["test/psnr_25"] != results["test/psnr_25"]


def test_a_killed_run_ends_as_if_nothing_had_happened(tmp_path):
    training = [*TINY, "trainer.max_epochs=4", "data.batch_size=8", "callbacks.ema_decay=0.9", "task.mixup_alpha=0.2"]
    whole = program("train.py", *training, f"run_dir={tmp_path / 'whole'}", cwd=tmp_path)
    killed = program("train.py", *training, f"run_dir={tmp_path / 'killed'}", cwd=tmp_path)
    last = tmp_path / "killed" / "checkpoints" / "last.ckpt"
    while not last.exists() and killed.poll() is None:
        time.sleep(0.01)
    time.sleep(0.3)  # into the next epoch
    killed.kill()
    killed.communicate()
    assert killed.returncode == -9
    assert not (tmp_path / "killed" / "metrics.json").exists()
    assert read_checkpoint(last)["epoch"] < 3
    table = finished(program("train.py", f"resume={tmp_path / 'killed'}", cwd=tmp_path))
    assert "test accuracy" in table
    finished(whole)

    for name in ("best", "last"):
        paths = [tmp_path / run / "checkpoints" / f"{name}.ckpt" for run in ("whole", "killed")]
        assert same_state(*map(read_checkpoint, paths))
    tables = [(tmp_path / run / "metrics.csv").read_text() for run in ("whole", "killed")]
    assert tables[0] == tables[1]
    numbers = [json.loads((tmp_path / run / "metrics.json").read_text()) for run in ("whole", "killed")]
    assert {**numbers[0], "training_seconds": 0} == {**numbers[1], "training_seconds": 0}


class Crash(Exception):
    pass


def test_a_run_that_crashed_inside_an_epoch_goes_on_without_averaging(tmp_path, monkeypatch):
    from csc_nets.tasks import ClassificationTask

    cli.train(tiny(tmp_path, "pictures=false", "trainer.max_epochs=3", name="whole"))
    step = ClassificationTask.training_step

    def crash(self, batch, batch_idx):
        if self.current_epoch == 1 and batch_idx == 5:
            raise Crash
        return step(self, batch, batch_idx)

    monkeypatch.setattr(ClassificationTask, "training_step", crash)
    with pytest.raises(Crash):
        cli.train(tiny(tmp_path, "pictures=false", "trainer.max_epochs=3", name="broken"))
    monkeypatch.undo()
    cli.train(config(f"resume={tmp_path / 'broken'}"))
    assert same_state(*(read_checkpoint(tmp_path / run / "checkpoints" / "last.ckpt") for run in ("whole", "broken")))


def test_a_game_goes_on_where_it_crashed(tmp_path, monkeypatch):
    from csc_nets.tasks import TranscriptionTask

    def game(name):
        sizes = ["model.input_size=8", "model.widths=[4,6]", "+model.features=8", "data.batch_size=100"]
        quiet = ["callbacks.progress_bar=false", "pictures=false", "trainer.max_epochs=3", f"run_dir={tmp_path / name}"]
        return config("experiment=mnist_csc_ctrl", "data=digits", *sizes, *quiet)

    results = cli.train(game("whole"))
    assert {"test/psnr", "test/ssim", "test/alignment"} <= set(results)
    step = TranscriptionTask.training_step

    def crash(self, batch, batch_idx):
        if self.current_epoch == 1 and batch_idx == 5:
            raise Crash
        return step(self, batch, batch_idx)

    monkeypatch.setattr(TranscriptionTask, "training_step", crash)
    with pytest.raises(Crash):
        cli.train(game("broken"))
    monkeypatch.undo()
    cli.train(config(f"resume={tmp_path / 'broken'}"))
    whole, broken = (read_checkpoint(tmp_path / run / "checkpoints" / "last.ckpt") for run in ("whole", "broken"))
    assert same_state(whole, broken) and len(whole["optimizer_states"]) == 2


def test_a_run_that_stopped_before_its_first_checkpoint_starts_again(tmp_path):
    from csc_nets.tasks.run_folder import RunFolder

    RunFolder(tmp_path / "run").create(tiny(tmp_path, "trainer.max_epochs=1", "pictures=false"))
    assert "test/acc" in cli.train(config(f"resume={tmp_path / 'run'}"))


def test_a_sweep_leaves_a_folder_for_each_job(tmp_path):
    jobs = program("train.py", "-m", *TINY, "debug=fast", "model=csc_small,invertible_cnn", "name=both", cwd=tmp_path)
    finished(jobs)
    (sweep,) = tmp_path.glob("runs/both-digits/*")
    names = sorted(load(folder).model_name for folder in sweep.iterdir() if folder.is_dir())
    assert names == ["csc_small", "invertible_cnn"]


ERRORS = {
    "data=image_folder": "Missing mandatory value: data.root",
    "experiment=nothing": "Could not find 'experiment/nothing' Available options",
    "model=nothing": "Could not find 'model/nothing' Available options",
    "model.name=csc_smal": "unknown model 'csc_smal'",
    "data.name=digit": "unknown data set 'digit'",
    "model.nothing=3": "unknown option model.nothing, did you mean model.nonneg?",
    "model.lam=-1": "lam must be",
    "model.steps=0": "steps must be an int >= 1, got 0",
    "task.lr=-1": "lr must be a positive number, got -1",
    "data.batch_size=0": "batch_size must be a whole number >= 1, got 0",
    "trainer.max_epochs=ten": "trainer.max_epochs must be a whole number >= 1, got 'ten'",
    "resume=nowhere": "nowhere is no run folder: it holds no config.yaml",
    "task=autoencoding": "needs an autoencoder, got CSCSmall",
}


def message_of(monkeypatch, capsys, call, name, *arguments):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.run(call, CONFIGS, name)
    assert stop.value.code == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("error: ")
    return lines[0]


@pytest.mark.parametrize("argument", ERRORS)
def test_an_error_is_one_line(tmp_path, monkeypatch, capsys, argument):
    monkeypatch.chdir(tmp_path)
    assert ERRORS[argument] in message_of(monkeypatch, capsys, cli.train, "train", argument)
    assert not (tmp_path / "runs").exists()


def test_errors_of_evaluation_and_resuming(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    cli.train(tiny(tmp_path, "trainer.max_epochs=1", "pictures=false"))
    capsys.readouterr()

    def error(call, name, *arguments):
        return message_of(monkeypatch, capsys, call, name, *arguments)

    assert "Missing mandatory value: run" in error(cli.evaluate, "evaluate")
    assert "which must be one of best, last, got 'first'" in error(
        cli.evaluate, "evaluate", f"run={run}", "which=first"
    )
    assert "lam must be" in error(cli.evaluate, "evaluate", f"run={run}", "lam=-1")
    assert "steps must be an int >= 1, got 0" in error(cli.evaluate, "evaluate", f"run={run}", "steps=0")
    assert "already holds a run" in error(cli.train, "train", f"run_dir={run}")
    assert "got also seed=1" in error(cli.train, "train", f"resume={run}", "seed=1")
    last = run / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    assert "last.ckpt is damaged" in error(cli.train, "train", f"resume={run}")
    assert "last.ckpt is damaged" in error(cli.evaluate, "evaluate", f"run={run}", "which=last")


def test_the_whole_traceback_on_request(tmp_path):
    environment = {**os.environ, "HYDRA_FULL_ERROR": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "train.py"), "model.steps=0"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "steps must be an int >= 1, got 0" in done.stderr


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["model=csc_small"], None),
        (["model=csc_small", "task.weight_decay=0"], "task.weight_decay is 0"),
        (["model=resnet20", "model.widths=[2,2,2]"], "resnet20 has no atoms that are trained"),
    ],
)
def test_decay_of_atoms_that_changes_nothing_is_said_where_somebody_asks_for_it(
    tmp_path, monkeypatch, capsys, asked, said
):
    monkeypatch.chdir(tmp_path)
    short = ["debug=fast", "callbacks.progress_bar=false", "pictures=false", "test=false"]
    status, lines = call(monkeypatch, capsys, "train", *short, *asked, "task.decay_atoms=true", "run_dir=a")
    assert status == 0 and lines == ([f"note: task.decay_atoms=true changes nothing: {said}"] if said else [])


def test_a_recipe_that_plain_networks_share_is_silent_on_decay_of_atoms(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = ["model.widths=[2,2]", "data=digits", "data.batch_size=16", "data.in_chans=3", "data.crop_padding=1"]
    short = ["debug=fast", "callbacks.progress_bar=false", "pictures=false", "test=false"]
    assert call(monkeypatch, capsys, "train", "experiment=cifar10_fastnet", *small, *short, "run_dir=a") == (0, [])


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    short = ["debug=fast", "callbacks.progress_bar=false", "pictures=false", "model.widths=[4]"]
    cli.train(config(*short, f"run_dir={folder}"))
    return folder


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["images=3"], "images=3 is for a report: add report=NAME, such as report=page"),
        (["network=inception"], "network='inception' is for a report: add report=NAME, such as report=page"),
        (["options.hidden=0.5"], "options.hidden=0.5 is for a report: add report=NAME, such as report=page"),
        (["options.noise=[25]", "lam=0.1"], "options.noise=[25] is for a report: add report=NAME, such as report=page"),
        (["trainer.max_epochs=3"], "trainer.max_epochs is for a training; a test takes no such option"),
        (
            ["report=theory", "network=runs/a"],
            "network is for report=generation; report=theory takes none, got network=runs/a",
        ),
        (["report=features", "images=3"], "report=features takes no number of images, got images=3"),
        (["report=theory", "options.noise=1"], "unknown option options.noise of report theory; it takes none"),
        (
            ["report=theory", "trainer.precision=64-true"],
            "trainer.precision is for tests; report=theory runs on the CPU, in the precision of the weights",
        ),
        (
            ["report=theory", "trainer=gpu"],
            "trainer is for tests; report=theory runs on the CPU, in the precision of the weights",
        ),
    ],
)
def test_options_without_an_effect_are_refused(small_run, monkeypatch, capsys, options, message):
    before = sorted(small_run.rglob("*"))
    status, lines = call(monkeypatch, capsys, "evaluate", f"run={small_run}", *options)
    assert status == 1 and lines == [f"error: {message}"]
    assert sorted(small_run.rglob("*")) == before


def test_reports_of_other_options_lie_side_by_side(small_run, monkeypatch, capsys):
    for options in (["images=2"], ["images=4"], ["images=2"], []):
        assert call(monkeypatch, capsys, "evaluate", f"run={small_run}", "report=energy", *options) == (0, [])
    found = sorted(file.relative_to(small_run / "reports").as_posix() for file in small_run.rglob("energy.json"))
    assert found == ["energy.json", "images=2/energy.json", "images=4/energy.json"]
