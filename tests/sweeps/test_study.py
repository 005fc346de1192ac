"""Studies of Optuna that outlive their processes."""

import json
import os
import sys
import time
from pathlib import Path

import pytest
import yaml
from program import call, forked

import csc_nets.cli as cli

optuna = pytest.importorskip("optuna", reason="optuna is not installed: pip install csc-nets[sweep]")
pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="hydra-optuna-sweeper is not installed")

from csc_nets.sweeps.study import open_storage  # noqa: E402

ROOT = Path(__file__).parents[2]
COMPLETE, FAIL = optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.FAIL


def score(config):
    return -((config["model"]["lam"] - 0.1) ** 2)


def result(config):
    """Numbers as those of a training."""
    numbers = {"val/best": score(config), "test/density": config["model"]["lam"] / 2, "training_seconds": 0.1}
    folder = Path(config["run_dir"])
    (folder / "metrics.json").write_text(json.dumps(numbers))
    return numbers


@pytest.fixture
def sweep(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "train", result)
    return lambda *arguments: call(monkeypatch, capsys, "train", "-m", *arguments, "run_dir=sweep")


def study(folder="sweep", name="sweep", storage=None):
    return optuna.load_study(study_name=name, storage=open_storage(storage, Path(folder)))


def in_the_background(folder, program, *arguments):
    def start():
        os.chdir(folder)
        cli.train = program
        sys.argv = ["train.py", "-m", *arguments, "run_dir=sweep"]
        cli.run(program, ROOT / "configs", "train")

    return forked(start)


def test_trials_are_those_of_the_study_over_all_sessions(sweep):
    assert sweep("sweep=optuna", "hydra.sweeper.n_trials=4") == (0, [])
    first = study()
    assert [t.state for t in first.trials] == [COMPLETE] * 4
    for trial in first.trials:
        assert set(trial.params) == {"model.lam", "model.steps", "task.lr"}
        assert trial.value == pytest.approx(-((trial.params["model.lam"] - 0.1) ** 2))
    assert sweep("sweep=optuna", "hydra.sweeper.n_trials=4") == (0, [])
    assert len(study().trials) == 4
    assert sweep("sweep=optuna", "hydra.sweeper.n_trials=12") == (0, [])
    trials = study().trials
    assert len(trials) == 12 and len(list(Path("sweep").glob("*/metrics.json"))) == 12
    best = yaml.safe_load(Path("sweep/optimization_results.yaml").read_text())
    assert best["best_value"] == max(trial.value for trial in trials)
    assert "model.lam" in Path("sweep/table.txt").read_text()


def test_several_objectives_have_a_front(sweep):
    assert sweep("sweep=pareto", "hydra.sweeper.n_trials=8", "hydra.sweeper.sampler.seed=0") == (0, [])
    found = study()
    assert [d.name for d in found.directions] == ["MAXIMIZE", "MINIMIZE"]
    for trial in found.trials:
        lam = trial.params["model.lam"]
        assert trial.values == pytest.approx([-((lam - 0.1) ** 2), lam / 2])
    for trial in found.best_trials:
        assert not any(o.values[0] > trial.values[0] and o.values[1] < trial.values[1] for o in found.trials)


def test_a_killed_study_goes_on_with_the_trial_that_ran(tmp_path, sweep):
    command = ["sweep=optuna", "hydra.sweeper.n_trials=4"]

    def stuck(config):
        if len(list(Path("sweep").glob("*/metrics.json"))) == 2:
            Path("stuck").touch()
            time.sleep(600)
        return result(config)

    process = in_the_background(tmp_path, stuck, *command)
    while not Path("stuck").exists():
        assert process.is_alive()
        time.sleep(0.01)
    process.kill()
    process.join()
    assert sweep(*command) == (0, [])
    trials = study().trials
    assert [t.state for t in trials] == [COMPLETE, COMPLETE, FAIL, COMPLETE, COMPLETE]
    assert trials[3].params == trials[2].params  # its run goes on in its folder
    assert len(list(Path("sweep").glob("*/job.json"))) == 4


def test_a_trial_that_fails_is_no_result_and_comes_again(sweep, monkeypatch):
    failed = []

    def program(config):
        if not failed:
            failed.append(config["run_dir"])
            raise ValueError("no room")
        return result(config)

    monkeypatch.setattr(cli, "train", program)
    status, errors = sweep("sweep=optuna", "hydra.sweeper.n_trials=3")
    assert status == 1 and errors[0] == f"error: no room (in {failed[0]}; the sweep goes on)"
    assert [t.state for t in study().trials] == [FAIL, COMPLETE, COMPLETE]
    assert sweep("sweep=optuna", "hydra.sweeper.n_trials=3") == (0, [])
    trials = study().trials
    assert [t.state for t in trials] == [FAIL, COMPLETE, COMPLETE, COMPLETE] and trials[3].params == trials[0].params


def test_processes_share_a_study(tmp_path, sweep):
    def slow(config):
        time.sleep(0.3)
        return result(config)

    command = ["sweep=optuna", "hydra.sweeper.n_trials=8", "hydra.sweeper.storage=study/shared.log"]
    workers = [in_the_background(tmp_path, slow, *command) for _ in range(2)]
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0]
    trials = study(storage="study/shared.log").trials
    assert 8 <= len(trials) <= 9 and all(t.state == COMPLETE for t in trials)
    assert {int(t.user_attrs["worker"].rpartition(":")[2]) for t in trials} == {worker.pid for worker in workers}
    assert len(list(Path("sweep").glob("*/metrics.json"))) == len({tuple(t.params.values()) for t in trials})


def test_a_study_in_a_database(sweep):
    storage = "sqlite:///study.db"
    assert sweep("sweep=optuna", "hydra.sweeper.n_trials=2", f"hydra.sweeper.storage='{storage}'") == (0, [])
    assert len(study(storage=storage).trials) == 2 and not Path("sweep/study.log").exists()


def test_a_typing_error_is_no_study(sweep):
    status, errors = sweep("sweep=optuna", "hydra.sweeper.n_trials=2", "+lr=0.1")
    assert status == 1 and errors[-1] == "error: unknown option lr, did you mean task.lr?"
