"""A sweep of short jobs under random kills of jobs and of the sweep itself, beside the same sweep that nobody touches.

    python benchmarks/killed_sweeps.py [--quick] [--json FILE] [--jobs 200] [--kills 10] [--processes 2] [--seed 0]

A killed sweep is given the same command again until it ends by itself. Ours is the sweep with kills, the reference the
one without. All jobs must be finished in both, with the same numbers to the last bit.
"""

import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import timing

ROOT = Path(__file__).parents[1]
JOB = ["model.widths=[4,8]", "callbacks.progress_bar=false", "pictures=false"]
JOB += ["trainer.max_epochs=2", "trainer.limit_train_batches=15", "trainer.limit_val_batches=2"]


def command(folder: Path, jobs: int, processes: int) -> list[str]:
    weights = min(10, jobs // 2)
    seeds = jobs // (2 * weights)
    vary = ["model.steps=1,2", f"model.lam=range(0.02,{0.02 * weights + 0.01:.2f},step=0.02)", f"seed=range({seeds})"]
    launcher = ["hydra/launcher=processes", f"hydra.launcher.n_jobs={processes}", "hydra.launcher.retries=100"]
    return [sys.executable, str(ROOT / "train.py"), "-m", *JOB, *vary, *launcher, f"run_dir={folder}"]


def start(folder: Path, jobs: int, processes: int) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with (folder.parent / f"{folder.name}.log").open("ab") as log:
        return subprocess.Popen(command(folder, jobs, processes), env=environment, stdout=log, stderr=log)


def running(folder: Path) -> list[int]:
    """Processes of jobs that train."""
    found = []
    for lock in folder.glob("*/lock"):
        try:
            holder = re.match(r"process (\d+) ", lock.read_text())
        except FileNotFoundError:
            continue
        if holder and Path(f"/proc/{holder[1]}").exists():
            found.append(int(holder[1]))
    return found


def watch(folder: Path, jobs: int, processes: int) -> tuple[float, float]:
    """Runs a sweep that nobody touches: the seconds that it takes, and those in which jobs run."""
    process, began, busy = start(folder, jobs, processes), time.monotonic(), 0.0
    while process.poll() is None:
        before = time.monotonic()
        time.sleep(0.05)
        busy += (time.monotonic() - before) * bool(running(folder))
    assert process.returncode == 0, (folder.parent / f"{folder.name}.log").read_text()
    return time.monotonic() - began, busy


def kill_at_random(folder: Path, jobs: int, processes: int, kills: dict[str, int], busy: float) -> dict[str, int]:
    """Runs a sweep to its end, through kills of jobs and of itself in a random order.

    Kills are spread over the seconds in which jobs run, so that all of them land.
    """
    process, done = start(folder, jobs, processes), {"job": 0, "sweep": 0}
    victims = [victim for victim, count in kills.items() for _ in range(count)]
    random.shuffle(victims)
    every = busy / (len(victims) + 1)
    left, last = random.uniform(0.5, 1) * every, time.monotonic()
    while True:
        if process.poll() is not None:
            if process.returncode != -signal.SIGKILL:
                return done
            process = start(folder, jobs, processes)
        candidates, now = running(folder), time.monotonic()
        left, last = left - (now - last) * bool(candidates), now
        if victims and left < 0 and candidates:
            victim = victims.pop()
            os.kill(random.choice(candidates) if victim == "job" else process.pid, signal.SIGKILL)
            done[victim] += 1
            left = random.uniform(0.5, 1) * every
        time.sleep(random.uniform(0, 0.05))


def numbers(folder: Path) -> dict[str, dict[str, Any]]:
    """What each job has in ``metrics.json``, without its time."""
    found = {file.parent.name: json.loads(file.read_text()) for file in folder.glob("*/metrics.json")}
    return {job: {k: v for k, v in known.items() if k != "training_seconds"} for job, known in found.items()}


def row(name: str, ours: float, reference: float, unit: str) -> dict[str, object]:
    ratio = ours / reference if reference else float(ours == reference)
    return {"name": name, "ours": ours, "reference": reference, "ratio": ratio, "unit": unit}


def main() -> None:
    options = timing.parser(__doc__.splitlines()[0])
    options.add_argument("--jobs", type=int, default=200, help="an even number below 20, or a multiple of 20")
    options.add_argument("--kills", type=int, default=10)
    options.add_argument("--processes", type=int, default=2)
    options.add_argument("--seed", type=int, default=0)
    chosen = options.parse_args()
    if chosen.quick:
        chosen.jobs, chosen.kills = 8, 4
    random.seed(chosen.seed)
    with tempfile.TemporaryDirectory() as temporary:
        whole, killed = (Path(temporary) / name for name in ("whole", "killed"))
        seconds, busy = watch(whole, chosen.jobs, chosen.processes)
        # A sweep takes seconds to start again, a job none.
        sweeps = 1 if chosen.quick else chosen.kills // 2
        kills = {"job": chosen.kills - sweeps, "sweep": sweeps}
        began = time.monotonic()
        kills = kill_at_random(killed, chosen.jobs, chosen.processes, kills, busy)
        longer = time.monotonic() - began
        expected, found = numbers(whole), numbers(killed)
        print((killed / "table.txt").read_text())
        rows = [
            row("kills of jobs", kills["job"], 0, "kills"),
            row("kills of the sweep", kills["sweep"], 0, "kills"),
            row("finished jobs", len(found), len(expected), "jobs"),
            row("jobs with other numbers", sum(found.get(job) != expected[job] for job in expected), 0, "jobs"),
            row("time", longer, seconds, "s"),
        ]
    timing.report(rows, chosen.json, "no kills")


if __name__ == "__main__":
    main()
