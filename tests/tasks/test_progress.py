import re
from types import SimpleNamespace

import pytest
import torch

from csc_nets.tasks.progress import LINES, RunProgress

BATCH = (torch.zeros(4, 1), torch.zeros(4))


def train(progress, epochs=30, batches=5, first=0):
    """What Lightning calls in a training."""
    loop = SimpleNamespace(total_batch_idx=first * batches - 1)
    best = SimpleNamespace(best_model_score=torch.tensor(0.75), monitor="val/acc")
    trainer = SimpleNamespace(
        fit_loop=loop,
        max_epochs=epochs,
        num_training_batches=batches,
        current_epoch=first,
        sanity_checking=False,
        checkpoint_callback=best,
        progress_bar_metrics={"loss": 0.5},
        loggers=[],
    )
    progress.on_train_start(trainer, None)
    for trainer.current_epoch in range(first, epochs):
        for i in range(batches):
            loop.total_batch_idx += 1
            progress.on_train_batch_end(trainer, None, None, BATCH, i)
        progress.on_train_epoch_end(trainer, None)
    progress.on_train_end(trainer, None)


@pytest.mark.parametrize("epochs", [1, 5, 30, 500])
def test_a_file_gets_a_few_lines(epochs, capsys):
    train(RunProgress(), epochs)
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert 1 <= len(lines) <= LINES and not err
    pattern = r"epoch \d+/\d+, \d\d:\d\d left, \d+ images/s, loss 0.5, best val/acc 0.75"
    assert all(re.fullmatch(pattern, line) for line in lines)
    assert lines[-1].startswith(f"epoch {epochs}/{epochs}, 00:00 left")


def test_a_terminal_gets_one_bar(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr("tqdm.std._screen_shape_wrapper", lambda: lambda stream: (80, 24))
    train(RunProgress(), epochs=3, first=1)
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1  # the rest is written over
    last = err.rstrip().split("\r")[-1]
    assert last.startswith("epoch 3/3 100%|") and "images/s, loss 0.5, best val/acc 0.75" in last
    assert 70 < len(last) <= 80


def test_other_processes_are_silent(capsys):
    progress = RunProgress()
    progress.disable()
    train(progress, epochs=2)
    assert capsys.readouterr() == ("", "")
