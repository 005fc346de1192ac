"""What a sweep leaves where games collapse, and the table of its runs."""

import json
import os
import runpy
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

import csc_nets.cli as cli

ROOT = Path(__file__).parents[1]
GAME = [
    "experiment=digits_csc_ctrl",
    "model.widths=[4]",
    "model.features=8",
    "data.batch_size=100",
    "trainer.max_epochs=1",
    "callbacks.progress_bar=false",
    "pictures=false",
]
STRICT = ["+task.collapse_dimension=9", "+task.collapse_steps=3"]  # features of 8 dimensions have fewer directions


@pytest.fixture
def train(tmp_path, monkeypatch, capsys):
    """Runs ``train.py`` in ``tmp_path``: its exit status and what it prints on stderr."""

    def call(*arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        status = 0
        try:
            cli.run(cli.train, ROOT / "configs", "train")
        except SystemExit as stop:
            status = stop.code
        return status, [line for line in capsys.readouterr().err.splitlines() if line.strip()]

    return call


def numbers(folder):
    return json.loads((Path(folder) / "metrics.json").read_text())


def test_a_collapsed_game_leaves_a_number_and_one_line(train, tmp_path):
    status, lines = train(*GAME, *STRICT, "run_dir=run")
    assert status == 1 and len(lines) == 1, lines
    assert lines[0].startswith("error: the game has collapsed: for 3 batches")
    assert numbers("run") == {"collapsed": 1, "collapsed_at_batch": 3}


def test_a_run_that_is_resumed_after_a_collapse_and_finishes_has_not_collapsed(train, tmp_path):
    train(*GAME, *STRICT, "run_dir=run")
    assert numbers("run")["collapsed"] == 1
    file = tmp_path / "run" / "config.yaml"
    config = yaml.safe_load(file.read_text())
    config["task"]["collapse_dimension"] = 0
    file.write_text(yaml.safe_dump(config))
    assert train("resume=run")[0] == 0
    left = numbers("run")
    assert left["collapsed"] == 0 and left["collapsed_at_batch"] is None and "test/psnr" in left


def test_a_sweep_goes_on_after_a_collapse_and_the_table_counts_it(train, tmp_path):
    status, lines = train(
        "-m", *GAME, "+task.collapse_dimension=9,0", "+task.collapse_steps=3", "seed=0,1", "run_dir=runs"
    )
    assert status == 0
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 2 and all(line.endswith("; the sweep goes on)") for line in errors)
    left = [numbers(path.parent) for path in Path("runs").rglob("metrics.json")]
    assert sorted(run["collapsed"] for run in left) == [0, 0, 1, 1]

    program = [sys.executable, str(ROOT / "docs" / "table_of_runs.py"), "runs", "--key", "test/psnr"]
    table = subprocess.run(program, capture_output=True, text=True, check=True).stdout.splitlines()
    assert table[0].split() == ["test/psnr", "runs", "collapsed", "mean", "min", "max", "seconds"]
    assert "batch=100" in table[1]
    rows = sorted(row.split("ep.")[1].split() for row in table[1:])
    assert [row[:2] for row in rows] == [["2", "0"], ["2", "2"]] and len(rows[1]) == 2
    scores = [run["test/psnr"] for run in left if not run["collapsed"]]
    assert [float(cell) for cell in rows[0][2:5]] == pytest.approx(
        [sum(scores) / 2, min(scores), max(scores)], abs=1e-4
    )


@pytest.mark.parametrize("asked", ["0", "1"])
def test_processes_that_a_trainer_starts_have_errors_of_one_line_too(asked, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", asked)
    seen = []
    cli.run(lambda config: seen.append(os.environ["HYDRA_FULL_ERROR"]) or {}, ROOT / "configs", "train")
    assert seen == [asked]


def test_a_damaged_run_is_named_and_left_out_of_tables(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "docs")
    for name in ("table_of_runs", "curves_of_runs"):
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / "config.yaml").write_text("seed: 0")
        (tmp_path / "run" / "metrics.json").write_text('{"test/acc": 0.')
        (tmp_path / "run" / "metrics.csv").write_text("epoch,step,val/loss\n0,torn,0.5\n")
        out = ["--out", str(tmp_path / "x.png")] if name == "curves_of_runs" else []
        monkeypatch.setattr(sys, "argv", [name, str(tmp_path), *out])
        with suppress(SystemExit):
            runpy.run_path(str(ROOT / "docs" / f"{name}.py"), run_name="__main__")
        assert f"left out: {tmp_path / 'run' / 'metrics.'}" in capsys.readouterr().out
