"""The program that asks an accelerator everything: it stops in time, goes on, and hides no failure."""

import importlib
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PARTS = {
    "good": ["-c", "print('hello')"],
    "bad": ["-c", "print('why'); raise SystemExit(3)"],
    "long": ["-c", "import time; print('begun', flush=True); time.sleep(60)"],
    "never": ["-c", "print('too late')"],
}


@pytest.fixture
def accelerator(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("accelerator")


def test_it_stops_in_time_and_goes_on(accelerator, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(accelerator, "parts", lambda options: PARTS.items())
    monkeypatch.setattr(accelerator, "LEAST", 1)
    accelerator.main([str(tmp_path), "--minutes", "0.1"])
    said = capsys.readouterr().out
    assert "good ... ended" in said
    assert "bad ... FAILED (3)" in said
    assert "long ... stopped" in said
    assert said.endswith("left: long, never\n")
    assert "hello" in (tmp_path / "good.txt").read_text()
    assert "why" in (tmp_path / "bad.txt").read_text()
    assert "begun" in (tmp_path / "long.part").read_text()
    accelerator.main([str(tmp_path), "--only", "never"])  # what has ended is left alone
    assert capsys.readouterr().out.endswith("left: long\n")
    with pytest.raises(SystemExit):
        accelerator.main([str(tmp_path), "--only", "nothing"])
    assert "no part is called nothing; there are good, bad" in capsys.readouterr().err


def test_trainings_go_on_from_their_folder(accelerator, monkeypatch, tmp_path):
    monkeypatch.setattr(accelerator.sys, "executable", "echo")
    for words in (f"run_dir={tmp_path}/net", f"train.py resume={tmp_path}/net"):
        assert accelerator.run("net", ["train.py", "experiment=some"], tmp_path, 60)
        assert (tmp_path / "net.txt").read_text().splitlines()[-1].endswith(words)
        (tmp_path / "net").mkdir(exist_ok=True)
        (tmp_path / "net" / "config.yaml").touch()


def test_all_programs_are_there(accelerator, tmp_path):
    (tmp_path / "train").mkdir()
    options = accelerator.argparse.Namespace(
        device="cuda", quick=False, cifar10=tmp_path, mnist=tmp_path, public=tmp_path
    )
    found = dict(accelerator.parts(options))
    assert next(iter(found)) == "tests"
    for name, (program, *rest) in found.items():
        assert program == "-m" or (BENCHMARKS.parent / program).is_file(), name
        assert all(isinstance(word, str) for word in rest)
