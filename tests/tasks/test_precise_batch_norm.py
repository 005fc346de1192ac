import copy

import lightning as L
import pytest
import torch
from torch import nn

from csc_nets.data import create_datamodule
from csc_nets.models import create_model
from csc_nets.tasks import create_task
from csc_nets.tasks.precise_batch_norm import renew_statistics


@pytest.fixture
def model():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3)
    )


def test_evaluation_then_gives_what_the_batch_itself_gives(model):
    model[3].p = 0.0
    x = torch.randn(8, 1, 12, 12)
    renew_statistics(model, [x])
    torch.testing.assert_close(model.eval()(x), model.train()(x), rtol=2e-3, atol=2e-3)  # n or n - 1 in the variance


def test_statistics_are_averages_over_the_batches(model):
    batches = torch.randn(3, 8, 1, 12, 12).unbind()
    renew_statistics(model, batches)
    values = torch.stack([model[0](x).detach() for x in batches])
    torch.testing.assert_close(model[1].running_mean, values.mean((0, 1, 3, 4)))
    torch.testing.assert_close(model[1].running_var, values.var((1, 3, 4)).mean(0))


def test_nothing_else_changes():
    model = create_model("csc_small", widths=[4, 6], in_chans=1, drop_rate=0.5).train()
    model.stages[0][1].eval()  # a frozen norm
    model(torch.randn(4, 1, 8, 8))
    x = torch.randn(16, 1, 8, 8)
    before, random = copy.deepcopy(model.state_dict()), torch.random.get_rng_state()
    renew_statistics(model, [x])
    assert torch.equal(random, torch.random.get_rng_state())
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed and all(".running_" in key or ".num_batches" in key for key in changed)
    assert model.training and not model.stages[0][1].training and model.stages[1][1].momentum == 0.1


def trained(tmp_path, callbacks=(), **options):
    torch.manual_seed(0)
    data = create_datamodule("digits", batch_size=128)
    task = create_task("classification", model=create_model("csc_small", in_chans=1, widths=[8, 8]), lr=0.1, **options)
    checkpoint = L.pytorch.callbacks.ModelCheckpoint(tmp_path, save_on_train_epoch_end=True)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(max_epochs=2, callbacks=[*callbacks, checkpoint], num_sanity_val_steps=0, **quiet)
    trainer.fit(task, datamodule=data)
    return task, data, torch.load(checkpoint.best_model_path, weights_only=False)["state_dict"], trainer


@pytest.mark.parametrize("averaged", [False, True])
def test_a_checkpoint_holds_the_statistics_that_it_was_validated_with(tmp_path, averaged):
    from csc_nets.tasks.weight_averaging import AveragedWeights

    callbacks = [AveragedWeights(0.9)] if averaged else []
    task, data, state, trainer = trained(tmp_path, callbacks, precise_batch_norm=200)
    again = copy.deepcopy(task)
    again.load_state_dict(state)
    (scores,) = trainer.validate(again, datamodule=data, verbose=False)
    assert scores["val/loss"] == pytest.approx(trainer_loss(trainer), rel=1e-4)
    expected = copy.deepcopy(again.model)
    renew_statistics(expected, data.training_images(200).split(256))
    for key, value in expected.state_dict().items():
        torch.testing.assert_close(state[f"model.{key}"], value, msg=key)


def trainer_loss(trainer):
    return float(trainer.callback_metrics["val/loss"])


def test_training_is_the_same_with_and_without(tmp_path):
    (first, *_), (second, *_) = (trained(tmp_path / str(n), precise_batch_norm=n) for n in (0, 100))
    for (key, a), b in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b), key


def test_bad_numbers_and_other_data_are_refused():
    model = create_model("csc_small", widths=[4], in_chans=1)
    with pytest.raises(ValueError, match="precise_batch_norm must be a whole number of images >= 0, got -1"):
        create_task("classification", model=model, precise_batch_norm=-1)
    task = create_task("classification", model=model, precise_batch_norm=10)
    loader = torch.utils.data.DataLoader([(torch.zeros(1, 8, 8), 0)] * 4, batch_size=2)
    with pytest.raises(ValueError, match=r"task\.precise_batch_norm needs a data module of csc_nets\.data"):
        L.Trainer(max_epochs=1, logger=False, enable_checkpointing=False, num_sanity_val_steps=0).fit(
            task, loader, loader
        )
