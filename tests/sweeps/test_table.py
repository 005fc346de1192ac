import csv
import io
from pathlib import Path

import pytest

from csc_nets.sweeps.jobs import Job
from csc_nets.sweeps.table import Score, make_table, options_of

TASK = {"task": {"name": "classification"}}


def job(name, state="finished", options=None, config=None, error=None, **numbers):
    known = {"acc": "test/acc", "density": "test/density", "seconds": "training_seconds"}
    found = {known[key]: value for key, value in numbers.items()}
    return Job(Path(name), state, options or {}, {**TASK, **(config or {})}, found, error)


def lam(value, seed, **more):
    return job(f"lam-{value}_seed-{seed}", options={"model.lam": str(value), "seed": str(seed)}, **more)


def test_seeds_are_averaged_with_their_spread_and_the_best_comes_first():
    jobs = [lam(0.1, 0, acc=0.90, density=0.5, seconds=10.0), lam(0.1, 1, acc=0.94, density=0.3, seconds=12.0)]
    jobs += [lam(0.2, 0, acc=0.93, density=0.2, seconds=9.0)]
    table = make_table(jobs)
    assert table.score == Score("test/acc", True) and table.names == ["model.lam"]
    assert [row.options for row in table.rows] == [{"model.lam": "0.2"}, {"model.lam": "0.1"}]
    assert table.rows[1].mean("test/acc") == pytest.approx(0.92)
    assert table.rows[1].spread("test/acc") == pytest.approx(0.04 / 2**0.5)
    assert table.rows[0].spread("test/acc") is None
    assert table.text().splitlines() == [
        "model.lam  runs  test/acc         density          seconds     front",
        "0.2        1     0.9300           0.2000           9.0         *",
        "0.1        2     0.9200 ± 0.0283  0.4000 ± 0.1414  11.0 ± 1.4",
    ]


def test_a_loss_is_sorted_upwards():
    jobs = [lam(value, 0, acc=value) for value in (0.3, 0.1, 0.2)]
    rows = make_table(jobs, Score("test/acc", False)).rows
    assert [row.options["model.lam"] for row in rows] == ["0.1", "0.2", "0.3"]


def test_the_front_of_score_density_and_time():
    cases = {"a": (0.9, 0.5, 10.0), "b": (0.8, 0.1, 10.0), "c": (0.8, 0.6, 5.0), "d": (0.8, 0.6, 11.0)}
    jobs = [
        job(name, options={"model.name": name}, acc=acc, density=density, seconds=seconds)
        for name, (acc, density, seconds) in cases.items()
    ]
    assert {row.options["model.name"]: row.front for row in make_table(jobs).rows} == {
        "a": True,  # the best score
        "b": True,  # the lowest density
        "c": True,  # the fastest
        "d": False,  # a and c are better
    }


def test_what_is_not_finished_comes_last_and_is_counted():
    jobs = [lam(0.1, 0, acc=0.9), lam(0.1, 1, state="collapsed"), lam(0.2, 0, state="failed", error="no room")]
    jobs += [lam(0.3, 0, state="running"), lam(0.3, 1, state="stopped")]
    assert make_table(jobs, expected=8).text().splitlines() == [
        "model.lam  runs                      test/acc  front",
        "0.1        1 (1 collapsed)           0.9000    *",
        "0.2        0 (1 failed)              -",
        "0.3        0 (1 running, 1 stopped)  -",
        "2 of 8 jobs are finished, 1 failed, 1 running, 1 stopped, 3 not begun",
        "failed: lam-0.2_seed-0: no room",
    ]


def test_a_sweep_without_a_finished_job():
    text = make_table([lam(0.1, 0, state="running"), lam(0.2, 0, state="stopped")]).text()
    assert text.splitlines()[-1] == "0 of 2 jobs are finished, 1 running, 1 stopped"


def test_options_of_an_older_version_are_read_off_the_configurations():
    configs = [
        {"model": {"name": "n", "lam": value, "widths": [4, 8]}, "seed": seed}
        for value in (0.1, None)
        for seed in (0, 1)
    ]
    jobs = [job(str(i), config={**c, "run_dir": str(i)}, acc=0.5 + i) for i, c in enumerate(configs)]
    assert next(iter(options_of(jobs).values())) == {"model.lam": "0.1", "seed": "0"}
    assert [row.options for row in make_table(jobs).rows] == [{"model.lam": "null"}, {"model.lam": "0.1"}]


def test_a_sweep_that_has_grown_by_an_option():
    early = job("a", options={"model.lam": "0.1"}, config={"model": {"lam": 0.1, "steps": 4}}, acc=0.5)
    late = job(
        "b", options={"model.lam": "0.1", "model.steps": "2"}, config={"model": {"lam": 0.1, "steps": 2}}, acc=0.6
    )
    assert [row.options for row in make_table([early, late]).rows] == [{"model.steps": "2"}, {"model.steps": "4"}]


def test_the_table_for_other_programs():
    jobs = [lam(0.1, seed, acc=acc) for seed, acc in ((0, 0.5), (1, 1.0))]
    (row,) = csv.DictReader(io.StringIO(make_table([*jobs, lam(0.1, 2, state="failed")]).csv()))
    assert (row["jobs"], row["finished"], float(row["test/acc mean"])) == ("3", "2", 0.75)
    assert float(row["test/acc spread"]) == 0.125**0.5


def test_a_number_that_no_job_has():
    with pytest.raises(ValueError, match=r"no job has test/ssim \(known: test/acc\)"):
        make_table([lam(0.1, 0, acc=0.5)], Score("test/ssim", True))


def test_other_tasks_have_other_scores():
    found = Job(Path("a"), "finished", {}, {"task": {"name": "dictionary_learning"}}, {"test/objective": 3.0}, None)
    assert make_table([found]).score == Score("test/objective", False)
    untested = Job(Path("a"), "finished", {}, TASK, {"val/best": 0.5}, None)
    assert make_table([untested]).score == Score("val/best", True)
