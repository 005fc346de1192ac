"""A training that has broken down ends with an error, whatever the task; one that recovers goes on."""

import json

import pytest
import torch
from program import TINY, config

import csc_nets.cli as cli
from csc_nets.tasks.divergence import Divergence

QUIET = ["callbacks.progress_bar=false", "pictures=false", "trainer.max_epochs=3", "task.warmup_epochs=0"]
TASKS = {
    "classification": [*TINY, "task.optimizer=sgd"],
    "autoencoding": ["experiment=digits_csc_autoencoder", "model.widths=[4]"],
}


def losses(*values, trivial=1.0):
    watch = Divergence()
    for value in values:
        watch.see(torch.tensor(float(value)), trivial)
    return watch


def test_an_epoch_of_hopeless_batches_is_divergence():
    assert losses(1.0, *[101.0] * 20).end_epoch()
    assert not losses(1.0, *[99.0] * 20).end_epoch()
    watch = losses(1.0)
    assert not watch.end_epoch()
    for _ in range(3):  # a short epoch, hopeless from the first batch on
        watch.see(torch.tensor(1e9), 1.0)
    assert watch.end_epoch()


def test_a_leap_that_comes_back_is_none():
    assert not losses(1.0, *[1e9] * 30, 2.0, *[1e9] * 19).end_epoch()


def test_the_scale_is_the_larger_of_the_first_loss_and_the_trivial_one():
    assert not losses(1e-6, *[50.0] * 30).end_epoch()  # a network that was good to begin with
    assert not losses(10.0, *[500.0] * 30).end_epoch()
    assert losses(10.0, *[1001.0] * 30).end_epoch()


def test_a_resumed_run_goes_on_counting():
    again = Divergence()
    again.load_state_dict(json.loads(json.dumps(losses(1.0, *[101.0] * 19).state_dict())))
    again.see(torch.tensor(101.0), 1.0)
    again.seen = 20
    assert again.end_epoch()
    fresh = Divergence()
    fresh.load_state_dict({})
    assert fresh.state_dict() == {}


@pytest.mark.parametrize("task", TASKS)
def test_every_task_notices(tmp_path, task):
    run = [*TASKS[task], *QUIET, "task.lr=1e6", f"run_dir={tmp_path / 'run'}"]
    with pytest.raises(FloatingPointError, match=r"the training (has diverged: epoch \d ended|loss is)"):
        cli.train(config(*run))
    numbers = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert numbers["collapsed"] == 1 and numbers["collapsed_at_batch"] >= 1
    assert "test/loss" not in numbers
