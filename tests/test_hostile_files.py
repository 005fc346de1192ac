"""Checkpoints and run folders that somebody made to do harm: one line that names the file and the reason.

Each is written as an attacker would. Nothing may be executed, no address and no other file opened, and no more memory
taken than the file has bytes.
"""

import builtins
import io
import pickle
import resource
import shutil
import socket
import struct
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from program import config, evaluate, resume

import csc_nets
from csc_nets import cli
from csc_nets.checkpoint import load
from csc_nets.evaluation.encoding import read_codes
from csc_nets.models import create_model
from csc_nets.reading import read_torch_file
from csc_nets.tasks import checkpoint_io
from csc_nets.tasks.run_folder import RunFolder

OLD = Path(__file__).parent / "old_checkpoints"


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """A connection or a download is a failure."""

    def reached_out(*args, **kwargs):
        raise AssertionError(f"reached out: {args}")

    monkeypatch.setattr(socket.socket, "connect", reached_out)
    monkeypatch.setattr(socket, "getaddrinfo", reached_out)
    monkeypatch.setattr(torch.hub, "download_url_to_file", reached_out)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", reached_out)


@pytest.fixture
def opened(monkeypatch):
    """Names of all files that are opened."""
    names = []

    def watch(real):
        return lambda file, *args, **options: (names.append(str(file)), real(file, *args, **options))[1]

    for owner in (builtins, io):
        monkeypatch.setattr(owner, "open", watch(owner.open))
    return names


@pytest.fixture
def little_memory():
    """What asks for more than 2 GB beside what this process has fails."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2 * 10**9, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def network():
    return create_model("csc_small", num_classes=3, in_chans=1, widths=[4, 8], lam=0.2)


def contents(model=None, **arguments):
    model = model or network()
    return {
        "state_dict": {f"model.{key}": value for key, value in model.state_dict().items()},
        "hyper_parameters": {"model_name": model.model_name, "model_args": {**model.model_args, **arguments}},
    }


def refused(file, reason, read=load):
    with pytest.raises(ValueError, match=reason) as error:
        read(file)
    assert "\n" not in str(error.value) and str(file) in str(error.value)


# Arguments of a network.


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"checkpoint_path": "http://203.0.113.1/weights.pt"}, "csc_small is not built from checkpoint_path"),
        ({"checkpoint_path": "/etc/passwd"}, "csc_small is not built from checkpoint_path"),
        ({"pretrained": True}, "csc_small is not built from pretrained=true"),
        ({"features_only": True, "out_indices": [0]}, "csc_small is not built from features_only=true"),
        ({"width": [4, 8]}, "not built from width=.*; did you mean widths?"),
        ({"widths": "48"}, r"widths must be a list of whole numbers such as \[48,96,128\], got '48'"),
        ({"lam": "0.2"}, "lam must be a number, got '0.2'"),
        ({"pursuit": {"name": "fista", "count": 10**12}}, "pursuit is 1000000000000, beyond all use"),
        ({"steps": 10**12}, "steps is 1000000000000, beyond all use"),
        ({"penalty": {"name": "os.system", "command": "true"}}, "cannot be built: .*penalty must be one of"),
    ],
)
def test_arguments_that_build_no_network(tmp_path, opened, arguments, reason):
    file = tmp_path / "last.ckpt"
    torch.save(contents(**arguments), file)
    opened.clear()
    refused(file, reason)
    assert not [name for name in opened if not name.endswith((".py", ".pyc")) and name != str(file)]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("csc_small", {"widths": [600_000, 600_000]}),
        ("csc_small", {"widths": [1000] * 5000}),
        ("csc_small", {"in_chans": 1_000_000, "widths": [100_000]}),
        ("csc_small", {"num_classes": 1_000_000}),
        ("resnet18", {"depths": [1_000_000, 1], "widths": [1, 1]}),
        ("dncnn", {"depth": 1_000_000}),
        ("cdlnet", {"kernel_size": 100_001}),
    ],
)
def test_sizes_are_those_of_the_weights(tmp_path, little_memory, name, arguments):
    """The first asks for 13 TB."""
    file = tmp_path / "last.ckpt"
    torch.save({"state_dict": {}, "hyper_parameters": {"model_name": name, "model_args": arguments}}, file)
    assert file.stat().st_size < 20_000
    refused(file, f"the weights in .* do not fit {name}")


def test_a_number_cannot_be_stretched_over_a_tensor(tmp_path, little_memory):
    """A stride of 0: the file holds one number, and the tensor has 10^11."""
    model = network()
    state = {f"model.{key}": torch.zeros(()).expand(value.shape) for key, value in model.state_dict().items()}
    state["model.stages.0.0.dictionary.parametrizations.weight.original"] = torch.zeros(1).expand(10**5, 10**6)
    torch.save({**contents(widths=[100_000, 8], in_chans=1000), "state_dict": state}, tmp_path / "last.ckpt")
    refused(tmp_path / "last.ckpt", "is larger than what the file holds of it")


# Archives and pickles.


def rewritten(source, target, change, **options):
    """A copy of an archive of ``torch.save`` with its parts changed."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", **options) as new:
        for part in old.infolist():
            new.writestr(part.filename, change(part.filename, old.read(part)))


def test_an_archive_that_unpacks_to_more_than_itself(tmp_path):
    torch.save({"x": torch.zeros(10**6)}, tmp_path / "plain.pt")
    rewritten(tmp_path / "plain.pt", tmp_path / "bomb.pt", lambda _, data: data, compression=zipfile.ZIP_DEFLATED)
    refused(tmp_path / "bomb.pt", "its parts are compressed")


def test_two_parts_of_one_name(tmp_path):
    torch.save(contents(), tmp_path / "plain.pt")
    shutil.copy(tmp_path / "plain.pt", tmp_path / "two.pt")
    with zipfile.ZipFile(tmp_path / "two.pt", "a") as archive:
        archive.writestr("plain/DATA.pkl", b"\x80\x02N.")
    refused(tmp_path / "two.pt", "two of its parts have one name")


def test_a_part_shorter_than_its_tensor(tmp_path):
    """Readers that believe the length read the memory of the process."""
    torch.save({"x": torch.zeros(4)}, tmp_path / "plain.pt")

    def longer(name, data):
        return data.replace(b"K\x04", b"J" + struct.pack("<i", 10**9)) if name.endswith("data.pkl") else data

    rewritten(tmp_path / "plain.pt", tmp_path / "short.pt", longer)
    refused(tmp_path / "short.pt", "cannot be read|is larger than")


class Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("function", "arguments"),
    [(exec, ("x = 1",)), (bytearray, (10**12,)), (torch.FloatTensor, (10**12,)), (torch.hub.load, ("a", "b"))],
)
def test_nothing_that_a_file_names_is_called(tmp_path, little_memory, function, arguments):
    """torch.load(weights_only=True) does call the second and the third."""
    torch.save({**contents(), "extra": Call(function, *arguments)}, tmp_path / "last.ckpt")
    refused(tmp_path / "last.ckpt", f"it would call .*{function.__name__}, and data are never code")


def test_the_old_format_is_refused(tmp_path, little_memory):
    """Its reader takes memory for the length that a tensor claims to have."""
    torch.save(contents(), tmp_path / "last.ckpt", _use_new_zipfile_serialization=False)
    refused(tmp_path / "last.ckpt", "it is no archive of torch.save")


def test_lists_of_lists_without_end(tmp_path):
    bomb = [0]
    for _ in range(40):
        bomb = [bomb, bomb]
    torch.save({**contents(), "extra": bomb}, tmp_path / "last.ckpt")
    refused(tmp_path / "last.ckpt", "it is nested without end")
    endless = []
    endless.append(endless)
    torch.save({**contents(), "extra": endless}, tmp_path / "last.ckpt")
    refused(tmp_path / "last.ckpt", "it is nested without end")


@pytest.mark.parametrize(
    "state",
    [
        {1: torch.zeros(1)},
        {"model.x": "text"},
        {"model.x": torch.zeros(2, 2).to_sparse()},
        {"model.x": torch.empty(10**12, device="meta")},
    ],
    ids=["number", "text", "sparse", "meta"],
)
def test_weights_are_named_plain_tensors(tmp_path, state):
    torch.save({**contents(), "state_dict": state}, tmp_path / "last.ckpt")
    refused(tmp_path / "last.ckpt", "is no checkpoint|damaged")


def test_names_of_several_lines_make_one_line(tmp_path):
    bad = {"model_name": "a\nb", "model_args": {"c\nd": 1}}
    torch.save({**contents(), "hyper_parameters": bad}, tmp_path / "last.ckpt")
    refused(tmp_path / "last.ckpt", "unknown model")


def test_shared_tensors_stay_shared_and_count_once(tmp_path):
    weight = torch.rand(1000)
    torch.save({"a": weight, "b": weight, "c": [weight[:500], weight[500:]]}, tmp_path / "x.pt")
    read = read_torch_file(tmp_path / "x.pt")
    assert read["a"] is read["b"] and torch.equal(torch.cat(read["c"]), weight)


def test_codes_of_images_are_read_alike(tmp_path):
    torch.save({"files": [], "code": Call(exec, "x = 1")}, tmp_path / "00000.pt")
    refused(tmp_path / "00000.pt", "it would call", read_codes)
    torch.save([1], tmp_path / "00000.pt")
    refused(tmp_path / "00000.pt", "no file of codes", read_codes)


# Weights that the user names.


def test_weights_from_an_address_have_a_name_of_their_own(tmp_path, monkeypatch):
    """torchvision would take a file of its own name out of the cache without a look at it."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    weights = network().state_dict()
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda url, file, **_: torch.save(weights, file))
    create_model(
        "csc_small",
        num_classes=3,
        in_chans=1,
        widths=[4, 8],
        checkpoint_path="https://example.org/resnet18-f37072fd.pth",
    )
    assert not list(tmp_path.rglob("*resnet18*")) and len(list(tmp_path.rglob("*.pt"))) == 1


def test_a_file_address_is_read_where_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    torch.save(Call(exec, "x = 1"), tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"w\.pt is not a file of weights: it would call"):
        create_model("csc_small", checkpoint_path=(tmp_path / "w.pt").as_uri())
    assert not (tmp_path / "hub").exists()


# Run folders.


@pytest.fixture
def run(tmp_path):
    return Path(shutil.copytree(OLD / "run", tmp_path / "run"))


def edit(run, **groups):
    file = run / "config.yaml"
    chosen = yaml.safe_load(file.read_text())
    for group, changes in groups.items():
        chosen[group] = {**chosen[group], **changes} if isinstance(changes, dict) else changes
    file.write_text(yaml.safe_dump(chosen))


@pytest.mark.parametrize("program", [evaluate, resume])
@pytest.mark.parametrize("address", ["http://203.0.113.1/weights.pt", "/etc/passwd"])
def test_a_run_folder_names_no_weights(run, opened, program, address):
    """Those of the run are in its checkpoints; a run that began from others goes on without them."""
    edit(run, model={"checkpoint_path": address, "pretrained": True})
    opened.clear()
    program(run)
    assert address not in opened


def test_a_run_folder_builds_no_other_network(run, little_memory):
    edit(run, model={"features_only": True})
    with pytest.raises(ValueError, match=r"config\.yaml: unknown option model\.features_only"):
        resume(run)
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("  features_only: true\n", ""))
    edit(run, model={"widths": [600_000, 600_000]})
    with pytest.raises(ValueError, match=r"is that of another network: its model\.widths is \[3\]"):
        resume(run)


def test_a_run_without_checkpoints_fits_into_memory(run, little_memory):
    shutil.rmtree(run / "checkpoints")
    edit(run, model={"widths": [1_000_000, 1_000_000]})
    with pytest.raises(
        ValueError, match=r"the network of config.yaml does not fit: .*this machine has memory for"
    ) as error:
        resume(run)
    assert str(run) in str(error.value)


def test_a_run_folder_fetches_no_data(run):
    edit(run, data={"name": "mnist", "root": str(run / "data"), "download": True, "crop_padding": 0})
    with pytest.raises(FileNotFoundError, match="mnist: files are missing"):
        resume(run)


def test_a_run_folder_does_not_decide_where_numbers_are_sent(run):
    edit(run, logger={"name": "wandb", "settings": {"base_url": "http://203.0.113.1"}})
    with pytest.raises(ValueError, match=r"config\.yaml names logger\.settings: .* where numbers are sent"):
        resume(run)


def test_a_configuration_is_text(run, monkeypatch):
    """Hydra's resolvers and targets stay as they are written."""
    monkeypatch.setenv("SECRET", "told")
    edit(run, name="${oc.env:SECRET}", callbacks={"progress_bar": "${oc.env:SECRET}"}, seed=0)
    read = RunFolder(run).config()
    assert (read["name"], read["callbacks"]["progress_bar"]) == ("${oc.env:SECRET}",) * 2


@pytest.mark.parametrize(
    ("group", "changes"),
    [
        ("model", {"_target_": "os.system", "command": "touch executed"}),
        ("data", {"_target_": "builtins.exec", "_args_": ["open('executed', 'w')"]}),
        ("task", {"_target_": "builtins.exec", "_args_": ["open('executed', 'w')"]}),
        ("trainer", {"profiler": {"_target_": "builtins.exec", "_args_": ["open('executed', 'w')"]}}),
        ("callbacks", {"extra": {"_target_": "builtins.exec", "_args_": ["open('executed', 'w')"]}}),
    ],
)
def test_a_target_is_no_option(run, monkeypatch, group, changes):
    monkeypatch.chdir(run.parent)
    edit(run, **{group: changes})
    with pytest.raises(ValueError, match=r"_target_|_args_|command|extra|profiler"):
        resume(run)
    assert not (run.parent / "executed").exists()


@pytest.mark.parametrize("program", [evaluate, resume])
def test_data_of_a_run_folder_are_named_options(run, program):
    edit(run, data={"_target_": "os.system"})
    with pytest.raises(ValueError, match=r"config\.yaml: unknown option data\._target_"):
        program(run)


def bomb():
    lines = ["a0: &a0 [0, 0, 0, 0, 0, 0, 0, 0, 0, 0]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("data: !!python/object/apply:os.system ['touch executed']", "could not determine a constructor"),
        ("data: !!python/name:os.system", "could not determine a constructor"),
        ("data: {}\nmodel: {}\ntask: {}\n" + bomb(), "nested without end"),
        ("a: &a {b: 1}\nc: {<<: [*a, *a]}\ndata: {}\nmodel: {}\ntask: {}", "it merges mappings"),
        ("[" * 5000, "nested|recursion|depth|expected"),
        ("data: {}\nmodel: {}\ntask: {}\nname: 2024-99-99", "must be in"),
        ("data: 1\nmodel: {}\ntask: {}", "data has no options"),
        ("- 1", "holds no options"),
    ],
)
def test_a_configuration_that_is_none(run, text, reason):
    (run / "config.yaml").write_text(text)
    refused(run / "config.yaml", reason, lambda _: RunFolder(run).config())


def test_a_checkpoint_names_no_other_file_to_delete(run):
    """The best checkpoint so far is deleted when a better one comes, with all that is in it."""
    folder = run / "checkpoints"
    for file in folder.glob("*.ckpt"):
        content = torch.load(file, weights_only=True)
        for name, state in content["callbacks"].items():
            if name.startswith("ModelCheckpoint") or "best_model_path" in state:
                score = torch.tensor(-1.0)
                paths = {"best_model_path": "/x/..", "kth_best_model_path": "/x/..", "last_model_path": ".."}
                state |= {**paths, "best_k_models": {"/x/..": score}, "best_model_score": score, "kth_value": score}
        torch.save(content, file)
    resume(run)
    assert (run / "config.yaml").is_file() and (folder / "best.ckpt").is_file()


def test_the_trainer_reads_checkpoints_as_plain_values(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    monkeypatch.chdir(tmp_path)
    torch.save({**contents(), "extra": Call(exec, "open('executed', 'w')")}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="it would call"):
        checkpoint_io.SafeCheckpointIO().load_checkpoint(tmp_path / "last.ckpt", weights_only=False)
    assert not (tmp_path / "executed").exists()


def test_a_report_reads_the_other_run_alike(run):
    from csc_nets.evaluation.generation import feature_space

    edit(run, logger={"name": "csv"}, model={"checkpoint_path": "http://203.0.113.1/w.pt"})
    feature_space(run)


def test_pickles_are_no_checkpoints(tmp_path):
    (tmp_path / "last.ckpt").write_bytes(pickle.dumps(contents()))
    refused(tmp_path / "last.ckpt", "no archive of torch.save")
    assert csc_nets.load is load and cli.plain(config())["model"]["name"] == "csc_small"
