import lightning as L
import pytest
import torch

from csc_nets.data import TensorDataModule
from csc_nets.models import SparseAutoencoder, create_model
from csc_nets.tasks import create_task


@pytest.fixture
def data():
    """Noise that is smooth along both axes; validated on the training images."""
    images = torch.randn(48, 1, 8, 8, generator=torch.Generator().manual_seed(0)).cumsum(2).cumsum(3) / 8
    parts = {"val": (images, torch.zeros(48, dtype=torch.long)), "test": (images[:16], torch.zeros(16).long())}
    options = {"class_names": ["noise"], "mean": (0.0,), "std": (1.0,), "name": "noise", "batch_size": 16}
    return TensorDataModule(images, torch.zeros(48, dtype=torch.long), **parts, **options)


def task_of(**options):
    torch.manual_seed(0)
    model = SparseAutoencoder(1, sizes=[8, 4], frequencies=[8, 2], steps=12)
    return create_task("sparse_autoencoding", model=model, lr=1e-3, **options)


def test_training_lowers_the_objective_over_the_rates(data, tmp_path):
    task = task_of(lam=[1e-3, 0.3], revive_every=0)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(max_epochs=12, default_root_dir=tmp_path, accelerator="cpu", **quiet)
    (before,) = trainer.validate(task, data, verbose=False)
    trainer.fit(task, data)
    (after,) = trainer.validate(task, data, verbose=False)
    assert after["val/objective"] < before["val/objective"]
    for scale in task.model.dictionary.scales:
        torch.testing.assert_close(scale.weight.flatten(1).norm(dim=1), torch.ones(scale.out_channels))


def test_atoms_that_nothing_uses_become_patches_of_the_residual(data):
    task = task_of()
    images = torch.randn(4, 1, 8, 8)
    task._last = images
    task.used_0.fill_(1)
    task.used_0[3] = 0
    task.used_1.fill_(1)
    before = task.model.dictionary.scales[0].weight.clone()
    task.revive()
    after = task.model.dictionary.scales[0].weight
    best = images[images.flatten(1).norm(dim=1).argmax()]
    torch.testing.assert_close(after[3], best / best.norm())
    assert torch.equal(after[:3], before[:3]) and task.used_0.sum() == 0


def test_weights_lie_on_a_logarithmic_scale():
    found = task_of(lam=[0.01, 1.0]).weights(3, torch.tensor([0.0, 0.5, 1.0]))
    torch.testing.assert_close(found.flatten(), torch.tensor([0.01, 0.1, 1.0]))


def test_hidden_pixels_are_trained_and_tested(data, tmp_path):
    task = task_of(mask=0.25)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(max_epochs=1, default_root_dir=tmp_path, accelerator="cpu", **quiet)
    trainer.fit(task, data)
    (found,) = trainer.test(task, data, verbose=False)
    assert found["test/inpainting_psnr"] < found["test/psnr"]  # of pixels that the code has read
    assert found["test/interpolation_psnr"] > 0


@pytest.mark.parametrize("options", [{"mask": 1.0}, {"lam": [0.0, 1.0]}, {"lam": [1.0, 0.1]}, {"revive_every": -1}])
def test_bad_options(options):
    with pytest.raises(ValueError, match="must be"):
        task_of(**options)


def test_another_network():
    with pytest.raises(ValueError, match="needs a sparse autoencoder"):
        create_task("sparse_autoencoding", model=create_model("csc_autoencoder", widths=[4]))
