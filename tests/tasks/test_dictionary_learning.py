import copy

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import SingleDeviceStrategy
from sklearn.decomposition import MiniBatchDictionaryLearning

from csc_nets.data import TensorDataModule
from csc_nets.functional import unit_norm
from csc_nets.models import create_model
from csc_nets.tasks import DictionaryLearningTask
from csc_nets.theory.sparse.matching import atom_match

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}
SINGLE = ("csc_dictionary", {"widths": [5], "kernel_size": 5, "steps": 10})
DOUBLE = ("ml_csc_dictionary", {"widths": [4, 6], "kernel_size": [5, 3], "stride": [2, 1], "nonzeros": 4, "steps": 10})


def model_of(name, arguments, in_chans=1):
    torch.manual_seed(0)
    return create_model(name, in_chans=in_chans, **arguments)


def data_of(images, **options):
    labels = torch.arange(len(images)) % 2
    options = {"val_fraction": 0.25, "batch_size": 8, "mean": [0.0], "std": [1.0], **options}
    return TensorDataModule(images, labels, test=(images, labels), **options)


def sparse_images(true, count, size, rate, noise=0.0):
    reach = true.shape[-1] - 1
    where = torch.rand(count, len(true), size + reach, size + reach) < rate
    z = where * torch.randn(where.shape).sign() * (0.5 + torch.rand(where.shape))
    x = torch.nn.functional.conv_transpose2d(z, true, padding=reach)
    return x + noise * torch.randn_like(x)


def fit(task, data, epochs=1, **options):
    trainer = L.Trainer(max_epochs=epochs, **{**QUIET, **options})
    trainer.fit(task, datamodule=data)
    return trainer


def test_a_known_dictionary_is_recovered():
    true = unit_norm(torch.randn(4, 1, 5, 5))
    images = sparse_images(true, 200, 16, 0.008)
    model = create_model("csc_dictionary", in_chans=1, widths=[4], kernel_size=7, padding=6, lam=0.5)
    task = DictionaryLearningTask(model, optimizer="adamw", lr=0.03, reseed_every=20, reseed_below=0.3)
    fit(task, data_of(images, val_fraction=0.04), epochs=8)
    match = atom_match(model.coder.atoms, true)
    assert match.share(0.99) == 1, match.correlation


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_as_good_as_scikit_learns_dictionary_of_patches(optimizer):
    # With a kernel as large as the image the code has one position, and the problem is that of patches.
    torch.manual_seed(0)
    true = unit_norm(torch.randn(10, 36))
    codes = torch.randn(400, 10) * (torch.rand(400, 10) < 0.3)
    x = codes @ true + 0.05 * torch.randn(400, 36)
    reference = MiniBatchDictionaryLearning(
        10, alpha=0.2, batch_size=40, max_iter=30, fit_algorithm="cd", transform_algorithm="lasso_cd",
        transform_alpha=0.2, random_state=0, tol=0, max_no_improvement=None,
    )  # fmt: skip
    theirs = torch.tensor(reference.fit(x.numpy()).components_, dtype=torch.float32)[:, None].view(10, 1, 6, 6)
    images = x.view(-1, 1, 6, 6)
    model = create_model("csc_dictionary", in_chans=1, widths=[10], kernel_size=6, padding=0, lam=0.2, steps=30)
    rate = {"adamw": 0.03, "sgd": 0.3}[optimizer]
    task = DictionaryLearningTask(model, optimizer=optimizer, lr=rate, momentum=0.9, reseed_every=10)
    data = TensorDataModule(images, torch.arange(400) % 2, batch_size=40, mean=[0.0], std=[1.0], val_fraction=0.01)
    fit(task, data, epochs=30, limit_val_batches=0)

    def value(atoms):
        twin = create_model("csc_dictionary", in_chans=1, widths=[10], kernel_size=6, padding=0, lam=0.2, steps=500)
        twin.dictionaries[0].weight = atoms
        twin.dictionaries[0].refresh()
        with torch.no_grad():
            return twin.eval().objective(images, twin.eval().encode(images)).mean().item()

    assert value(model.coder.atoms.detach()) < 1.02 * value(theirs)
    assert value(theirs) < 0.8 * value(unit_norm(torch.randn(10, 1, 6, 6)))


@pytest.mark.parametrize("kind", [SINGLE, DOUBLE], ids=["one", "two"])
def test_the_constraints_hold_after_every_step(kind):
    model = model_of(*kind)
    start = copy.deepcopy(model)

    class Check(L.Callback):
        def on_train_batch_end(self, *args):
            for i, dictionary in enumerate(model.dictionaries):
                raw = dictionary.get_parameter("parametrizations.weight.original")
                used = raw * (dictionary.weight != 0)
                torch.testing.assert_close(used.flatten(1).norm(dim=1), torch.ones(len(raw)))
                if i:
                    assert ((dictionary.weight != 0).flatten(1).sum(1) == 4).all()

    task = DictionaryLearningTask(model, lr=0.02, optimizer="adamw", reseed_every=2, sparsify=0)
    fit(task, data_of(torch.randn(40, 1, 14, 14)), callbacks=[Check()])
    for new, old in zip(model.dictionaries, start.dictionaries, strict=True):
        assert not torch.allclose(new.weight, old.weight, atol=1e-3)


def test_sparse_atoms_begin_dense_and_are_always_sparse_in_validation():
    model, counts, step_sizes = model_of(*DOUBLE), [], []

    def nonzeros():
        return (model.dictionaries[1].weight != 0).flatten(1).sum(1).unique().tolist()

    class Check(L.Callback):
        def on_train_batch_start(self, *args):
            counts.extend(nonzeros())

        def on_validation_batch_start(self, *args):
            assert nonzeros() == [4]
            bound = model.coder.dictionary.lipschitz.item()
            model.coder.dictionary.refresh()
            step_sizes.append(model.coder.dictionary.lipschitz.item() == bound)

    task = DictionaryLearningTask(model, lr=0.02, optimizer="adamw", sparsify=0.75)
    fit(task, data_of(torch.randn(40, 1, 14, 14), val_fraction=0.2), epochs=2, callbacks=[Check()])
    assert counts == [36, 25, 17, 12, 8, 6, 4, 4]  # 36 x 9 ** (-step / 6)
    assert step_sizes == [True, True]


@pytest.mark.parametrize("kind", [SINGLE, DOUBLE], ids=["one", "two"])
def test_training_lowers_the_objective_of_images_not_seen(kind):
    teacher = model_of(*kind)
    codes = teacher.encode(torch.zeros(64, 1, 14, 14))
    images = teacher.decode(3 * torch.randn(codes.shape) * (torch.rand(codes.shape) < 0.03), (14, 14)).detach()
    model = model_of(kind[0], {**kind[1], "lam": 0.5})
    for dictionary in model.dictionaries:
        dictionary.weight = torch.randn(dictionary.weight.shape)
    model.coder.dictionary.refresh()
    task, data = DictionaryLearningTask(model, lr=0.05, optimizer="adamw"), data_of(images)
    (before,) = L.Trainer(**QUIET).validate(task, datamodule=data, verbose=False)
    trainer = fit(task, data, epochs=10)
    assert {"train/loss", "train/density"} <= set(trainer.callback_metrics)
    (after,) = trainer.validate(task, datamodule=data, verbose=False)
    assert after["val/objective"] < 0.85 * before["val/objective"]
    assert {"val/psnr", "val/density"} <= set(after)
    (tested,) = trainer.test(task, datamodule=data, verbose=False)
    assert {"test/objective", "test/psnr", "test/density", "test/reconstruction_error"} <= set(tested)


def test_the_loss_is_the_objective_and_its_gradient_takes_codes_as_constants():
    model = model_of(*SINGLE)
    task, x = DictionaryLearningTask(model), torch.randn(3, 1, 12, 12)
    task.log = lambda *args, **kwargs: None
    task.log_training_loss = lambda loss: loss
    loss = task.training_step((x, None), 0)
    with torch.no_grad():
        z = model.eval().encode(x)
    torch.testing.assert_close(loss, model.coder.objective(x, z).mean())
    (gradient,) = torch.autograd.grad(loss, list(model.parameters()))
    atoms = model.coder.atoms.detach().requires_grad_()
    residual = x - torch.nn.functional.conv_transpose2d(z, atoms, padding=2)
    (plain,) = torch.autograd.grad(residual.square().sum() / 2 / 3, atoms)
    radial = (plain * atoms).flatten(1).sum(1).view(-1, 1, 1, 1) * atoms
    raw = model.dictionaries[0].get_parameter("parametrizations.weight.original")
    torch.testing.assert_close(gradient, (plain - radial) / raw.flatten(1).norm(dim=1).view(-1, 1, 1, 1))


def test_an_idle_atom_gets_a_new_start_in_the_first_half_only():
    # One atom is orthogonal to all images, whose columns are constant, so that it hardly moves by itself.
    columns = torch.randn(64, 1, 1, 12).expand(64, 1, 12, 12).contiguous()
    idle = torch.zeros(1, 5, 5)
    idle[0, :, 2] = torch.tensor([1.0, -4, 6, -4, 1])

    def distance(**options):
        model = model_of("csc_dictionary", {"widths": [4], "kernel_size": 5, "padding": 0, "lam": 0.05})
        weight = model.dictionaries[0].weight.detach().clone()
        weight[1] = idle
        model.dictionaries[0].weight = weight
        model.project()
        options = {"reseed_below": 0.5, **options}
        fit(DictionaryLearningTask(model, lr=1e-4, optimizer="sgd", **options), data_of(columns, val_fraction=0.1))
        return 1 - (model.coder.atoms[1] * unit_norm(idle[None])[0]).sum().abs().item()

    assert distance(reseed_every=0) < 1e-3
    assert distance(reseed_every=2) > 0.5
    assert distance(reseed_every=5, reseed_below=0.0) < 1e-3
    assert distance(reseed_every=5) < 1e-3  # of 7 steps the fifth is in the second half


@pytest.mark.parametrize(("optimizer", "names"), [("adamw", ["exp_avg", "exp_avg_sq"]), ("sgd", ["momentum_buffer"])])
def test_the_optimiser_forgets_atoms_that_get_a_new_start_and_moves_with_those_that_move(optimizer, names):
    model = model_of("csc_dictionary", {"widths": [5], "kernel_size": 5, "lam": 0.05})
    task = DictionaryLearningTask(model, lr=1e-3, optimizer=optimizer, reseed_every=0, reseed_similar=1.0)
    seen = {}

    class Look(L.Callback):
        def on_train_end(self, trainer, module):
            weight = model.dictionaries[0].get_parameter("parametrizations.weight.original")
            state = module.optimizers(use_pl_optimizer=False).state[weight]
            with torch.no_grad():
                weight[0] = 0
                weight[0, :, :3, :3] = torch.rand(3, 3) + 1  # whose place is one further
            before = {name: state[name].clone() for name in names}
            module.mass_0.copy_(torch.tensor([5.0, 0.0, 4.0, 3.0, 0.0]))
            module.reseed()
            seen.update({name: (before[name], state[name].clone()) for name in names})

    fit(task, data_of(torch.randn(40, 1, 12, 12)), callbacks=[Look()])
    assert set(seen) == set(names)
    for before, after in seen.values():
        assert not after[[1, 4]].any() and before[[1, 4]].any()
        assert torch.equal(after[0, :, 1:, 1:], before[0, :, :-1, :-1]) and not after[0, :, 0].any()
        kept = [i for i in (2, 3) if torch.equal(after[i], before[i]) or not torch.equal(after[i], before[i] * 0)]
        assert kept == [2, 3]


class Album(Logger):
    def __init__(self):
        super().__init__()
        self.images = []

    name = version = "album"

    def log_metrics(self, metrics, step=None):
        pass

    def log_hyperparams(self, *args, **kwargs):
        pass

    def log_image(self, key, images, step=None):
        self.images.append((key, images[0].shape, step))


@pytest.mark.parametrize(("kind", "names"), [(SINGLE, ["atoms"]), (DOUBLE, ["atoms", "atoms_2"])], ids=["one", "two"])
def test_a_logger_that_takes_images_gets_the_atoms_of_every_layer(kind, names):
    album = Album()
    fit(DictionaryLearningTask(model_of(*kind)), data_of(torch.randn(32, 1, 12, 12)), epochs=2, logger=album)
    assert [key for key, _, _ in album.images] == 2 * names
    assert all(shape[2] == 3 for _, shape, _ in album.images)
    assert album.images[-1][2] == 6


@pytest.mark.parametrize("kind", [SINGLE, DOUBLE], ids=["one", "two"])
def test_a_resumed_training_ends_as_if_nothing_had_happened(kind, tmp_path):
    # Sparse images leave atoms idle, so that reseeding is at work; the break is between two reseedings.
    images = sparse_images(unit_norm(torch.randn(3, 1, 5, 5)), 64, 12, 0.004)

    def start(model=None):
        torch.manual_seed(0)
        task = DictionaryLearningTask(
            model or model_of(*kind), lr=0.02, optimizer="adamw", reseed_every=4, reseed_below=0.5
        )
        return task, data_of(images)

    whole, data = start()
    fit(whole, data, epochs=4)
    half, data = start()

    class Stop(L.Callback):
        def on_train_epoch_end(self, trainer, module):
            trainer.should_stop = trainer.current_epoch == 0

    trainer = fit(half, data, epochs=4, callbacks=[Stop()])
    assert trainer.global_step == 6
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    other, data = start(model_of(*kind))
    L.Trainer(max_epochs=4, **QUIET).fit(other, datamodule=data, ckpt_path=tmp_path / "half.ckpt", weights_only=False)
    for (key, ours), theirs in zip(other.state_dict().items(), whole.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), key


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reseed_every": -1}, "reseed_every must be an int >= 0, got -1"),
        ({"reseed_below": 2}, r"reseed_below must be in \[0, 1\], got 2"),
        ({"reseed_similar": 0.0}, "reseed_similar must be greater than 0, got 0.0"),
        ({"sparsify": 1.5}, r"sparsify must be in \[0, 1\], got 1.5"),
    ],
)
def test_bad_values_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DictionaryLearningTask(model_of(*SINGLE), **options)


def test_other_networks_are_refused():
    with pytest.raises(ValueError, match="needs a dictionary model, got CSCAutoencoder"):
        DictionaryLearningTask(create_model("csc_autoencoder", widths=[4]))


def test_coefficients_of_all_processes_are_summed_once(monkeypatch):
    images = torch.rand(32, 1, 12, 12)

    def mass():
        torch.manual_seed(0)
        model = create_model("csc_dictionary", in_chans=1, widths=[4], kernel_size=5, lam=0.1, steps=5)
        task = DictionaryLearningTask(model, reseed_every=0)
        fit(task, data_of(images), limit_val_batches=0)
        return task.get_buffer("mass_0").clone()

    alone = mass()
    assert alone.sum() > 0
    monkeypatch.setattr(SingleDeviceStrategy, "reduce", lambda self, tensor, *args, **kwargs: 2 * tensor)
    torch.testing.assert_close(mass(), 2 * alone)
