"""Tests a trained network: ``python evaluate.py run=runs/csc_small-digits/...``."""

import os
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as in train.py

from csc_nets import cli

if __name__ == "__main__":
    cli.run(cli.evaluate, Path(__file__).with_name("configs"), "evaluate")
