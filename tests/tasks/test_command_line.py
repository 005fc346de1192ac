from pathlib import Path

import pytest

from csc_nets.tasks.command_line import checked_command
from csc_nets.tasks.schema import EvaluationOptions, TrainingOptions

CONFIGS = Path(__file__).parents[2] / "configs"


def command(*arguments, name="train"):
    return checked_command(arguments, CONFIGS, name, TrainingOptions if name == "train" else EvaluationOptions)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        # keys
        ("model.stpes=3", "unknown option model.stpes, did you mean model.steps?"),
        ("+model.stpes=3", "unknown option model.stpes, did you mean model.steps?"),
        ("trainer.maxepochs=3", "unknown option trainer.maxepochs, did you mean trainer.max_epochs?"),
        ("data.bs=3", "unknown option data.bs (digits takes "),
        ("sed=3", "unknown option sed, did you mean seed?"),
        ("lr=0.1", "unknown option lr, did you mean task.lr?"),
        ("model.max_epochs=3", "unknown option model.max_epochs, did you mean trainer.max_epochs?"),
        ("task.seed=3", "unknown option task.seed, did you mean seed?"),
        ("model.num_classes=3", "unknown option model.num_classes (csc_small takes "),
        # groups
        ("modell=sdnet18", "unknown option modell, did you mean model?"),
        ("modell.lam=1", "unknown option modell.lam, did you mean model.lam?"),
        ("experimnt=cifar10_sdnet18", "unknown option experimnt, did you mean experiment?"),
        # choices
        (
            "model=sdnet81",
            "Could not find 'model/sdnet81', did you mean model=sdnet18? Available options",
        ),
        ("-m model=csc_small,sdnet81", "Could not find 'model/sdnet81', did you mean model=sdnet18?"),
        (
            "trainer=gpuu",
            "Could not find 'trainer/gpuu', did you mean trainer=gpu? Available",
        ),
        # values
        ("task.lr=abc", "task.lr must be a number, got 'abc'"),
        ("task.lr=null", "task.lr must be a number, got null"),
        ("task.lr=[1]", "task.lr must be a number, got [1]"),
        ("model.widths=48", "model.widths must be a list of whole numbers such as [48,96,128], got 48"),
        ("seed=abc", "seed must be a whole number >= 0 and <= 4294967295, got 'abc'"),
        ("name=null", "name must be a text, got null"),
        ("seed=-1", "seed must be a whole number >= 0 and <= 4294967295, got -1"),
        ("data.batch_size=true", "data.batch_size must be a whole number, got true"),
        ("trainer.max_epochs=2.5", "trainer.max_epochs must be a whole number >= 1, got 2.5"),
        ("callbacks.patience=abc", "callbacks.patience must be a whole number or null, got 'abc'"),
        ("seed=99999999999", "seed must be a whole number >= 0 and <= 4294967295, got 99999999999"),
        ("trainer.strategy=ddpp", "trainer.strategy must be one of auto, ddp, "),
        ("trainer.accelerator=cuda9", "trainer.accelerator must be one of auto, gpu, cpu, cuda, mps, tpu, got 'cuda9'"),
        ("trainer.devices=0", "trainer.devices must be one of auto, -1, a whole number >= 1, "),
        ("trainer.max_steps=0", "trainer.max_steps must be one of -1 or a whole number >= 1, got 0"),
        ("trainer.accumulate_grad_batches=0", "trainer.accumulate_grad_batches must be a whole number >= 1, got 0"),
        (
            "trainer.check_val_every_n_epoch=0",
            "trainer.check_val_every_n_epoch must be a whole number >= 1 or null, got 0",
        ),
        ("trainer.gradient_clip_val=-1", "trainer.gradient_clip_val must be a number >= 0 or null, got -1"),
        ("trainer.gradient_clip_algorithm=foo", "trainer.gradient_clip_algorithm must be one of norm, value or null"),
        (
            "trainer.limit_train_batches=0",
            "trainer.limit_train_batches must be a whole number >= 1, a number > 0 and <= 1",
        ),
        (
            "trainer.limit_val_batches=1.5",
            "trainer.limit_val_batches must be a whole number >= 0, a number >= 0 and <= 1",
        ),
        (
            "trainer.overfit_batches=-1",
            "trainer.overfit_batches must be a whole number >= 0 or a number >= 0 and <= 1, got -1",
        ),
        ("~data", "~data: nothing runs without it; choose another with data=NAME"),
        ("compile=maybe", "compile must be true or false, got 'maybe'"),
        ("task.optimizer=adamm", "task.optimizer must be one of sgd, adamw, got 'adamm'; did you mean adamw?"),
        ("task=denoising task.noise=[a]", "task.noise must be a number or a list of numbers such as [20.0,30.0]"),
        ("data.name=digts", "unknown data set 'digts'; did you mean digits?"),
        ("logger=null", "logger must be the name of a file, got null. Available options in 'logger': csv, none, wandb"),
        ("model=5", "model must be the name of a file, got 5. Available"),
        ("resume=null", "resume must be the name of a folder such as runs/"),
        ("run_dir=null", "run_dir must be the name of a folder such as runs/"),
        # sweeps
        ("-m model.lam=0.1,abc", "model.lam must be a number, got 'abc'"),
        ("-m model=sdnet18,resnet18 model.lam=0.1", "unknown option model.lam (resnet18 takes stem,"),
        ("-m sweep=lam model=resnet18", "unknown option model.lam (resnet18 takes stem,"),
        ("sweep=lam", "sweep=lam varies options, one run for each value: add -m, as in python train.py -m sweep=lam"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(arguments, message):
    with pytest.raises(ValueError) as error:
        command(*arguments.split())
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("model.lam=0.3 seed=3", "model.lam=0.3 seed=3"),
        ("model=sdnet18 model.widths=[8,8,8,8]", "model=sdnet18 ++model.widths=[8,8,8,8]"),
        ("+model.lam=0.3", "++model.lam=0.3"),
        ("data.flip=true", "++data.flip=true"),
        ("+data.flip=true", "+data.flip=true"),
        ("-m data.flip=true,false model.lam=0.1,0.2", "-m ++data.flip=true,false model.lam=0.1,0.2"),
        ("-m sweep=lam", "-m sweep=lam"),
        ("hydra.sweep.subdir=x model.lam=1", "hydra.sweep.subdir=x model.lam=1"),
        ("resume=runs/a", "resume=runs/a"),
        ("seed=[1", "seed=[1"),
        ("--help model.stpes=3", "--help model.stpes=3"),
        ("experiment=mnist_csc_ctrl_short", "experiment=mnist_csc_ctrl_short"),
    ],
)
def test_the_rest_goes_to_hydra(given, taken):
    """An option that a network takes and its file does not list needs a sign there."""
    assert command(*given.split()) == taken.split()


def test_evaluation_has_options_of_its_own():
    assert command("run=x", "data.root=/y", name="evaluate") == ["run=x", "++data.root=/y"]
    for text, message in {
        "which=bets": "which must be one of best, last, got 'bets'; did you mean best?",
        "lam=abc": "lam must be a number or null, got 'abc'",
        "run=null": "run must be the name of a folder such as runs/csc_small-digits/2025-01-31_12-00-00, got null",
        "wich=last": "unknown option wich, did you mean which?",
        "trainer.limit_test_batchs=1": "did you mean trainer.limit_test_batches?",
    }.items():
        with pytest.raises(ValueError) as error:
            command("run=x", text, name="evaluate")
        assert message in str(error.value)


def test_a_sweep_is_started_once(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")  # of torchrun
    with pytest.raises(ValueError, match="-m: start a sweep once, not with torchrun"):
        command("-m", "seed=0,1")
    assert command("seed=0") == ["seed=0"]
