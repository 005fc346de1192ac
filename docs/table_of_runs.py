"""Mean and spread over seeds of the runs that a sweep left behind: one row for runs that differ in the seed alone.

    python train.py -m experiment=mnist_ml_csc_short model.pursuit=ml_ista,ml_fista seed=0,1,2
    python docs/table_of_runs.py runs/mnist_ml_csc_short-mnist [--key test/acc]

Every folder below the given ones that holds config.yaml and metrics.json is a run that finished or collapsed. Numbers
are over those that finished.
"""

import argparse
import json
import re
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import yaml


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("folders", type=Path, nargs="+", help="folders with runs at any depth")
    options.add_argument("--key", default="test/acc", help="number of metrics.json (default test/acc)")
    chosen = options.parse_args()
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    configs: dict[str, dict[str, Any]] = {}
    for metrics in sorted(path for folder in chosen.folders for path in folder.rglob("metrics.json")):
        try:
            config = yaml.safe_load((metrics.parent / "config.yaml").read_text())
            numbers = json.loads(metrics.read_text())
        except (OSError, ValueError, yaml.YAMLError) as error:
            print(f"left out: {metrics} or its config.yaml is damaged: {' '.join(str(error).split())}")
            continue
        if chosen.key not in numbers and not numbers.get("collapsed"):
            print(f"left out: {metrics.parent} has no {chosen.key}")
            continue
        for name in ("seed", "run_dir", "resume", "logger"):
            config.pop(name, None)
        group = json.dumps(config, sort_keys=True)
        configs[group] = config
        found[group].append(numbers)
    if not found:
        raise SystemExit(f"no finished run with {chosen.key} under {', '.join(map(str, chosen.folders))}")
    labels = {group: label(config) for group, config in configs.items()}
    width = max(len(chosen.key), *map(len, labels.values()))
    print(f"{chosen.key:{width}}  runs  collapsed    mean     min     max  seconds")
    for group, runs in sorted(found.items(), key=lambda item: naturally(labels[item[0]])):
        finished = [numbers for numbers in runs if not numbers.get("collapsed")]
        row = f"{labels[group]:{width}}  {len(runs):4}  {len(runs) - len(finished):9}"
        if finished:
            values = [numbers[chosen.key] for numbers in finished]
            row += "  " + "  ".join(f"{f(values):6.4f}" for f in (statistics.mean, min, max))
            row += f"  {statistics.median(numbers['training_seconds'] for numbers in finished):7.0f}"
        print(row)


def label(config: dict[str, Any]) -> str:
    """What a row is called."""
    data, model = config["data"], " ".join(str(v) if k == "name" else f"{k}={v}" for k, v in config["model"].items())
    lr, epochs = config["task"]["lr"], config["trainer"]["max_epochs"]
    return f"{data['name']} {model} batch={data['batch_size']} lr={lr} {epochs} ep."


def naturally(text: str) -> list[tuple[float, str]]:
    """Key to sort by, under which 50 comes before 200."""
    return [(float(part), "") if part.isdigit() else (-1.0, part) for part in re.split(r"(\d+)", text)]


if __name__ == "__main__":
    main()
