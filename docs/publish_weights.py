"""Puts the weights of a run on the shelf of the package, with their card.

    python docs/publish_weights.py RUN NAME "WHERE THEY FAIL"

The figures are those that the test of the run wrote (``metrics.json``), or of ``--numbers FILE``. The check is a number
that ``tests/models/test_shelf.py`` computes again.
"""

import argparse
import hashlib
import json
from pathlib import Path

import torch
import yaml
from safetensors.torch import save_file

import csc_nets
from csc_nets.evaluation.weights_check import check_of
from csc_nets.models.shelf import SHELF


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument("limits")
    parser.add_argument("--numbers", type=Path, help="figures other than metrics.json of the run")
    parser.add_argument("--machine", default="", help="what the training ran on")
    given = parser.parse_args()
    config = yaml.safe_load((given.run / "config.yaml").read_text())
    numbers = json.loads((given.numbers or given.run / "metrics.json").read_text())
    model = csc_nets.load(given.run)
    plain = csc_nets.create_model(given.name)
    plain.load_state_dict(model.state_dict())  # the network of that name, with its defaults
    file = SHELF / f"{given.name}.safetensors"
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, file)
    data = config["data"]
    card = {
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "data": f"{data['name']}: {data.get('train', 'train')}, tested on {data.get('test', 'test')}",
        "command": f"python train.py experiment={config['name']} trainer.max_epochs={config['trainer']['max_epochs']} "
        f"trainer.precision={config['trainer']['precision']}",
        "seed": config["seed"],
        "version": csc_nets.__version__,
        "torch": torch.__version__,
        "machine": given.machine,
        "minutes": round(json.loads((given.run / "metrics.json").read_text())["training_seconds"] / 60),
        "figures": {key: round(value, 4) for key, value in numbers.items() if key.startswith("test/")},
        "check": check_of(model),
        "limits": given.limits,
        "license": "MIT",
        "mean": data.get("mean") or [0.0] * model.in_chans,
        "std": data.get("std") or [1.0] * model.in_chans,
        "interpolation": "bicubic",
        "crop_pct": 1.0,
    }
    (SHELF / f"{given.name}.json").write_text(json.dumps(card, indent=2) + "\n")
    print(f"{file.stat().st_size / 1e6:.2f} MB, check {card['check']}")


if __name__ == "__main__":
    main()
