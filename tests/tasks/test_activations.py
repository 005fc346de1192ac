import lightning as L
import pytest
import torch

from csc_nets.data import TensorDataModule
from csc_nets.models import create_model
from csc_nets.tasks import create_task

QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}


@pytest.fixture
def data():
    g = torch.Generator().manual_seed(0)
    images, labels = torch.randn(48, 1, 8, 8, generator=g).cumsum(2).cumsum(3) / 8, torch.arange(48) % 3
    parts = {"val": (images, labels), "test": (images[:20], labels[:20])}
    options = {"class_names": list("abc"), "mean": (0.0,), "std": (1.0,), "name": "noise", "batch_size": 16}
    return TensorDataModule(images, labels, **parts, **options)


def task_of(**options):
    torch.manual_seed(0)
    source = {"source": "csc_nets/csc_small", "source_args": {"widths": [6, 8], "in_chans": 1}, "look_size": 8}
    model = create_model("coded_activations", num_classes=3, in_chans=1, atoms=24, k=4, layer="stages.0", **source)
    return create_task("activations", model, lr=3e-3, optimizer="adamw", **{"vectors": 128, **options})


def test_training_explains_more_and_leaves_the_source_alone(data, tmp_path):
    task = task_of()
    before = {k: v.clone() for k, v in task.model.state_dict().items() if ".sae." not in k}
    trainer = L.Trainer(max_epochs=40, default_root_dir=tmp_path, **QUIET)
    (first,) = trainer.validate(task, data, verbose=False)
    trainer.fit(task, data)
    (last,) = trainer.validate(task, data, verbose=False)
    assert last["val/explained"] > 0.9 > first["val/explained"] and last["val/atoms"] <= 4
    torch.testing.assert_close(last["val/explained"], 1 - last["val/unexplained"])
    assert abs(last["val/loss_patched"] - last["val/loss_plain"]) < 0.1
    assert 0 <= last["val/dead"] < 1
    for key, value in task.model.state_dict().items():
        if ".sae." not in key:
            assert torch.equal(value, before[key]), key


def test_numbers_of_a_test_run_are_those_of_their_definitions(data, tmp_path):
    task = task_of()
    trainer = L.Trainer(max_epochs=1, default_root_dir=tmp_path, **QUIET)
    trainer.fit(task, data)
    (found,) = trainer.test(task, data, verbose=False)
    model = task.model.eval()
    images, labels = (torch.cat(part) for part in zip(*data.test_dataloader(), strict=True))
    x = model.activations(images).movedim(1, 3).reshape(-1, 6)
    z = model.sae(x[:, :, None, None])
    back = model.sae.synthesize(z, (1, 1)).flatten(1)
    expected = 1 - (x - back).square().sum() / (x - x.mean(0)).square().sum()
    assert found["test/explained"] == pytest.approx(expected.item(), abs=0.01)  # there a mean over batches
    assert found["test/atoms"] == pytest.approx((z != 0).sum(1).float().mean().item(), rel=1e-3)
    assert found["test/dead"] == pytest.approx(((z != 0).sum((0, 2, 3)) == 0).float().mean().item(), abs=1e-6)
    assert found["test/acc_plain"] == pytest.approx((model.unpatched(images).argmax(1) == labels).float().mean().item())


def test_the_buffer_mixes_what_it_was_given():
    task = task_of(buffer=100, vectors=50)
    for value in (1.0, 2.0, 3.0):
        drawn = task.stream(torch.full((1, 6, 8, 8), value))
    assert len(task._buffer) == 100 and drawn.shape == (50, 6, 1, 1)
    counts = [(task._buffer[:, 0] == value).sum().item() for value in (1.0, 2.0, 3.0)]
    assert counts[2] == 64 and counts[1] > 0 and sum(counts) == 100


def test_what_is_no_coded_network_is_refused():
    with pytest.raises(ValueError, match="task activations needs a network with a sparse autoencoder"):
        create_task("activations", create_model("csc_small", widths=[4]))
    with pytest.raises(ValueError, match="vectors must be an int >= 1, got 0"):
        task_of(vectors=0)
