"""Puts the weights of a run on the shelf of the package, with their card.

    python docs/publish_weights.py RUN NAME "WHERE THEY FAIL" [--half]

NAME is that of the network, which ``create_model(NAME, pretrained=True)`` then builds as the run did. The figures are
those that the test of the run wrote (``metrics.json``), or of ``--numbers FILE``. The check is a number that
``tests/models/test_shelf.py`` computes again.
"""

import argparse
import hashlib
import json
from pathlib import Path

import torch
import yaml
from index_of_runs import command_of, revision
from safetensors.torch import save_file

import csc_nets
from csc_nets.evaluation.weights_check import check_of
from csc_nets.models.hub import packed
from csc_nets.models.shelf import SHELF


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument("limits")
    parser.add_argument("--numbers", type=Path, help="figures other than metrics.json of the run")
    parser.add_argument("--machine", default="", help="what the training ran on")
    parser.add_argument("--revision", help="that the run was made with (default: that of the working tree)")
    parser.add_argument("--half", action="store_true", help="parameters in half precision, for larger networks")
    parser.add_argument("--args", type=json.loads, default={}, help="JSON: arguments other than in the training")
    given = parser.parse_args()
    config = yaml.safe_load((given.run / "config.yaml").read_text())
    numbers = json.loads((given.numbers or given.run / "metrics.json").read_text())
    model = csc_nets.load(given.run)
    if model.model_name != given.name:
        raise SystemExit(f"{given.run} holds a {model.model_name}, and not a {given.name}")
    if given.args:  # such as another pursuit: the same weights have to fit
        changed = csc_nets.create_model(given.name, **(model.model_args | given.args))
        changed.load_state_dict(model.state_dict())
        changed.trained_on, model = model.trained_on, changed.eval()
    file = SHELF / f"{given.name}.safetensors"
    state = packed(model, given.half)
    save_file(state, file)
    model.load_state_dict(state)  # the figures of the check are those of the file
    data = config["data"]
    tested = data.get("test", numbers.get("tested_on", "test"))
    card = {
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "data": f"{data['name']}: {data.get('train', 'train')}, tested on {tested}",
        "command": command_of(config),
        "model_args": dict(model.model_args),
        "precision": "half" if given.half else "single",
        "seed": config["seed"],
        "version": csc_nets.__version__,
        "revision": given.revision or revision(),
        "torch": torch.__version__,
        "machine": given.machine,
        "minutes": round(json.loads((given.run / "metrics.json").read_text())["training_seconds"] / 60),
        "figures": {key: round(value, 4) for key, value in numbers.items() if key.startswith("test/")},
        "check": check_of(model),
        "limits": given.limits,
        "license": "MIT",
        "mean": model.trained_on.get("mean", [0.0] * model.in_chans),
        "std": model.trained_on.get("std", [1.0] * model.in_chans),
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "input_size": model.trained_on.get("input_size", [model.in_chans, model.input_size, model.input_size]),
    }
    if config["task"]["name"] == "denoising":  # trained on crops, and for images of any size
        del card["input_size"]
    (SHELF / f"{given.name}.json").write_text(json.dumps(card, indent=2) + "\n")
    print(f"{file.stat().st_size / 1e6:.2f} MB, check {card['check']}")


if __name__ == "__main__":
    main()
