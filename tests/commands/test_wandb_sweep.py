import pytest
import yaml
from program import config

from csc_nets.commands.wandb_sweep import main, sweep_file


def test_lists_become_a_grid():
    found = sweep_file(["sweep=lam", "seed=0,1", "experiment=digits_csc_small"])
    assert found["method"] == "grid" and found["metric"] == {"name": "val/best", "goal": "maximize"}
    assert found["parameters"] == {
        "model.lam": {"values": [0.0, 0.02, 0.05, 0.1, 0.2, 0.5]},
        "seed": {"values": [0, 1]},
    }
    start = ["${env}", "${interpreter}", "-m", "csc_nets", "train", "logger=wandb"]
    assert found["command"] == [*start, "experiment=digits_csc_small", "${args_no_hyphens}"]


def test_intervals_and_ranges():
    options = ["task.lr=tag(log,interval(1e-4,1e-2))", "model.lam=interval(0.0,1.0)", "model.steps=range(1,4)"]
    options += ["seed=int(interval(0,9))", "data.batch_size=tag(log,int(interval(8,64)))"]
    found = sweep_file([*options, "task.weight_decay=0.1"], program="train.py")
    assert found["method"] == "bayes" and found["program"] == "train.py"
    assert found["parameters"] == {
        "task.lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2},
        "model.lam": {"distribution": "uniform", "min": 0.0, "max": 1.0},
        "model.steps": {"values": [1, 2, 3]},
        "seed": {"distribution": "int_uniform", "min": 0, "max": 9},
        "data.batch_size": {"distribution": "q_log_uniform_values", "min": 8, "max": 64, "q": 1},
    }
    assert found["command"] == [
        "${env}",
        "${interpreter}",
        "train.py",
        "logger=wandb",
        "task.weight_decay=0.1",
        "${args_no_hyphens}",
    ]


def test_what_an_agent_would_run_composes(capsys):
    main(["sweep=lam", "experiment=digits_csc_small", "model.widths=[4,8],[8]"])
    found = yaml.safe_load(capsys.readouterr().out)
    arguments = [f"{name}={values['values'][-1]}" for name, values in found["parameters"].items()]
    start = found["command"].index("train") + 1
    chosen = config(*found["command"][start:-1], *arguments)
    assert (chosen["model"]["lam"], chosen["model"]["widths"], chosen["logger"]["name"]) == (0.5, [8], "wandb")


def test_the_command_line_wins():
    assert list(sweep_file(["sweep=lam", "model.lam=0.1", "seed=0,1"])["parameters"]) == ["seed"]


@pytest.mark.parametrize(
    ("overrides", "method", "message"),
    [
        (["seed=1"], None, "nothing varies"),
        (["seed=0,1", "objective=[val/best,test/density]"], None, "optimises one number, objective has 2"),
        (["task.lr=interval(0.1,1.0)"], "grid", "method=grid needs lists of values"),
    ],
)
def test_sweeps_that_cannot_be_written_down(overrides, method, message):
    with pytest.raises(ValueError, match=message):
        sweep_file(overrides, method)
