import subprocess
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import lightning as L
import pytest
import torch
from torch import nn

from csc_nets.data import create_datamodule
from csc_nets.models import create_model
from csc_nets.tasks import create_task
from csc_nets.tasks.training_pictures import TrainingPictures

CONFIGS = Path(__file__).parents[2] / "configs"
LOOP = {"in_chans": 1, "widths": [4], "features": 8, "input_size": 8}
PICTURES = {f"{name}.png" for name in ("atoms", "codes", "reconstructions", "stages", "interpolations")}


class Dropping(nn.Module):
    """An autoencoder whose training draws random numbers, one part of which is in eval mode on purpose."""

    def __init__(self):
        super().__init__()
        self.encode = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.3))
        self.encode[1].eval()
        self.decode = nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, x):
        return self.decode(self.encode(x))


class RandomStates(L.Callback):
    """What the random numbers behind each epoch would be."""

    def __init__(self):
        self.states = []

    def on_train_epoch_end(self, trainer, pl_module):
        self.states.append(torch.get_rng_state())


def trained(name, model, callbacks, epochs=4, logger=False, precision="32-true"):
    torch.manual_seed(0)
    task = create_task(name, model(), optimizer="adamw", lr=1e-3)
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        limit_train_batches=2,
        limit_val_batches=1,
        callbacks=callbacks,
        logger=logger,
        precision=precision,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(task, datamodule=create_datamodule("digits", batch_size=50, mean=[0.5], std=[0.5]))
    return task


def test_pictures_come_every_so_many_epochs_and_show_what_the_network_then_does(tmp_path):
    trained("transcription", lambda: create_model("csc_ctrl_32", **LOOP), [TrainingPictures(tmp_path, 2)])
    assert {path.name for path in tmp_path.iterdir()} == {"epoch_0002", "epoch_0004"}
    first, last = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in sorted(tmp_path.iterdir()))
    assert set(first) == set(last) == PICTURES
    assert first["atoms.png"] != last["atoms.png"] and first["reconstructions.png"] != last["reconstructions.png"]


@pytest.mark.parametrize("name", ["transcription", "autoencoding"])
def test_training_is_the_same_with_and_without(name, tmp_path):
    def model():
        return create_model("csc_ctrl_32", **LOOP) if name == "transcription" else Dropping()

    without, behind = RandomStates(), RandomStates()
    plain = trained(name, model, [without])
    pictured = trained(name, model, [TrainingPictures(tmp_path, 1), behind])
    assert all(map(torch.equal, without.states, behind.states)) and len(behind.states) == 4
    torch.testing.assert_close(pictured.state_dict(), plain.state_dict(), rtol=0, atol=0)
    assert [m.training for m in pictured.model.modules()] == [m.training for m in plain.model.modules()]
    assert len(list(tmp_path.glob("epoch_*/reconstructions.png"))) == 4


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(L.Trainer, "is_global_zero", False)
    trained("transcription", lambda: create_model("csc_ctrl_32", **LOOP), [TrainingPictures(tmp_path, 1)], epochs=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed")
def test_weights_and_biases_gets_the_same_images(tmp_path):
    folders = [f"model.widths={LOOP['widths']}", "model.features=8", f"run_dir={tmp_path / 'run'}"]
    short = ["trainer.max_epochs=1", "callbacks.progress_bar=false", "pictures=false", "test=false"]
    program = f"""
import sys
from csc_nets import cli
from pathlib import Path
sys.argv = ["train.py", "experiment=digits_csc_ctrl", "logger=wandb", "logger.offline=true",
            "callbacks.pictures_every=1", *{folders + short}]
cli.run(cli.train, Path({str(CONFIGS)!r}), "train")
"""
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=300, cwd=tmp_path)
    sent = {path.name.rsplit("_", 2)[0] for path in (tmp_path / "run").glob("wandb/offline-run-*/files/media/**/*.png")}
    assert sent == {name.removesuffix(".png") for name in PICTURES}


def test_compiled_networks_and_other_precisions_have_pictures(tmp_path):
    def compiled():
        model = create_model("csc_ctrl_32", **LOOP)
        model.compile(backend="eager")
        return model

    trained("transcription", compiled, [TrainingPictures(tmp_path / "compiled", 1)], epochs=1)
    plain = partial(create_model, "csc_ctrl_32", **LOOP)
    trained("transcription", plain, [TrainingPictures(tmp_path / "double", 1)], epochs=1, precision="64-true")
    for folder in ("compiled", "double"):
        assert {path.name for path in (tmp_path / folder / "epoch_0001").iterdir()} == PICTURES
