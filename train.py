"""Trains a network: ``python train.py`` or ``python train.py experiment=cifar10_sdnet18 trainer=gpu``."""

import os
from pathlib import Path

# Before torch loads OpenMP: threads that spin while they wait are ten times slower where the CPU is shared.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from csc_nets import cli

if __name__ == "__main__":
    cli.run(cli.train, Path(__file__).with_name("configs"), "train")
