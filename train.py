"""Trains a network: ``python train.py`` or ``python train.py experiment=cifar10_sdnet18 trainer=gpu``."""

import os
from pathlib import Path

# OpenMP reads it once. By default its idle threads spin, which makes small networks many times slower on a busy CPU.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from csc_nets import cli

if __name__ == "__main__":
    cli.run(cli.train, Path(__file__).with_name("configs"), "train")
