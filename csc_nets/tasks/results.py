"""The numbers of a run: the file that keeps them, and the table that shows them."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from csc_nets.tasks.safe_files import set_aside, write_whole

__all__ = ["add_results", "show_results"]

_TABLE = {
    "test/acc": ("test accuracy", "{:.2%}"),
    "test/objective": ("test objective", "{:.4g}"),
    "test/psnr": ("test PSNR", "{:.2f} dB"),
    "test/gain": ("gain over noisy", "{:.2f} dB"),
    "test/ssim": ("test SSIM", "{:.4f}"),
    "test/alignment": ("feature alignment", "{:.4f}"),
    "test/explained": ("explained variance", "{:.4f}"),
    "test/atoms": ("atoms a code", "{:.2f}"),
    "test/dead": ("dead atoms", "{:.2%}"),
    "test/acc_plain": ("accuracy as it was", "{:.2%}"),
    "test/acc_patched": ("accuracy, patched", "{:.2%}"),
    "test/density": ("code density", "{:.2%}"),
    "test/reconstruction_error": ("reconstruction error", "{:.4f}"),
    "training_seconds": ("training time", "{:.1f} s"),
}


def add_results(results: Mapping[str, Any], file: Path) -> None:
    """Adds numbers to those in a JSON file. NaN and infinity, which JSON does not have, become null.

    A damaged file is set aside: it must not cost the numbers of a long training.
    """
    known: Any = {}
    if file.is_file() and file.stat().st_size:
        try:
            known = json.loads(file.read_text())
            why = "" if isinstance(known, dict) else "no table of numbers"
        except (ValueError, RecursionError) as error:
            why = str(error)
        if why:
            set_aside(file, why)
            known = {}
    numbers = {key: _as_json(value) for key, value in {**known, **results}.items()}
    write_whole(file, json.dumps(numbers, indent=2, allow_nan=False) + "\n")


def show_results(results: Mapping[str, Any], folder: Path, *, own: bool = True) -> None:
    """Prints the table of a run.

    Numbers of validation images, which stand in for a test set that is missing, are called so.

    Args:
        results: numbers, and ``tested_on``, ``"test"`` or ``"val"``.
        folder: of the run.
        own: whether the images are those of the run. Then those of validation chose the checkpoint, and its numbers on
            them are better than on new images.
    """
    rows = []
    for key, (label, form) in _TABLE.items():
        if results.get(key) is not None:
            if results.get("tested_on") == "val":
                label = label.replace("test ", "validation ")
            rows.append((label, form.format(results[key])))
    if results.get("tested_on") == "val":
        rows.append(("no test images", "validation images" + (", which chose the checkpoint" if own else "")))
    if results.get("checkpoint", "best") != "best":
        rows.append(("checkpoint", str(results["checkpoint"])))
    print("\n" + "\n".join(f"{label:<22}{value}" for label, value in [*rows, ("run", str(folder))]))


def _as_json(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
