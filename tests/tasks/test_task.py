import lightning as L
import pytest
import torch
from torch import nn

from csc_nets.data import TensorDataModule, create_datamodule
from csc_nets.models import create_model
from csc_nets.tasks import ClassificationTask

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}


def tiny_data(in_chans=1, value=None):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(40, in_chans, 8, 8, generator=generator)
    if value is not None:
        images.fill_(value)
    return TensorDataModule(images, torch.arange(40) % 2, val_fraction=0.2, batch_size=8)


def tiny_model(**overrides):
    torch.manual_seed(0)
    return create_model("csc_small", num_classes=2, in_chans=1, widths=[4, 4], **overrides)


class Recorder(L.Callback):
    """Records what torch draws in each epoch, and the learning rate of each step."""

    def __init__(self):
        self.draws, self.rates = [], []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if batch_idx == 0:
            self.draws.append(torch.rand(()).item())
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def fit(task, data, epochs=2, **options):
    recorder = Recorder()
    L.Trainer(max_epochs=epochs, callbacks=[recorder], **QUIET, **options).fit(task, datamodule=data)
    return recorder


def test_random_numbers_follow_from_seed_and_epoch_alone():
    first = fit(ClassificationTask(tiny_model(), lr=0.01), tiny_data()).draws
    torch.rand(123)
    again = fit(ClassificationTask(tiny_model(), lr=0.01), tiny_data()).draws
    other = fit(ClassificationTask(tiny_model(), lr=0.01, seed=1), tiny_data()).draws
    assert first == again
    assert len({*first, *other}) == 4


def test_warm_up_and_milestones_are_counted_in_epochs():
    task = ClassificationTask(tiny_model(), lr=1.0, schedule="step", milestones=[2], warmup_epochs=0.5)
    rates = fit(task, tiny_data(), epochs=3).rates
    assert rates == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 1, 0.1, 0.1, 0.1, 0.1])


def test_a_loss_that_is_not_finite_stops_the_run_and_says_where():
    task = ClassificationTask(tiny_model(), lr=0.01)
    task.model.fc.weight.data.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=r"the training loss is nan at step 0 \(epoch 0, .*try a smaller"):
        fit(task, tiny_data())


def test_wrong_channels_are_reported_by_the_network():
    with pytest.raises(ValueError, match=r"csc_small: expected images \(N, 1, H, W\), got \(8, 3, 8, 8\)"):
        fit(ClassificationTask(tiny_model()), tiny_data(in_chans=3))


def test_the_checkpoint_names_the_network():
    task, checkpoint = ClassificationTask(tiny_model(lam=0.2)), {}
    task.on_save_checkpoint(checkpoint)
    args = {"widths": [4, 4], "lam": 0.2, "num_classes": 2, "in_chans": 1}
    assert checkpoint["hyper_parameters"] == {"model_name": "csc_small", "model_args": args}


def test_channels_last_changes_the_order_of_the_weights_and_not_the_output():
    x = torch.rand(2, 1, 8, 8)
    task = ClassificationTask(tiny_model(), channels_last=True)
    four_axes = [p for p in task.model.parameters() if p.ndim == 4 and p.shape[1] > 1]
    assert four_axes and all(p.is_contiguous(memory_format=torch.channels_last) for p in four_axes)
    torch.testing.assert_close(task.eval()(x), tiny_model().eval()(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warmup_epochs": -1}, "warmup_epochs must be >= 0, got -1"),
        ({"lr": 0.1, "min_lr": 0.2}, r"min_lr must be in \[0, lr = 0.1\], got 0.2"),
        ({"schedule": "square"}, "schedule must be"),
        ({"optimizer": "lion"}, "optimizer must be"),
    ],
)
def test_bad_values_are_refused_before_training(options, message):
    model = nn.Linear(2, 2)
    model.num_classes = 2
    with pytest.raises(ValueError, match=message):
        ClassificationTask(model, **options)


def test_a_network_that_starts_from_images_is_shown_some_once(tmp_path):
    data = create_datamodule("digits", batch_size=256)
    expected = create_model("fastnet", in_chans=1, widths=[4])
    expected.fit_images(data.training_images(1000))

    def fit(epochs, **options):
        task = ClassificationTask(create_model("fastnet", in_chans=1, widths=[4]))
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        checkpoint = L.pytorch.callbacks.ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
        L.Trainer(max_epochs=epochs, callbacks=checkpoint, default_root_dir=tmp_path, **quiet).fit(
            task, datamodule=create_datamodule("digits", batch_size=256), **options
        )
        return task.model.stages[0][1].weight

    torch.testing.assert_close(fit(1), expected.stages[0][1].weight)
    state = torch.load(tmp_path / "epoch=0.ckpt", weights_only=False)
    state["state_dict"]["model.stages.0.1.weight"].fill_(0.5)
    torch.save(state, tmp_path / "changed.ckpt")
    resumed = fit(2, ckpt_path=tmp_path / "changed.ckpt", weights_only=False)
    assert (resumed == 0.5).all()
