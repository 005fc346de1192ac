"""Checkpoints and a run folder that an earlier version of this package wrote.

The files in ``old_checkpoints`` come from trainings of two batches. ``expected.json`` holds what their networks gave
for a fixed input, and what evaluating and resuming the run gave, when they were written.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

import csc_nets
from csc_nets import cli
from csc_nets.checkpoint import read_checkpoint
from csc_nets.models import create_model

OLD = Path(__file__).parent / "old_checkpoints"
CONFIGS = Path(__file__).parents[1] / "configs"
EXPECTED = json.loads((OLD / "expected.json").read_text())
OUTPUTS = EXPECTED["outputs"]


def config(name, *overrides):
    """The tree of a program's configuration as plain values."""
    with initialize_config_dir(str(CONFIGS)):
        return cli.plain(compose(name, overrides=list(overrides)))


def signal(channels, size):
    """Two images whose values rise evenly from -1 to 1."""
    return torch.linspace(-1, 1, 2 * channels * size * size).view(2, channels, size, size)


@pytest.fixture
def run(tmp_path):
    """A copy of a run that stopped in the second of its two epochs."""
    return Path(shutil.copytree(OLD / "run", tmp_path / "run"))


def test_every_checkpoint_has_an_expected_output():
    assert {file.stem for file in OLD.glob("*.ckpt")} == set(OUTPUTS)


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_network_computes_what_it_did(name):
    model = csc_nets.load(OLD / f"{name}.ckpt")
    expected = OUTPUTS[name]
    assert model.in_chans == expected["channels"]
    with torch.no_grad():
        output = model(signal(expected["channels"], expected["size"])).flatten()[:16]
    torch.testing.assert_close(output, torch.tensor(expected["output"]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_network_can_be_trained_further_and_saved(name, tmp_path):
    """What is loaded takes a step of training in which all trained tensors have a gradient, and is saved again."""
    model = csc_nets.load(OLD / f"{name}.ckpt").train()
    model(signal(model.in_chans, 8)).square().mean().backward()
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), key
    torch.save(model.state_dict(), tmp_path / "state.pt")
    again = create_model(model.model_name, **model.model_args)
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))


@pytest.mark.parametrize("name", OUTPUTS)
def test_every_tensor_of_a_checkpoint_finds_its_place(name):
    """No tensor of the file is left over, and none of the network is filled with anything else.

    Bounds of norms that are too small for their atoms are computed afresh, from numbers that old files do not have.
    """

    def values(state):
        computed = ("lipschitz", "direction", "seen", "reference", "scan")
        return sorted(value.double().sum().item() for key, value in state.items() if not key.endswith(computed))

    saved = read_checkpoint(OLD / f"{name}.ckpt")["state_dict"]
    saved = {key: value for key, value in saved.items() if key.startswith("model.")}
    assert values(csc_nets.load(OLD / f"{name}.ckpt").state_dict()) == pytest.approx(values(saved))


def test_the_network_of_a_run_is_loaded(run):
    assert csc_nets.load(run).model_name == "csc_small"


def test_a_run_is_evaluated(run):
    results = cli.evaluate(config("evaluate", f"run={run}"))
    expected = EXPECTED["run"]["evaluated"]
    assert {key: results[key] for key in expected} == pytest.approx(expected, rel=1e-4)


def test_a_run_goes_on(run):
    """The second epoch is trained with the optimizer's state of the first, and ends with the same weights."""
    before = read_checkpoint(run / "checkpoints" / "last.ckpt")
    assert before["epoch"] == 0 and before["optimizer_states"][0]["state"]
    results = cli.train(config("train", f"resume={run}"))
    expected = EXPECTED["run"]
    assert {key: results[key] for key in expected["resumed"]} == pytest.approx(expected["resumed"], rel=1e-4)
    after = read_checkpoint(run / "checkpoints" / "last.ckpt")
    assert after["global_step"] == expected["steps"] > before["global_step"]
    weights = after["state_dict"]["model.fc.weight"].flatten()[:16]
    torch.testing.assert_close(weights, torch.tensor(expected["weights"]), rtol=1e-4, atol=1e-5)
