"""``csc-nets export run=... format=onnx``: a trained network as a graph for other programs."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from csc_nets.checkpoint import load
from csc_nets.evaluation.export import FORMATS, export_network

__all__ = ["main"]

USAGE = "csc-nets export run=FOLDER [format=onnx|torch] [file=FILE] [size=PIXELS] [free=true|false]"
KNOWN = {"run": "", "format": "onnx", "file": "", "size": "", "free": "true"}


def main(arguments: Sequence[str]) -> None:
    """Writes ``network.onnx`` or ``network.pt2`` into the run folder, and says how far its outputs are off.

    Raises:
        SystemExit: bad arguments, no such run, or a network that cannot be saved so.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(
            f"usage: {USAGE}\n\nrun: a run folder or checkpoint; size: height and width of the example image (that of "
            "the network);\nfree=false: for networks that are made for one height and width."
        )
        return
    try:
        pairs = [_pair(argument) for argument in arguments]
        given = {**KNOWN, **dict(pairs)}
        twice = sorted({key for key, _ in pairs if [k for k, _ in pairs].count(key) > 1})
        if twice:
            raise ValueError(f"{twice[0]} must be given once, got {' '.join(arguments)}")
        if given["format"] not in FORMATS:
            raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {given['format']!r}")
        if given["free"] not in ("true", "false") or (given["size"] and not given["size"].isdigit()):
            raise ValueError(f"free must be true or false and size a number, got {given['free']!r}, {given['size']!r}")
        if not given["run"]:
            raise ValueError(f"run is missing: {USAGE}")
        run = Path(given["run"])
        network: Any = load(run)
        channels, side, _ = network.pretrained_cfg["input_size"]
        side = int(given["size"] or side)
        folder = run if run.is_dir() else run.parent
        file = Path(given["file"] or folder / f"network{FORMATS[given['format']]}")
        size, free = (int(channels), side, side), given["free"] == "true"
        difference = export_network(network, file, size, form=given["format"], free=free)
    except (OSError, ValueError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    print(f"written     {file}\ndifference  {difference:.1e} of the largest output, on three batches")


def _pair(argument: str) -> tuple[str, str]:
    key, equals, value = argument.partition("=")
    if not equals or key not in KNOWN:
        raise ValueError(f"expected {USAGE}, got {argument!r}")
    return key, value
