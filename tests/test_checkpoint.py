import pickle
import zipfile

import pytest
import torch

from csc_nets.checkpoint import load
from csc_nets.models import create_model


def network():
    torch.manual_seed(0)
    return create_model("csc_small", num_classes=3, in_chans=1, widths=[4, 8], lam=0.2)


def contents(model):
    return {
        "state_dict": {f"model.{key}": value for key, value in model.state_dict().items()},
        "hyper_parameters": {"model_name": model.model_name, "model_args": model.model_args},
        "optimizer_states": [{"state": {0: {"momentum_buffer": torch.zeros(3)}}}],
    }


@pytest.fixture
def file(tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(contents(network()), folder / "best.ckpt")
    return folder / "best.ckpt"


@pytest.mark.parametrize("from_folder", [True, False])
def test_a_network_comes_back_in_eval_mode_with_its_weights(file, from_folder):
    model = load(file.parents[1] if from_folder else str(file))
    assert not model.training
    assert (model.model_name, model.num_classes) == ("csc_small", 3)
    expected, got = network().state_dict(), model.state_dict()
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[key], expected[key]) for key in expected)
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(model(x), network().eval()(x))


def test_a_changed_sparsity_weight_comes_back(file):
    model = network()
    model.stages[0][0].lam = 0.7
    torch.save(contents(model), file)
    assert load(file).stages[0][0].lam == pytest.approx(0.7)


def test_the_last_checkpoint_stands_in_for_a_missing_best_one(file):
    file.rename(file.with_name("last.ckpt"))
    assert load(file.parents[1]).model_name == "csc_small"


def refused(file, kind, message):
    with pytest.raises(kind, match=message) as error:
        load(file)
    assert "\n" not in str(error.value)
    assert str(file) in str(error.value)


def test_missing_files_are_named(tmp_path):
    refused(tmp_path / "no.ckpt", FileNotFoundError, "there is no file")
    refused(tmp_path, FileNotFoundError, "holds no checkpoints/best.ckpt or checkpoints/last.ckpt")


def test_an_empty_file(file):
    file.write_bytes(b"")
    refused(file, ValueError, "is empty")


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_file_cut_short(file, share):
    data = file.read_bytes()
    file.write_bytes(data[: int(share * len(data))])
    refused(file, ValueError, "is damaged, or no checkpoint")


@pytest.mark.parametrize("data", [b"hello", b"\x80\x04K\x01.", b"PK\x03\x04" + bytes(100)])
def test_a_foreign_file(file, data):
    file.write_bytes(data)
    refused(file, ValueError, "is damaged, or no checkpoint|is no checkpoint")


class Trap:
    """Runs code when it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (exec, (f"open({str(self.target)!r}, 'w').close()",))


@pytest.mark.parametrize("inside_zip", [True, False])
def test_code_in_the_file_is_not_executed(file, tmp_path, inside_zip):
    target = tmp_path / "executed"
    if inside_zip:
        torch.save({**contents(network()), "extra": Trap(target)}, file)
        assert zipfile.is_zipfile(file)
    else:
        file.write_bytes(pickle.dumps(Trap(target)))
    refused(file, ValueError, "is damaged, or no checkpoint")
    assert not target.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hyper_parameters": {}}, "does not say which network it holds"),
        ({"hyper_parameters": {"model_name": "vgg", "model_args": {}}}, "cannot be built: .*unknown model 'vgg'"),
        ({"hyper_parameters": {"model_name": "csc_small", "model_args": {"x": 1}}}, "cannot be built: .*x"),
        ({"hyper_parameters": {"model_name": "csc_small", "model_args": {}}}, "do not fit csc_small"),
        ({"state_dict": {}}, "do not fit csc_small"),
        ({"state_dict": 3}, "is no checkpoint of train.py"),
    ],
)
def test_a_checkpoint_that_makes_no_sense(file, change, message):
    torch.save({**contents(network()), **change}, file)
    refused(file, ValueError, message)


def test_a_bare_state_dict_is_refused(file):
    torch.save(network().state_dict(), file)
    refused(file, ValueError, "is no checkpoint of train.py")
