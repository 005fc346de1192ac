import csv

from csc_nets.tasks.metrics_csv import MetricsCSV


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_numbers_of_one_step_share_a_row(tmp_path):
    table = MetricsCSV(tmp_path)
    table.log_metrics({"epoch": 0, "val/acc": 0.5}, step=9)
    table.log_metrics({"epoch": 0, "train/loss": 2.0}, step=9)
    table.log_metrics({"epoch": 1, "val/acc": 0.7}, step=19)
    assert rows(tmp_path) == [
        {"epoch": "0", "step": "9", "val/acc": "0.5", "train/loss": "2.0"},
        {"epoch": "1", "step": "19", "val/acc": "0.7", "train/loss": ""},
    ]


def test_a_resumed_run_keeps_rows_and_overwrites_the_steps_it_repeats(tmp_path):
    first = MetricsCSV(tmp_path)
    first.log_metrics({"loss": 2.0}, step=1)
    first.log_metrics({"loss": 1.0}, step=2)
    MetricsCSV(tmp_path).log_metrics({"loss": 0.5}, step=2)
    assert [row["loss"] for row in rows(tmp_path)] == ["2.0", "0.5"]
