"""Trains a network: ``python train.py`` or ``python train.py experiment=cifar10_sdnet18 trainer=gpu``."""

from pathlib import Path

from csc_nets import cli

if __name__ == "__main__":
    cli.run(cli.train, Path(__file__).with_name("configs"), "train")
