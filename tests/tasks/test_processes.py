"""Two processes of every task that really run, against one that is given their whole batches."""

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from processes import fit_data, of_two, save
from versions import SHARDS_ON_CPUS

from csc_nets.models import create_model
from csc_nets.tasks import create_task
from csc_nets.tasks.sharding import FullySharded

SMALL = {"widths": [4, 6], "kernel_size": 3, "stride": [1, 2]}
TASKS = {
    "classification": ("ml_csc_mnist", {"widths": [4, 6, 8], "kernel_size": 3, "stride": [1, 2, 2], "steps": 2}, {}),
    "classification, coded": ("sparse_prior_cnn", SMALL, {}),
    "classification, batch norms": ("csc_small", {"widths": [4, 6], "steps": 2}, {"warmup_epochs": 0.5}),
    "classification, adversarial": (
        "csc_small",
        {"widths": [4, 6], "steps": 2},
        {"adversarial_eps": 0.3, "adversarial_steps": 2, "adversarial_norm": "l2"},
    ),
    "classification, fsdp2": ("csc_small", {"widths": [4, 6], "steps": 2}, {"warmup_epochs": 0.5}),
    "classification, fsdp2, free atoms": (
        "ml_csc_mnist",
        {"widths": [4, 6, 8], "kernel_size": 3, "stride": [1, 2, 2], "steps": 2},
        {"optimizer": "adamw", "lr": 0.01},
    ),
    "autoencoding": ("csc_autoencoder", {"widths": [4], "steps": 2}, {}),
    "sparse_autoencoding": (
        "sparse_autoencoder",
        {"sizes": [4, 8], "frequencies": [4, 4], "steps": 5},
        {"revive_every": 2},
    ),
    "sparse_autoencoding, masked": (
        "sparse_autoencoder",
        {"sizes": [4, 8], "frequencies": [4, 4], "steps": 5},
        {"mask": 0.25, "mask_size": 2},
    ),
    "denoising": ("cdlnet", {"atoms": 6, "kernel_size": 5, "steps": 3}, {"lr": 0.005, "loss": "mc_sure"}),
    "denoising, hidden pixels": ("cdlnet", {"atoms": 6, "kernel_size": 5, "steps": 3}, {"lr": 0.005, "hidden": 0.5}),
    "dictionary_learning": ("csc_dictionary", {"widths": [5], "kernel_size": 5, "steps": 4}, {"reseed_every": 2}),
}
if not SHARDS_ON_CPUS:
    TASKS = {name: task for name, task in TASKS.items() if "fsdp2" not in name}


class Rates(Callback):
    """The learning rate of every step."""

    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer, task, batch, batch_idx):
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


def trained(name, processes):
    """All that six batches of twelve images and a validation leave, whatever the number of processes."""
    model_name, arguments, options = TASKS[name]
    torch.manual_seed(0)
    model = create_model(model_name, in_chans=1, **arguments)
    images, labels = torch.rand(72, 1, 16, 16), torch.arange(72) % 3
    before = {f"model.{key}": value.detach().double() for key, value in model.state_dict().items()}
    options = {"optimizer": "sgd", "lr": 0.05, **options}
    task, rates = create_task(name.split(",")[0], model, **options), Rates()
    strategy = "fsdp2" if "fsdp2" in name else "ddp"
    # These two validate with noise and rates of a batch: of the same batches, in which 25 images do not end.
    held = 24 if name.split(",")[0] in ("sparse_autoencoding", "denoising") else 25
    trainer = fit_data(task, images, labels, processes, strategy, held, callbacks=[rates])
    state = trainer.strategy.lightning_module_state_dict()
    # What follows the atoms to find their bound magnifies rounding; the bound does not.
    state = {key: value for key, value in state.items() if not key.endswith(("direction", "scan"))}
    trainable = [key for key, p in task.named_parameters() if p.requires_grad and key in state]
    moved = [key for key in trainable if not torch.equal(state[key], before[key])]
    assert not state or 2 * len(moved) > len(trainable) > 0
    logged = {key: value for key, value in trainer.callback_metrics.items() if "/" in key}
    return {"state": state, "logged": logged, "rates": rates.seen}


def test_two_processes_end_with_the_weights_of_one_that_sees_the_whole_batch(tmp_path):
    two = of_two(__file__, tmp_path)
    for name in TASKS:
        one, other = trained(name, processes=1), two[name]
        for key, value in one["state"].items():
            torch.testing.assert_close(other["state"].pop(key), value, rtol=1e-8, atol=1e-10, msg=f"{name}: {key}")
        for key, value in one["logged"].items():
            torch.testing.assert_close(other["logged"].pop(key), value, rtol=1e-6, atol=1e-7, msg=f"{name}: {key}")
        assert not other["state"] and not other["logged"]
        assert other["rates"] == one["rates"] and len(set(one["rates"])) > 1
        assert any(key.startswith("val/") for key in one["logged"])


def test_other_tasks_refuse_spread_weights():
    task = create_task("autoencoding", create_model("csc_autoencoder"))
    task._trainer = SimpleNamespace(strategy=FullySharded(), state=SimpleNamespace(fn="fit"))
    with pytest.raises(
        ValueError, match=r"AutoencodingTask runs on several devices with trainer.strategy=ddp, got fsdp2"
    ):
        task.configure_model()


if __name__ == "__main__":
    save({name: trained(name, processes=2) for name in TASKS})
