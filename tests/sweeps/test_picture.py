from pathlib import Path

import pytest
from PIL import Image

from csc_nets.sweeps.jobs import Job
from csc_nets.sweeps.picture import draw_sweep
from csc_nets.sweeps.table import Score, make_table

pytest.importorskip("matplotlib")


@pytest.mark.parametrize("count", [0, 1, 5])
def test_there_is_an_axis_for_each_option_and_one_for_the_front(tmp_path, count):
    values = ("0.0", "0.01", "0.1", "1.0")
    jobs = [
        Job(
            Path(str(i)),
            "finished",
            {f"task.option_{n}": values[i] for n in range(count)} | {"model.name": "abcd"[i % 2]},
            {"task": {"name": "classification"}},
            {"test/acc": 0.1 * i, "test/density": 0.5, "training_seconds": 1.0 + i},
        )
        for i in range(4)
    ]
    draw_sweep(make_table(jobs), tmp_path / "sweep.png")
    axes = count + 2
    with Image.open(tmp_path / "sweep.png") as picture:
        assert picture.size == pytest.approx((110 * 4.2 * min(axes, 4), 110 * 3.4 * (2 if axes > 4 else 1)), abs=1)


def test_jobs_without_codes_are_drawn_over_time(tmp_path):
    numbers = {"test/acc": 0.5, "training_seconds": 2.0}
    draw_sweep(
        make_table([Job(Path("a"), "finished", {}, {}, numbers)], Score("test/acc", True)), tmp_path / "sweep.png"
    )
    assert (tmp_path / "sweep.png").stat().st_size > 1000
