"""Trains a network: ``python train.py`` or ``python train.py experiment=cifar10_sdnet18 trainer=gpu``."""

import os
from pathlib import Path

# OpenMP reads it once, when torch loads. Idle threads that spin for long make small networks ten times slower on a busy
# CPU; threads that sleep at once make them two times slower on an idle one.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

from csc_nets import cli

if __name__ == "__main__":
    cli.run(cli.train, Path(__file__).with_name("configs"), "train")
