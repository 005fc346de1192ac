import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from torch.optim.swa_utils import AveragedModel

from csc_nets import load
from csc_nets.data import create_datamodule
from csc_nets.layers import Dictionary2d
from csc_nets.models import create_model
from csc_nets.tasks import ClassificationTask
from csc_nets.tasks.keeping import MovableCheckpoint
from csc_nets.tasks.metrics_csv import MetricsCSV
from csc_nets.tasks.trainer import build_loggers, build_trainer, own_logger
from csc_nets.tasks.weight_averaging import AveragedWeights

CALLBACKS = {"ema_decay": None, "patience": None, "progress_bar": False}


def task():
    return ClassificationTask(create_model("csc_small", in_chans=1, widths=[4]))


def trainer(tmp_path, *, callbacks=(), **options):
    arguments = {"max_epochs": 1, "accelerator": "cpu", "enable_model_summary": False, **options}
    return build_trainer(tmp_path, task(), arguments, {**CALLBACKS, **dict(callbacks)}, {"name": "none"})


def test_the_best_checkpoint_is_written_before_the_last_one_records_it(tmp_path):
    names = [c.filename for c in trainer(tmp_path).callbacks if isinstance(c, MovableCheckpoint)]
    assert names == ["best", "last"]


def test_callbacks_are_added_only_when_asked_for(tmp_path):
    def kinds(**options):
        return {type(c).__name__ for c in trainer(tmp_path, callbacks=options).callbacks}

    found = kinds(ema_decay=0.9, patience=3, pictures_every=2) - kinds()
    assert found == {"AveragedWeights", "EarlyStopping", "TrainingPictures"}


def test_the_best_score_survives_a_move_of_the_run_folder(tmp_path):
    old, new = str(tmp_path / "old"), str(tmp_path / "new")
    first = MovableCheckpoint(dirpath=old, filename="best", monitor="val/acc", mode="max")
    first.best_model_path = first.kth_best_model_path = f"{old}/best.ckpt"
    first.best_k_models, first.best_model_score = {f"{old}/best.ckpt": torch.tensor(0.9)}, torch.tensor(0.9)
    second = MovableCheckpoint(dirpath=new, filename="best", monitor="val/acc", mode="max")
    second.load_state_dict(first.state_dict())
    assert second.best_model_score == 0.9
    assert second.best_model_path == second.kth_best_model_path == f"{new}/best.ckpt"
    assert list(second.best_k_models) == [f"{new}/best.ckpt"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_epochs": 0}, r"trainer\.max_epochs must be a whole number >= 1, got 0"),
        ({"max_epochs": "ten"}, r"trainer\.max_epochs must be a whole number >= 1, got 'ten'"),
        ({"precision": "7-bit"}, "trainer: .*7-bit"),
        ({"nonsense": 1}, "trainer: .*nonsense"),
        ({"max_time": "abc"}, "trainer.max_time must be days:hours:minutes:seconds, got 'abc'"),
        ({"max_time": {"second": 3}}, "trainer.max_time must be days:hours:minutes:seconds, got {'second': 3}"),
        ({"barebones": True}, r"trainer\.barebones leaves no checkpoint to test: use debug=fast"),
        ({"callbacks": {"ema_decay": 1.0}}, r"callbacks\.ema_decay must be in \[0, 1\), got 1.0"),
        ({"callbacks": {"patience": 0}}, r"callbacks\.patience must be >= 1, got 0"),
        ({"callbacks": {"pictures_every": 0}}, r"callbacks\.pictures_every must be null or an int >= 1, got 0"),
    ],
)
def test_bad_values_are_named(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, **options)


def test_a_training_ends_after_the_epoch_in_which_its_time_is_over(tmp_path):
    timed = trainer(tmp_path, max_epochs=1000, max_time={"milliseconds": 1})
    timed.fit(task(), create_datamodule("digits", batch_size=256))
    assert timed.current_epoch == 1
    assert (tmp_path / "checkpoints" / "last.ckpt").is_file()


def test_loggers_by_name(tmp_path):
    assert build_loggers(tmp_path, name="none") == []
    assert [type(logger) for logger in build_loggers(tmp_path, name="csv")] == [MetricsCSV]
    with pytest.raises(ValueError, match="logger must be 'csv', 'wandb' or 'none', got 'tensorboard'"):
        build_loggers(tmp_path, name="tensorboard")


@pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed")
def test_weights_and_biases_works_without_an_account_and_is_imported_only_when_chosen(tmp_path):
    program = f"""
import sys
from pathlib import Path
from csc_nets.tasks.trainer import build_loggers
build_loggers(Path({str(tmp_path)!r}), name="csv")
assert "wandb" not in sys.modules
for logger in build_loggers(Path({str(tmp_path)!r}), name="wandb", project="p", offline=True):
    logger.log_metrics({{"val/acc": 0.5}}, step=1)
    logger.finalize("success")
"""
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=120)
    assert list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    assert (tmp_path / "metrics.csv").is_file()


@pytest.mark.parametrize("decay", [0.9, 0.999])
def test_the_average_of_a_short_run_is_as_good_as_the_run(tmp_path, decay):
    data = create_datamodule("digits", batch_size=64)
    accuracy = {}
    for chosen in (None, decay):
        torch.manual_seed(0)
        network = ClassificationTask(create_model("csc_small", in_chans=1, widths=[16, 32]), lr=0.1)
        arguments = {"max_epochs": 6, "accelerator": "cpu", "enable_model_summary": False}
        options = {**CALLBACKS, "ema_decay": chosen}
        run = build_trainer(tmp_path / str(chosen), network, arguments, options, {"name": "none"})
        run.fit(network, data)
        accuracy[chosen] = run.test(network, data, verbose=False)[0]["test/acc"]
    assert accuracy[decay] > 0.85 and accuracy[decay] > accuracy[None] - 0.03  # at chance 0.1
    # Bounds are those of the averaged atoms, also in the checkpoint; statistics are those of the run.
    for layer in (network.model, load(tmp_path / str(decay) / "checkpoints" / "last.ckpt")):
        for dictionary in (m for m in layer.modules() if isinstance(m, Dictionary2d)):
            kept = dictionary.lipschitz.clone()
            dictionary.refresh()
            torch.testing.assert_close(kept, dictionary.lipschitz)


def test_the_average_copies_buffers_and_forgets_its_start():
    average = AveragedWeights(0.999)
    live = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    average._average_model = model = AveragedModel(live, use_buffers=average._use_buffers, **average._kwargs)
    weights = []
    for k in range(20):
        with torch.no_grad():
            live[0].weight.fill_(float(k))
            live[1].running_mean.fill_(float(k))
        model.update_parameters(live)
        weights.append(model.module[0].weight[0, 0].item())
        assert torch.equal(model.module[1].running_mean, live[1].running_mean)
    expected = 0.0
    for n, k in enumerate(range(1, 20), start=1):
        share = min(0.999, (1 + n) / (10 + n))
        expected = share * expected + (1 - share) * k
    assert weights[-1] == pytest.approx(expected, rel=1e-4) and weights[-1] > 10


def test_a_run_that_an_agent_of_weights_and_biases_has_begun_keeps_its_id(tmp_path, monkeypatch):
    logger = {"name": "wandb", "project": "p"}
    monkeypatch.setenv("WANDB_RUN_ID", "agents")
    assert own_logger(logger, tmp_path, resume=False)["id"] != "agents"  # of somebody's shell
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
    assert own_logger(logger, tmp_path, resume=False)["id"] == "agents"
    assert own_logger({**logger, "id": "own"}, tmp_path, resume=True)["id"] == "own"


@pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed")
def test_a_run_without_a_login_is_told_of_offline(tmp_path, monkeypatch):
    import wandb

    def refuse():
        raise wandb.errors.UsageError("No API key configured. Use `wandb login` to log in.")

    monkeypatch.setattr(wandb, "login", refuse)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with pytest.raises(ValueError, match=r"^logger=wandb: No API key .* to log in; .* logger\.offline=true$"):
        build_loggers(tmp_path, name="wandb")
    assert not list(tmp_path.iterdir())
    assert len(build_loggers(tmp_path, name="wandb", offline=True)) == 2
