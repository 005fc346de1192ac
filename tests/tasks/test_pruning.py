import json
from types import SimpleNamespace

import pytest

from csc_nets.tasks.pruning import MedianPruning


def sweep(folder, *runs, monitor="val/acc"):
    """A folder of a sweep with the scores of its runs, one an epoch."""
    folder.mkdir()
    (folder / "sweep.json").write_text("{}")
    for number, scores in enumerate(runs):
        (folder / f"lr-{number}").mkdir()
        rows = [f"{epoch},{epoch},{score}" for epoch, score in enumerate(scores)]
        (folder / f"lr-{number}" / "metrics.csv").write_text("\n".join([f"epoch,step,{monitor}", *rows]) + "\n")
    return folder


def pruned(run, epoch, after=1, monitor="val/acc", mode="max"):
    callback = MedianPruning(after, monitor, mode)
    trainer = SimpleNamespace(
        is_global_zero=True,
        default_root_dir=str(run),
        current_epoch=epoch,
        should_stop=False,
        strategy=SimpleNamespace(broadcast=lambda value: value),
    )
    callback.on_train_epoch_end(trainer, None)
    assert trainer.should_stop == (callback.pruned_at_epoch == epoch)
    return trainer.should_stop


OTHERS = [[0.5, 0.9], [0.6, 0.6], [0.7, 0.2], [0.8, 0.8]]  # best so far after two epochs: .9 .6 .7 .8, median .75


@pytest.mark.parametrize(
    ("own", "expected"), [([0.74, 0.1], True), ([0.1, 0.75], False), ([0.76, 0.1], False), ([0.1, 0.74], True)]
)
def test_the_best_score_is_held_against_the_median_of_the_others(tmp_path, own, expected):
    folder = sweep(tmp_path / "sweep", own, *OTHERS)
    assert pruned(folder / "lr-0", epoch=1) == expected


def test_losses_are_better_when_they_are_smaller(tmp_path):
    folder = sweep(tmp_path / "sweep", [0.3], [0.1], [0.2], [0.2], [0.4], monitor="val/loss")
    assert pruned(folder / "lr-0", epoch=0, monitor="val/loss", mode="min")  # the median is .2
    assert not pruned(folder / "lr-1", epoch=0, monitor="val/loss", mode="min")


def test_later_epochs_of_the_others_do_not_count(tmp_path):
    folder = sweep(tmp_path / "sweep", [0.75], *OTHERS)  # their medians: .65 after one epoch, .75 after two
    assert not pruned(folder / "lr-0", epoch=0)


def test_a_run_is_left_alone(tmp_path):
    behind = sweep(tmp_path / "sweep", [0.1, 0.1], *OTHERS)
    assert pruned(behind / "lr-0", epoch=1, after=2)
    assert not pruned(behind / "lr-0", epoch=1, after=3), "too early"
    (behind / "sweep.json").unlink()
    assert not pruned(behind / "lr-0", epoch=1), "no sweep"
    few = sweep(tmp_path / "few", [0.1, 0.1], *OTHERS[1:], [0.9])
    assert not pruned(few / "lr-0", epoch=1), "three have reached the epoch"
    (few / "lr-4" / "metrics.csv").write_text("epoch,step,val/acc\n0,0,0.9\n1,1,torn\n")
    assert not pruned(few / "lr-0", epoch=1), "one table cannot be read"


def test_a_sweep_prunes_what_is_behind_and_does_not_resume_it(tmp_path, monkeypatch, capsys):
    from program import TINY, call

    monkeypatch.chdir(tmp_path)
    folder = sweep(tmp_path / "sweep", *[[0.5, 0.5, 0.5]] * 4)
    command = ["-m", *TINY, "debug=fast", "trainer.max_epochs=3", "callbacks.prune_after=2", "run_dir=sweep"]
    assert call(monkeypatch, capsys, "train", *command, "task.lr=1e-9")[0] == 0
    run = folder / "job"
    assert json.loads((run / "metrics.json").read_text())["pruned_at_epoch"] == 1
    table = (run / "metrics.csv").read_text()
    assert call(monkeypatch, capsys, "train", f"resume={run}")[0] == 0
    assert (run / "metrics.csv").read_text() == table


def test_after_must_be_positive():
    with pytest.raises(ValueError, match=r"callbacks\.prune_after must be >= 1, got 0"):
        MedianPruning(0, "val/acc", "max")
