"""What a sweep ends with: a table, the same for other programs, and a picture."""

from importlib.util import find_spec
from pathlib import Path

from csc_nets.pages import can_render
from csc_nets.sweeps.folder import SweepFolder, sweep_record
from csc_nets.sweeps.jobs import read_jobs
from csc_nets.sweeps.page import write_sweep_page
from csc_nets.sweeps.picture import draw_sweep
from csc_nets.sweeps.table import Score, make_table
from csc_nets.tasks.safe_files import write_whole

__all__ = ["finish_sweep", "save_sweep_report"]


def save_sweep_report(folder: Path, score: Score | None = None) -> tuple[str, int]:
    """Reads the jobs of a sweep and writes ``table.txt``, ``table.csv``, ``sweep.png`` and ``sweep.html`` beside them.

    The sweep may be unfinished. The picture needs matplotlib and a finished job, the page jinja2.

    Args:
        folder: of the sweep.
        score: what to sort by; None for the number that chooses checkpoints, on test images where there are any.

    Returns:
        The table, and how many jobs have failed.

    Raises:
        FileNotFoundError: the folder holds no jobs.
        ValueError: no job has the number of ``score``.
    """
    jobs = read_jobs(folder)
    table = make_table(jobs, score, sweep_record(folder).get("jobs"))
    text = table.text()
    write_whole(folder / "table.txt", f"{text}\n")
    write_whole(folder / "table.csv", table.csv())
    if find_spec("matplotlib") and any(job.state == "finished" for job in jobs):
        draw_sweep(table, folder / "sweep.png")
    if can_render():
        write_sweep_page(table, folder / "sweep.html")
    return text, sum(job.state == "failed" for job in jobs)


def finish_sweep() -> int:
    """Prints the table of the sweep that this process has run, if it has run one.

    Returns:
        How many jobs have failed.
    """
    folder = SweepFolder.current()
    if folder is None:
        return 0
    try:
        text, failures = save_sweep_report(folder)
    except FileNotFoundError:  # every job goes on with a run elsewhere
        return 0
    print(f"\n{text}\nsweep  {folder}")
    return failures
