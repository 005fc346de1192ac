"""Which command is meant. Nothing heavy is imported before that is known."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from csc_nets.commands.completion import complete, install_completion
from csc_nets.commands.config_folder import config_folder, package_version

__all__ = ["main"]

COMMANDS = {
    "train": "train a network, or several with -m: csc-nets train experiment=digits_autoencoder",
    "evaluate": "test a trained network, or report on it: csc-nets evaluate run=runs/...",
    "models": "list the networks with their parameters and operations",
    "sweep-report": "table and picture of a sweep, finished or not: csc-nets sweep-report FOLDER",
    "wandb-sweep": "the file of a sweep for Weights & Biases: csc-nets wandb-sweep sweep=optuna",
    "export": "a trained network as ONNX or for torch.export: csc-nets export run=runs/... format=onnx",
    "doctor": "check the installation, the devices and the folders of data",
    "completion": 'completion for a shell: eval "$(csc-nets completion bash)"',
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command.

    Args:
        arguments: of the command line; None for those of the process.

    Raises:
        SystemExit: with the status of the command, where that is not 0.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if complete(given, COMMANDS):
        return
    parser = argparse.ArgumentParser(
        prog="csc-nets",
        description="Networks of sparse coding: train, test, sweep.",
        epilog="\n".join(["commands:", *(f"  {name:<14}{text}" for name, text in COMMANDS.items())]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"csc-nets {package_version()}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of those below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="its arguments; --help shows them")
    chosen = parser.parse_args(given)
    if chosen.command == "completion":
        install_completion(chosen.arguments)
    elif chosen.command in ("train", "evaluate"):
        _program(chosen.command, chosen.arguments)
    else:
        module = importlib.import_module(f"csc_nets.commands.{chosen.command.replace('-', '_')}")
        module.main(chosen.arguments)


def _program(name: str, arguments: list[str]) -> None:
    # OpenMP reads it once, when torch loads: as in train.py.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    cli = importlib.import_module("csc_nets.cli")
    sys.argv = [f"csc-nets {name}", *arguments]
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(1, str(Path.cwd()))  # for plugins, as with python train.py
    cli.run(getattr(cli, name), config_folder(), name)
