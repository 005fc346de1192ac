"""Trained weights that lie in the package: ``weights/NAME.safetensors`` and a card ``weights/NAME.json`` beside it."""

import hashlib
import json
from pathlib import Path
from typing import Any

__all__ = ["card", "shelved"]

SHELF = Path(__file__).parents[1] / "weights"


def shelved(name: str) -> Path | None:
    """The file of a network's trained weights, or None where the package has none.

    Raises:
        ValueError: the file is not the one that its card describes.
    """
    file = SHELF / f"{name}.safetensors"
    if not file.is_file():
        return None
    if hashlib.sha256(file.read_bytes()).hexdigest() != card(name)["sha256"]:
        raise ValueError(f"create_model: {file} is damaged: it is not the file of its card; install the package again")
    return file


def card(name: str) -> dict[str, Any]:
    """What is known of a network's trained weights: data, command, seed, figures, limits, licence; empty for none."""
    file = SHELF / f"{name}.json"
    known: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    known = {
        key: tuple(value) if isinstance(value, list) else value for key, value in known.items()
    }  # as timm has them
    return known
