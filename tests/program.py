"""Calls of train.py and evaluate.py in tests: as programs of their own, or in this process."""

import csv
import json
import os
import signal
import subprocess
import sys
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

import csc_nets.cli as cli

ROOT = Path(__file__).parents[1]
TINY = [
    "model.widths=[4,8]",
    "model.steps=2",
    "callbacks.progress_bar=false",
    "trainer.max_epochs=2",
    "pictures=false",
]


def start(name, *arguments, cwd, **environment):
    """A program in a process of its own."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, str(ROOT / name), *map(str, arguments)]
    return subprocess.Popen(command, cwd=cwd, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def end(process, status=0, timeout=180):
    """Its output and its errors, after its end with the expected status."""
    output, errors = process.communicate(timeout=timeout)
    assert process.returncode == status, (process.returncode, errors)
    return output, [line for line in errors.splitlines() if line.strip()]


def forked(function, *arguments, daemon=True):
    """A call in a process of its own that has everything imported; ``exitcode`` and ``kill`` are its.

    With ``daemon=False`` it may start processes, and whoever calls ends it.
    """
    if torch.cuda.is_available():
        pytest.skip("forks, which the threads of autograd for a GPU do not survive")

    def call() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore Ctrl-C
        function(*arguments)

    process = get_context("fork").Process(target=call, daemon=daemon)
    process.start()
    return process


def config(*overrides, name="train"):
    """The configuration of a command line, as plain values."""
    with initialize_config_dir(str(ROOT / "configs")):
        return cli.plain(compose(name, overrides=list(map(str, overrides))))


def train(*overrides):
    """A tiny training in this process."""
    return cli.train(config(*TINY, *overrides))


def resume(folder):
    """Goes on with a run in this process."""
    return cli.train(config(f"resume={folder}"))


def evaluate(folder, *overrides):
    """Tests a run in this process."""
    return cli.evaluate(config(f"run={folder}", *overrides, name="evaluate"))


def call(monkeypatch, capsys, name, *arguments):
    """A command line in this process: its exit status, and the lines on stderr."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
    status = 0
    try:
        cli.run(getattr(cli, name), ROOT / "configs", name)
    except SystemExit as stop:
        status = stop.code
    return status, [line for line in capsys.readouterr().err.splitlines() if line.strip()]


def numbers(folder, name="metrics"):
    return json.loads((Path(folder) / f"{name}.json").read_text())


def table(folder):
    with (Path(folder) / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def sweep_rows(folder):
    """The table of a sweep without its times."""
    with (Path(folder) / "table.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if "seconds" not in k and k != "front"} for row in csv.DictReader(file)]
