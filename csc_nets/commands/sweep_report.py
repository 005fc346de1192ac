"""``csc-nets sweep-report FOLDER``: the table and the picture of a sweep, also of one that still runs."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from csc_nets.sweeps.report import save_sweep_report
from csc_nets.sweeps.table import Score

__all__ = ["main"]


def main(arguments: Sequence[str]) -> None:
    """Prints the table, and writes ``table.txt``, ``table.csv`` and ``sweep.png`` into the folder.

    Raises:
        SystemExit: the folder holds no jobs, or they have no such number.
    """
    parser = argparse.ArgumentParser(
        prog="csc-nets sweep-report",
        description="Table of a sweep (the best first, seeds averaged with their standard deviation) and its picture.",
    )
    parser.add_argument("folder", type=Path, help="folder of the sweep")
    parser.add_argument("--key", help="number of metrics.json to sort by (default: that which chooses checkpoints)")
    parser.add_argument("--lower", action="store_true", help="less of it is better")
    chosen = parser.parse_args(arguments)
    score = None if chosen.key is None else Score(chosen.key, not chosen.lower)
    try:
        text, _ = save_sweep_report(chosen.folder, score)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    print(f"{text}\nsweep  {chosen.folder}")
