import shutil

import pytest
import torch

from csc_nets.commands import doctor
from csc_nets.commands.doctor import examine, fit, main


def found(folder):
    return {finding.name: finding for finding in examine(folder)}


def test_this_installation_is_right(tmp_path, capsys):
    main(["--data", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert all(line.split()[0] in ("ok", "note") for line in lines)
    assert any(line.startswith(f"ok     torch          {torch.__version__}, torchvision ") for line in lines)


@pytest.mark.parametrize(
    ("torch_version", "vision", "message"),
    [
        ("2.14.1", "0.29.1", None),
        ("2.6.0+cpu", "0.21.0+cpu", None),
        ("2.14.1", "0.21.0", "torch 2.14.1 goes with torchvision 0.29, not 0.21.0"),
        ("2.6.0+cu124", "0.21.0+cpu", "torch is built for cu124, torchvision for cpu: install both from one index"),
    ],
)
def test_versions_that_fit(torch_version, vision, message):
    assert fit(torch_version, vision) == message


def test_libraries_of_two_indexes_are_wrong(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("torchvision.__version__", "0.12.0")
    assert found(tmp_path)["torch"].state == "wrong"
    with pytest.raises(SystemExit) as stop:
        main(["--data", str(tmp_path)])
    assert stop.value.code == 1 and "wrong  torch" in capsys.readouterr().out


def test_an_old_or_a_missing_library(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "requires", lambda name: ["numpy>=99", "no-such-library>=1", "wandb>=1; extra == 'x'"])
    findings = found(tmp_path)
    assert findings["numpy"].text.endswith("is too old: pip install 'numpy>=99'")
    assert findings["no-such-library"].text == "is not installed: pip install 'no-such-library>=1'"
    assert findings["wandb"].state in ("ok", "note")


def test_data_that_are_there(tmp_path):
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    (tmp_path / "train_32x32.mat").touch()
    findings = found(tmp_path)
    assert (findings["mnist"].state, findings["svhn"].state, findings["cifar10"].state) == ("ok", "ok", "note")


def test_a_gpu_that_torch_does_not_see(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/nvidia-smi" if name == "nvidia-smi" else which(name))
    assert found(tmp_path)["GPU"].text == "this machine has nvidia-smi, and torch is built without CUDA"


def test_a_check_that_fails_is_a_finding(tmp_path, monkeypatch):
    def broken():
        raise RuntimeError("no\nlibrary")

    monkeypatch.setattr(doctor, "_memory", broken)
    assert found(tmp_path)["memory"].text == "RuntimeError: no library"
