"""Tests a trained network: ``python evaluate.py run=runs/csc_small-digits/...``."""

from pathlib import Path

from csc_nets import cli

if __name__ == "__main__":
    cli.run(cli.evaluate, Path(__file__).with_name("configs"), "evaluate")
