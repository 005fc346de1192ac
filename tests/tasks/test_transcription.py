import lightning as L
import pytest
import torch
from torch import nn

from csc_nets.functional import coding_rate, ctrl_binary, ctrl_multi, rate_distance, rate_reduction
from csc_nets.models import create_model
from csc_nets.tasks import create_task


def loop(name="csc_ctrl_32", **overrides):
    torch.manual_seed(0)
    return create_model(name, **{"in_chans": 1, "widths": [4, 6], "features": 8, "input_size": 16, **overrides})


def task(model=None, **options):
    options = {"optimizer": "adamw", "lr": 1e-3, "momentum": 0.5, "schedule": "linear", **options}
    return create_task("transcription", model or loop(), **options)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    return 2 * torch.rand(12, 1, 16, 16, generator=generator) - 1, torch.arange(12) % 3


def settled(name="csc_ctrl_32"):
    """A network in float64 with batch norms as constants that fit the data: every pass sees the same."""
    model = loop(name).double()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for _ in range(60):
            model(2 * torch.rand(12, 1, 16, 16, generator=generator, dtype=torch.float64) - 1)
    return model.eval()


def gradients(model, parameters):
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters]


def played(model, batch, player, **options):
    """Gradients of all parameters after one turn of a player."""
    game = task(model, **options)
    game.manual_backward = lambda loss: loss.backward()
    model.zero_grad()
    values = game.play(*batch, player)
    return gradients(model, model.parameters()), values


@pytest.mark.parametrize(("weight", "players"), [(0.0, "both"), (2.0, "both"), (2.0, "decoder")])
@pytest.mark.parametrize("objective", ["binary", "multi"])
@pytest.mark.parametrize("name", ["csc_ctrl_32", "conv_ctrl_32"])
def test_each_player_has_the_gradient_of_the_game(name, objective, weight, players, batch):
    x, labels = batch
    model = settled(name)
    x = x.double()

    def rate(z, z_hat):
        return ctrl_binary(z, z_hat) if objective == "binary" else ctrl_multi(z, z_hat, labels)

    def apart(z, z_hat):
        return sum(rate_distance(a[None], b[None]) for a, b in zip(z, z_hat, strict=True)) / len(z)

    z = model.encode(x)
    z_hat = model.encode(model.decode(z).detach())
    value = rate(z, z_hat)
    expected = torch.autograd.grad(
        (weight if players == "both" else 0.0) * apart(z, z_hat) - value, model.parameters(), allow_unused=True
    )
    options = {"objective": objective, "sample_weight": weight, "sample_players": players}
    found, (ours, theirs, seen) = played(model, (x, labels), "encoder", **options)
    for key, a, b in zip(dict(model.named_parameters()), found, expected, strict=True):
        torch.testing.assert_close(a, torch.zeros_like(a) if b is None else b, rtol=1e-8, atol=1e-10, msg=key)
    torch.testing.assert_close(seen["loss"], value, rtol=1e-10, atol=0)
    torch.testing.assert_close(ours, z)
    assert theirs.shape == z.shape and not ours.requires_grad

    z, z_hat = z.detach(), model.encode(model.decode(z.detach()))
    decoder = model.players()[1]
    expected = torch.autograd.grad(rate(z, z_hat) + weight * apart(z, z_hat), decoder)
    _, (_, _, seen) = played(model, (x, labels), "decoder", **options)
    assert ("sample" in seen) == bool(weight)
    for a, b in zip(gradients(model, decoder), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("micro_batch", [None, 5])
def test_a_step_on_the_rate_reduction_sees_the_images_alone(micro_batch, batch):
    x, labels = batch[0].double(), batch[1]
    model = settled()
    value = rate_reduction(model.encode(x), labels)
    expected = torch.autograd.grad(-value, model.parameters(), allow_unused=True)
    found, (_, _, terms) = played(model, (x, labels), "reduction", objective="multi", micro_batch=micro_batch)
    torch.testing.assert_close(terms["loss"], value.detach(), rtol=1e-10, atol=0)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, torch.zeros_like(a) if b is None else b, rtol=1e-8, atol=1e-10)


def test_steps_on_the_rate_reduction_come_before_those_of_the_game(batch, monkeypatch):
    game, turns = task(objective="multi", reduction_steps=2), []
    play = game.play
    monkeypatch.setattr(
        game, "play", lambda images, labels, player: turns.append(player) or play(images, labels, player)
    )
    trainer = fit(game, batch)
    assert turns == ["reduction", "reduction", "encoder", "decoder"] * 2 and trainer.global_step == 8


@pytest.mark.parametrize("player", ["encoder", "decoder"])
@pytest.mark.parametrize("size", [5, 4, 6])
def test_parts_of_a_batch_have_the_gradient_of_the_whole(player, size, batch):
    model = settled()
    batch = batch[0].double(), batch[1]
    whole, _ = played(model, batch, player)
    parts, _ = played(model, batch, player, micro_batch=size)
    for a, b in zip(parts, whole, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)
    assert all(a.abs().max() > 1e-3 for a in whole if a.any())


def fit(game, batch, **options):
    options = {"max_epochs": 1, "logger": False, "enable_checkpointing": False, "enable_progress_bar": False, **options}
    trainer = L.Trainer(accelerator="cpu", enable_model_summary=False, **options)
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*batch), batch_size=6)
    trainer.fit(game, data)
    return trainer


def test_a_batch_is_so_many_steps_of_the_encoder_and_one_of_the_decoder(batch):
    game = task(encoder_steps=3)
    trainer = fit(game, batch)
    assert trainer.global_step == 2 * (3 + 1)
    encoder, decoder = trainer.optimizers
    steps = [{int(s["step"]) for s in optimizer.state.values()} for optimizer in (encoder, decoder)]
    assert steps == [{6}, {2}]
    owners = [{id(p) for group in o.param_groups for p in group["params"]} for o in (encoder, decoder)]
    assert owners == [{id(p) for p in side} for side in game.model.players()]
    assert encoder.param_groups[0]["betas"] == (0.5, 0.999)
    assert encoder.param_groups[0]["lr"] == pytest.approx(0)  # linear decay, all batches taken
    assert all(p.requires_grad for p in game.model.parameters())
    logged = trainer.logged_metrics
    names = {"loss", "rate", "rate_hat", "distance", "dimension", "dimension_hat"}
    assert {f"train/{name}" for name in names} == {key for key in logged if key.startswith("train/")}
    assert 1 <= logged["train/dimension"] <= 8
    torch.testing.assert_close(logged["train/loss"], logged["train/distance"])


def test_with_labels_the_terms_that_are_logged_add_up(batch):
    logged = fit(task(objective="multi"), batch).logged_metrics
    terms = [logged[f"train/{name}"] for name in ("reduction", "reduction_hat", "distance")]
    torch.testing.assert_close(logged["train/loss"], sum(terms))


def test_steps_of_two_players_are_not_counted_as_one(batch):
    with pytest.raises(ValueError, match=r"needs trainer\.max_epochs, got trainer\.max_steps=4"):
        fit(task(), batch, max_steps=4)


@pytest.mark.parametrize("name", ["csc_ctrl_32", "conv_ctrl_32"])
def test_what_the_game_calls_is_compiled(name, batch, monkeypatch):
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, *args, **kwargs: compiled.append(self))
    game = task(loop(name))
    game.compile_model()
    called = []
    for module in compiled:
        module.register_forward_hook(lambda module, args, output: called.append(module))
    game.model.decode(game.model.encode(batch[0]))
    assert {id(m) for m in called} == {id(m) for m in compiled}
    owned = {id(p) for module in compiled for p in module.parameters()}
    assert owned == {id(p) for p in game.model.parameters()}


def test_the_players_pull_apart(batch):
    """Steps of the encoder alone raise the rate distance, steps of the decoder alone lower it."""
    x, labels = batch
    for player, better in (("encoder", 1), ("decoder", -1)):
        model = loop().train()
        game = task(model)
        game.manual_backward = lambda loss: loss.backward()
        side = model.players()[0 if player == "encoder" else 1]
        optimizer = torch.optim.Adam(side, lr=3e-3)
        values = []
        for _ in range(20):
            optimizer.zero_grad()
            values.append(game.play(x, labels, player)[2]["loss"].item())
            optimizer.step()
        assert better * (values[-1] - values[0]) > 0.05 * abs(values[0])


@torch.no_grad()
def broken(how):
    model = loop()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    if how == "the same features":
        for norm in norms:  # the last stage sees the same whatever the image
            norm.weight.zero_(), norm.bias.fill_(1)
    elif how == "features of zero":
        model.set_lam(1e3)
    else:
        last = model.decoder.norms[-1]  # the images have no more to do with the features
        last.weight.zero_(), last.bias.fill_(1)
    return model


@pytest.mark.parametrize(
    "how, message",
    [
        ("the same features", "features of all images have been next to the same .1 directions"),
        ("features of zero", "features of all images have been next to the same .0 directions"),
        ("the same image", "features of all transcriptions have been next to the same .1 directions"),
    ],
)
def test_a_collapsed_game_stops(how, message, batch):
    game = task(broken(how), collapse_steps=2, lr=1e-9)
    with pytest.raises(FloatingPointError, match=f"the game has collapsed: for 2 batches the {message}"):
        fit(game, batch)
    assert game.collapsed == 2 and "collapsed" in game.state_dict()
    fit(task(broken(how), collapse_steps=3, lr=1e-9), batch)  # two batches are not three


def test_features_that_are_not_finite_stop_the_game(batch):
    model = loop()
    nn.init.constant_(model.stages[0][0].dictionary.parametrizations.weight.original, torch.nan)
    with pytest.raises(
        FloatingPointError, match=r"features are not finite at step 0 \(epoch 0\): try a smaller task.lr"
    ):
        fit(task(model), batch)


def test_players_that_agree_have_not_collapsed(batch):
    """T is 0 where the decoder gives back what it was given."""
    game = task()
    game._transcribe = lambda x, player: (z := game.model.encode(x), z)
    game.manual_backward = lambda loss: None
    _, _, terms = game.play(*batch, "encoder")
    assert terms["loss"].abs() < 1e-5 and terms["dimension"] > 1.5
    game._guard(terms)
    assert game.collapsed == 0


def test_validation_and_test_are_those_of_an_autoencoder(batch):
    game = task(mean=(0.5,), std=(0.5,))
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*batch), batch_size=6)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    (found,) = trainer.test(game, data, verbose=False)
    assert {"test/psnr", "test/ssim", "test/alignment", "test/density"} <= set(found)
    assert -1 <= found["test/alignment"] <= 1
    (seen,) = trainer.validate(game, data, verbose=False)
    assert seen["val/alignment"] == found["test/alignment"]
    for name in ("loss", "psnr", "ssim"):
        assert seen[f"val/{name}"] == pytest.approx(found[f"test/{name}"])


def test_rates_are_exact_in_bfloat16(batch):
    x, labels = batch
    model = loop()
    game = task(model)
    game.manual_backward = lambda loss: loss.backward()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z, z_hat, terms = game.play(x, labels, "encoder")
    assert z.dtype == terms["loss"].dtype == terms["dimension"].dtype == torch.float32
    torch.testing.assert_close(terms["loss"], ctrl_binary(z, z_hat), rtol=1e-6, atol=1e-6)
    assert coding_rate(z) > 0 and all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    "options, message",
    [
        ({"objective": "ternary"}, "objective must be 'binary' or 'multi', got 'ternary'"),
        ({"eps": 0}, "eps must be a finite number > 0, got 0"),
        ({"encoder_steps": 0}, "encoder_steps must be an int >= 1, got 0"),
        ({"reduction_steps": -1}, "reduction_steps must be an int >= 0, got -1"),
        ({"reduction_steps": 1}, "reduction_steps=1 needs objective='multi', got 'binary'"),
        ({"micro_batch": 1}, "micro_batch must be None or an int >= 2, for batch norms, got 1"),
        ({"collapse_steps": 0}, "collapse_steps must be an int >= 1, got 0"),
        ({"collapse_dimension": -1}, "collapse_dimension must be a finite number >= 0, got -1"),
        ({"collapse_dimension": float("inf")}, "collapse_dimension must be a finite number >= 0, got inf"),
        ({"eps": True}, "eps must be a finite number > 0, got True"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        task(**options)
    with pytest.raises(ValueError, match="needs a closed loop, got CSCSmall"):
        task(create_model("csc_small"))


@pytest.mark.gpu
@pytest.mark.parametrize("player", ["reduction", "encoder", "decoder"])
def test_the_game_on_a_gpu_is_that_on_a_cpu(player, batch):
    batch = batch[0].double(), batch[1]
    here, (_, _, terms) = played(settled(), batch, player, objective="multi")
    there, (_, _, seen) = played(settled().cuda(), tuple(part.cuda() for part in batch), player, objective="multi")
    torch.testing.assert_close({name: term.cpu() for name, term in seen.items()}, terms, rtol=1e-8, atol=1e-10)
    for a, b in zip(there, here, strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-6, atol=1e-8)
