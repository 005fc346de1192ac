"""Two processes that really run, against one that is given their whole batches."""

import lightning as L
import pytest
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from processes import fit, of_two, save
from torch import nn

from csc_nets.models import create_model
from csc_nets.tasks import create_task

GAMES = {
    "multi": {"objective": "multi"},
    "parts": {"objective": "multi", "micro_batch": 4, "encoder_steps": 2},
    "binary": {"objective": "binary", "optimizer": "sgd", "lr": 1e-2},
}


def played(name, processes):
    """Weights and logged numbers of a game after four batches of twelve images, whatever the number of processes."""
    options = {"optimizer": "adamw", "lr": 1e-3, "momentum": 0.5, **GAMES[name]}
    torch.manual_seed(0)
    model = create_model("csc_ctrl_32", in_chans=1, widths=[4, 6], features=8, input_size=16)
    images, labels = 2 * torch.rand(48, 1, 16, 16) - 1, torch.arange(48) % 3
    with torch.no_grad():
        for _ in range(40):  # batch norms settle, and are constants from here on: they would see half a batch each
            model(images)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) or name == "parts":  # each pass of a part is a step of power iterations
            module.eval()
    game = create_task("transcription", model, **options)
    trainer = fit(game, images, labels, processes)
    logged = {key: value for key, value in trainer.callback_metrics.items() if key.startswith("train/")}
    # The buffers of power iterations are left out: they magnify rounding while two eigenvalues are close.
    return {"weights": {name: p.detach() for name, p in game.model.named_parameters()}, "logged": logged}


def test_two_processes_end_with_the_weights_of_one_that_sees_the_whole_batch(tmp_path):
    two = of_two(__file__, tmp_path)
    for name in GAMES:
        one = played(name, processes=1)
        torch.testing.assert_close(two[name]["weights"], one["weights"], rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(two[name]["logged"], one["logged"], rtol=1e-6, atol=1e-7)
        assert len(one["logged"]) >= 6


def test_other_strategies_are_refused(monkeypatch):
    game = create_task("transcription", create_model("csc_ctrl_32"))
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    monkeypatch.setattr(type(game), "processes", 2)
    game._trainer = trainer
    assert isinstance(trainer.strategy, SingleDeviceStrategy)
    with pytest.raises(ValueError, match=r"several devices with trainer\.strategy=ddp, got SingleDeviceStrategy"):
        game.configure_optimizers()


if __name__ == "__main__":
    save({name: played(name, processes=2) for name in GAMES})
