"""Trains a network: ``python train.py`` or ``python train.py experiment=cifar10_sdnet18 trainer=gpu``."""

from typing import Any

import hydra

from csc_nets import cli


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def main(cfg: Any) -> float:
    """Returns the number that a sweep may optimise: the best validation score."""
    return cli.train(cfg)["val/best"]


if __name__ == "__main__":
    cli.run(main)
