"""Tests a trained network: ``python evaluate.py run=runs/csc_small-digits/...``."""

from typing import Any

import hydra

from csc_nets import cli


@hydra.main(version_base="1.3", config_path="configs", config_name="evaluate")
def main(cfg: Any) -> None:
    """Writes ``metrics.json`` into the run folder."""
    cli.evaluate(cfg)


if __name__ == "__main__":
    cli.run(main)
