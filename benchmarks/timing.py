"""Shared by the benchmarks: interleaved timing, the machine's description, the table and its JSON."""

import argparse
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

import csc_nets
from csc_nets.memory import reuse_memory

reuse_memory()  # or page faults are what is measured


def parser(description: str) -> argparse.ArgumentParser:
    """Options that every benchmark takes."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--quick", action="store_true", help="fewer cases and rounds, under 30 s")
    options.add_argument("--json", type=Path, help="write the rows to this file")
    options.add_argument("--threads", type=int, default=1, help="CPU threads (default 1: steadiest)")
    options.add_argument("--device", default="cpu", help="cpu or cuda")
    return options


def interleaved(
    candidates: Sequence[Callable[[], object]], rounds: int, device: str, least: float = 0.02
) -> list[list[float]]:
    """Seconds per call of every candidate in every round; they take turns, so a drifting machine hits all.

    CPU time of the process is taken on a CPU (other processes do not count), wall time on an accelerator.
    """
    accelerated = device != "cpu"
    clock = time.perf_counter if accelerated or torch.get_num_threads() > 1 else time.process_time

    def run(candidate: Callable[[], object], calls: int) -> float:
        if accelerated:
            torch.cuda.synchronize()
        start = clock()
        for _ in range(calls):
            candidate()
        if accelerated:
            torch.cuda.synchronize()
        return (clock() - start) / calls

    # A process needs about a second to reach its pace: memory from the system, kernels built, the clock up.
    end = time.perf_counter() + 1
    while time.perf_counter() < end:
        for candidate in candidates:
            run(candidate, 2)
    calls = [max(1, round(least / run(candidate, 1))) for candidate in candidates]
    seconds: list[list[float]] = [[] for _ in candidates]
    for _ in range(rounds):
        for record, candidate, n in zip(seconds, candidates, calls, strict=True):
            record.append(run(candidate, n))
    return seconds


def row(name: str, ours: list[float], reference: list[float], unit: str = "ms") -> dict[str, object]:
    """One result: medians in ``unit`` and the median of the ratios round by round."""
    scale = {"s": 1, "ms": 1e3}[unit]
    ratios = [a / b for a, b in zip(ours, reference, strict=True)]
    return {
        "name": name,
        "ours": statistics.median(ours) * scale,
        "reference": statistics.median(reference) * scale,
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "unit": unit,
    }


def machine() -> dict[str, object]:
    """What a figure depends on besides the code that is timed: hardware, versions, git revision, date (UTC)."""
    try:
        cpu = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
        cpu = cpu.partition(": ")[2]
    except (OSError, StopIteration):
        cpu = platform.processor() or platform.machine()
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        revision = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        revision = ""
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "csc_nets": csc_nets.__version__,
        "revision": revision,
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def write(rows: list[dict[str, object]], file: Path) -> None:
    """Writes rows as JSON, each with the machine that it was measured on, so that rows of many files can be mixed."""
    where = machine()
    file.write_text(json.dumps([r | {"machine": where} for r in rows], indent=2) + "\n")


def report(rows: list[dict[str, object]], file: Path | None, reference: str) -> None:
    """Prints the table and, if asked, writes the rows as JSON."""
    width = max(len(str(r["name"])) for r in rows)
    print(f"{'':{width}}  {'ours':>10}  {reference:>10}  {'ratio':>6}  (min to max)")
    for r in rows:
        span = f"({r['ratio_min']:.2f} to {r['ratio_max']:.2f})" if "ratio_min" in r else ""
        print(f"{r['name']:{width}}  {r['ours']:10.3f}  {r['reference']:10.3f}  {r['ratio']:6.3f}  {span}")
    where = machine()
    print(
        f"\n{where['cpu']}, {where['threads']} of {where['cores']} cores, torch {where['torch']}, {where['revision']}"
    )
    if file is not None:
        write(rows, file)
