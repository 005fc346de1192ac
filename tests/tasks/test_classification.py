import copy

import lightning as L
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, one_hot
from torchvision.transforms import v2

from csc_nets.data import TensorDataModule
from csc_nets.models import create_model
from csc_nets.tasks import ClassificationTask, create_task, observe_codes

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def tiny(name="csc_small", **overrides):
    torch.manual_seed(0)
    return create_model(name, num_classes=3, in_chans=1, **overrides)


def test_test_numbers_agree_with_one_plain_pass():
    torch.manual_seed(0)
    x, y = torch.randn(21, 1, 8, 8), torch.arange(21) % 3
    data = TensorDataModule(x, y, test=(x, y), val_fraction=0.3, eval_batch_size=7)
    model = tiny(widths=[4, 6]).eval()
    with torch.no_grad(), observe_codes(model) as codes:
        logits = model(x)
    (got,) = L.Trainer(**QUIET).test(ClassificationTask(model), datamodule=data, verbose=False)
    assert got["test/acc"] == pytest.approx((logits.argmax(1) == y).float().mean().item())
    assert got["test/loss"] == pytest.approx(cross_entropy(logits, y).item(), rel=1e-5)
    assert got["test/density"] == pytest.approx(sum(c.density for c in codes).item() / 2, rel=1e-5)
    error = sum(c.reconstruction_error for c in codes).item() / 2
    assert got["test/reconstruction_error"] == pytest.approx(error, rel=1e-5)


def test_a_network_without_codes_has_no_code_numbers():
    x, y = torch.randn(6, 1, 16, 16), torch.arange(6) % 3
    data = TensorDataModule(x, y, test=(x, y), val_fraction=0.5)
    model = tiny("resnet18", widths=[4, 4, 4, 4])
    (got,) = L.Trainer(**QUIET).test(ClassificationTask(model), datamodule=data, verbose=False)
    assert set(got) == {"test/acc", "test/loss"}


class Constant(nn.Module):
    """Logits that do not depend on the image."""

    num_classes = 3

    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([2.0, 0.0, 0.0]))

    def forward(self, x):
        return self.logits.expand(len(x), 3)


def loss_of(task, y):
    task.log_training_loss = lambda loss: loss
    return task.training_step((torch.rand(len(y), 1, 8, 8), y), 0)


def test_label_smoothing_is_the_closed_form():
    y = torch.tensor([0, 1])
    target = 0.7 * one_hot(y, 3) + 0.3 / 3
    logits = torch.tensor([2.0, 0.0, 0.0]).log_softmax(0)
    expected = -(target * logits).sum(1).mean()
    torch.testing.assert_close(loss_of(ClassificationTask(Constant(), label_smoothing=0.3), y), expected)


@pytest.mark.parametrize(
    "options", [{"mixup_alpha": 1.0}, {"cutmix_alpha": 1.0}, {"mixup_alpha": 1, "cutmix_alpha": 1}]
)
def test_mixing_leaves_the_mean_loss_of_a_constant_output_alone(options):
    # Mixed labels have the same mean over the batch, and cross-entropy is linear in the label.
    y = torch.tensor([0, 1, 2, 0])
    plain = loss_of(ClassificationTask(Constant()), y)
    torch.testing.assert_close(loss_of(ClassificationTask(Constant(), **options), y), plain)


def test_mixing_changes_the_images():
    seen = []
    model = Constant()
    model.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    task = ClassificationTask(model, mixup_alpha=1.0)
    task.log_training_loss = lambda loss: loss
    torch.manual_seed(0)
    x = torch.rand(4, 1, 8, 8)
    task.training_step((x.clone(), torch.tensor([0, 1, 2, 0])), 0)
    share = ((seen[0] - x) / (x.roll(1, 0) - x)).flatten()
    torch.testing.assert_close(share, share[:1].expand_as(share), rtol=1e-2, atol=1e-2)
    assert 0 < share[0] < 1


def prior_network(**options):
    return tiny("sparse_prior_cnn", widths=[4, 6], kernel_size=3, stride=2, rate=0.3, steps=2, **options)


def gradients_of(model, y, prepare=lambda model: None, **weights):
    """Loss and gradients of one training step on fixed images."""
    torch.manual_seed(1)
    prepare(model)
    task = ClassificationTask(model, **weights)
    task.log = lambda *args, **kwargs: None
    loss = loss_of(task, y)
    loss.backward()
    return loss.detach(), {name: parameter.grad for name, parameter in model.named_parameters()}


def test_terms_of_the_priors_are_the_formula():
    y = torch.tensor([0, 1, 2, 0])
    torch.manual_seed(1)
    model, x = prior_network(), torch.rand(4, 1, 8, 8)
    first, second = model.stages
    with torch.no_grad():
        a = copy.deepcopy(first)(x)
        b = copy.deepcopy(second)(a)
        expected = cross_entropy(copy.deepcopy(model)(x), y)
        for layer, code in ((first, a), (second, b)):
            prior = sum(r * z - r.log() for r, z in zip(layer.rates, code.mean((0, 2, 3)), strict=True))
            gram = layer.atoms.flatten(1) @ layer.atoms.flatten(1).T
            expected += 0.02 * prior / 2 + 0.3 * (gram - torch.eye(len(gram))).square().sum() / 2
    task = ClassificationTask(model, prior_weight=0.02, orthogonality_weight=0.3)
    logged = {}
    task.log = lambda name, value, **kwargs: logged.update({name: value})
    task.log_training_loss = lambda loss: loss
    torch.testing.assert_close(task.training_step((x, y), 0).detach(), expected)
    assert set(logged) == {"train/negative_log_prior", "train/orthogonality"}


def test_without_weights_the_priors_change_nothing_and_with_them_gradients_reach_the_rates():
    y = torch.tensor([0, 1, 2, 0])
    plain, gradients = gradients_of(prior_network(), y)
    same, equal = gradients_of(prior_network(), y, prior_weight=0.0, orthogonality_weight=0.0)
    assert torch.equal(plain, same) and all(torch.equal(gradients[name], equal[name]) for name in gradients)
    _, pulled = gradients_of(prior_network(), y, prior_weight=0.1)
    _, turned = gradients_of(prior_network(), y, orthogonality_weight=0.1)
    for name in gradients:
        atoms, rates = "weight" in name and "stages" in name, "lam" in name
        assert torch.equal(pulled[name], gradients[name]) == (not atoms and not rates), name
        assert torch.equal(turned[name], gradients[name]) == (not atoms), name


def test_the_prior_sees_the_codes_of_compiled_and_of_checkpointed_networks():
    torch.compiler.reset()
    y, weights = torch.tensor([0, 1, 2, 0]), {"prior_weight": 0.1, "orthogonality_weight": 0.1}
    kinds = (lambda m: None, lambda m: m.compile(backend="eager"), lambda m: m.set_grad_checkpointing())

    def first_without_hooks(model, prepare):
        prepare(model)
        model(torch.rand(4, 1, 8, 8))

    (loss, gradients), *others = (
        gradients_of(prior_network(), y, lambda m, kind=kind: first_without_hooks(m, kind), **weights) for kind in kinds
    )
    for other, theirs in others:
        torch.testing.assert_close(other, loss)
        for name in gradients:
            torch.testing.assert_close(theirs[name], gradients[name], msg=name)


def test_a_run_logs_the_terms_of_the_priors():
    data = TensorDataModule(torch.randn(12, 1, 8, 8), torch.arange(12) % 3, val_fraction=0.5, batch_size=3)
    task = ClassificationTask(prior_network(), prior_weight=1e-3, orthogonality_weight=1e-3, lr=1e-3)
    trainer = L.Trainer(max_epochs=1, **QUIET)
    trainer.fit(task, datamodule=data)
    assert {"train/negative_log_prior", "train/orthogonality", "train/loss"} <= set(trainer.logged_metrics)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_smoothing": 1.0}, r"label_smoothing must be in \[0, 1\), got 1.0"),
        ({"mixup_alpha": -0.1}, "mixup_alpha must be >= 0, got -0.1"),
        ({"cutmix_alpha": float("nan")}, "cutmix_alpha must be >= 0, got nan"),
        ({"prior_weight": -0.1}, "prior_weight must be a finite number >= 0, got -0.1"),
        ({"orthogonality_weight": float("nan")}, "orthogonality_weight must be a finite number >= 0, got nan"),
        ({"prior_weight": 0.1}, "prior_weight needs a network with SparsePriorConv2d layers, got Constant"),
        ({"orthogonality_weight": 0.1}, "orthogonality_weight needs a network with SparsePriorConv2d layers"),
    ],
)
def test_bad_values_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ClassificationTask(Constant(), **options)


def test_an_autoencoder_and_an_unknown_task_are_refused():
    with pytest.raises(ValueError, match="needs a classifier, got CSCAutoencoder"):
        ClassificationTask(create_model("csc_autoencoder", in_chans=1, widths=[4]))
    with pytest.raises(ValueError, match="unknown task 'x'; known: activations, autoencoding, classification"):
        create_task("x", Constant())


def test_views_of_test_images_are_averaged():
    """Against torchvision's own mirror image and shift; validation looks once."""
    x, y = torch.randn(12, 1, 8, 8), torch.arange(12) % 3
    data, model = TensorDataModule(x, y, test=(x, y), val_fraction=0.5), tiny(widths=[4, 6]).eval()

    def moved(by):
        whole = v2.functional.pad(x, [1], padding_mode="reflect")
        return v2.functional.affine(whole, 0, [by, by], 1.0, [0.0])[..., 1:-1, 1:-1]

    with torch.no_grad():
        still, *shifted = [model(v) + model(v2.functional.horizontal_flip(v)) for v in (x, moved(-1), moved(1))]
    for views, logits in {2: still / 2, 6: still / 4 + sum(shifted) / 8}.items():
        (got,) = L.Trainer(**QUIET).test(ClassificationTask(model, test_views=views), datamodule=data, verbose=False)
        assert got["test/loss"] == pytest.approx(cross_entropy(logits, y).item(), rel=1e-5)
        (val,) = L.Trainer(**QUIET).validate(ClassificationTask(model, test_views=views), data, verbose=False)
        (once,) = L.Trainer(**QUIET).validate(ClassificationTask(model), data, verbose=False)
        assert val["val/loss"] == once["val/loss"]
    with pytest.raises(ValueError, match="test_views must be 1, 2 or 6, got 3"):
        ClassificationTask(model, test_views=3)
