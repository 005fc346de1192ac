import json

import pytest
import yaml

from csc_nets.commands import main


def leave(folder, acc, **config):
    folder.mkdir(parents=True)
    parts = {"data": {"name": "digits"}, "model": {}, "task": {"name": "classification"}, **config}
    parts["model"] = {"name": "csc_small", "lam": 0.1, **parts["model"]}
    (folder / "config.yaml").write_text(yaml.safe_dump(parts))
    if acc is not None:
        numbers = {"test/acc": acc, "test/loss": 1 - acc, "training_seconds": 2.0}
        (folder / "metrics.json").write_text(json.dumps(numbers))


def test_the_table_of_an_unfinished_sweep_of_an_older_version(tmp_path, capsys):
    for number, (lam, acc) in enumerate([(0.1, 0.7), (0.2, 0.9), (0.3, None)]):
        leave(tmp_path / f"{number}_lam-{lam}", acc, model={"lam": lam})
    main(["sweep-report", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["model.lam", "0.2", "0.1", "0.3"]
    assert lines[4:] == ["2 of 3 jobs are finished, 1 stopped", f"sweep  {tmp_path}"]
    assert (tmp_path / "table.csv").read_text().startswith("model.lam,jobs,finished,collapsed,test/acc mean,")
    assert (tmp_path / "table.txt").read_text().splitlines() == lines[:5]


def test_another_number_to_sort_by(tmp_path, capsys):
    for lam, acc in ((0.1, 0.7), (0.2, 0.9)):
        leave(tmp_path / f"lam-{lam}", acc, model={"lam": lam})
    main(["sweep-report", str(tmp_path), "--key", "test/loss", "--lower"])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[:2]] == ["model.lam", "0.2"]


@pytest.mark.parametrize("key", [[], ["--key", "test/nothing"]])
def test_errors_are_one_line(tmp_path, capsys, key):
    if key:
        leave(tmp_path / "a", 0.5)
    with pytest.raises(SystemExit) as stop:
        main(["sweep-report", str(tmp_path), *key])
    message = "no job has test/nothing" if key else f"{tmp_path} is no folder of a sweep"
    assert stop.value.code == 1 and capsys.readouterr().err.startswith(f"error: {message}")
