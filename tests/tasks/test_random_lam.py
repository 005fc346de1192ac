"""``task.lam_range``: a sparsity weight of its own for each training image."""

import math
from contextlib import ExitStack

import lightning as L
import pytest
import torch

from csc_nets.data import TensorDataModule
from csc_nets.layers import CSC2d
from csc_nets.models import create_model
from csc_nets.tasks import ClassificationTask


def network(**overrides):
    torch.manual_seed(0)
    return create_model("csc_small", num_classes=3, in_chans=1, widths=[4, 6], **overrides)


def weights_of_training(task, images):
    """The weights that the coding layers are given, one tensor for each layer."""
    given = []
    with task.random_lam(images), ExitStack() as stack:
        for layer in coders(task.model):
            hook = layer.register_forward_pre_hook(
                lambda layer, args, kwargs: given.append(kwargs["lam"]), with_kwargs=True
            )
            stack.callback(hook.remove)
        task.model(images)
    return given


def coders(model):
    return [layer for layer in model.modules() if isinstance(layer, CSC2d)]


def test_each_image_has_one_weight_with_a_uniform_logarithm():
    task = ClassificationTask(network(), lam_range=[0.05, 1.5])
    first, second = weights_of_training(task, torch.randn(2000, 1, 8, 8))
    assert torch.equal(first, second) and first.shape == (2000, 1, 1, 1)
    place = (first.flatten() / 0.05).log() / math.log(30)
    assert place.min() >= 0 and place.max() <= 1
    assert (place.sort().values - torch.linspace(0, 1, 2000)).abs().max() < 0.05  # Kolmogorov's distance


def test_a_training_step_is_that_of_the_weights(monkeypatch):
    task = ClassificationTask(network(), lam_range=[0.2, 0.2])
    task.log_training_loss = lambda loss: loss
    x, y = torch.randn(4, 1, 8, 8), torch.arange(4) % 3
    loss = task.training_step((x, y), 0)
    plain = ClassificationTask(network(lam=0.2))
    plain.log_training_loss = lambda loss: loss
    torch.testing.assert_close(loss, plain.training_step((x, y), 0))


def test_validation_and_the_checkpoint_are_at_the_layers_own_weight():
    task = ClassificationTask(network(lam=0.1), lam_range=[0.3, 0.5])
    x, y = torch.randn(12, 1, 8, 8), torch.arange(12) % 3
    data = TensorDataModule(x, y, test=(x, y), val_fraction=0.5, batch_size=6)
    quiet = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(max_epochs=1, enable_model_summary=False, **quiet)
    trainer.fit(task, datamodule=data)
    (got,) = trainer.test(task, datamodule=data, verbose=False)
    task.model.eval()
    assert got["test/acc"] == pytest.approx((task.model(x).argmax(1) == y).float().mean().item())
    assert all(
        layer.lam == 0.1 and not layer._forward_pre_hooks for layer in task.model.modules() if hasattr(layer, "lam")
    )


def test_the_weights_depend_on_seed_and_epoch_alone():
    x = torch.randn(8, 1, 8, 8)

    def drawn(seed, epoch, before):
        task = ClassificationTask(network(), lam_range=[0.1, 1.0], seed=seed)
        task._shared = task._generator(seed, epoch, 0)
        torch.rand(before)  # other random numbers do not matter
        return weights_of_training(task, x)[0]

    assert torch.equal(drawn(0, 1, 0), drawn(0, 1, 7))
    assert not torch.equal(drawn(0, 1, 0), drawn(0, 2, 0)) and not torch.equal(drawn(0, 1, 0), drawn(1, 1, 0))


def test_wrong_ranges_are_refused():
    for wrong in ([0.1], [0.0, 1.0], [0.5, 0.1], [0.1, math.inf], [0.1, math.nan], [0.1, 0.2, 0.3], [True, 2.0]):
        with pytest.raises(ValueError, match="lam_range must be two numbers above 0, the smaller first, got"):
            ClassificationTask(network(), lam_range=wrong)
    with pytest.raises(ValueError, match="lam_range needs a network with coding layers, got InvertibleCNN"):
        ClassificationTask(create_model("invertible_cnn", num_classes=3, in_chans=1), lam_range=[0.1, 1.0])
    with pytest.raises(ValueError, match=r"stages\.0\.0 learns its own"):
        ClassificationTask(network(learn_lam=True), lam_range=[0.1, 1.0])
