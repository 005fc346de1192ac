import warnings

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from csc_nets.data import TensorDataModule


class Recorder(LightningModule):
    """Trains one number and keeps what it is fed."""

    def __init__(self, stop_at=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen, self.stop_at = {}, stop_at

    def training_step(self, batch, batch_idx):
        if (self.current_epoch, batch_idx) == self.stop_at:
            raise InterruptedError
        self.seen[self.current_epoch, batch_idx] = batch
        return (self.weight - batch[0].mean()) ** 2

    def validation_step(self, batch, batch_idx):
        self.seen["val", batch_idx] = batch

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def toy(**options):
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (30, 3, 8, 8), dtype=torch.uint8, generator=generator)
    y = torch.arange(30) % 3
    settings = {"val_fraction": 0.2, "batch_size": 5, "crop_padding": 2, "flip": True, "cutout": 3, "mean": [0.5] * 3}
    return TensorDataModule(x, y, **settings | options)


def fit(folder, model, ckpt=None, epochs=3, **options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    saver = ModelCheckpoint(
        folder, save_top_k=-1, filename="{epoch}-{step}", every_n_train_steps=options.pop("every", None)
    )
    trainer = Trainer(max_epochs=epochs, callbacks=[saver], default_root_dir=folder, **quiet, **options)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*not resumable.*")
        warnings.filterwarnings("error", message=".*shuffling.*")
        trainer.fit(model, datamodule=toy(), ckpt_path=ckpt)
    return model.seen


def same(first, second):
    return first.keys() == second.keys() and all(
        torch.equal(a, b) for key in first for a, b in zip(first[key], second[key], strict=True)
    )


@pytest.mark.parametrize("every", [None, 3])
def test_a_run_killed_and_resumed_sees_the_batches_of_an_uninterrupted_run(tmp_path, every):
    whole = fit(tmp_path / "whole", Recorder(), every=every)
    assert {key for key in whole if key[0] != "val"} == {(epoch, batch) for epoch in range(3) for batch in range(4)}
    assert not torch.equal(whole[0, 0][0], whole[1, 0][0])
    killed = Recorder(stop_at=(2, 1) if every is None else (1, 3))
    with pytest.raises(InterruptedError):
        fit(tmp_path / "killed", killed, every=every)
    last = max((tmp_path / "killed").glob("*.ckpt"), key=lambda path: int(path.stem.rpartition("=")[2]))
    resumed = fit(tmp_path / "resumed", Recorder(), ckpt=last, every=every)
    after = [key for key in whole if key[0] != "val" and key[0] * 4 + key[1] >= int(last.stem.rpartition("=")[2])]
    assert len(after) in (4, 6)
    assert same({key: resumed[key] for key in resumed if key[0] != "val"}, {key: whole[key] for key in after})


def test_overfitting_trains_on_the_same_images_every_epoch(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = Recorder()
        options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
        Trainer(max_epochs=2, overfit_batches=1, enable_checkpointing=False, **options).fit(model, datamodule=toy())
    assert torch.equal(model.seen[0, 0][1], model.seen[1, 0][1])


def test_validation_is_neither_shuffled_nor_augmented_nor_cut():
    data = toy()
    data.setup("validate")
    first, second = list(data.val_dataloader()), list(data.val_dataloader())
    stored = data.split("val")
    assert sum(len(labels) for _, labels in first) == 6
    torch.testing.assert_close(torch.cat([x for x, _ in first]), stored.images / 255 - 0.5)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, second, strict=True))


def test_denormalize_undoes_the_normalisation():
    data = toy(mean=[0.2, 0.3, 0.4], std=[0.5, 0.6, 0.7])
    images, _ = next(iter(data.val_dataloader()))
    torch.testing.assert_close(data.denormalize(images), data.split("val").images / 255)
    torch.testing.assert_close(data.denormalize(images[0]), data.split("val").images[0] / 255)
    assert data.denormalize(images * 100).min() == 0 and data.denormalize(images * 100).max() == 1


def test_channels_last_and_types():
    images, labels = next(iter(toy(channels_last=True).train_dataloader()))
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert images.dtype == torch.float32 and labels.dtype == torch.int64 and images.shape == (5, 3, 8, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number >= 1, got 0"),
        ({"eval_batch_size": 0}, "eval_batch_size must be a whole number >= 1, got 0"),
        ({"crop_padding": 9}, "crop_padding must be a whole number from 0 to 8, got 9"),
        ({"crop_padding": 8, "padding_mode": "reflect"}, "crop_padding must be a whole number from 0 to 7, got 8"),
        ({"padding_mode": "edge"}, "padding_mode must be one of zeros, reflect, got 'edge'"),
        ({"cutout": 9}, "cutout must be a whole number from 0 to 8, got 9"),
        ({"seed": -1}, "seed must be a whole number >= 0, got -1"),
        ({"std": [1, 0, 1]}, r"std must be numbers above 0, got \(1.0, 0.0, 1.0\)"),
        ({"mean": [0.5]}, r"mean must be one finite number for each of the 3 channels, got \(0.5,\)"),
        ({"mean": [float("nan"), 0, 0]}, "mean must be one finite number"),
        ({"batch_size": 2.5}, "batch_size must be a whole number >= 1, got 2.5"),
        ({"num_workers": -1}, "num_workers must be a whole number >= 0, got -1"),
        ({"device": "gpu"}, "device must be one of auto, cpu.*, got 'gpu'"),
    ],
)
def test_bad_options_are_refused_in_one_line(options, message):
    with pytest.raises(ValueError, match="TensorDataModule: " + message) as caught:
        toy(**options)
    assert "\n" not in str(caught.value)


def test_a_batch_larger_than_the_training_set_is_refused():
    with pytest.raises(ValueError, match=r"batch_size must be at most 24, .* got 25"):
        toy(batch_size=25).train_dataloader()
    assert len(toy(batch_size=25, drop_last=False).train_dataloader()) == 1


def test_training_images_are_those_of_the_first_batches_whatever_was_read_since():
    data = toy()
    expected = torch.cat([images for images, _ in data.train_dataloader()])
    list(data.train_dataloader())
    torch.testing.assert_close(data.training_images(12), expected[:12])
    assert len(data.training_images(1000)) == len(expected)


def test_a_wrong_flip_is_refused():
    with pytest.raises(ValueError, match="flip must be true, false or 'alternate', got 'sometimes'"):
        toy(flip="sometimes")
    assert toy(flip="alternate").augmentation["flip"] is True
