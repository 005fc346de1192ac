import copy

import lightning as L
import pytest
import torch

from csc_nets.data import create_datamodule
from csc_nets.models import create_model
from csc_nets.tasks import create_task
from csc_nets.tasks.lookahead import Lookahead


class Weights(L.pytorch.callbacks.Callback):
    """Keeps the weights after each step, before and after the pull."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, task, *args):
        self.seen.append(copy.deepcopy(list(task.parameters())))


def fit(tmp_path, epochs=2, resume=None, every=3):
    torch.manual_seed(0)
    task = create_task("classification", model=create_model("csc_small", in_chans=1, widths=[4]), lr=0.01)
    before, after, lookahead = Weights(), Weights(), Lookahead(every)
    checkpoint = L.pytorch.callbacks.ModelCheckpoint(
        tmp_path, filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True
    )
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(
        max_epochs=epochs, callbacks=[before, lookahead, after, checkpoint], num_sanity_val_steps=0, **quiet
    )
    trainer.fit(task, datamodule=create_datamodule("digits", batch_size=256), ckpt_path=resume, weights_only=False)
    return task, before.seen, after.seen


def test_weights_are_those_of_the_equation(tmp_path):
    task, before, after = fit(tmp_path)
    total = len(before)
    assert total == 8
    slow = before[0]
    for step, (fast, pulled) in enumerate(zip(before, after, strict=True), start=1):
        expected = fast
        if step > 1 and step % 3 == 0 and step < total:
            alpha = 0.95**3 * (step / total) ** 3
            slow = expected = [alpha * s + (1 - alpha) * w for s, w in zip(slow, fast, strict=True)]
        elif step == total:
            expected = slow
        for a, b in zip(pulled, expected, strict=True):
            torch.testing.assert_close(a, b)
    for a, b in zip(task.parameters(), slow, strict=True):
        torch.testing.assert_close(a, b)


def test_a_resumed_training_ends_with_the_same_weights(tmp_path):
    whole, *_ = fit(tmp_path / "whole")
    resumed, *_ = fit(tmp_path / "resumed", resume=tmp_path / "whole" / "epoch=0.ckpt")
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("every", [0, 2.5])
def test_a_bad_number_is_refused(every):
    with pytest.raises(ValueError, match=r"callbacks\.lookahead must be a whole number of steps >= 1"):
        Lookahead(every)
