"""Tables on pages are those of the runs in the index."""

import json
import shutil
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import yaml
from program import ROOT, train

spec = spec_from_file_location("index_of_runs", ROOT / "docs" / "index_of_runs.py")
index = module_from_spec(spec)
spec.loader.exec_module(index)

RUNS = sorted(index.RUNS.glob("*.json"))
TABLES = yaml.safe_load((index.RUNS / "tables.yaml").read_text())


@pytest.mark.parametrize("page", index.PAGES)
def test_tables_on_pages_are_those_of_the_runs(page):
    assert index.page_with_tables(page) == (ROOT / page).read_text(), "python docs/index_of_runs.py tables"


def test_every_table_stands_on_a_page():
    text = "".join((ROOT / page).read_text() for page in index.PAGES)
    assert all(f"<!-- table {name} -->" in text for name in TABLES)


@pytest.mark.parametrize("file", RUNS, ids=lambda file: file.stem)
def test_a_run_says_how_it_is_repeated(file):
    run = json.loads(file.read_text())
    assert {"command", "machine", "revision", "metrics", "config"} == set(run)
    assert run["machine"] and run["revision"] and run["metrics"]["training_seconds"] > 0
    assert "/" not in run["command"].removeprefix("python train.py") and "/tmp" not in file.read_text()
    matched = [row["label"] for table in TABLES.values() for row in table["rows"] if matches(row, run)]
    assert len(matched) == 1, "a run belongs to one row"
    overrides = run["command"].split()[2:]
    assert index.overrides_of(run["config"]) == overrides


def matches(row, run):
    return all(run["config"].get(key) == value for key, value in row["match"].items())


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """An index without runs, and pages of it."""
    (tmp_path / "docs").mkdir()
    for page in index.PAGES:
        shutil.copy(ROOT / page, tmp_path / page)
    (tmp_path / "docs" / "runs").mkdir()
    shutil.copy(index.RUNS / "tables.yaml", tmp_path / "docs" / "runs")
    monkeypatch.setattr(index, "RUNS", tmp_path / "docs" / "runs")
    call(monkeypatch, tmp_path, "tables")
    return tmp_path


def call(monkeypatch, root: Path, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["index_of_runs.py", *arguments])
    real = index.ROOT
    if arguments[0] == "tables":  # configurations are those of the package
        monkeypatch.setattr(index, "ROOT", root)
    try:
        index.main()
    finally:
        monkeypatch.setattr(index, "ROOT", real)


def test_a_typed_figure_is_found_and_a_new_run_appears(copied, monkeypatch):
    folder = copied / "run"
    train(f"run_dir={folder}", "experiment=digits_csc_small", "seed=77", "model.lam=0.25")
    call(monkeypatch, copied, "tables", "--check")
    call(monkeypatch, copied, "add", str(folder), "--machine", "a machine", "--revision", "abc1234")
    (added,) = index.RUNS.glob("*.json")
    run = json.loads(added.read_text())
    assert "seed=77" in run["command"] and "model.lam=0.25" in run["command"] and "run_dir" not in run["command"]
    assert run["metrics"] == json.loads((folder / "metrics.json").read_text())
    with pytest.raises(SystemExit, match=r"docs/results\.md: the tables are not those of docs/runs"):
        call(monkeypatch, copied, "tables", "--check")
    call(monkeypatch, copied, "tables")
    call(monkeypatch, copied, "tables", "--check")
    page = copied / "docs" / "results.md"
    text = page.read_text()
    assert index.of_seeds([run]) in text and "abc1234" in text
    page.write_text(text.replace("abc1234", "abc1235"))
    with pytest.raises(SystemExit, match=r"docs/results\.md"):
        call(monkeypatch, copied, "tables", "--check")


def test_cells():
    runs = [{"metrics": {"test/acc": acc, "training_seconds": 90}} for acc in (0.98, 0.99)]
    assert index.cell("test/acc", runs[:1]) == "98.00 %"
    assert index.cell("test/acc", runs) == "98.50 % (98.00 % to 99.00 %)"
    assert index.cell("minutes", runs) == "1.5 (1.5 to 1.5)"
    assert index.cell("test/density", runs) == "-"
    table = {
        "first": "network",
        "columns": {"test/acc": "accuracy"},
        "rows": [{"label": "none", "match": {"seed": -1}}],
    }
    assert index.written(table, []) == "| network | accuracy | runs |\n|---|---|---|\n| none | - | missing |"


def test_seeds_of_a_row_are_one_command():
    runs = [{"command": f"python train.py model=a seed={s} task.lr=1", "config": {"seed": s}} for s in (2, 0, 1)]
    assert index.of_seeds(runs) == "python train.py model=a task.lr=1 -m seed=0,1,2"
    assert index.of_seeds(runs[:1]) == "python train.py model=a task.lr=1 seed=2"
    assert index.of_seeds([{"command": "python train.py model=a", "config": {"seed": 0}}]) == "python train.py model=a"
