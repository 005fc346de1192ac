import json

import pytest

from csc_nets.sweeps.folder import job_name, number_of_jobs, varied_options


@pytest.fixture
def varied(monkeypatch):
    def set_to(*options):
        monkeypatch.setenv("CSC_NETS_SWEEP_VARIED", json.dumps(options))

    return set_to


def test_a_name_holds_what_differs(varied):
    varied("model.lam", "seed")
    overrides = ["trainer.max_epochs=3", "model.lam=0.1", "seed=2", "name=mine"]
    assert job_name(overrides) == "lam-0.1_seed-2"
    varied()
    assert job_name(overrides) == "job"


def test_options_of_one_ending_keep_their_whole_names(varied):
    varied("model.name", "data.name", "seed")
    assert job_name(["model.name=a", "data.name=b", "seed=0"]) == "model.name-a_data.name-b_seed-0"


def test_names_stay_short_and_apart(varied):
    keys = [f"task.option_{n}" for n in range(18)]
    varied(*keys)
    first = job_name([f"{key}=value_{n}" for n, key in enumerate(keys)])
    other = job_name([f"{key}=value_{n}" for n, key in enumerate(keys[:-1])] + [f"{keys[-1]}=another"])
    assert len(first) == len(other) <= 80 and first != other and first[:60] == other[:60]


def test_what_a_command_line_varies():
    assert varied_options(["seed=0,1", "model.lam=0.1", "+x=choice(1,2)", "task.lr=interval(0,1)"]) == [
        "seed",
        "x",
        "task.lr",
    ]


def test_how_many_jobs_a_sweep_has():
    command = {"overrides": ["seed=0,1,2", "model.steps=range(1,5)", "name=x"], "params": {"model.lam": "0.1,0.2"}}
    assert number_of_jobs(command) == 24
    assert number_of_jobs({**command, "params": {"seed": "0,1"}}) == 12  # the command line wins
    assert number_of_jobs({**command, "params": {"task.lr": "interval(0,1)"}}) is None
